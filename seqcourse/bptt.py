"""Back-propagation through time written out: RNN, LSTM and GRU with a backward pass by hand.

Automatic differentiation records every operation of every time step and plays the record backwards. Here the
same chain rule is applied on paper, once per recurrence. Three pieces of work remain:

1. the *local derivatives* of each step (how the new state reacts to each preactivation), for all steps at
once; 2. the *loop backwards in time*, which carries the gradient of the state from step t to step t - 1: one
matrix product a
   step, and all that has to be done in order;
3. the gradient of the recurrent weight, a sum over all steps, as one large matrix product.

Werbos (1990), Backpropagation through time: what it does and how to do it.

Inside the functions time comes first, so that one step is one block of memory. Letters: T time, B batch, H
hidden size. In the comments ``a`` is a preactivation (what goes into a sigmoid or tanh), ``d_x`` is the
gradient of the loss with respect to x, products are element by element, and ``@`` is the matrix product.
Index 0 of a buffer of states holds the initial state, so step t reads index t - 1 and writes index t, for t =
1 ... T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from seqcourse.cells import Cell, GRUCell, LSTMCell, State
from seqcourse.padding import last_valid, zero_padding


class RNNRecurrence(Function):
    """Plain RNN: ``h[t] = f(a[t])`` with ``a[t] = projected[t] + h[t-1] @ W^T``, f being tanh or relu.

    Shapes:
        projected ``(T, B, H)``; initial ``(B, H)``; weight W ``(H, H)``; returns all hidden states ``(T, B,
        H)``.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, initial: Tensor, weight: Tensor, nonlinearity: str) -> Tensor:
        """Run the recurrence."""
        squash = _tanh_ if nonlinearity == "tanh" else torch.relu_
        h = _states(initial, len(projected))  # (T + 1, B, H)
        for t in range(1, len(h)):
            torch.addmm(projected[t - 1], h[t - 1], weight.t(), out=h[t])
            squash(h[t])
        ctx.save_for_backward(weight, h)
        ctx.nonlinearity = nonlinearity
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Carry the gradient of the state back through every step.

        ``d_a[t] = d_h[t] f'(a[t])`` with ``f' = 1 - h^2`` for tanh, and 1 where ``h > 0`` for relu;
        ``d_h[t-1] += d_a[t] @ W``;  ``d_W = sum over t of d_a[t]^T @ h[t-1]``.
        """
        weight, h = ctx.saved_tensors
        d_a = 1 - h[1:].square() if ctx.nonlinearity == "tanh" else (h[1:] > 0).to(h.dtype)
        d_h = _gradients(d_output)  # (T + 1, B, H)
        for t in range(len(d_a), 0, -1):
            d_a[t - 1] *= d_h[t]
            d_h[t - 1].addmm_(d_a[t - 1], weight)
        return d_a, d_h[0], _weight_gradient(d_a, h), None


class LSTMRecurrence(Function):
    """LSTM: ``a = projected[t] + h[t-1] @ W^T``, split into the gates i, f, g, o, then

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
            i, f, g, o = a.view(B, 4, H).unbind(1)  # views: changing a changes them
            g *= 2  # tanh(x) = 2 s(2 x) - 1, so that one sigmoid serves all four
            a.sigmoid_()
            g.mul_(2).sub_(1)
            torch.mul(f, c[t - 1], out=c[t]).addcmul_(i, g)
            torch.mul(o, _tanh_(tanh_c[t - 1].copy_(c[t])), out=h[t])
        ctx.save_for_backward(weight, gates, h, c, tanh_c)
        return h[1:], c[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_cells: Tensor) -> tuple[Tensor, ...]:
        """Carry the gradients of hidden and cell state back through every step.

        With ``s' = s (1 - s)`` and ``tanh' = 1 - tanh^2``:
        ``d_c[t] += d_h[t] o tanh'(c[t])``, the cell state being seen through the output gate;
        ``d_a_i = d_c g i'``, ``d_a_f = d_c c[t-1] f'``, ``d_a_g = d_c i g'``, ``d_a_o = d_h tanh(c) o'``;
        ``d_h[t-1] += d_a @ W`` and ``d_c[t-1] += d_c[t] f``. The last one is the path on which gradients
        survive: no matrix and no squashing, only the forget gate.
        """
        weight, gates, h, c, tanh_c = ctx.saved_tensors
        T, B, H = tanh_c.shape
        forget_gate, output_gate = gates.view(T, B, 4, H)[:, :, 1], gates.view(T, B, 4, H)[:, :, 3]
        d_a = _lstm_local_derivatives(gates.view(T, B, 4, H), c[:-1], tanh_c)  # (T, B, 4, H)
        c_to_h = output_gate * (1 - tanh_c.square())
        d_h, d_c = _gradients(d_output), _gradients(d_cells)  # (T + 1, B, H) each
        for t in range(T, 0, -1):
            d_c[t].addcmul_(d_h[t], c_to_h[t - 1])
            d_a[t - 1, :, :3] *= d_c[t].unsqueeze(1)  # i, f and g act through the cell state
            d_a[t - 1, :, 3] *= d_h[t]  # o acts on the hidden state itself
            d_h[t - 1].addmm_(d_a[t - 1].view(B, 4 * H), weight)
            d_c[t - 1].addcmul_(d_c[t], forget_gate[t - 1])
        d_a = d_a.view(T, B, 4 * H)
        return d_a, d_h[0], d_c[0], _weight_gradient(d_a, h)


