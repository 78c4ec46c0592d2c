"""A kit for a model that does not learn: each check is one call on any model, and changes nothing in it.

What goes through time is measured in :mod:`seqcourse.probes` (gradient against the lag, gate saturation); here
is the rest: where the gradient stops, what the inputs and the activations look like, whether clipping or dropout
acts where it should not, and whether an example's output depends on its neighbours in the batch.

Sources: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks
(gradients and activations by layer); Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent
neural networks (norms and clipping).
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqcourse.cells import as_tuple
from seqcourse.records import Table, format_number


class Flow(NamedTuple):
    """What of a loss arrives at one parameter: both as root mean square of the entries, and their ratio."""

    gradient: float
    weight: float
    ratio: float


class Scale(NamedTuple):
    """Mean, deviation and range of a set of numbers, and the share of them that is not finite."""

    mean: float
    deviation: float
    lowest: float
    highest: float
    not_finite: float


class ClippingUse(NamedTuple):
    """How often a limit acted, and the gradient's norm before it."""

    share_clipped: float
    median_norm: float
    largest_norm: float


class OneBatch(NamedTuple):
    """Loss on one batch before and after training on nothing else."""

    before: float
    after: float


def gradient_flow(model: nn.Module, loss: Tensor) -> dict[str, Flow]:
    """Gradient and weight of every parameter, by name, in the order of the model.

    A gradient of 0 means that the loss does not reach the parameter: a ``detach``, a frozen or unused layer.
    Nothing is added to ``.grad``; the loss can still be back-propagated.

    Raises:
        ValueError: no parameter needs a gradient.
    """
    named = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not trained:
        raise ValueError("no parameter of the model needs a gradient: is it frozen?")
    found = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
    gradients = dict(zip(trained, found, strict=True))
    return {name: _flow(parameter, gradients.get(name)) for name, parameter in named.items()}


def _flow(parameter: Tensor, gradient: Tensor | None) -> Flow:
    weight = _size(parameter)
    arriving = 0.0 if gradient is None else _size(gradient)
    return Flow(arriving, weight, arriving / weight if weight else math.inf if arriving else 0.0)


def _size(values: Tensor) -> float:
    return values.detach().double().square().mean().sqrt().item()


def input_scale(x: Tensor, mask: Tensor | None = None) -> dict[str, Scale]:
    """Mean, deviation and range of every feature of a batch: they should be alike, and of order 1.

    Shapes:
        x (B, T, D) floating-point; mask (B, T) bool, True = real; padding is left out.

    Raises:
        ValueError: x has another number of axes, or the mask another shape.
    """
    if x.dim() != 3 or (mask is not None and mask.shape != x.shape[:2]):
        shapes = [tuple(tensor.shape) for tensor in (x, mask) if tensor is not None]
        raise ValueError(f"expected x (B, T, D) and a mask (B, T), got {shapes}")
    rows = x.flatten(0, 1) if mask is None else x[mask]  # (steps, D)
    return {f"feature {i}": scale_of(column) for i, column in enumerate(rows.unbind(1))}


def scale_of(values: Tensor) -> Scale:
    """The :class:`Scale` of all numbers in a tensor; what is not finite is counted and left out.

    Raises:
        ValueError: no number is finite.
    """
    values = values.detach().double().flatten()
    finite = values[values.isfinite()]
    if len(finite) == 0:
        raise ValueError(f"expected at least one finite number among {len(values)}")
    ends = finite.min().item(), finite.max().item()
    lost = 1 - len(finite) / len(values)
    return Scale(finite.mean().item(), finite.std(correction=0).item(), *ends, lost)


@torch.no_grad()
def activation_scale(model: nn.Module, *inputs: Any) -> dict[str, Scale]:
    """The scale of the output of every module that has no parts, in the order in which they ran.

    Deviations that grow or shrink from layer to layer ask for another initialisation, or for normalisation.
    A layer that runs several times counts with its last run.
    """
    found: dict[str, Scale] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: scale_of(as_tuple(output)[0])})
        )
        for name, module in model.named_modules()
        if not any(module.children()) and name
    ]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def clipping_use(norms: Sequence[float], clip: float) -> ClippingUse:
    """How often clipping at a limit acts on these gradient norms, such as ``history.grad_norm``.

    Acting on every step it only rescales the learning rate; never acting, it is of no use.

    Raises:
        ValueError: there are no norms, or the limit is not positive.
    """
    if not norms or clip <= 0:
        raise ValueError(f"expected norms and a positive limit, got {len(norms)} norms and {clip}")
    share = sum(not norm <= clip for norm in norms) / len(norms)  # NaN counts as clipped
    return ClippingUse(share, statistics.median(norms), max(norms))


@torch.no_grad()
def noise(model: nn.Module, *inputs: Any) -> float:
    """Root mean square difference between two runs of the model as it stands, relative to the output's size.

    In training dropout makes it positive. In evaluation it must be 0: else ``eval()`` was forgotten, or a
    dropout does not listen to it (``functional.dropout`` without ``training=self.training``).
    """
    first, second = (as_tuple(model(*inputs))[0] for _ in range(2))
    return _size(first - second) / max(_size(first), torch.finfo(first.dtype).tiny)


@torch.no_grad()
def batch_dependence(model: nn.Module, *inputs: Tensor, length: int | None = None) -> float:
    """How much the first example's output changes with its company: within the batch against alone.

    Measured in evaluation mode, relative to the output's size; rounding stays below 1e-5. More means that
    examples see each other: batch statistics, padding taken for data, a softmax over the wrong axis.

    Args:
        inputs: tensors whose first axis is the batch.
        length: real steps of the first example; alone it comes without padding, cut along the second axis.

    Shapes:
        inputs (B, ...) or (B, T, ...); the model returns (B, ...), without a time axis if a length is given.

    Raises:
        ValueError: the batch has a single example.
    """
    if len(inputs[0]) < 2:
        raise ValueError("expected a batch of at least two examples: one has no company")
    first = [tensor[:1] if tensor.dim() == 1 else tensor[:1, :length] for tensor in inputs]
    with _evaluating(model):
        together = as_tuple(model(*inputs))[0][:1]
        alone = as_tuple(model(*first))[0]
    return _size(together - alone) / max(_size(alone), torch.finfo(alone.dtype).tiny)


def overfit_one_batch(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 100, learning_rate: float = 1e-2
) -> OneBatch:
    """Train a copy of the model on one batch alone: a model without a fault learns it by heart.

    Args:
        loss: from the model to its loss on the batch.
        steps: of Adam.

    Raises:
        ValueError: no step.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    twin = copy.deepcopy(model).train()
    optimiser = torch.optim.Adam(twin.parameters(), lr=learning_rate)
    with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own generator: leave it as it was
        losses = [_step(twin, loss, optimiser) for _ in range(steps)]
        return OneBatch(losses[0], loss(twin.eval()).item())


def _step(model: nn.Module, loss: Callable[[nn.Module], Tensor], optimiser: torch.optim.Optimizer) -> float:
    value = loss(model)
    optimiser.zero_grad()
    value.backward()
    optimiser.step()
    return value.item()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def as_table(found: Mapping[str, Any], caption: str) -> Table:
    """What a check found, as a table: one row per name, one column per field.

    Raises:
        ValueError: nothing was found.
    """
    if not found:
        raise ValueError("there is nothing to show")
    fields = next(iter(found.values()))._fields
    rows = [(name, *map(format_number, values)) for name, values in found.items()]
    return Table(caption, ("where", *(field.replace("_", " ") for field in fields)), tuple(rows))
