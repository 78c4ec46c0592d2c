"""The forecasting benchmark: honest by the leak detector, resumable, and judged against persistence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqcourse.benchmarks import forecasting
from seqcourse.benchmarks.forecasting import (
    BASELINES,
    NETWORKS,
    PLANS,
    SERIES,
    forecaster,
    run_plan,
    walk_forward,
)
from seqcourse.claims import verdict
from seqcourse.leaks import check_no_leak
from seqcourse.models.forecaster import TransformerForecaster
from seqcourse.records import Record

TINY = replace(PLANS["smoke"], length=6, hidden_size=4, epochs=1, batch_size=32)


@pytest.fixture
def closes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    returns = 0.01 * torch.randn(160, generator=generator, dtype=torch.float64)
    return 1000 * returns.cumsum(0).exp()


@pytest.fixture
def without_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "1")
    monkeypatch.setenv("SEQCOURSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("SEQCOURSE_MIRROR", raising=False)


@pytest.mark.parametrize(
    ("name", "series"),
    [(name, "closes") for name in BASELINES] + [(name, series) for name in NETWORKS for series in SERIES],
)
def test_no_forecaster_knows_the_future(name, series, closes):
    forecast = forecaster(name, series, seed=0, plan=TINY, device="cpu")
    pipeline = lambda close: walk_forward(forecast, close, test_share=0.2, parts=2)  # noqa: E731
    check_no_leak(pipeline, closes, positions=(0.3,))


def test_each_day_of_the_test_is_forecast_once_from_the_day_before(closes):
    forecasts = walk_forward(forecasting.persistence, closes, test_share=0.2)
    assert forecasts[:128].isnan().all()
    assert torch.equal(forecasts[128:], closes[127:-1])


def test_baselines_on_a_series_they_must_solve():
    growing = 100 * torch.full((60,), 1.01, dtype=torch.float64).cumprod(0)
    torch.testing.assert_close(forecasting.drift(growing, 50), growing[50:])
    signs = (-1.0) ** torch.arange(59, dtype=torch.float64)
    swinging = 100 * torch.cat([torch.zeros(1), 0.01 * signs]).cumsum(0).exp()
    torch.testing.assert_close(forecasting.autoregression(swinging, 50, lags=2), swinging[50:])


def test_transformer_forecaster_shapes_and_order():
    torch.manual_seed(0)
    model = TransformerForecaster(input_size=2, size=12, heads=3, layers=2, horizon=5, max_length=7).double()
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    assert model(x).shape == (3, 5)
    assert not torch.allclose(model(x), model(x.flip(1)))
    with pytest.raises(ValueError, match="expected at most 7 positions, got 8"):
        model(torch.randn(3, 8, 2, dtype=torch.float64))


def test_a_tiny_run_resumes_and_is_judged(tmp_path, without_real_data, monkeypatch):
    path = tmp_path / "runs" / "forecasting.jsonl"
    made = run_plan(TINY, 2, "cpu", True, path)
    assert len(made) == len(BASELINES) + len(NETWORKS) * len(SERIES)
    by_name = {record.name: record for record in made}
    assert by_name["forecasting/2000/LSTM on levels"].n == 2
    assert all(record.generated for record in made)
    persistence = by_name["forecasting/2000/persistence on closes"]
    assert persistence.mean == pytest.approx(persistence.protocol["RMSE of persistence"])
    monkeypatch.setattr(forecasting, "measure", lambda *_: pytest.fail("nothing is left to measure"))
    again = run_plan(TINY, 2, "cpu", True, path)
    assert [record.values for record in again] == [record.values for record in made]
    assert "networks" in verdict("N04", made).reason


def scored(model: str, values: list[float], p: float = 0.5, series: str = "levels") -> Record:
    return Record.measured(
        f"{model} on {series}",
        claim="N04",
        metric="RMSE one day ahead",
        unit="index points",
        values=values,
        protocol={
            "model": model,
            "series": series,
            "window": "2000 to 2004",
            "RMSE of persistence": 10.0,
            "Diebold-Mariano p": p,
        },
        duration_s=0,
    )


@pytest.mark.parametrize(
    ("rnn", "lstm", "p", "status"),
    [
        ([12.3, 12.4, 12.5], [9.6, 9.7, 9.8], 0.01, "confirmed"),
        ([12.3, 12.4, 12.5], [9.6, 9.7, 9.8], 0.2, "qualified"),
        ([30.0, 31.0, 32.0], [11.0, 11.1, 11.2], 0.2, "qualified"),
        ([20.0, 20.1, 20.2], [20.0, 20.1, 20.2], 0.01, "refuted"),  # significantly worse than persistence
    ],
)
def test_the_rule_of_n04(rnn, lstm, p, status):
    assert verdict("N04", [scored("RNN", rnn, p), scored("LSTM", lstm, p)]).status == status


def test_n04_needs_both_networks():
    assert verdict("N04", [scored("RNN", [12.4])]).status == "not testable"
