"""Probes: measurements of what a recurrent model remembers and how its gradient travels, one call each.

The gradient and gate probes work on :class:`~seqcourse.recurrent.Recurrent`, on ``torch.nn.RNN``, ``LSTM``
and ``GRU``, and on any model that contains some of these: the model runs as usual, while every recurrent
layer in it takes the readable loop and keeps its states. The memory probes train any model that maps
``(B, T, D)`` to ``(B, T, K)``.

Sources: Bengio, Simard & Frasconi (1994), Learning long-term dependencies with gradient descent is difficult;
Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks; Hochreiter &
Schmidhuber (1997), Long short-term memory (the adding task, and tasks like delayed recall); Le, Jaitly &
Hinton (2015), A simple way to initialize recurrent networks of rectified linear units; Tallec & Ollivier
(2018), Can recurrent neural networks warp time?
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.cells import as_tuple
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent, Trace

# ------------------------------------------------------------------------------------- tracing any model


def trace_model(model: nn.Module, *inputs: Any, **keywords: Any) -> tuple[Any, list[Trace]]:
    """Runs a model; returns its output and a trace of each recurrent layer, in the order they ran.

    Raises:
        ValueError: the model has no recurrent layer that can be traced, or one got a packed sequence.
    """
    traces: list[Trace] = []
    with _traced(model, traces):
        output = model(*inputs, **keywords)
    if not traces:
        raise ValueError(
            f"{type(model).__name__} ran no recurrent layer to trace: expected a seqcourse Recurrent or"
            " torch.nn.RNN, LSTM or GRU in it (torch's single cells are not seen)"
        )
    return output, traces


@contextmanager
def _traced(model: nn.Module, traces: list[Trace]) -> Iterator[None]:
    """While it lasts, every recurrent layer answers with the output of its traced run."""

    def answer_with_trace(module: nn.Module, inputs: tuple, keywords: dict, _: Any) -> Any:
        trace, batch_first = _trace_layer(module, *inputs, **keywords)
        traces.append(trace)
        return (trace.output if batch_first else trace.output.transpose(0, 1)), trace.state

    layers = [module for module in model.modules() if isinstance(module, (Recurrent, nn.RNNBase))]
    hooks = [layer.register_forward_hook(answer_with_trace, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _trace_layer(module: nn.Module, x: Any, *rest: Any, **keywords: Any) -> tuple[Trace, bool]:
    if isinstance(module, Recurrent):
        return module.trace(x, *rest, **keywords), True
    if not isinstance(x, Tensor) or x.dim() != 3:
        raise ValueError(
            "a torch layer can be traced on a padded batch (B, T, D), not on packed or single sequences"
        )
    state = rest[0] if rest else keywords.get("hx")
    x = x if module.batch_first else x.transpose(0, 1)  # (B, T, D)
    return as_recurrent(module).trace(x, state), module.batch_first


def as_recurrent(module: nn.Module) -> Recurrent:
    """Our layer with the same weights; one of ours is returned as it is.

    Raises:
        TypeError: the module is not a recurrent layer.
    """
    if isinstance(module, Recurrent):
        return module
    kinds = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}
    ours = next((ours for theirs, ours in kinds.items() if isinstance(module, theirs)), None)
    if ours is None:
        raise TypeError(f"expected Recurrent or torch.nn.RNN, LSTM or GRU, got {type(module).__name__}")
    options = {"nonlinearity": module.nonlinearity} if ours is RNN else {}
    twin = ours(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        **options,
    )
    twin.to(device=module.weight_ih_l0.device, dtype=module.weight_ih_l0.dtype)
    return twin.load_from_torch(module).train(module.training)


# --------------------------------------------------------------------------------- gradients through time


def gradient_norms_by_lag(
    model: nn.Module,
    *inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    layer: int = -1,
    state_name: str = "hidden_state",
) -> Tensor:
    """Norm of the gradient of a loss with respect to the state k steps before the last, for k = 0 .. T-1.

    Where the norm falls exponentially with the lag the gradient vanishes, where it grows so it explodes: with
    a loss on the last step only, dL/dh_t is dL/dh_T times the product of the step Jacobians between them
    (Bengio et al. 1994; Pascanu et al. 2013, equations 4 and 5). Divide by entry 0 to compare models.

    Args:
        inputs: what the model takes; padding blurs the lag, so use sequences of equal length.
        loss: from the model's output to a scalar; default the sum of the recurrent layer's last output.
        layer: which recurrent cell, in the order (module, layer, direction).
        state_name: ``"hidden_state"`` or ``"cell_state"``: the gradient through that tensor alone.

    Shapes:
        result (T,): the mean over the batch of the norms of (H,) gradients, index = lag.

    Raises:
        ValueError: no recurrent layer, no such state, or the loss does not depend on the layer.
    """
    with torch.enable_grad():
        output, traces = trace_model(model, *inputs)
        states = _states_over_time(traces, layer, state_name)
        scalar = loss(output) if loss else traces[-1].output[:, -1].sum()
        gradients = torch.autograd.grad(scalar, states, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(f"the loss does not depend on {state_name} of layer {layer}: nothing to measure")
    zero = torch.zeros_like(states[0])
    norms = [(zero if gradient is None else gradient).flatten(1).norm(dim=1) for gradient in gradients]
    return torch.stack(norms).mean(dim=1).flip(0).detach()  # (T, B) -> (T,), lag 0 first


def _states_over_time(traces: Sequence[Trace], layer: int, state_name: str) -> list[Tensor]:
    """The state tensors of one cell, in the order of computation, as they stand in the graph."""
    steps = [steps for trace in traces for steps in trace.steps]
    names = [tuple(states) for trace in traces for states in trace.states]
    if state_name not in names[layer]:
        raise ValueError(f"layer {layer} has {', '.join(names[layer])}; there is no state {state_name!r}")
    position = names[layer].index(state_name)
    return [as_tuple(state)[position] for state in steps[layer]]


def cell_state_jacobian(model: nn.Module, *inputs: Any, lag: int, layer: int = -1) -> Tensor:
    """The Jacobian dc_T/dc_{T-lag} of an LSTM's cell state, through every path.

    Shapes:
        result (B, H, H): row j is the gradient of unit j of the last cell state.

    Raises:
        ValueError: the layer has no cell state, or the lag is not shorter than the sequence.
    """
    with torch.enable_grad():
        _, traces = trace_model(model, *inputs)
        cell_states = _states_over_time(traces, layer, "cell_state")
        if not 0 <= lag < len(cell_states):
            raise ValueError(
                f"lag must be 0 to {len(cell_states) - 1} for {len(cell_states)} steps, got {lag}"
            )
        (jacobian,) = _gradients_of_last(cell_states, [cell_states[-1 - lag]])
    return jacobian


def state_gradients(
    model: nn.Module, *inputs: Any, state_name: str = "hidden_state", layer: int = -1
) -> Tensor:
    """Size of the Jacobian d(last state)/d(state k steps before) for k = 0 .. T-1, through every path.

    The size is the Frobenius norm divided by sqrt(H), so that the identity has size 1.

    Shapes:
        result (T,): mean over the batch, index = lag.

    Raises:
        ValueError: the layer has no such state.
    """
    with torch.enable_grad():
        _, traces = trace_model(model, *inputs)
        states = _states_over_time(traces, layer, state_name)
        jacobians = _gradients_of_last(states, states)
    root = math.sqrt(states[0].shape[1])
    sizes = [jacobian.flatten(1).norm(dim=1) / root for jacobian in jacobians]
    return torch.stack(sizes).mean(dim=1).flip(0)  # (T, B) -> (T,)


def cell_state_gradients(model: nn.Module, *inputs: Any, layer: int = -1) -> Tensor:
    """Size of dc_T/dc_{T-k} for k = 0 .. T-1: 1 is a cell state that carries its gradient unchanged.

    This is the constant error carousel of Hochreiter & Schmidhuber (1997, section 3.2), measured. Compare
    :func:`forget_gate_products`, the part that goes along the cell states alone.

    Shapes:
        result (T,): as of :func:`state_gradients`.

    Raises:
        ValueError: the layer has no cell state.
    """
    return state_gradients(model, *inputs, state_name="cell_state", layer=layer)


def _gradients_of_last(states: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """d(last state)/d(each wanted state), (B, H, H): one row for each unit, all in one batch."""
    B, H = states[-1].shape
    one_unit_each = torch.eye(H, dtype=states[-1].dtype, device=states[-1].device)
    directions = one_unit_each[:, None].expand(H, B, H)
    rows = torch.autograd.grad(states[-1], wanted, directions, is_grads_batched=True)
    return [jacobian.transpose(0, 1) for jacobian in rows]  # (H, B, H) -> (B, H, H)


def forget_gate_products(model: nn.Module, *inputs: Any, layer: int = -1) -> Tensor:
    """Size of the product of the last k forget gates: what dc_T/dc_{T-k} is if only the cell state carries.

    Shapes:
        result (T,): root mean square over the units, mean over the batch, index = lag (1 at lag 0).

    Raises:
        ValueError: the layer has no forget gate.
    """
    with torch.no_grad():
        _, traces = trace_model(model, *inputs)
    gates = [gates for trace in traces for gates in trace.gates][layer]
    if "forget_gate" not in gates:
        raise ValueError(f"layer {layer} has the gates {', '.join(gates)}; there is no forget gate")
    latest_first = gates["forget_gate"].flip(1)  # (B, T, H)
    products = torch.cat([torch.ones_like(latest_first[:, :1]), latest_first[:, :-1]], dim=1).cumprod(dim=1)
    return products.square().mean(dim=2).sqrt().mean(dim=0)  # (T,)


def spectral_radius(matrix: Tensor) -> float:
    """Largest absolute value among the eigenvalues of a square matrix, such as ``weight_hh`` of an RNN.

    In a linear RNN a gradient shrinks or grows by this factor per step in the long run.

    Raises:
        ValueError: the matrix is not square.
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"expected a square matrix (H, H), got shape {tuple(matrix.shape)};"
            " of an LSTM or GRU take the rows of one gate"
        )
    return torch.linalg.eigvals(matrix.detach()).abs().max().item()


