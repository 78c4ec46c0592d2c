"""One time step: recurrent cells that share the contract ``(x_t, state) -> (output, state)``.

A cell splits its step in two. :meth:`Cell.project` is the part that needs only the input; a driver may call
it once for a whole sequence. :meth:`Cell.step` is the part that needs the state; only that has to be run one
step after another.

Letters: B batch, T time, D input features, H hidden size, G number of gates, C channels.
Parameters have the layout, the gate order and the default initialisation of ``torch.nn``, so weights copy
both ways.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Tensor | tuple[Tensor, Tensor]


class RNNGates(NamedTuple):
    """What a plain RNN computes before its nonlinearity, ``(B, H)``."""

    preactivation: Tensor


class LSTMGates(NamedTuple):
    """The parts of an LSTM step in torch's order, each ``(B, H)``, or ``(B, C, height, width)``."""

    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor


class GRUGates(NamedTuple):
    """The three parts of a GRU step in torch's order, each ``(B, H)``."""

    reset_gate: Tensor
    update_gate: Tensor
    candidate: Tensor


class MinGRUGates(NamedTuple):
    """The two parts of a minGRU step, each ``(B, H)``."""

    update_gate: Tensor
    candidate: Tensor


class Cell(nn.Module):
    """The contract of one time step: what :class:`~seqcourse.recurrent.Recurrent` needs to drive a cell.

    A subclass gives ``project``, ``gates``, ``step`` and ``initial_state``, the attributes ``input_size`` and
    ``hidden_size``, and the names of its states.
    """

    state_names: tuple[str, ...] = ("hidden_state",)
    input_layout = "(B, D)"  # of one step; a sequence has T after B

    input_size: int
    hidden_size: int

    def project(self, x: Tensor) -> Tensor:
        """Return the part of the step that does not depend on the state, for one step or a whole sequence."""
        raise NotImplementedError

    def gates(self, projected_t: Tensor, state: State) -> NamedTuple:
        """Return the named parts of one step."""
        raise NotImplementedError

    def step(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Apply the recurrence once: the equation."""
        raise NotImplementedError

    def initial_state(self, batch: int | Tensor) -> State:
        """Return the zero state for a batch size or for an input."""
        raise NotImplementedError

    def forward(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Advance by one time step.

        Shapes:
            x_t ``(B, D)``; state ``(B, H)``, for an LSTM a pair of them; output ``(B, H)``.
            ConvLSTM: ``(B, C, height, width)`` throughout.

        Args:
            x_t: the input of this step.
            state: the state before this step; zeros if left out.

        Raises:
            TypeError: if ``x_t`` is not a floating-point tensor or ``state`` is of the wrong kind.
            ValueError: if a shape does not fit the cell.
        """
        check_input(self, x_t, self.input_layout)
        if state is None:
            state = self.initial_state(x_t)
        else:
            check_state(self, state, self.initial_state(x_t))
        return self.step(self.project(x_t), state)


class VectorCell(Cell):
    """A cell over feature vectors: one weight for the input, one for the hidden state, gates stacked in rows.

    Shapes:
        weight_ih ``(G*H, D)``, weight_hh ``(G*H, H)``, bias_ih and bias_hh ``(G*H,)``.

    Args:
        input_size: D.
        hidden_size: H.
        bias: without it, both biases are ``None``.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: if a size is smaller than one.
    """

    gate_count = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"expected sizes of at least 1, got {input_size=} and {hidden_size=}")
        self.input_size, self.hidden_size = input_size, hidden_size
        rows, like = self.gate_count * hidden_size, {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size, **like))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size, **like))
        self.bias_ih = nn.Parameter(torch.empty(rows, **like)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(rows, **like)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)), as ``torch.nn`` does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch: int | Tensor) -> State:
        """Return zeros ``(B, H)``, one tensor per state name, for a batch size or an input."""
        batch_size = batch if isinstance(batch, int) else batch.shape[0]
        return _as_state([self.weight_hh.new_zeros(batch_size, self.hidden_size) for _ in self.state_names])

    def project(self, x: Tensor) -> Tensor:
        """Multiply the input by its weight and add both biases, for one step or for all steps at once.

        Shapes:
            x ``(B, D)`` or ``(B, T, D)``; result ``(B, G*H)`` or ``(B, T, G*H)``.
        """
        bias = None if self.bias_ih is None else self.bias_ih + self.bias_hh
        return F.linear(x, self.weight_ih, bias)

    def extra_repr(self) -> str:
        """Describe the cell in the way ``torch.nn`` does."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}"


class RNNCell(VectorCell):
    """The plain (Elman) recurrent cell: ``h = tanh(W_ih x + b_ih + W_hh h + b_hh)``.

    Elman (1990), Finding Structure in Time.

    Args:
        input_size: D.
        hidden_size: H.
        bias: add two biases, as ``torch.nn`` does.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: if ``nonlinearity`` is neither of the two.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device=None,
        dtype=None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def gates(self, projected_t: Tensor, state: Tensor) -> RNNGates:
        """Return the sum that goes into the nonlinearity."""
        return RNNGates(torch.addmm(projected_t, state, self.weight_hh.t()))

    def step(self, projected_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Squash the weighted sum of input and previous hidden state."""
        (preactivation,) = self.gates(projected_t, state)
        hidden_state = preactivation.tanh() if self.nonlinearity == "tanh" else preactivation.relu()
        return hidden_state, hidden_state


class LSTMCell(VectorCell):
    """Long short-term memory: gates decide what the cell state forgets, takes in and shows.

    Hochreiter & Schmidhuber (1997); forget gate: Gers, Schmidhuber & Cummins (2000); without peepholes, as
    ``torch.nn``.

    Args:
        input_size: D.
        hidden_size: H.
        bias: add two biases, as ``torch.nn`` does.
        forget_bias: if given, the total bias of the forget gate (bias_ih + bias_hh) at the start; 1 is a
            common choice (Jozefowicz, Zaremba & Sutskever 2015).
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: if ``forget_bias`` is given for a cell without bias.
    """

    gate_count = 4
    state_names = ("hidden_state", "cell_state")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        forget_bias: float | None = None,
        device=None,
        dtype=None,
    ) -> None:
        if forget_bias is not None and not bias:
            raise ValueError(
                f"expected bias=True with {forget_bias=}: a cell without bias has no forget bias"
            )
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def reset_parameters(self) -> None:
        """Draw the parameters as ``torch.nn`` does, then set the forget gate's bias if one was asked for."""
        super().reset_parameters()
        if self.forget_bias is not None:
            forget_rows = slice(self.hidden_size, 2 * self.hidden_size)
            nn.init.constant_(self.bias_ih[forget_rows], self.forget_bias)
            nn.init.zeros_(self.bias_hh[forget_rows])

    def gates(self, projected_t: Tensor, state: tuple[Tensor, Tensor]) -> LSTMGates:
        """Compute three gates in (0, 1) and a candidate in (-1, 1) from input and hidden state."""
        hidden_state, _ = state
        preactivations = torch.addmm(projected_t, hidden_state, self.weight_hh.t())  # (B, 4H)
        i, f, g, o = preactivations.chunk(4, dim=1)  # (B, H) each
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def step(self, projected_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Forget part of the cell state, add part of the candidate, show part of the result."""
        _, cell_state = state
        input_gate, forget_gate, candidate, output_gate = self.gates(projected_t, state)
        cell_state = forget_gate * cell_state + input_gate * candidate
        hidden_state = output_gate * cell_state.tanh()
        return hidden_state, (hidden_state, cell_state)


class GRUCell(VectorCell):
    """Gated recurrent unit: the update gate mixes the old state with a candidate.

    Cho et al. (2014), Learning Phrase Representations using RNN Encoder-Decoder. As there and in
    ``torch.nn``, an update gate of 1 copies the old state and 0 replaces it; Chung et al. (2014) write it the
    other way round.

    Args:
        input_size: D.
        hidden_size: H.
        bias: add two biases, as ``torch.nn`` does.
        reset_after: ``True`` (``torch.nn``, cuDNN) applies the reset gate to the product ``W_hn h + b_hn``;
            ``False`` (the paper) applies it to ``h`` before the product.
        device: where the parameters live.
        dtype: of the parameters.
    """

    gate_count = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        reset_after: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.reset_after = reset_after

    def project(self, x: Tensor) -> Tensor:
        """Multiply the input by its weight and add its bias; the reset gate has to scale bias_hh first.

        Shapes:
            x ``(B, D)`` or ``(B, T, D)``; result ``(B, 3H)`` or ``(B, T, 3H)``.
        """
        return F.linear(x, self.weight_ih, self.bias_ih)

    def gates(self, projected_t: Tensor, state: Tensor) -> GRUGates:
        """Compute reset gate, update gate and candidate from the input and the previous hidden state."""
        return (
            self._gates_reset_after(projected_t, state)
            if self.reset_after
            else self._gates_reset_before(projected_t, state)
        )

    def _gates_reset_after(self, projected_t: Tensor, hidden_state: Tensor) -> GRUGates:
        x_r, x_z, x_n = projected_t.chunk(3, dim=1)  # (B, H) each
        h_r, h_z, h_n = F.linear(hidden_state, self.weight_hh, self.bias_hh).chunk(3, dim=1)
        reset_gate, update_gate = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        return GRUGates(reset_gate, update_gate, (x_n + reset_gate * h_n).tanh())

    def _gates_reset_before(self, projected_t: Tensor, hidden_state: Tensor) -> GRUGates:
        H = self.hidden_size
        weight_rz, weight_n = self.weight_hh.split((2 * H, H))
        bias_rz, bias_n = (None, None) if self.bias_hh is None else self.bias_hh.split((2 * H, H))
        x_rz, x_n = projected_t.split((2 * H, H), dim=1)
        reset_gate, update_gate = (
            (x_rz + F.linear(hidden_state, weight_rz, bias_rz)).sigmoid().chunk(2, dim=1)
        )
        candidate = (x_n + F.linear(reset_gate * hidden_state, weight_n, bias_n)).tanh()
        return GRUGates(reset_gate, update_gate, candidate)

    def step(self, projected_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the old state and the candidate: an update gate of 1 keeps the old, 0 takes the new."""
        _, update_gate, candidate = self.gates(projected_t, state)
        hidden_state = update_gate * state + (1 - update_gate) * candidate
        return hidden_state, hidden_state


class MinGRUCell(Cell):
    """A GRU whose gate and candidate see the input alone: ``h = z * h + (1 - z) * candidate``.

    Without the state inside the gates the recurrence is linear in the state, so that it could be run in parallel
    over time. Feng et al. (2024), Were RNNs All We Needed?, section 3.1. As in :class:`GRUCell` an update gate
    of 1 copies the old state; the paper writes it the other way round.

    Shapes:
        weight_ih ``(2*H, D)``, bias_ih ``(2*H,)``: first the update gate, then the candidate.

    Args:
        input_size: D.
        hidden_size: H.
        bias: without it, ``bias_ih`` is ``None``.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: if a size is smaller than one.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"expected sizes of at least 1, got {input_size=} and {hidden_size=}")
        self.input_size, self.hidden_size = input_size, hidden_size
        like = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size, **like))
        self.bias_ih = nn.Parameter(torch.empty(2 * hidden_size, **like)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(D), 1/sqrt(D)), as ``torch.nn.Linear`` does."""
        bound = 1 / math.sqrt(self.input_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch: int | Tensor) -> Tensor:
        """Return zeros ``(B, H)`` for a batch size or an input."""
        batch_size = batch if isinstance(batch, int) else batch.shape[0]
        return self.weight_ih.new_zeros(batch_size, self.hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Compute all of a step but the mixing, for one step or for all at once.

        Shapes:
            x ``(B, D)`` or ``(B, T, D)``; result ``(B, 2H)`` or ``(B, T, 2H)``.
        """
        return F.linear(x, self.weight_ih, self.bias_ih)

    def gates(self, projected_t: Tensor, state: Tensor) -> MinGRUGates:
        """Return the update gate in (0, 1) and the candidate; the state has no say."""
        z, candidate = projected_t.chunk(2, dim=1)  # (B, H) each
        return MinGRUGates(z.sigmoid(), candidate)

    def step(self, projected_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the old state and the candidate."""
        update_gate, candidate = self.gates(projected_t, state)
        hidden_state = update_gate * state + (1 - update_gate) * candidate
        return hidden_state, hidden_state

    def extra_repr(self) -> str:
        """Describe the cell in the way ``torch.nn`` does."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}"


class ConvLSTMCell(Cell):
    """An LSTM whose products are convolutions, so that state and gates keep the layout of an image.

    Shi et al. (2015), Convolutional LSTM Network, without peepholes.

    Shapes:
        x_t ``(B, C_in, height, width)``; both states and the output ``(B, C, height, width)``.

    Args:
        in_channels: channels of a frame.
        hidden_channels: C, channels of the states.
        kernel_size: odd, so that the frame keeps its size.
        bias: one bias per gate and channel.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ValueError: if ``kernel_size`` is even.
    """

    state_names = ("hidden_state", "cell_state")
    input_layout = "(B, C, height, width)"

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"expected an odd kernel_size, so that frames keep their size; got {kernel_size}"
            )
        self.input_size, self.hidden_size = in_channels, hidden_channels
        options = {"padding": "same", "device": device, "dtype": dtype}
        self.input_convolution = nn.Conv2d(
            in_channels, 4 * hidden_channels, kernel_size, bias=bias, **options
        )
        self.hidden_convolution = nn.Conv2d(
            hidden_channels, 4 * hidden_channels, kernel_size, bias=False, **options
        )

    def initial_state(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return a pair of zeros ``(B, C, height, width)`` for a frame or a sequence of frames.

        Raises:
            TypeError: if only a batch size is given; the size of the frames is needed too.
        """
        if not isinstance(batch, Tensor):
            raise TypeError(
                "expected frames (B, C, height, width) or (B, T, C, height, width), not a batch size"
            )
        shape = (batch.shape[0], self.hidden_size, *batch.shape[-2:])
        weight = self.hidden_convolution.weight
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def project(self, x: Tensor) -> Tensor:
        """Convolve the frames; time is folded into the batch, because no frame needs its neighbours here.

        Shapes:
            x ``(B, C_in, height, width)`` or ``(B, T, C_in, height, width)``; result has ``4 C`` channels.
        """
        if x.dim() == 4:
            return self.input_convolution(x)
        B, T = x.shape[:2]
        return self.input_convolution(x.flatten(0, 1)).unflatten(0, (B, T))  # (B, T, 4C, height, width)

    def gates(self, projected_t: Tensor, state: tuple[Tensor, Tensor]) -> LSTMGates:
        """Compute the gates of an LSTM, one value per channel and pixel."""
        hidden_state, _ = state
        i, f, g, o = (projected_t + self.hidden_convolution(hidden_state)).chunk(4, dim=1)
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    step = LSTMCell.step


def _as_state(tensors: list[Tensor]) -> State:
    """One tensor is a state by itself; several form a tuple."""
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def as_tuple(state: State) -> tuple[Tensor, ...]:
    """Return a state as a tuple, also where it is a single tensor."""
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def check_input(cell: Cell, x: Tensor, layout: str) -> None:
    """Say clearly what is wrong with an input: ``layout`` names its axes, for instance ``"(B, T, D)"``.

    Raises:
        TypeError: if ``x`` is not a floating-point tensor.
        ValueError: if it has the wrong number of axes or features.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"expected a floating-point tensor {layout}, got {kind}; token ids go through nn.Embedding first"
        )
    axes = layout.strip("()").split(", ")
    if x.dim() != len(axes):
        raise ValueError(
            f"expected {layout}, that is {len(axes)} axes, got shape {tuple(x.shape)}; "
            "a batch axis is added by x.unsqueeze(0)"
        )
    feature_axis = next(axis for axis, name in enumerate(axes) if name in "DC")
    if x.shape[feature_axis] != cell.input_size:
        raise ValueError(
            f"expected {cell.input_size} features on axis {feature_axis} of {layout}, "
            f"got {x.shape[feature_axis]} (shape {tuple(x.shape)}); look at input_size and the order of axes"
        )


def check_state(cell: Cell, state: State, expected: State) -> None:
    """Compare a given state with the zero state of the same input.

    Raises:
        TypeError: if a pair was expected and a tensor came, or the other way round.
        ValueError: if a shape differs.
    """
    names = ", ".join(cell.state_names)
    parts = as_tuple(state)
    same_kind = isinstance(state, tuple) == isinstance(expected, tuple) and len(parts) == len(
        as_tuple(expected)
    )
    if not same_kind or not all(isinstance(part, Tensor) for part in parts):
        got = f"{type(state).__name__} of {', '.join(type(part).__name__ for part in parts)}"
        raise TypeError(f"expected the state of {type(cell).__name__} to be ({names}), got {got}")
    for name, given, wanted in zip(cell.state_names, parts, as_tuple(expected), strict=True):
        if given.shape != wanted.shape:
            raise ValueError(f"expected {name} of shape {tuple(wanted.shape)}, got {tuple(given.shape)}")
