"""One training loop for every model of the course, on one device or, through Lightning Fabric, on many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqcourse.checkpoint import (
    DataPosition,
    check_same_run,
    describe_model,
    describe_optimiser,
    gather,
    random_states,
    read_checkpoint,
    settings_of_engine,
    share_of_batch,
    write_checkpoint,
)
from seqcourse.engine import Engine, SingleDevice, map_tensors, scaler_of, tensors_of
from seqcourse.history import History, Reporter
from seqcourse.schedules import EarlyStopping, constant

Loss = Callable[[nn.Module, Any], Tensor]
Schedule = Callable[[int], float]
Validate = Callable[[nn.Module], Mapping[str, float]] | Iterable[Any]


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    schedule: Schedule | None = None,
    clip: float | None = None,
    validate: Validate | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    mode: str = "min",
    device: str | torch.device = "auto",
    precision: str = "32",
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    log_dir: str | Path | None = None,
    progress: bool | None = None,
    seed: int = 0,
    non_finite: str = "raise",
    engine: Engine | None = None,
) -> History:
    """Train a model until a limit is reached or validation stops improving; return what happened.

    The model is trained in place and left in evaluation mode.

    Args:
        model: any module.
        batches: what an epoch consists of: a list, a DataLoader, or an object of
            ``seqcourse.data.batching``. A batch is a tensor, or a tuple, mapping or dataclass of tensors,
            each with the batch B as its first axis.
        loss: ``loss(model, batch)`` returns the mean loss of a batch; by default the model's own ``loss``.
            It has to call ``model(...)`` itself, not one of its methods, if several processes are to train
            together. A loss with ``state_dict`` and ``load_state_dict`` is kept in checkpoints.
        epochs: stop after so many passes over the batches.
        max_steps: stop after so many optimiser steps.
        optimiser: over the model's parameters; by default AdamW with learning rate 0.001.
        schedule: factor on the learning rate as a function of the step (from 0), for instance
            :class:`seqcourse.schedules.WarmupCosine`.
        clip: largest norm of all gradients together (Pascanu et al. 2013); without it the norm is still
            recorded.
        validate: batches, whose mean loss is taken, or a function of the model that returns named metrics.
        validate_every: steps between validations; by default once per epoch.
        patience: stop after so many validations in a row without improvement, and go back to the best
            weights.
        monitor: the metric that decides about improvement.
        mode: ``"min"`` if smaller is better, ``"max"`` if larger is.
        device: where to train, see :class:`seqcourse.engine.SingleDevice`.
        precision: ``"32"``, ``"bf16"`` or ``"fp16"``.
        checkpoint: file to write after every epoch, and to resume from if it is there.
        checkpoint_every: write it also every so many steps.
        resume: False ignores (and overwrites) an existing checkpoint.
        log_dir: folder for TensorBoard event files; None for that of :func:`seqcourse.history.logged_to`, if any.
        progress: show a bar; by default only where somebody can watch it.
        seed: of the order of the data, where that is random, and of dropout.
        non_finite: ``"raise"`` stops at a loss or gradient that is not finite, ``"skip"`` leaves out that
            step.
        engine: a launched ``lightning_fabric.Fabric`` for several devices, instead of ``device`` and
            ``precision``.

    Raises:
        ValueError: if arguments contradict each other, or ``batches`` is empty.
        NonFiniteLoss: if loss or gradients are not finite.
        CheckpointCorrupt: if the checkpoint is damaged.
        CheckpointMismatch: if the checkpoint belongs to a run with other settings.
    """
    _check_limits(epochs, max_steps, validate, patience, mode, non_finite, clip)
    engine = _choose_engine(engine, device, precision)
    optimiser = optimiser or torch.optim.AdamW(model.parameters(), lr=1e-3)
    run = Run(model, optimiser, engine, DataPosition(batches, seed), loss or type(model).loss)
    run.clip, run.schedule, run.non_finite = clip or math.inf, schedule or constant, non_finite
    run.validation, run.stopping = validate, EarlyStopping(patience, monitor, mode)
    run.epochs, run.max_steps, run.validate_every = epochs, max_steps, validate_every
    run.checkpoint, run.checkpoint_every = checkpoint and Path(checkpoint), checkpoint_every
    if resume:
        run.resume()
    with Reporter(run, log_dir, progress) as reporter:
        training_loop(run, reporter)
    return run.finish()


def training_loop(run: Run, reporter: Callable[[], None]) -> None:
    """The loop of :func:`fit`: what happens in a step, in which order."""
    model, optimiser, engine = run.trained_model, run.trained_optimiser, run.engine
    while not run.finished:
        model.train()
        for batch, weight in run.rest_of_epoch():
            run.set_learning_rate()
            with engine.autocast():
                loss = weight * run.loss(model, batch)  # weight is 1, unless processes share a batch unevenly
            engine.backward(loss)
            grad_norm = engine.clip_gradients(model, optimiser, max_norm=run.clip, error_if_nonfinite=False)
            if run.record(loss, grad_norm):  # loss and gradients are finite
                optimiser.step()
            optimiser.zero_grad()
            reporter()
            if run.due(run.validate_every):
                run.validate()
            if run.due(run.checkpoint_every):
                run.save()
            if run.finished:
                break
        if run.finished or run.validate_every is None:
            run.validate()
        reporter()
        run.save()


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient norm became infinite or not a number."""