@torch.no_grad()
def set_spectral_radius_(matrix: Tensor, radius: float) -> Tensor:
    """Scales a square matrix in place to a given spectral radius, and returns it.

    Raises:
        ValueError: the matrix is not square, or all its eigenvalues are zero.
    """
    present = spectral_radius(matrix)
    if present == 0:
        raise ValueError("all eigenvalues are zero: no scaling changes the spectral radius")
    return matrix.mul_(radius / present)


# ----------------------------------------------------------------------------- reach, of any kind of layer


def gradient_map(model: Callable[[Tensor], Any], x: Tensor, *, seed: int = 0) -> Tensor:
    """How much each output position depends on each input position.

    Each output is mixed with random weights of length one per feature, drawn from the seed; entry (t, s) is
    the norm of the mix's gradient with respect to x_s. It works for recurrence, attention or any model.

    Shapes:
        the model maps x (B, T, D) to (B, T, H), or to a tuple that begins with it; result (T, T): mean over
        the batch, row = output position, column = input position.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        output = as_tuple(model(x))[0]
        B, T, H = output.shape
        mix = torch.randn(B, H, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mixed = (output * mix.to(output)[:, None]).sum(dim=(0, 2)) / math.sqrt(H)  # (T,)
        rows = [torch.autograd.grad(mixed[t], x, retain_graph=True)[0] for t in range(T)]
    return torch.stack([row.norm(dim=2).mean(dim=0) for row in rows])


def path_lengths(last_output: Callable[[list[Tensor]], Tensor], x: Tensor) -> list[int]:
    """Operations on the shortest path from each input to the last output, counted in autograd's graph.

    Args:
        last_output: computes the last output from a list of T inputs (B, D). It must not put outputs of
            several positions into one tensor: the graph cannot tell them apart.
        x: the inputs (B, T, D).

    Returns:
        one number for each lag 0 .. T-1.

    Raises:
        ValueError: an input is not connected to the output.
    """
    inputs = [x_t.detach().requires_grad_() for x_t in x.unbind(dim=1)]
    with torch.enable_grad():
        output = last_output(inputs)
    distance, front, steps = {}, [output.grad_fn], 0
    while front:  # breadth first: a node is met first on a shortest path
        distance |= dict.fromkeys(front, steps)
        behind = (node for seen in front for node, _ in seen.next_functions if node is not None)
        front, steps = [node for node in dict.fromkeys(behind) if node not in distance], steps + 1
    leaves = {id(node.variable): far for node, far in distance.items() if hasattr(node, "variable")}
    missing = [t for t, x_t in enumerate(inputs) if id(x_t) not in leaves]
    if missing:
        raise ValueError(f"the output does not depend on the inputs at {missing}")
    return [leaves[id(x_t)] for x_t in reversed(inputs)]


# -------------------------------------------------------------------------------------------- saturation


class Saturation(NamedTuple):
    """Shares of activations at either end of a gate's range, where its gradient is small."""

    closed: float
    open: float

    @property
    def total(self) -> float:
        """Share of activations at any end."""
        return self.closed + self.open


