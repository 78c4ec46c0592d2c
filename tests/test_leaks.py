"""The leak detector passes honest pipelines and catches each way of knowing the future."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqcourse.leaks import LeakFound, check_no_leak, find_leaks, with_another_future

LAGS, TRAIN = 3, 60


@pytest.fixture
def series() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(120, generator=generator, dtype=torch.float64).cumsum(0) + 100


def lagged(series: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (n, LAGS) and targets (n,): the target of row i is step i + LAGS."""
    whole = series.unfold(0, LAGS + 1, 1)
    return whole[:, :LAGS], whole[:, LAGS]


def linear(series: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
    """Least squares on some rows, forecasts from step TRAIN on."""
    inputs, targets = lagged(series - mean)
    weights = torch.linalg.lstsq(inputs[rows], targets[rows, None]).solution
    forecasts = torch.full_like(series, torch.nan)
    forecasts[TRAIN:] = (inputs @ weights).squeeze(1)[TRAIN - LAGS :] + mean
    return forecasts


def honest(series: Tensor) -> Tensor:
    return linear(series, torch.arange(TRAIN - LAGS), series[:TRAIN].mean())


def persistence(series: Tensor) -> Tensor:
    return torch.cat([series.new_full((1,), torch.nan), series[:-1]])


def scaled_on_everything(series: Tensor) -> Tensor:
    return linear(series, torch.arange(TRAIN - LAGS), series.mean())


def shuffled_windows(series: Tensor) -> Tensor:
    rows = torch.randperm(len(series) - LAGS, generator=torch.Generator().manual_seed(1))[:TRAIN]
    return linear(series, rows, series[:TRAIN].mean())


def peeks(series: Tensor) -> Tensor:
    forecasts = honest(series)
    forecasts[TRAIN:] += 0.01 * (series[TRAIN:] - forecasts[TRAIN:])
    return forecasts


def smoothed_by_a_centred_mean(series: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(series[None, None], (1, 1), mode="replicate")
    return honest(torch.nn.functional.avg_pool1d(padded, 3, stride=1)[0, 0])


@pytest.mark.parametrize("pipeline", [honest, persistence])
def test_an_honest_pipeline_passes(pipeline, series):
    assert find_leaks(pipeline, series) == []
    check_no_leak(pipeline, series)


@pytest.mark.parametrize(
    "pipeline", [scaled_on_everything, shuffled_windows, peeks, smoothed_by_a_centred_mean]
)
def test_each_kind_of_leak_is_found(pipeline, series):
    with pytest.raises(LeakFound, match="they knew what came later"):
        check_no_leak(pipeline, series)


def test_a_leak_says_where_and_how_much(series):
    first = find_leaks(peeks, series)[0]
    assert first.changed_from == TRAIN + (len(series) - TRAIN) // 4
    assert first.steps == [first.changed_from]  # it peeks at the step it forecasts, and at no other
    expected = 0.01 * (with_another_future(series, first.changed_from) - series)[first.changed_from].abs()
    assert first.largest == pytest.approx(expected.item())


def test_the_changed_future_leaves_the_past_and_moves_the_rest(series):
    changed = with_another_future(series, 50)
    assert torch.equal(changed[:50], series[:50])
    assert (changed[50:] != series[50:]).all()


def test_a_pipeline_that_is_not_the_same_twice_is_refused(series):
    with pytest.raises(ValueError, match="fix the pipeline's seeds"):
        find_leaks(lambda s: s + torch.rand(()), series)


def test_wrong_shapes_and_no_forecasts_are_named(series):
    with pytest.raises(ValueError, match=r"expected one forecast per step, \(120,\).*got \(119,\)"):
        find_leaks(lambda s: s[1:], series)
    with pytest.raises(ValueError, match="NaN at every step"):
        find_leaks(lambda s: torch.full_like(s, torch.nan), series)
