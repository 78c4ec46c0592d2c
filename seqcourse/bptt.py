"""Back-propagation through time written out: RNN, LSTM and GRU with a backward pass by hand.

Automatic differentiation records every operation of every time step and plays the record backwards. Here the
same chain rule is applied on paper, once per recurrence. Three pieces of work remain:

1. the *local derivatives* of each step (how the new state reacts to each preactivation), for all steps at
   once;
2. the *loop backwards in time*, which carries the gradient of the state from step t to step t - 1: one matrix
   product a step, and all that has to be done in order;
3. the gradient of the recurrent weight, a sum over all steps, as one large matrix product.

Werbos (1990), Backpropagation through time: what it does and how to do it.

Inside the functions time comes first, so that one step is one block of memory. Letters: T time, B batch, H
hidden size. In the comments ``a`` is a preactivation (what goes into a sigmoid or tanh), ``d_x`` is the
gradient of the loss with respect to x, products are element by element, and ``@`` is the matrix product.
Index 0 of a buffer of states holds the initial state, so step t reads index t - 1 and writes index t, for t =
1 ... T.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from seqcourse.cells import Cell, GRUCell, LSTMCell, State
from seqcourse.padding import last_valid, zero_padding

# A tensor, because a Python number would be made into one again at every step.
_MINUS_ONE = torch.tensor(-1.0)


def _first_order(backward: Callable) -> Callable:
    """Refuse to be differentiated again: what runs inside ``backward`` is not recorded.

    ``once_differentiable`` does this only where the incoming gradient itself needs a gradient, and is silent
    otherwise.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # in a backward pass that means create_graph=True
            raise RuntimeError(
                "the written-out backward pass has no second derivatives; use impl='loop' for those"
            )
        return backward(ctx, *gradients)

    return checked


class RNNRecurrence(Function):
    """Plain RNN: ``h[t] = f(a[t])`` with ``a[t] = projected[t] + h[t-1] @ W^T``, f being tanh or relu.

    Shapes:
        projected ``(T, B, H)``; h_0 ``(B, H)``; weight W ``(H, H)``; returns all hidden states ``(T, B, H)``.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, h_0: Tensor, weight: Tensor, nonlinearity: str) -> Tensor:
        """Run the recurrence."""
        squash = _tanh if nonlinearity == "tanh" else _relu
        h = _states(h_0, len(projected))  # (T + 1, B, H)
        for t in range(1, len(h)):
            torch.addmm(projected[t - 1], h[t - 1], weight.t(), out=h[t])
            squash(h[t], out=h[t])
        ctx.save_for_backward(weight, h)
        ctx.nonlinearity = nonlinearity
        return h[1:].clone()  # the caller may change the output; h itself is still needed

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Carry the gradient of the state back through every step.

        ``d_a[t] = d_h[t] f'(a[t])`` with ``f' = 1 - h^2`` for tanh, and 1 where ``h > 0`` for relu;
        ``d_h[t-1] = d_output[t-1] + d_a[t] @ W``; ``d_W = sum over t of d_a[t]^T @ h[t-1]``.
        """
        weight, h = ctx.saved_tensors
        d_a = 1 - h[1:].square() if ctx.nonlinearity == "tanh" else (h[1:] > 0).to(h.dtype)
        d_h = torch.zeros_like(h[0])
        for t in range(len(d_a), 0, -1):
            d_h += d_output[t - 1]
            d_a[t - 1] *= d_h
            torch.mm(d_a[t - 1], weight, out=d_h)
        return d_a, d_h, _weight_gradient(d_a, h), None