def gate_saturation(
    model: nn.Module, *inputs: Any, threshold: float = 0.05, layer: int = -1
) -> dict[str, Saturation]:
    """Share of saturated activations, by gate: closed below ``threshold``, open above ``1 - threshold``.

    Tanh units (the candidate; the hidden state of a plain RNN) are moved from (-1, 1) to (0, 1) first.

    Raises:
        ValueError: the threshold is not between 0 and 0.5, or the model has no recurrent layer.
    """
    if not 0 < threshold < 0.5:
        raise ValueError(f"threshold must lie between 0 and 0.5, got {threshold}")
    with torch.no_grad():
        _, traces = trace_model(model, *inputs)
    gates = [gates for trace in traces for gates in trace.gates][layer]
    states = [states for trace in traces for states in trace.states][layer]
    activations = {name: value for name, value in gates.items() if name != "preactivation"}
    activations = activations or {"hidden_state": states["hidden_state"]}
    return {name: _saturation(name, value, threshold) for name, value in activations.items()}


def _saturation(name: str, value: Tensor, threshold: float) -> Saturation:
    unit_range = value if name.endswith("_gate") else (value + 1) / 2
    closed = (unit_range < threshold).float().mean().item()
    return Saturation(closed, (unit_range > 1 - threshold).float().mean().item())