def _lstm_local_derivatives(gates: Tensor, c_before: Tensor, tanh_c: Tensor) -> Tensor:
    """Return what turns d_c (for i, f, g) and d_h (for o) into d_a, ``(T, B, 4, H)``."""
    i, _, g, _ = gates.unbind(2)
    local = gates * (1 - gates)  # s' of the three sigmoids
    local[:, :, 0] *= g
    local[:, :, 1] *= c_before
    local[:, :, 2] = i * (1 - g.square())
    local[:, :, 3] *= tanh_c
    return local


class GRURecurrence(Function):
    """GRU, reset after the product: with ``u = h[t-1] @ W^T + b``, split into r, z, n like projected p,

    ``r = s(p_r + u_r)``, ``z = s(p_z + u_z)``, ``n = tanh(p_n + r u_n)``, ``h[t] = z h[t-1] + (1 - z) n``.

    Shapes:
        projected ``(T, B, 3H)``; initial ``(B, H)``; weight W ``(3H, H)``; bias b ``(3H,)`` or ``None``;
        returns all hidden states ``(T, B, H)``.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, initial: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the recurrence."""
        T, B, H = len(projected), *initial.shape
        h = _states(initial, T)  # (T + 1, B, H)
        u = projected.new_empty(T, B, 3 * H)
        gates = projected.clone()  # becomes r, z, n in place
        for t in range(1, T + 1):
            _linear(h[t - 1], weight, bias, out=u[t - 1])
            r_and_z, n = gates[t - 1].split((2 * H, H), dim=1)
            r, z = r_and_z.add_(u[t - 1, :, : 2 * H]).sigmoid_().chunk(2, dim=1)
            _tanh_(n.addcmul_(r, u[t - 1, :, 2 * H :]))
            torch.lerp(n, h[t - 1], z, out=h[t])  # n + z (h[t-1] - n)
        ctx.save_for_backward(weight, gates, h, u)
        ctx.has_bias = bias is not None
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        """Carry the gradient of the state back through every step.

        Everything is a multiple of ``d_h[t]``: ``d_a_n = d_h (1 - z) tanh'``, ``d_a_z = d_h (h[t-1] - n)
        z'``, ``d_a_r = d_a_n u_n r'``. The product u gets ``d_u = (d_a_r, d_a_z, d_a_n r)``, and ``d_h[t-1]
        += d_u @ W + d_h[t] z``: the last term is the GRU's direct path.
        """
        weight, gates, h, u = ctx.saved_tensors
        T, B, H = len(gates), *h[0].shape
        update_gate = gates.view(T, B, 3, H)[:, :, 1]
        d_u, n_factor = _gru_local_derivatives(gates.view(T, B, 3, H), h[:-1], u[:, :, 2 * H :])
        d_h = _gradients(d_output)  # (T + 1, B, H)
        for t in range(T, 0, -1):
            d_u[t - 1] *= d_h[t].unsqueeze(1)
            d_h[t - 1].addmm_(d_u[t - 1].view(B, 3 * H), weight).addcmul_(d_h[t], update_gate[t - 1])
        d_a = torch.cat([d_u[:, :, :2].flatten(2), n_factor * d_h[1:]], dim=2)  # (T, B, 3H)
        d_u = d_u.view(T, B, 3 * H)
        d_bias = d_u.sum((0, 1)) if ctx.has_bias else None
        return d_a, d_h[0], _weight_gradient(d_u, h), d_bias


def _gru_local_derivatives(gates: Tensor, h_before: Tensor, u_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors that turn d_h into d_u ``(T, B, 3, H)`` and into d_a_n ``(T, B, H)``."""
    r, z, n = gates.unbind(2)
    n_factor = (1 - z) * (1 - n.square())
    factors = [n_factor * u_n * r * (1 - r), (h_before - n) * z * (1 - z), n_factor * r]
    return torch.stack(factors, dim=2), n_factor


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


def _tanh_(x: Tensor) -> Tensor:
    """Overwrite x with tanh(x) = 2 sigmoid(2 x) - 1: on a CPU torch's sigmoid is much faster than its tanh."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def _states(initial: Tensor, T: int) -> Tensor:
    """Return a buffer ``(T + 1, B, H)`` that starts with the initial state."""
    states = initial.new_empty(T + 1, *initial.shape)
    states[0] = initial
    return states


def _gradients(d_states: Tensor) -> Tensor:
    """Return a buffer ``(T + 1, B, H)``: zeros for the initial state, then what comes from outside."""
    return torch.cat([torch.zeros_like(d_states[:1]), d_states])


def _weight_gradient(d_a: Tensor, h: Tensor) -> Tensor:
    """Sum ``d_a[t]^T @ h[t-1]`` over all steps and sequences."""
    return d_a.flatten(0, 1).t() @ h[:-1].flatten(0, 1)