class LSTMRecurrence(Function):
    """LSTM: ``a = projected[t] + h[t-1] @ W^T``, split into the parts i, f, g, o, then

    ``c[t] = s(a_f) c[t-1] + s(a_i) tanh(a_g)`` and ``h[t] = s(a_o) tanh(c[t])``, s being the sigmoid.

    Shapes:
        projected ``(T, B, 4H)``; h_0 and c_0 ``(B, H)``; weight W ``(4H, H)``; returns all hidden states and
        all cell states, ``(T, B, H)`` each.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, h_0: Tensor, c_0: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the recurrence."""
        T, B, H = len(projected), *h_0.shape
        h, c = _states(h_0, T), _states(c_0, T)  # (T + 1, B, H) each
        tanh_c, gates = torch.empty_like(c[1:]), torch.empty_like(projected)
        for t in range(1, T + 1):
            a = torch.addmm(projected[t - 1], h[t - 1], weight.t(), out=gates[t - 1])  # (B, 4H)
            i, f, g, o = a.view(B, 4, H).unbind(1)  # views: what happens to a happens to them
            g.add_(g)  # tanh(x) = 2 s(2 x) - 1, so one sigmoid serves all four
            a.sigmoid_()
            torch.add(_MINUS_ONE, g, alpha=2, out=g)
            torch.mul(f, c[t - 1], out=c[t]).addcmul_(i, g)
            torch.mul(o, _tanh(c[t], out=tanh_c[t - 1]), out=h[t])
        ctx.save_for_backward(weight, gates, h, c, tanh_c)
        ctx.set_materialize_grads(False)  # an unused output has the gradient None, not a block of zeros
        return h[1:].clone(), c[1:]  # the caller may change the output; h itself is still needed

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_output: Tensor | None, d_cells: Tensor | None) -> tuple[Tensor, ...]:
        """Carry the gradients of hidden and cell state back through every step.

        ``d_c[t] += d_h[t] o tanh'(c[t])``: the cell state is seen through the output gate;
        ``d_a_i = d_c g i'``, ``d_a_f = d_c c[t-1] f'``, ``d_a_g = d_c i g'``, ``d_a_o = d_h tanh(c) o'``;
        ``d_h[t-1] = d_a @ W`` and ``d_c[t-1] = d_c[t] f``. The last is the path on which gradients survive:
        no matrix and no squashing function, only the forget gate.
        """
        weight, gates, h, c, tanh_c = ctx.saved_tensors
        T, B, H = tanh_c.shape
        forget_gate = gates.view(T, B, 4, H)[:, :, 1]
        d_a, c_to_h = _lstm_local_derivatives(gates.view(T, B, 4, H), h[1:], c[:-1], tanh_c)
        d_h, d_c = torch.zeros_like(h[0]), torch.zeros_like(c[0])
        for t in range(T, 0, -1):
            if d_output is not None:
                d_h += d_output[t - 1]
            if d_cells is not None:
                d_c += d_cells[t - 1]
            d_c.addcmul_(d_h, c_to_h[t - 1])
            d_a[t - 1, :, :3] *= d_c.unsqueeze(1)  # i, f and g act through the cell state
            d_a[t - 1, :, 3] *= d_h  # o acts on the hidden state itself
            torch.mm(d_a[t - 1].view(B, 4 * H), weight, out=d_h)
            d_c *= forget_gate[t - 1]
        d_a = d_a.view(T, B, 4 * H)
        return d_a, d_h, d_c, _weight_gradient(d_a, h)