# ------------------------------------------------------------------------------------------ memory tasks


@dataclass(frozen=True)
class MemoryTask:
    """A task that needs something seen ``delay`` steps ago, made by a generator; nothing is downloaded.

    Attributes:
        name: its name.
        input_size: D.
        output_size: classes, or 1 for a number.
        make: ``make(delay, batch_size, generator) -> (x, target)``.
        answer_steps: the answer is read from this many last steps of the output.
        threshold: the score that counts as solved.
        about: the rule in words, for the record.

    Shapes:
        x (B, T, D); target (B, answer_steps), class ids or numbers.
    """

    name: str
    input_size: int
    output_size: int
    make: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
    answer_steps: int
    threshold: float
    about: str

    @property
    def is_regression(self) -> bool:
        """The answer is a number; the score is the mean squared error, and lower is better."""
        return self.output_size == 1

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "mean squared error" if self.is_regression else "accuracy"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error or cross entropy, mean over answers; output (B, T, K), target (B, answer_steps)."""
        answers = output[:, -self.answer_steps :]  # (B, answer_steps, K)
        if self.is_regression:
            return F.mse_loss(answers.squeeze(2), target)
        return F.cross_entropy(answers.flatten(0, 1), target.flatten())

    def score(self, output: Tensor, target: Tensor) -> float:
        """Accuracy per answered symbol, or mean squared error; output (B, T, K), target (B, answer_steps)."""
        if self.is_regression:
            return self.loss(output, target).item()
        chosen = output[:, -self.answer_steps :].argmax(dim=2)  # (B, answer_steps)
        return (chosen == target).float().mean().item()

    def is_solved(self, score: float) -> bool:
        """Whether a score reaches the threshold."""
        return score < self.threshold if self.is_regression else score >= self.threshold


def delayed_recall(
    delay: int, batch_size: int, generator: torch.Generator, symbols: int = 8
) -> tuple[Tensor, Tensor]:
    """A symbol, ``delay - 1`` distractors, then a cue: name the symbol.

    The symbol is one of ``symbols`` channels, distractors use as many others, the cue has one of its own.

    Shapes:
        x (B, delay + 1, 2 * symbols + 1); target (B, 1).

    Raises:
        ValueError: a delay below 1.
    """
    _check_delay(delay)
    target = torch.randint(symbols, (batch_size, 1), generator=generator)
    distractors = symbols + torch.randint(symbols, (batch_size, delay - 1), generator=generator)
    cue = torch.full((batch_size, 1), 2 * symbols)
    tokens = torch.cat([target, distractors, cue], dim=1)  # (B, delay + 1)
    return F.one_hot(tokens, 2 * symbols + 1).float(), target


def copy_task(
    delay: int, batch_size: int, generator: torch.Generator, symbols: int = 8, length: int = 5
) -> tuple[Tensor, Tensor]:
    """``length`` symbols, blanks, a cue, blanks: repeat the symbols, each ``delay`` steps after it was seen.

    Hochreiter & Schmidhuber (1997) introduced such tasks; this form follows Arjovsky, Shah & Bengio (2016).

    Shapes:
        x (B, delay + length, symbols + 2); target (B, length).

    Raises:
        ValueError: a delay shorter than the list of symbols.
    """
    _check_delay(delay, at_least=length)
    blank, cue = symbols, symbols + 1
    target = torch.randint(symbols, (batch_size, length), generator=generator)
    tokens = torch.full((batch_size, delay + length), blank)
    tokens[:, :length] = target
    tokens[:, delay] = cue  # the first answer is due at the cue
    return F.one_hot(tokens, symbols + 2).float(), target


def adding_task(delay: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers in [0, 1], two of them marked, one in each half: give the sum of the two at the end.

    Hochreiter & Schmidhuber (1997), experiment 4. Answering 1 always has a mean squared error of 1/6.

    Shapes:
        x (B, delay + 1, 2): number and mark; target (B, 1).

    Raises:
        ValueError: a delay below 1.
    """
    _check_delay(delay)
    T, half = delay + 1, (delay + 1) // 2
    numbers = torch.rand(batch_size, T, generator=generator)
    first = torch.randint(0, half, (batch_size, 1), generator=generator)
    second = torch.randint(half, T, (batch_size, 1), generator=generator)
    marks = torch.zeros(batch_size, T).scatter_(1, first, 1.0).scatter_(1, second, 1.0)
    target = numbers.gather(1, first) + numbers.gather(1, second)  # (B, 1)
    return torch.stack([numbers, marks], dim=2), target


