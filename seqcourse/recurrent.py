"""Many time steps: one driver for every cell, with layers, directions, padding and initial states.

Letters: B batch, T time, D input features, H hidden size, L layers. Batch comes first everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.bptt import run_bptt
from seqcourse.cells import Cell, GRUCell, LSTMCell, RNNCell, State, as_tuple, check_input, check_state
from seqcourse.fused import is_standard, run_fused, run_stack
from seqcourse.padding import check_lengths, hide_padding, reverse, zero_padding

IMPLEMENTATIONS = ("auto", "loop", "bptt", "fused")


@dataclass(frozen=True)
class Trace:
    """Everything a run computed, for plots and probes; lists go over cells in the order (layer, direction).

    Shapes:
        output ``(B, T, H * directions)``; each entry of ``states`` and ``gates`` is a dictionary from a name
        such as ``"cell_state"`` or ``"forget_gate"`` to ``(B, T, H)``, position t belonging to input t in
        both directions; padded positions are zero. ``steps`` holds the states as they stand in the autograd
        graph, one per step in the order of computation: ask ``torch.autograd.grad`` for gradients with
        respect to those.
    """

    output: Tensor
    state: State
    states: list[dict[str, Tensor]]
    gates: list[dict[str, Tensor]]
    steps: list[list[State]]


class Recurrent(nn.Module):
    """Drive any cell over a sequence; results and layouts are those of ``torch.nn.LSTM`` and its family.

    Shapes:
        x ``(B, T, D)``; output ``(B, T, H * directions)``; state ``(L * directions, B, H)``, for an LSTM a
        pair of them.
        ConvLSTM: the last axis is replaced by ``C, height, width``.

    Args:
        cells: one cell, a sequence of cells in the order (layer, direction), or a function that makes a cell
            from an input size.
        num_layers: L; with cells given it may be left out.
        dropout: between layers, in training only.
        bidirectional: a second cell per layer reads backwards; outputs are concatenated.
        impl: ``"loop"`` (readable), ``"bptt"`` (backward pass written out, :mod:`seqcourse.bptt`),
            ``"fused"`` (torch's own kernels on the same parameters; cuDNN on a GPU) or ``"auto"`` (the
            fastest that applies).
        input_size: D, needed only when ``cells`` is a function.

    Raises:
        TypeError: if ``cells`` holds something that is not a :class:`~seqcourse.cells.Cell`.
        ValueError: if the number of cells, their sizes, ``dropout`` or ``impl`` do not fit.
    """

    def __init__(
        self,
        cells: Cell | Sequence[Cell] | Callable[[int], Cell],
        num_layers: int | None = None,
        dropout: float = 0.0,
        bidirectional: bool = False,
        impl: str = "auto",
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {dropout}")
        self.directions = 2 if bidirectional else 1
        if isinstance(cells, Cell):
            cells = [cells]
        elif callable(cells) and not isinstance(cells, nn.ModuleList):
            cells = _make_cells(cells, input_size, num_layers or 1, self.directions)
        self.cells = nn.ModuleList(cells)
        self.num_layers = len(self.cells) // self.directions
        self.dropout = dropout
        self._check_cells(num_layers)
        self.impl = impl
        self._check_impl()

    @property
    def bidirectional(self) -> bool:
        """Whether a second cell per layer reads backwards."""
        return self.directions == 2

    @property
    def input_size(self) -> int:
        """D, the features of the input."""
        return self.cells[0].input_size

    @property
    def hidden_size(self) -> int:
        """H, the size of one direction's state."""
        return self.cells[0].hidden_size

    @property
    def output_size(self) -> int:
        """Features of the output: H times the number of directions."""
        return self.hidden_size * self.directions

    def forward(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run over the whole sequence.

        With ``lengths``, sequence b counts only up to step ``lengths[b]``: outputs after it are zero, the
        final state is that of the last valid step, and the backward direction starts there. What stands in
        the padding has no effect.

        Shapes:
            x ``(B, T, D)``; lengths ``(B,)`` integers from 1 to T; output ``(B, T, H * directions)``;
            state in and out ``(L * directions, B, H)``, for an LSTM a pair of them.

        Raises:
            TypeError: if ``x`` is not a floating-point tensor, ``lengths`` not an integer tensor, or the
                state of the wrong kind.
            ValueError: if a shape or a length does not fit.
        """
        states = self._check(x, state, lengths)
        x, lengths = hide_padding(x, lengths)
        impl = self.choose_impl(x.device)
        if impl == "fused" and lengths is None:
            return run_stack(self, x, _stack_states(states))
        run = {"loop": run_loop, "bptt": run_bptt, "fused": run_fused}[impl]
        output, states = self._run_layers(x, states, lengths, run)
        return output, _stack_states(states)

    def trace(self, x: Tensor, state: State | None = None, lengths: Tensor | None = None) -> Trace:
        """Run the readable loop and keep every gate and state; takes what :meth:`forward` takes.

        Raises:
            TypeError: as :meth:`forward`.
            ValueError: as :meth:`forward`.
        """
        recordings: list[_Recording] = []

        def run_and_record(cell, x, state, lengths):
            recordings.append(_Recording(cell, lengths, backward=len(recordings) % self.directions == 1))
            return run_loop(cell, x, state, lengths, record=recordings[-1])

        states = self._check(x, state, lengths)
        x, lengths = hide_padding(x, lengths)
        output, states = self._run_layers(x, states, lengths, run_and_record)
        return Trace(
            output,
            _stack_states(states),
            states=[recording.stacked_states() for recording in recordings],
            gates=[recording.stacked_gates() for recording in recordings],
            steps=[recording.states for recording in recordings],
        )

    def _run_layers(
        self, x: Tensor, states: list[State], lengths: Tensor | None, run: Callable
    ) -> tuple[Tensor, list[State]]:
        """Feed each layer's output to the next; a backward cell sees the sequences reversed."""
        final_states = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                inputs = reverse(x, lengths) if direction else x
                output, state = run(self.cells[index], inputs, states[index], lengths)
                outputs.append(reverse(output, lengths) if direction else output)
                final_states.append(state)
            x = torch.cat(outputs, dim=2) if self.bidirectional else outputs[0]  # (B, T, H * directions)
        return x, final_states

    def _check(self, x: Tensor, state: State | None, lengths: Tensor | None) -> list[State]:
        """Check what the caller gave and return one initial state per cell."""
        first = self.cells[0]
        check_input(first, x, first.input_layout.replace("(B,", "(B, T,"))
        if x.shape[1] == 0:
            raise ValueError(f"expected at least one time step, got shape {tuple(x.shape)}")
        if lengths is not None:
            check_lengths(lengths, *x.shape[:2])
        zeros = [cell.initial_state(x) for cell in self.cells]
        if state is None:
            return zeros
        check_state(first, state, _stack_states(zeros))
        return _unstack_states(state)

    def _check_cells(self, num_layers: int | None) -> None:
        strangers = [type(cell).__name__ for cell in self.cells if not isinstance(cell, Cell)]
        if strangers:
            raise TypeError(f"expected cells that derive from seqcourse.cells.Cell, got {strangers}")
        expected = (num_layers or max(self.num_layers, 1)) * self.directions
        if len(self.cells) != expected:
            raise ValueError(f"expected {expected} cells (layers x directions), got {len(self.cells)}")
        for index, cell in enumerate(self.cells):
            fed = self.input_size if index < self.directions else self.output_size
            if (cell.input_size, cell.hidden_size) != (fed, self.hidden_size):
                raise ValueError(
                    f"expected cell {index} to have input_size {fed} and hidden_size {self.hidden_size}, "
                    f"got {cell.input_size} and {cell.hidden_size}; order is (layer, direction)"
                )

    def _check_impl(self) -> None:
        if self.impl not in IMPLEMENTATIONS:
            raise ValueError(f"expected impl to be one of {', '.join(IMPLEMENTATIONS)}; got {self.impl!r}")
        if self.impl in ("bptt", "fused") and not is_standard(self.cells):
            raise ValueError(
                f"expected impl 'auto' or 'loop' for these cells, got {self.impl!r}: a faster path needs "
                "RNNCell, LSTMCell or GRUCell(reset_after=True), all cells alike"
            )

    def choose_impl(self, device: torch.device) -> str:
        """Pick the fastest that applies; on a CPU torch has a fused kernel for the LSTM alone."""
        if self.impl != "auto":
            return self.impl
        if not is_standard(self.cells):
            return "loop"
        return "fused" if device.type != "cpu" or isinstance(self.cells[0], LSTMCell) else "bptt"

    def extra_repr(self) -> str:
        """Describe what the cells do not say themselves."""
        names = ("num_layers", "bidirectional", "dropout", "impl")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class _TorchLike(Recurrent):
    """What RNN, LSTM and GRU share: torch's constructor and weights that copy both ways."""

    cell_class: type[Cell]
    torch_class: type[nn.RNNBase]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        impl: str = "auto",
        **cell_options,
    ) -> None:
        def make_cell(size: int) -> Cell:
            return self.cell_class(size, hidden_size, bias, **cell_options)

        if num_layers < 1:
            raise ValueError(f"expected num_layers of at least 1, got {num_layers}")
        super().__init__(make_cell, num_layers, dropout, bidirectional, impl, input_size)

    def load_from_torch(self, module: nn.RNNBase) -> Self:
        """Copy the weights of a torch module of the same kind and size into this one.

        Raises:
            TypeError: if ``module`` is of another kind.
            ValueError: if its parameters do not have the shapes of these.
        """
        if not isinstance(module, self.torch_class):
            raise TypeError(f"expected {self.torch_class.__name__}, got {type(module).__name__}")
        self._match(module)
        with torch.no_grad():
            for name, parameter in self.torch_parameters().items():
                parameter.copy_(getattr(module, name))
        return self

    def to_torch(self) -> nn.RNNBase:
        """Return a new, batch-first torch module with a copy of these weights.

        Raises:
            ValueError: if torch has no such layer (a GRU that resets before the product).
        """
        weight = self.cells[0].weight_ih
        module = self.torch_class(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.cells[0].bias_ih is not None,
            batch_first=True,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            device=weight.device,
            dtype=weight.dtype,
            **self._torch_options(),
        )
        with torch.no_grad():
            for name, parameter in self.torch_parameters().items():
                getattr(module, name).copy_(parameter)
        return module.train(self.training)

    def _torch_options(self) -> dict:
        return {}

    def torch_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters under torch's names, in torch's order."""
        named = {}
        for index, cell in enumerate(self.cells):
            layer, direction = divmod(index, self.directions)
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            named |= {name + suffix: parameter for name, parameter in cell.named_parameters()}
        return named

    def _match(self, module: nn.RNNBase) -> None:
        ours = {name: tuple(parameter.shape) for name, parameter in self.torch_parameters().items()}
        theirs = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        if ours != theirs:
            different = sorted(
                name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
            )
            raise ValueError(
                f"expected the same parameters; these differ: {', '.join(different)}; "
                "look at sizes, num_layers, bias, bidirectional and proj_size"
            )


class RNN(_TorchLike):
    """A plain recurrent layer or stack, see :class:`Recurrent`; ``nonlinearity`` goes to the cell."""

    cell_class, torch_class = RNNCell, nn.RNN

    def _torch_options(self) -> dict:
        return {"nonlinearity": self.cells[0].nonlinearity}

    def _match(self, module: nn.RNN) -> None:
        if module.nonlinearity != self.cells[0].nonlinearity:
            raise ValueError(
                f"expected {self.cells[0].nonlinearity!r}, got a torch RNN with {module.nonlinearity!r}"
            )
        super()._match(module)


class LSTM(_TorchLike):
    """An LSTM layer or stack, see :class:`Recurrent`; ``forget_bias`` goes to the cell."""

    cell_class, torch_class = LSTMCell, nn.LSTM


class GRU(_TorchLike):
    """A GRU layer or stack, see :class:`Recurrent`; ``reset_after`` goes to the cell."""

    cell_class, torch_class = GRUCell, nn.GRU

    def _torch_options(self) -> dict:
        if not self.cells[0].reset_after:
            raise ValueError("expected reset_after=True: torch.nn.GRU knows no reset before the product")
        return {}

    def _match(self, module: nn.GRU) -> None:
        self._torch_options()
        super()._match(module)


def run_loop(
    cell: Cell, x: Tensor, state: State, lengths: Tensor | None = None, record: Callable | None = None
) -> tuple[Tensor, State]:
    """Run one cell over a sequence: project all inputs at once, then step.

    Shapes:
        x ``(B, T, D)``; output ``(B, T, H)``; state ``(B, H)`` or a pair.
    """
    T = x.shape[1]
    shortest = T if lengths is None else int(lengths.min())
    outputs = []
    for t, projected_t in enumerate(cell.project(x).unbind(1)):
        output, next_state = cell.step(projected_t, state)
        if t >= shortest:  # sequences that have ended keep the state they ended with
            next_state = _keep_ended(lengths <= t, state, next_state)
        if record is not None:
            record(cell.gates(projected_t, state), next_state)
        state = next_state
        outputs.append(output)
    return zero_padding(torch.stack(outputs, dim=1), lengths), state


class _Recording:
    """Collects gates and states of one cell while the loop runs; stacks them in the order of the input."""

    def __init__(self, cell: Cell, lengths: Tensor | None, backward: bool) -> None:
        self.cell, self.lengths, self.backward = cell, lengths, backward
        self.gates: list = []
        self.states: list[State] = []

    def __call__(self, gates, state: State) -> None:
        self.gates.append(gates)
        self.states.append(state)

    def stacked_states(self) -> dict[str, Tensor]:
        return self._stack(self.cell.state_names, [as_tuple(state) for state in self.states])

    def stacked_gates(self) -> dict[str, Tensor]:
        return self._stack(self.gates[0]._fields, self.gates)

    def _stack(self, names: Sequence[str], steps: list) -> dict[str, Tensor]:
        over_time = [
            zero_padding(torch.stack(values, dim=1), self.lengths) for values in zip(*steps, strict=True)
        ]
        if self.backward:
            over_time = [reverse(values, self.lengths) for values in over_time]
        return dict(zip(names, over_time, strict=True))


def _keep_ended(ended: Tensor, old: State, new: State) -> State:
    """Choose the old state where a sequence has ended; ended ``(B,)``."""
    if isinstance(new, tuple):
        return tuple(_keep_ended(ended, before, after) for before, after in zip(old, new, strict=True))
    return torch.where(ended.view(-1, *[1] * (new.dim() - 1)), old, new)


def _make_cells(
    make_cell: Callable[[int], Cell], input_size: int | None, num_layers: int, directions: int
) -> list[Cell]:
    """Build the cells of a stack; above the first layer they read the output of the layer below."""
    if input_size is None:
        raise ValueError("expected input_size together with a function that makes cells")
    cells: list[Cell] = []
    for index in range(num_layers * directions):
        fed = input_size if index < directions else cells[0].hidden_size * directions
        cells.append(make_cell(fed))
    return cells


def _stack_states(states: list[State]) -> State:
    """Stack the states of the cells on a new first axis, ``(L * directions, B, H)``, as torch does."""
    if isinstance(states[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*states, strict=True))
    return torch.stack(states)


def _unstack_states(state: State) -> list[State]:
    """Undo :func:`_stack_states`."""
    if isinstance(state, tuple):
        return list(zip(*(part.unbind(0) for part in state), strict=True))
    return list(state.unbind(0))
