"""Where a training step runs: one device here; several GPUs or nodes by Lightning Fabric.

``SingleDevice`` is written with the method names of ``lightning_fabric.Fabric``, so that
``seqcourse.training.fit`` is one loop for both. Fabric was chosen over Accelerate because it leaves the loop
to us and because the few methods below are all that the loop needs of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqcourse.runtime import pick_device

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """The methods that :func:`seqcourse.training.fit` calls: a subset of ``lightning_fabric.Fabric``."""

    device: torch.device
    world_size: int
    global_rank: int
    is_global_zero: bool

    def setup(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Any:
        """Move the model to the device and return model and optimiser as the loop shall use them."""

    def autocast(self) -> AbstractContextManager:
        """Return the context in which matrix products run in the chosen precision."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, averaged over the processes."""

    def clip_gradients(
        self, model: nn.Module, optimiser: Any, *, max_norm: float, error_if_nonfinite: bool
    ) -> Tensor:
        """Scale the gradients so that their norm is at most ``max_norm``; return the norm before that."""

    def all_reduce(self, data: Any, *, reduce_op: str) -> Any:
        """Combine a tensor over the processes."""

    def broadcast(self, obj: Any) -> Any:
        """Give every process the object of process 0."""

    def barrier(self) -> None:
        """Wait until every process is here."""


class SingleDevice:
    """One process on one device: cpu, cuda or mps.

    Args:
        device: ``"auto"`` takes cuda, then mps, then cpu.
        precision: ``"32"``; ``"bf16"`` (autocast); ``"fp16"`` (autocast with a loss scaler, because small
            gradients would round to zero; Micikevicius et al. 2018, Mixed Precision Training, section 3.2).

    Raises:
        ValueError: if the device is not there or the precision is not one of these.
    """

    world_size, global_rank, is_global_zero = 1, 0, True

    def __init__(self, device: str | torch.device = "auto", precision: str = "32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.device = pick_device(device)
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None

    def setup(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Move the model to the device; with fp16 the optimiser steps through the loss scaler."""
        model.to(self.device)
        return model, optimiser if self.scaler is None else ScaledOptimiser(optimiser, self.scaler)

    def autocast(self) -> AbstractContextManager:
        """Return torch's autocast context; it does nothing in precision 32."""
        enabled = self.precision != "32"
        return torch.autocast(
            self.device.type, PRECISIONS[self.precision] if enabled else None, enabled=enabled
        )

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, of the scaled loss with fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip_gradients(
        self, model: nn.Module, optimiser: Any, *, max_norm: float = math.inf, error_if_nonfinite: bool = True
    ) -> Tensor:
        """Clip by the norm of all gradients and return that norm (Pascanu et al. 2013, algorithm 1)."""
        if self.scaler is not None:
            self.scaler.unscale_(optimiser.optimiser)
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)

    def all_reduce(self, data: Any, *, reduce_op: str = "mean") -> Any:
        """Return the data: there is one process."""
        return data

    def broadcast(self, obj: Any) -> Any:
        """Return the object: there is one process."""
        return obj

    def barrier(self) -> None:
        """Return at once: there is one process."""


class ScaledOptimiser:
    """An optimiser whose step undoes the loss scale, and is left out when a gradient overflowed."""

    def __init__(self, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        self.optimiser, self.scaler = optimiser, scaler

    def step(self) -> None:
        """Step if all gradients are finite, then adapt the scale."""
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimiser, name)


def plugin_of(engine: Engine) -> Any:
    """Return what knows ``precision`` and ``scaler``: our engine itself, or Fabric's precision plugin."""
    return engine if isinstance(engine, SingleDevice) else engine.strategy.precision


def scaler_of(engine: Engine) -> torch.amp.GradScaler | None:
    """Return the loss scaler of an engine, if its precision needs one."""
    return getattr(plugin_of(engine), "scaler", None)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply a function to every tensor of a batch: tuples, lists, mappings or dataclasses of them."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a NamedTuple takes its fields one by one
        return type(batch)(*(map_tensors(function, item) for item in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, item) for item in batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, item) for key, item in batch.items()}
    if dataclasses.is_dataclass(batch):
        fields = (field.name for field in dataclasses.fields(batch))
        return dataclasses.replace(
            batch, **{name: map_tensors(function, getattr(batch, name)) for name in fields}
        )
    return batch


def tensors_of(batch: Any) -> list[Tensor]:
    """List the tensors of a batch in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, batch)
    return found