def _check_delay(delay: int, at_least: int = 1) -> None:
    if delay < at_least:
        raise ValueError(f"delay must be at least {at_least}, got {delay}")


DELAYED_RECALL = MemoryTask(
    "delayed recall",
    17,
    8,
    delayed_recall,
    1,
    0.95,
    "name the first of 8 symbols after distractors; 95 % right",
)
COPY = MemoryTask(
    "copy", 10, 8, copy_task, 5, 0.95, "repeat 5 of 8 symbols after a delay; 95 % of symbols right"
)
ADDING = MemoryTask(
    "adding", 2, 1, adding_task, 1, 0.01, "sum of two marked numbers; squared error below 0.01"
)
TASKS = {task.name: task for task in (DELAYED_RECALL, COPY, ADDING)}


# ---------------------------------------------------------------------------------------- memory horizon


@dataclass(frozen=True)
class Budget:
    """How much training a model gets on a task: the same for every model, or horizons mean nothing.

    Attributes:
        steps: steps at most; training stops earlier once the task is solved.
        batch_size: fresh sequences in each step.
        learning_rate: of the optimiser.
        optimiser: ``"adam"`` or ``"sgd"``; Adam rescales every step, which hides exploding gradients.
        clip: largest norm of the gradient; None does not clip.
        check_every: steps between two checks on the test batch.
        test_size: sequences in the test batch, which is never trained on.
    """

    steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 1e-3
    optimiser: str = "adam"
    clip: float | None = 1.0
    check_every: int = 50
    test_size: int = 512


@dataclass(frozen=True)
class Outcome:
    """What training on a task came to.

    Attributes:
        score: on the test batch, at the end.
        solved: whether it reached the task's threshold.
        steps: steps it took.
        losses: training loss of each step.
        gradient_norms: norm of the gradient at each step, before clipping.
    """

    score: float
    solved: bool
    steps: int
    losses: list[float]
    gradient_norms: list[float]


