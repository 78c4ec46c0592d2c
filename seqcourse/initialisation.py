"""Where training starts decides how far a recurrent network remembers: initialisations with that aim.

Each function changes a cell in place and returns it. Letters: H hidden size.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from seqcourse.cells import Cell, GRUCell, LSTMCell, RNNCell, VectorCell


@torch.no_grad()
def forget_bias_init_(cell: LSTMCell, value: float = 1.0) -> LSTMCell:
    """Set the total bias of an LSTM's forget gate: with 1 it forgets a quarter a step, with 0 half.

    Jozefowicz, Zaremba & Sutskever (2015), An Empirical Exploration of Recurrent Network Architectures.

    Raises:
        TypeError: if ``cell`` is not an LSTM cell.
        ValueError: if it has no bias.
    """
    _require(cell, LSTMCell)
    _set_gate_bias(cell, 1, torch.full_like(cell.bias_ih[: cell.hidden_size], value))
    return cell


@torch.no_grad()
def chrono_init_(
    cell: LSTMCell | GRUCell, max_time: float, generator: Generator | None = None
) -> LSTMCell | GRUCell:
    """Spread the memory of the units over time scales from 1 to ``max_time`` steps.

    A gate that stays at ``1 - 1 / (tau + 1)`` keeps a value for about tau steps, and its bias is then
    ``log(tau)``. So the bias of the gate that keeps is drawn as ``log(U(1, max_time - 1))``: an LSTM's forget
    gate, with the negative for its input gate, or a GRU's update gate (1 keeps the state here; where the
    paper's convention is the opposite, so is its sign). Tallec & Ollivier (2018), Can Recurrent Neural
    Networks Warp Time?

    Args:
        cell: an LSTM or GRU cell with bias.
        max_time: the longest dependency to expect, in steps.
        generator: for the draw.

    Raises:
        TypeError: if ``cell`` is neither an LSTM nor a GRU cell.
        ValueError: if it has no bias or ``max_time`` is not larger than 2.
    """
    _require(cell, LSTMCell, GRUCell)
    if not max_time > 2:
        raise ValueError(
            f"expected max_time larger than 2, so that log(U(1, max_time - 1)) has room; got {max_time}"
        )
    scales = torch.empty_like(cell.bias_ih[: cell.hidden_size]).uniform_(1, max_time - 1, generator=generator)
    bias = scales.log()
    _set_gate_bias(cell, 1, bias)  # the second gate in torch order: forget gate, or update gate
    if isinstance(cell, LSTMCell):
        _set_gate_bias(cell, 0, -bias)
    return cell


@torch.no_grad()
def identity_init_(cell: RNNCell, scale: float = 1.0) -> RNNCell:
    """Start a ReLU RNN as a counter: recurrent weight ``scale`` times the identity, biases zero.

    Without input, a non-negative state then stays as it is. Le, Jaitly & Hinton (2015), A Simple Way to
    Initialize Recurrent Networks of Rectified Linear Units.

    Raises:
        TypeError: if ``cell`` is not a plain RNN cell.
        ValueError: if its nonlinearity is not ReLU.
    """
    _require(cell, RNNCell, bias=False)
    if cell.nonlinearity != "relu":
        raise ValueError(
            f"expected nonlinearity='relu', got {cell.nonlinearity!r}: tanh would shrink the state"
        )
    nn.init.eye_(cell.weight_hh).mul_(scale)
    for bias in (cell.bias_ih, cell.bias_hh):
        if bias is not None:
            bias.zero_()
    return cell


@torch.no_grad()
def orthogonal_init_(cell: VectorCell, gain: float = 1.0, generator: Generator | None = None) -> VectorCell:
    """Draw each gate's recurrent weight ``(H, H)`` as an orthogonal matrix: all singular values are ``gain``.

    Saxe, McClelland & Ganguli (2014), Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear
    Networks.

    Raises:
        TypeError: if ``cell`` is not an RNN, LSTM or GRU cell.
    """
    _require(cell, VectorCell, bias=False)
    for block in cell.weight_hh.chunk(cell.gate_count):
        nn.init.orthogonal_(block, gain, generator=generator)
    return cell


def _set_gate_bias(cell: VectorCell, gate: int, bias: Tensor) -> None:
    """Two biases are added, so one takes the value and the other becomes zero."""
    rows = slice(gate * cell.hidden_size, (gate + 1) * cell.hidden_size)
    cell.bias_ih[rows] = bias
    cell.bias_hh[rows] = 0


def _require(cell: Cell, *kinds: type[Cell], bias: bool = True) -> None:
    if not isinstance(cell, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"expected {names}, got {type(cell).__name__}; a layer's cells are in layer.cells")
    if bias and cell.bias_ih is None:
        raise ValueError("expected a cell with bias=True, because this initialisation sets a bias")