def _lstm_local_derivatives(
    gates: Tensor, h: Tensor, c_before: Tensor, tanh_c: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the factors from d_c (for i, f, g) and d_h (for o) to d_a, and the factor from d_h to d_c.

    With ``s' = s (1 - s)`` and ``tanh' = 1 - tanh^2``, each is of the form ``x - y z``: one pass through
    memory.
    """
    i, f, g, o = gates.unbind(2)
    added, kept = i * g, f * c_before  # the two terms of the cell state
    local = torch.empty_like(gates)
    _subtract_product(added, added, i, out=local[:, :, 0])  # g i (1 - i)
    _subtract_product(kept, kept, f, out=local[:, :, 1])  # c[t-1] f (1 - f)
    _subtract_product(i, added, g, out=local[:, :, 2])  # i (1 - g^2)
    _subtract_product(h, h, o, out=local[:, :, 3])  # tanh(c) o (1 - o)
    return local, _subtract_product(o, h, tanh_c)  # o (1 - tanh(c)^2)


class GRURecurrence(Function):
    """GRU, reset after the product: with ``u = h[t-1] @ W^T + b``, split into r, z, n like projected p,

    ``r = s(p_r + u_r)``, ``z = s(p_z + u_z)``, ``n = tanh(p_n + r u_n)``, ``h[t] = z h[t-1] + (1 - z) n``.

    Shapes:
        projected ``(T, B, 3H)``; h_0 ``(B, H)``; weight W ``(3H, H)``; bias b ``(3H,)`` or ``None``; returns
        all hidden states ``(T, B, H)``.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, h_0: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the recurrence."""
        T, H = len(projected), h_0.shape[1]
        h = _states(h_0, T)  # (T + 1, B, H)
        u_n, gates = torch.empty_like(h[1:]), torch.empty_like(projected)
        for t in range(1, T + 1):
            u = F.linear(h[t - 1], weight, bias)  # (B, 3H)
            r_and_z, n = gates[t - 1].split((2 * H, H), dim=1)
            torch.add(projected[t - 1, :, : 2 * H], u[:, : 2 * H], out=r_and_z).sigmoid_()
            r, z = r_and_z.chunk(2, dim=1)
            u_n[t - 1] = u[:, 2 * H :]
            _tanh(torch.addcmul(projected[t - 1, :, 2 * H :], r, u_n[t - 1], out=n), out=n)
            torch.lerp(n, h[t - 1], z, out=h[t])  # n + z (h[t-1] - n)
        ctx.save_for_backward(weight, gates, h, u_n)
        ctx.has_bias = bias is not None
        return h[1:].clone()  # the caller may change the output; h itself is still needed

    @staticmethod
    @_first_order
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Carry the gradient of the state back through every step.

        Everything is a multiple of ``d_h[t]``: ``d_a_n = d_h (1 - z) n'``, ``d_a_z = d_h (h[t-1] - n) z'``,
        ``d_a_r = d_a_n u_n r'``. The product u gets ``d_u = (d_a_r, d_a_z, d_a_n r)``, and
        ``d_h[t-1] = d_u @ W + d_h[t] z``: the last term is the GRU's direct path.
        """
        weight, gates, h, u_n = ctx.saved_tensors
        T, B, H = u_n.shape
        update_gate = gates.view(T, B, 3, H)[:, :, 1]
        d = _gru_local_derivatives(gates.view(T, B, 3, H), h[:-1], u_n)  # (T, B, 4, H): d_u, then d_a_n
        d_u = d.view(T, B, 4 * H)[:, :, : 3 * H]
        d_h = torch.zeros_like(h[0])
        for t in range(T, 0, -1):
            d_h += d_output[t - 1]
            d[t - 1] *= d_h.unsqueeze(1)
            d_h.mul_(update_gate[t - 1]).addmm_(d_u[t - 1], weight)
        d_a = torch.cat([d_u[:, :, : 2 * H], d[:, :, 3]], dim=2)  # (T, B, 3H)
        d_bias = d_u.sum((0, 1)) if ctx.has_bias else None
        return d_a, d_h, _weight_gradient(d_u, h), d_bias


def _gru_local_derivatives(gates: Tensor, h_before: Tensor, u_n: Tensor) -> Tensor:
    """Return what turns d_h into the three parts of d_u and into d_a_n, ``(T, B, 4, H)``."""
    r, z, n = gates.unbind(2)
    slope, mixed = 1 - n.square(), (h_before - n) * z
    local = gates.new_empty(*gates.shape[:2], 4, gates.shape[3])
    to_r, to_z, to_u_n, to_n = local.unbind(2)
    _subtract_product(slope, slope, z, out=to_n)  # (1 - z) (1 - n^2)
    torch.mul(to_n, r, out=to_u_n)
    _subtract_product(mixed, mixed, z, out=to_z)  # (h[t-1] - n) z (1 - z)
    scaled = to_u_n * u_n
    _subtract_product(scaled, scaled, r, out=to_r)  # (1 - z) (1 - n^2) u_n r (1 - r)
    return local


def run_bptt(cell: Cell, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
    """Run one cell over a sequence with the backward pass of this module.

    All states of all steps are there, so the final state is looked up at each sequence's last valid step;
    gradients of steps behind it are zero by themselves. Under autocast the projection uses the lower
    precision, the recurrence the precision of the parameters.

    Shapes:
        x ``(B, T, D)``; state ``(B, H)`` or a pair; lengths ``(B,)``; output ``(B, T, H)``.
    """
    projected = cell.project(x.transpose(0, 1)).to(cell.weight_hh.dtype)  # (T, B, G*H)
    with torch.autocast(x.device.type, enabled=False):
        states = [each.transpose(0, 1) for each in _recurrence(cell, projected, state)]  # (B, T, H)
    final = tuple(last_valid(each, lengths) for each in states)
    return zero_padding(states[0], lengths), final if isinstance(cell, LSTMCell) else final[0]


def _recurrence(cell: Cell, projected: Tensor, state: State) -> tuple[Tensor, ...]:
    if isinstance(cell, LSTMCell):
        return LSTMRecurrence.apply(projected, *state, cell.weight_hh)
    if isinstance(cell, GRUCell):
        return (GRURecurrence.apply(projected, state, cell.weight_hh, cell.bias_hh),)
    return (RNNRecurrence.apply(projected, state, cell.weight_hh, cell.nonlinearity),)


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """Write tanh(x) = 2 sigmoid(2 x) - 1 to ``out``: on a CPU a sigmoid is much faster than a tanh."""
    torch.add(x, x, out=out).sigmoid_()
    return torch.add(_MINUS_ONE, out, alpha=2, out=out)


def _relu(x: Tensor, out: Tensor) -> Tensor:
    return torch.clamp(x, min=0, out=out)


def _subtract_product(x: Tensor, y: Tensor, z: Tensor, out: Tensor | None = None) -> Tensor:
    """Return x - y z, computed in one pass."""
    return torch.addcmul(x, y, z, value=-1, out=out)


def _states(initial: Tensor, T: int) -> Tensor:
    """Return a buffer ``(T + 1, B, H)`` that starts with the initial state."""
    states = initial.new_empty(T + 1, *initial.shape)
    states[0] = initial
    return states


def _weight_gradient(d_a: Tensor, h: Tensor) -> Tensor:
    """Sum ``d_a[t]^T @ h[t-1]`` over all steps and sequences."""
    return d_a.flatten(0, 1).t() @ h[:-1].flatten(0, 1)