class SequenceModel(nn.Module):
    """A recurrent layer and a linear layer on its output at every step: the model the memory probes train.

    Shapes:
        x (B, T, D) to output (B, T, output_size).
    """

    def __init__(self, recurrent: Recurrent, output_size: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.readout = nn.Linear(recurrent.output_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for every step."""
        return self.readout(self.recurrent(x)[0])


def train_on_task(
    model: nn.Module,
    task: MemoryTask,
    delay: int,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    stop_when_solved: bool = True,
) -> Outcome:
    """Trains a model on fresh batches of a task until it is solved or the budget is spent.

    A model without parameters is only tested. The seed decides the batches; the weights are the caller's.

    Shapes:
        the model maps (B, T, D) to (B, T, K).

    Raises:
        ValueError: the budget allows no step.
    """
    budget = budget or Budget()
    if budget.steps < 1 or budget.check_every < 1:
        raise ValueError(f"a budget needs at least one step and a check, got {budget}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    test = _batch(task, delay, budget.test_size, generator, device)
    losses: list[float] = []
    norms: list[float] = []
    optimiser = _optimiser(model, budget)
    for step in range(1, budget.steps + 1 if optimiser else 1):
        batch = _batch(task, delay, budget.batch_size, generator, device)
        loss, norm = _training_step(model, task, batch, optimiser, budget)
        losses.append(loss)
        norms.append(norm)
        diverged = not math.isfinite(norm)  # every later step would be noise
        check = stop_when_solved and step % budget.check_every == 0
        if diverged or (check and task.is_solved(_test_score(model, task, *test))):
            break
    score = _test_score(model, task, *test)
    return Outcome(score, task.is_solved(score), len(losses), losses, norms)


def _batch(
    task: MemoryTask, delay: int, size: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    x, target = task.make(delay, size, generator)
    return x.to(device), target.to(device)


def _optimiser(model: nn.Module, budget: Budget) -> torch.optim.Optimizer | None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    if budget.optimiser not in kinds:
        raise ValueError(f"optimiser must be 'adam' or 'sgd', got {budget.optimiser!r}")
    return kinds[budget.optimiser](parameters, lr=budget.learning_rate) if parameters else None


def _training_step(
    model: nn.Module,
    task: MemoryTask,
    batch: tuple[Tensor, Tensor],
    optimiser: torch.optim.Optimizer,
    budget: Budget,
) -> tuple[float, float]:
    """One step; returns the loss and the norm of the gradient before clipping."""
    x, target = batch
    loss = task.loss(model(x), target)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), budget.clip or math.inf)
    if torch.isfinite(norm):
        optimiser.step()
    return loss.item(), norm.item()


@torch.no_grad()
def _test_score(model: nn.Module, task: MemoryTask, x: Tensor, target: Tensor) -> float:
    was_training = model.training
    score = task.score(model.eval()(x), target)
    model.train(was_training)
    return score


def memory_horizon(
    build_model: Callable[[MemoryTask, int], nn.Module],
    task: MemoryTask = DELAYED_RECALL,
    delays: Sequence[int] = (5, 10, 20, 50),
    seeds: Iterable[int] = (0, 1, 2),
    budget: Budget | None = None,
    *,
    name: str = "model",
    claim: str = "",
    progress: bool | None = None,
) -> list[Record]:
    """The longest delay a model learns to bridge within a fixed budget, for each seed.

    A horizon equal to the longest delay means "at least that long"; 0 means that no delay was solved. What no
    delay was tried between is not known: the horizon is always one of ``delays``.

    Args:
        build_model: ``build_model(task, delay)`` gives a fresh model from (B, T, task.input_size) to
            (B, T, task.output_size); torch's seed is set before each call.
        budget: default :class:`Budget`.
        name: the model's name in the records.
        progress: show a progress bar; default only in a terminal.

    Returns:
        The record of the horizon, then one record of the score at each delay.
    """
    budget, seeds, delays = budget or Budget(), list(seeds), sorted(delays)
    runs = [(delay, seed) for seed in seeds for delay in delays]
    results = {}
    for delay, seed in _progress(runs, f"memory horizon of {name}", progress):
        results[delay, seed] = horizon_piece(build_model, task, delay, seed, budget)
    return horizon_records(results, task, budget, name=name, claim=claim)


def horizon_piece(
    build_model: Callable[[MemoryTask, int], nn.Module],
    task: MemoryTask,
    delay: int,
    seed: int,
    budget: Budget,
) -> dict[str, Any]:
    """One model, one delay, one seed, as plain values: score, solved, steps, seconds."""
    started = time.perf_counter()
    with torch.random.fork_rng(
        devices=[]
    ):  # weights are drawn from torch's own generator: leave it as it was
        torch.manual_seed(seed)
        model = build_model(task, delay)
    outcome = train_on_task(model, task, delay, budget=budget, seed=seed)
    # A diverged model has no finite score; the worst score that guessing gives stands for it.
    score = outcome.score if math.isfinite(outcome.score) else 1.0 if task.is_regression else 0.0
    seconds = time.perf_counter() - started
    return {"score": score, "solved": outcome.solved, "steps": outcome.steps, "seconds": seconds}


def horizon_records(
    results: dict[tuple[int, int], dict[str, Any]],
    task: MemoryTask,
    budget: Budget,
    *,
    name: str,
    claim: str = "",
    protocol: dict[str, Any] | None = None,
    commit: str | None = None,
) -> list[Record]:
    """Records from the pieces of :func:`horizon_piece`, keyed by (delay, seed)."""
    delays, seeds = (sorted({key[i] for key in results}) for i in (0, 1))
    stated = {"model": name, "task": task.name, "rule": task.about, "seeds": seeds, "budget": asdict(budget)}
    stated |= protocol or {}

    def record(suffix: str, pieces: list[dict[str, Any]], **given: Any) -> Record:
        given["protocol"] = {**stated, **given["protocol"]}
        return Record.measured(
            f"horizon/{task.name}/{name}{suffix}",
            claim=claim,
            source=generated_source(f"{task.name} task", "a memory task, generated by design"),
            commit=commit,
            duration_s=sum(piece["seconds"] for piece in pieces),
            **given,
        )

    solved = [[delay for delay in delays if results[delay, seed]["solved"]] for seed in seeds]
    horizons = [max(bridged, default=0) for bridged in solved]
    limits = {"delays": delays, "longest_tried": delays[-1]}
    horizon = {"metric": "memory horizon", "unit": "steps", "values": horizons, "protocol": limits}
    records = [record("", list(results.values()), **horizon)]
    for delay in delays:
        pieces = [results[delay, seed] for seed in seeds]
        details = {"delay": delay, **{key: [piece[key] for piece in pieces] for key in ("solved", "steps")}}
        scores = {"metric": task.metric, "unit": "1", "values": [piece["score"] for piece in pieces]}
        records.append(record(f"/delay {delay}", pieces, **scores, protocol=details))
    return records


def _progress(items: Sequence[Any], text: str, show: bool | None) -> Iterable[Any]:
    from tqdm.auto import tqdm

    return tqdm(items, desc=text, disable=None if show is None else not show)  # None: only in a terminal


# --------------------------------------------------------------------------------------------- clipping


@dataclass(frozen=True)
class ClippingEffect:
    """The same model trained twice from the same weights on the same batches, without and with clipping.

    Attributes:
        clip: the largest gradient norm that the second run allowed.
        steps: steps that each run was to take; one that diverges stops early.
        without: outcome without clipping.
        with_clip: outcome with it.
    """

    clip: float
    steps: int
    without: Outcome
    with_clip: Outcome

    @property
    def spikes(self) -> tuple[int, int]:
        """Spikes of the loss without and with clipping; every step lost after a divergence counts as one."""
        runs = (self.without, self.with_clip)
        return tuple(loss_spikes(run.losses) + self.steps - run.steps for run in runs)


def loss_spikes(losses: Sequence[float], window: int = 20, factor: float = 2.0) -> int:
    """Steps whose loss exceeds ``factor`` times the median of ``window`` steps before, or is not finite."""
    spikes = sum(not math.isfinite(loss) for loss in losses)
    for step in range(window, len(losses)):
        before = [loss for loss in losses[step - window : step] if math.isfinite(loss)]
        spikes += (
            bool(before) and math.isfinite(losses[step]) and losses[step] > factor * statistics.median(before)
        )
    return spikes


def clipping_effect(
    build_model: Callable[[MemoryTask, int], nn.Module],
    task: MemoryTask = ADDING,
    delay: int = 50,
    *,
    clip: float = 1.0,
    budget: Budget | None = None,
    seed: int = 0,
) -> ClippingEffect:
    """Trains a model without and with clipping of the gradient's norm (Pascanu et al. 2013, algorithm 1).

    Both runs start from the same weights, see the same batches and take all steps of the budget.

    Raises:
        ValueError: the clip is not positive.
    """
    if clip <= 0:
        raise ValueError(f"clip must be a positive norm, got {clip}")
    given = asdict(budget or Budget(steps=200, learning_rate=0.1, optimiser="sgd"))
    outcomes = []
    for bound in (None, clip):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(task, delay)
        run_budget = Budget(**{**given, "clip": bound})
        outcomes.append(
            train_on_task(model, task, delay, budget=run_budget, seed=seed, stop_when_solved=False)
        )
    return ClippingEffect(clip, given["steps"], *outcomes)