@dataclass
class Run:
    """Everything that belongs to one training run: what the loop needs, and what a checkpoint has to hold."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    engine: Engine
    position: DataPosition
    loss: Loss
    schedule: Schedule = constant
    clip: float = math.inf
    non_finite: str = "raise"
    validation: Validate | None = None
    stopping: EarlyStopping = field(default_factory=lambda: EarlyStopping(None))
    epochs: int | None = None
    max_steps: int | None = None
    validate_every: int | None = None
    checkpoint: Path | None = None
    checkpoint_every: int | None = None
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        for group in self.optimiser.param_groups:
            group.setdefault("initial_lr", group["lr"])  # what the schedule multiplies
        self.trained_model, self.trained_optimiser = self.engine.setup(self.model, self.optimiser)
        self.resumed: dict[str, Any] | None = None
        self.started = time.perf_counter()

    @property
    def step(self) -> int:
        """Number of optimiser steps so far."""
        return len(self.history.step)

    @property
    def finished(self) -> bool:
        """True when a limit is reached or validation has stopped improving."""
        epochs_done = self.epochs is not None and self.position.epoch >= self.epochs
        steps_done = self.max_steps is not None and self.step >= self.max_steps
        return epochs_done or steps_done or self.stopping.stopped

    def due(self, every: int | None) -> bool:
        """True at each multiple of ``every`` steps."""
        return every is not None and self.step % every == 0

    def rest_of_epoch(self) -> Iterator[tuple[Any, float]]:
        """Yield the epoch's batches that are still to come, on the device, each with its weight."""
        for batch in self.position.rest_of_epoch(self.resumed):
            mine, weight = share_of_batch(batch, self.engine)
            yield map_tensors(lambda tensor: tensor.to(self.engine.device, non_blocking=True), mine), weight

    def set_learning_rate(self) -> None:
        """Set each group's learning rate for the step that comes."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(self.step)

    def record(self, loss: Tensor, grad_norm: Tensor) -> bool:
        """Append what the step showed to the history; say whether the step may be taken.

        Raises:
            NonFiniteLoss: if one of them is not finite, unless that is to be skipped, or a loss scaler will
                skip it.
        """
        loss = self.engine.all_reduce(loss.detach().float(), reduce_op="mean")
        pair = torch.stack([loss, grad_norm.detach().float()])
        loss_value, norm = pair.tolist()  # one transfer from the device
        scaled = scaler_of(self.engine) is not None
        finite = math.isfinite(loss_value) and (math.isfinite(norm) or scaled)
        if not finite and self.non_finite == "raise":
            raise NonFiniteLoss(
                f"step {self.step + 1} (epoch {self.position.epoch}, batch {self.position.batch - 1}): "
                f"loss {loss_value}, gradient norm {norm}. The weights are those before this step. Look at "
                "the learning rate, clip the gradients, check the batch for NaN, or pass non_finite='skip' "
                "to leave such steps out"
            )
        seconds = self.history.seconds_before + time.perf_counter() - self.started
        self.history.append(loss_value, norm, self.optimiser.param_groups[0]["lr"], seconds)
        return finite or scaled  # with a loss scaler the optimiser leaves the step out, and lowers the scale

    def validate(self) -> None:
        """Measure the model once at this step, and let early stopping know."""
        if self.validation is None or self.history.validated_at == self.step:
            return
        metrics = evaluate(self.model, self.validation, loss=self.loss, engine=self.engine)
        metrics = self.engine.broadcast(metrics)  # processes may round differently, but must decide alike
        self.history.validation.append({"step": self.step, **metrics})
        self.stopping.update(metrics, self.step, self.model)

    def settings(self, steps: int) -> dict[str, Any]:
        """Describe what a checkpoint made after ``steps`` must share with a run that resumes from it."""
        sampled = (0, 1, 2, 5, *(10**power for power in range(1, 8)))
        return {
            **describe_model(self.model),
            **settings_of_engine(self.engine),
            "optimiser": describe_optimiser(self.optimiser),
            "schedule": [self.schedule(step) for step in sampled if step < steps],
            "seed": self.position.seed,
            "batches per epoch": self.position.length,
            "clip": self.clip,
            "non_finite": self.non_finite,
            "validate_every": self.validate_every,
            "early stopping": [self.stopping.patience, self.stopping.monitor, self.stopping.mode],
        }

    def save(self) -> None:
        """Write the checkpoint, if one was asked for."""
        if self.checkpoint is None:
            return
        data = self.position.state_dict()
        of_process = {"random": random_states(), "data": data, "loss": state_of(self.loss)}
        state = {
            "settings": self.settings(self.step),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": state_of(scaler_of(self.engine)),
            "stopping": asdict(self.stopping),
            "history": self.history.to_dict(),
            "processes": gather(self.engine, of_process),
        }
        write_checkpoint(self.checkpoint, state, self.engine)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint)
        check_same_run(self.checkpoint, state["settings"], self.settings(steps=len(state["history"]["step"])))
        of_process = state["processes"][self.engine.global_rank]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        load_state(scaler_of(self.engine), state["scaler"])
        load_state(self.loss, of_process["loss"])
        self.stopping = EarlyStopping(**state["stopping"])
        self.history = History.from_dict(state["history"])
        self.position.epoch, self.position.batch = of_process["data"]["epoch"], of_process["data"]["batch"]
        self.resumed = {"random": of_process["random"], "fingerprint": of_process["data"]["fingerprint"]}

    def finish(self) -> History:
        """Return to the best weights, if there was early stopping, and leave the model ready for use."""
        self.stopping.restore(self.model)
        if self.stopping.best is not None:
            self.history.best = {"step": self.stopping.best_step, self.stopping.monitor: self.stopping.best}
        self.model.eval()
        return self.history


def state_of(part: Any) -> dict[str, Any]:
    """Return the state_dict of something that may have none."""
    return part.state_dict() if hasattr(part, "state_dict") else {}


def load_state(part: Any, state: dict[str, Any]) -> None:
    """Load what :func:`state_of` returned."""
    if hasattr(part, "load_state_dict"):
        part.load_state_dict(state)


# --- validation ----------------------------------------------------------------------


def evaluate(
    model: nn.Module, data: Validate, *, loss: Loss | None = None, engine: Engine | None = None
) -> dict[str, float]:
    """Measure a model without training it: named metrics of a function, or the mean loss over batches.

    Args:
        model: the model; its mode (training or evaluation) is restored.
        data: a function of the model that returns metrics, or batches. Each batch's loss counts by its rows.
        loss: as for :func:`fit`.
        engine: for device and precision; by default the device of the model's parameters, precision 32.

    Raises:
        ValueError: if there are no batches.
    """
    engine = engine or SingleDevice(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), engine.autocast():
            if callable(data):
                return {name: float(value) for name, value in data(model).items()}
            return {"loss": _mean_loss(model, data, loss or type(model).loss, engine.device)}
    finally:
        model.train(was_training)


def _mean_loss(model: nn.Module, batches: Iterable[Any], loss: Loss, device: torch.device) -> float:
    total, rows = 0.0, 0
    for batch in batches:
        moved = map_tensors(lambda tensor: tensor.to(device), batch)
        size = len(tensors_of(moved)[0])
        total, rows = total + size * loss(model, moved).item(), rows + size
    if rows == 0:
        raise ValueError(
            "the validation batches are empty: expected at least one (a generator can be read only once)"
        )
    return total / rows


# --- arguments -----------------------------------------------------------------------


def _check_limits(epochs, max_steps, validate, patience, mode, non_finite, clip) -> None:
    if epochs is None and max_steps is None:
        raise ValueError("expected epochs or max_steps: without either, training would not end")
    for name, limit in {"epochs": epochs, "max_steps": max_steps, "patience": patience}.items():
        if limit is not None and limit < 1:
            raise ValueError(f"expected {name} of at least 1, got {limit}")
    if patience is not None and validate is None:
        raise ValueError(
            "patience needs validate: early stopping looks at validation, never at the training loss"
        )
    if mode not in ("min", "max"):
        raise ValueError(f"expected mode 'min' or 'max', got {mode!r}")
    if non_finite not in ("raise", "skip"):
        raise ValueError(f"expected non_finite 'raise' or 'skip', got {non_finite!r}")
    if clip is not None and clip <= 0:
        raise ValueError(f"expected clip, a largest gradient norm, above 0; got {clip}")


def _choose_engine(engine: Engine | None, device: str | torch.device, precision: str) -> Engine:
    if engine is None:
        return SingleDevice(device, precision)
    if str(device) != "auto" or precision != "32":
        raise ValueError("device and precision belong to the engine: give them to it, not to fit")
    return engine
