"""The same recurrences through torch's own kernels, on the parameters of our cells.

``torch.lstm`` is what ``torch.nn.LSTM`` calls: oneDNN on a CPU, cuDNN on a GPU. Results and gradients are
those of the readable loop; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seqcourse.cells import Cell, GRUCell, LSTMCell, RNNCell, State
from seqcourse.padding import last_valid, padding_mask, zero_padding

# sigmoid(-1000) is exactly 0 and sigmoid(1000) exactly 1 in every floating-point type.
_CERTAIN = 1000.0


def is_standard(cells: nn.ModuleList) -> bool:
    """Whether torch has these recurrences: cells of one kind, no subclass, GRU with the reset after."""
    first = cells[0]
    if type(first) not in (RNNCell, LSTMCell, GRUCell):
        return False
    return all(_variant(cell) == _variant(first) for cell in cells) and getattr(first, "reset_after", True)


def _variant(cell: Cell) -> tuple:
    options = [getattr(cell, name, None) for name in ("nonlinearity", "reset_after")]
    return type(cell), *options, getattr(cell, "bias_ih", None) is None


def run_stack(module: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a whole :class:`~seqcourse.recurrent.Recurrent` in one call, for sequences without padding.

    Shapes:
        x ``(B, T, D)``; state ``(L * directions, B, H)`` or a pair; output ``(B, T, H * directions)``.
    """
    weights = [parameter for cell in module.cells for parameter in cell.parameters()]
    layout = (module.num_layers, module.dropout, module.training, module.bidirectional)
    return _call(module.cells[0], x, state, weights, *layout)


def run_fused(cell: Cell, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
    """Run one cell over padded sequences.

    Shapes:
        x ``(B, T, D)``; state ``(B, H)`` or a pair; lengths ``(B,)``; output ``(B, T, H)``.
    """
    weights = list(cell.parameters())
    is_lstm = isinstance(state, tuple)
    state = tuple(part[None] for part in state) if is_lstm else state[None]  # (1, B, H)
    if lengths is not None and is_lstm:
        x, weights[0] = _freeze_padding(cell, x, lengths)
    output, final = _call(cell, x, state, weights)
    hidden_state = last_valid(output, lengths)
    return zero_padding(output, lengths), (hidden_state, final[1][0]) if is_lstm else hidden_state


def _call(
    cell: Cell,
    x: Tensor,
    state: State,
    weights: list[Tensor],
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
) -> tuple[Tensor, State]:
    """Call the kernel that fits the cell."""
    has_bias = cell.bias_ih is not None
    layout = (weights, has_bias, num_layers, dropout, training, bidirectional, True)  # True: batch first
    if isinstance(cell, LSTMCell):
        with _kernels_for(x):
            output, *final = torch.lstm(x, state, *layout)
        return output, tuple(final)
    if isinstance(cell, GRUCell):
        return torch.gru(x, state, *layout)
    kernel = torch.rnn_tanh if cell.nonlinearity == "tanh" else torch.rnn_relu
    return kernel(x, state, *layout)


@contextmanager
def _kernels_for(x: Tensor) -> Iterator[None]:
    """Leave oneDNN out for an LSTM in half precision on a CPU.

    On processors with bfloat16 instructions torch 2.13 asks oneDNN for an LSTM it does not have, and fails
    with "could not create a primitive descriptor" (intel/torch-xpu-ops#4066). Other processors never ask.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    is_half = x.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16)
    if not is_half:
        yield
        return
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def _freeze_padding(cell: LSTMCell, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Add an input that is 1 in the padding, where it shuts the input gate and opens the forget gate.

    So the cell state is carried unchanged to the last step, where the kernel returns it. Packing the
    sequences would do the same, several times slower on a CPU.

    Shapes:
        x ``(B, T, D)``; returns x ``(B, T, D + 1)`` and weight_ih ``(4H, D + 1)``.
    """
    H = cell.hidden_size
    is_padding = padding_mask(lengths, x.shape[1]).to(x.dtype).unsqueeze(2)  # (B, T, 1)
    effect = torch.cat([x.new_full((H, 1), -_CERTAIN), x.new_full((H, 1), _CERTAIN), x.new_zeros(2 * H, 1)])
    return torch.cat([x, is_padding], dim=2), torch.cat([cell.weight_ih, effect], dim=1)
