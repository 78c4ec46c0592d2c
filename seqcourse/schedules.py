"""When to change the learning rate, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from seqcourse.checkpoint import tensor_copy


def constant(step: int) -> float:
    """A schedule that leaves the learning rate as it is."""
    return 1.0


@dataclass(frozen=True)
class WarmupCosine:
    """Learning-rate factor: up in a line for ``warmup`` steps, then down along half a cosine to ``floor``.

    Loshchilov & Hutter (2017), SGDR, equation 5, without restarts.

    Args:
        total: steps of the whole training; the floor is reached there.
        warmup: steps of the rise.
        floor: the factor at the end.

    Raises:
        ValueError: if ``warmup`` is not shorter than ``total``.
    """

    total: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.total:
            raise ValueError(f"expected 0 <= warmup < total, got warmup={self.warmup}, total={self.total}")

    def __call__(self, step: int) -> float:
        """Return the factor for a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min((step - self.warmup) / (self.total - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class EarlyStopping:
    """Watches one metric, keeps the best weights, and says when to stop.

    Args:
        patience: validations without improvement before stopping; None never stops.
        monitor: name of the metric.
        mode: ``"min"`` or ``"max"``.
    """

    patience: int | None
    monitor: str = "loss"
    mode: str = "min"
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    weights: dict[str, Tensor] | None = None

    @property
    def stopped(self) -> bool:
        """True when the metric has not improved for ``patience`` validations."""
        return self.patience is not None and self.since_best >= self.patience

    def update(self, metrics: Mapping[str, float], step: int, model: nn.Module) -> None:
        """Compare with the best so far; a value that is not a number is never better.

        Raises:
            ValueError: if validation did not return the metric.
        """
        if self.patience is None:
            return
        if self.monitor not in metrics:
            raise ValueError(
                f"expected validation to return {self.monitor!r} (monitor), got {', '.join(metrics)}"
            )
        value = metrics[self.monitor]
        sign = 1 if self.mode == "min" else -1
        if not math.isnan(value) and (self.best is None or sign * value < sign * self.best):
            self.best, self.best_step, self.since_best = value, step, 0
            self.weights = tensor_copy(model.state_dict())
        else:
            self.since_best += 1

    def restore(self, model: nn.Module) -> None:
        """Give the model its best weights back."""
        if self.weights is not None:
            model.load_state_dict(self.weights)
