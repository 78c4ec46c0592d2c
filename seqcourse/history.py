"""What happened in a training run: kept, drawn, and reported while it happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqcourse.training import Run


@dataclass
class History:
    """What happened in a run: one entry per step in each list, and one per validation.

    Attributes:
        step: 1, 2, 3 ...
        loss: training loss of the step's batch, before the step.
        grad_norm: norm of all gradients together, before clipping.
        lr: learning rate of the first parameter group.
        seconds: training time since the start, over resumes.
        validation: one mapping per validation: ``step`` and the metrics.
        best: step and value of the best validation, if there was early stopping.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self.seconds_before = self.seconds[-1] if self.seconds else 0.0  # spent before this start

    def append(self, loss: float, grad_norm: float, lr: float, seconds: float) -> None:
        """Add a step."""
        self.step.append(len(self.step) + 1)
        self.loss.append(loss)
        self.grad_norm.append(grad_norm)
        self.lr.append(lr)
        self.seconds.append(seconds)

    @property
    def validated_at(self) -> int | None:
        """The step of the last validation."""
        return int(self.validation[-1]["step"]) if self.validation else None

    def metric(self, name: str) -> list[float]:
        """Return one validation metric over time.

        Raises:
            KeyError: if no validation returned it.
        """
        return [entry[name] for entry in self.validation]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> History:
        """Rebuild a history from :meth:`to_dict`."""
        return cls(**values)

    def plot(self, what: str = "loss", alt: str = "", **options: Any) -> Any:
        """Draw ``loss`` (training and validation), ``grad_norm``, ``lr`` or a validation metric.

        Args:
            what: the name of a list of this history or of a validation metric.
            alt: alternative text; by default the first, the best and the last value in words.
            options: passed on to :func:`seqcourse.plots.line`.

        Raises:
            ValueError: if nothing of that name was recorded.
        """
        from seqcourse import plots

        series, positions = self._curves(what)
        if not series:
            raise ValueError(
                f"nothing named {what!r} was recorded; there is loss, grad_norm, lr and validation metrics"
            )
        options = {"xlabel": "step", "ylabel": what, **options}
        return plots.line(series, x=positions, alt=alt or _describe_curves(what, series), **options)

    def _curves(self, what: str) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
        series: dict[str, list[float]] = {}
        positions: dict[str, list[int]] = {}
        if what in ("loss", "grad_norm", "lr") and self.step:
            series["training"], positions["training"] = getattr(self, what), self.step
        entries = [entry for entry in self.validation if what in entry]
        if entries:
            series["validation"] = [entry[what] for entry in entries]
            positions["validation"] = [int(entry["step"]) for entry in entries]
        return series, positions


def _describe_curves(what: str, series: Mapping[str, list[float]]) -> str:
    """Say in words what the curves show."""
    parts = [
        f"{name} {what} goes from {values[0]:.3g} to {values[-1]:.3g} "
        f"(lowest {min(values):.3g}, highest {max(values):.3g})"
        for name, values in series.items()
    ]
    return f"Line plot of {what} over the training steps: " + "; ".join(parts) + "."


# Where training runs write TensorBoard events that are given no folder; None for nowhere.
LOG_DIR: ContextVar[Path | None] = ContextVar("LOG_DIR", default=None)


@contextmanager
def logged_to(folder: str | Path | None) -> Iterator[None]:
    """While it lasts, training runs that are given no folder write their TensorBoard events to this one."""
    token = LOG_DIR.set(None if folder is None else Path(folder))
    try:
        yield
    finally:
        LOG_DIR.reset(token)


class Reporter:
    """Tells how a run is doing: a progress bar, and TensorBoard events if ``log_dir`` is given."""

    def __init__(self, run: Run, log_dir: str | Path | None, progress: bool | None) -> None:
        from tqdm.auto import tqdm

        self.run, self.writer = run, None
        log_dir = LOG_DIR.get() if log_dir is None else log_dir
        first = run.engine.is_global_zero  # one process reports for all
        show = watched() if progress is None else progress
        total = _expected_steps(run)
        self.bar = tqdm(
            total=total, initial=run.step, disable=not (show and first), file=sys.stderr, unit="step"
        )
        if log_dir is not None and first:
            self.writer = _summary_writer(log_dir, purge_step=run.step + 1)
        self.logged, self.validations_logged = run.step, len(run.history.validation)

    def __call__(self) -> None:
        """Report what is new."""
        history = self.run.history
        for index in range(self.logged, len(history.step)):
            self.bar.set_postfix_str(f"loss {history.loss[index]:.4f}", refresh=False)
            self.bar.update()
            values = {
                "loss": history.loss[index],
                "grad_norm": history.grad_norm[index],
                "lr": history.lr[index],
            }
            self._write("train", values, history.step[index])
        for entry in history.validation[self.validations_logged :]:
            self._write("validation", {k: v for k, v in entry.items() if k != "step"}, int(entry["step"]))
        self.logged, self.validations_logged = len(history.step), len(history.validation)

    def _write(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def watched() -> bool:
    """True where somebody can see a progress bar: a terminal, or a notebook opened in Jupyter or Colab.

    Notebooks run by a program (a book build, nbval, nbconvert) have neither, so their outputs stay free of
    bars.
    """
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ or "COLAB_RELEASE_TAG" in os.environ


def _expected_steps(run: Run) -> int | None:
    known = run.epochs is not None and run.position.length is not None
    by_epochs = run.epochs * run.position.length if known else None
    limits = [limit for limit in (by_epochs, run.max_steps) if limit is not None]
    return min(limits, default=None)


def _summary_writer(log_dir: str | Path, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "log_dir needs TensorBoard: pip install 'seqcourse[book]', or pip install tensorboard"
        ) from error
    return SummaryWriter(str(log_dir), purge_step=purge_step)
