"""Does a forecast know the future? A detector that changes the future and looks whether the past changes.

A pipeline may see, for its forecast of step t, what came before t and nothing else. Whether it keeps to that
is not read from its code but tried: the series is changed from some step on, the whole pipeline runs again,
scaling and training included, and every forecast of an earlier step, and of that step itself, must come out
the same. A scaler fitted on everything, windows shuffled before the split, a target among the inputs: each
of them lets the change through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pipeline = Callable[[Tensor], Tensor]
POSITIONS = (0.25, 0.5, 0.75)  # of the forecasts, where the future begins


class LeakFound(AssertionError):
    """A forecast changed when only its future did."""


@dataclass(frozen=True)
class Leak:
    """What a change of the future did.

    Attributes:
        changed_from: first step of the series that was changed.
        steps: earlier steps (or that step itself) whose forecast moved.
        largest: by how much the worst of them moved, in the series' unit.
    """

    changed_from: int
    steps: list[int]
    largest: float

    def __str__(self) -> str:
        first, last = self.steps[0], self.steps[-1]
        return (
            f"the series was changed from step {self.changed_from} on, and {len(self.steps)} forecasts of "
            f"steps {first} to {last} moved, by up to {self.largest:.3g}: they knew what came later. "
            "Is a scaler fitted on the whole series, are windows shuffled before the split, or does the "
            "input hold the target?"
        )


def find_leaks(
    pipeline: Pipeline, series: Tensor, positions: Sequence[float] = POSITIONS, tolerance: float = 1e-6
) -> list[Leak]:
    """Run a pipeline on a series and on copies with another future; return what should not have changed.

    Shapes:
        series (steps,); the pipeline returns (steps,): the forecast of each step, NaN where it makes none.

    Args:
        pipeline: everything from the raw series to forecasts; the same each time it runs (fix its seeds).
        series: real or made up.
        positions: where the changed future begins, as parts of the steps that are forecast.
        tolerance: relative to the deviation of the series; rounding is no leak.

    Raises:
        ValueError: if the pipeline returns another shape or no forecast, or differs between equal runs.
    """
    forecasts = _run(pipeline, series)
    limit = tolerance * series.std().item()
    again = _run(pipeline, series)
    if not torch.allclose(again, forecasts, rtol=0, atol=limit, equal_nan=True):
        raise ValueError("two runs on the same series gave different forecasts: fix the pipeline's seeds")
    steps = (~forecasts.isnan()).nonzero().flatten()
    found = []
    for begin in [int(steps[int(position * len(steps))]) for position in positions]:
        moved = (_run(pipeline, with_another_future(series, begin)) - forecasts)[: begin + 1].abs()
        wrong = (moved > limit).nonzero().flatten().tolist()
        if wrong:
            found.append(Leak(begin, wrong, moved[wrong].max().item()))
    return found


def check_no_leak(pipeline: Pipeline, series: Tensor, **options) -> None:
    """Raise if a forecast of the pipeline depends on its own future; see :func:`find_leaks`.

    Raises:
        LeakFound: with what was changed and what moved.
    """
    for leak in find_leaks(pipeline, series, **options):
        raise LeakFound(str(leak))


def with_another_future(series: Tensor, begin: int) -> Tensor:
    """A copy whose steps from ``begin`` on lie higher and move the other way; shapes (steps,)."""
    changed = series.clone()
    changed[begin:] = series[begin] + 3 * series.std() - (series[begin:] - series[begin])
    return changed


def _run(pipeline: Pipeline, series: Tensor) -> Tensor:
    forecasts = pipeline(series.clone())
    if forecasts.shape != series.shape:
        raise ValueError(
            f"expected one forecast per step, {tuple(series.shape)}, NaN where none is made; "
            f"got {tuple(forecasts.shape)}"
        )
    if forecasts.isnan().all():
        raise ValueError("expected at least one forecast, got NaN at every step")
    return forecasts
