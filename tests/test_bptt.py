"""The hand-written backward passes: numerical differentiation, and what the gradient chapter says."""

from __future__ import annotations

import pytest
import torch

from seqcourse.bptt import GRURecurrence, LSTMRecurrence, RNNRecurrence
from seqcourse.recurrent import GRU, LSTM, RNN

B, T, D, H = 3, 6, 5, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_gradcheck_rnn(nonlinearity):
    inputs = randn(T, B, H), randn(B, H), randn(H, H)
    assert torch.autograd.gradcheck(lambda *given: RNNRecurrence.apply(*given, nonlinearity), inputs)


def test_gradcheck_lstm_in_hidden_and_cell_states():
    inputs = randn(T, B, 4 * H), randn(B, H), randn(B, H), randn(4 * H, H)
    assert torch.autograd.gradcheck(LSTMRecurrence.apply, inputs)
    assert torch.autograd.gradcheck(lambda *given: LSTMRecurrence.apply(*given)[0], inputs)
    assert torch.autograd.gradcheck(lambda *given: LSTMRecurrence.apply(*given)[1], inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_gru(bias):
    inputs = randn(T, B, 3 * H), randn(B, H), randn(3 * H, H)
    if bias:
        assert torch.autograd.gradcheck(GRURecurrence.apply, (*inputs, randn(3 * H)))
    else:
        assert torch.autograd.gradcheck(lambda *given: GRURecurrence.apply(*given, None), inputs)


def test_saturated_gates_give_finite_gradients():
    """Preactivations of 1000 must not end in 0 times infinity."""
    for kind in (RNN, LSTM, GRU):
        layer = kind(D, H, impl="bptt")
        x = (1000 * torch.randn(B, T, D)).requires_grad_()
        layer(x)[0].sum().backward()
        assert x.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_a_forget_gate_of_one_carries_the_gradient_unchanged():
    """The lesson of the LSTM: shut the input gate, open the forget gate, and d c[T] / d c[0] is 1."""
    projected = torch.zeros(50, B, 4 * H, dtype=torch.float64)
    projected[:, :, :H], projected[:, :, H : 2 * H] = -1000, 1000
    h_0, c_0 = randn(B, H), randn(B, H)
    weight = torch.zeros(4 * H, H, dtype=torch.float64)
    _, cells = LSTMRecurrence.apply(projected, h_0, c_0, weight)
    (gradient,) = torch.autograd.grad(cells[-1].sum(), c_0)
    assert torch.equal(gradient, torch.ones_like(c_0))


def test_an_rnns_gradient_shrinks_by_the_weight_each_step():
    """A linear regime: with relu open and weight w times the identity, d h[T] / d h[0] = w^T."""
    h_0 = torch.ones(B, H, dtype=torch.float64, requires_grad=True)
    for w in (0.5, 1.0, 1.5):
        weight = w * torch.eye(H, dtype=torch.float64)
        states = RNNRecurrence.apply(torch.zeros(T, B, H, dtype=torch.float64), h_0, weight, "relu")
        (gradient,) = torch.autograd.grad(states[-1].sum(), h_0)
        torch.testing.assert_close(gradient, torch.full_like(h_0, w**T))


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_second_derivatives_are_refused_not_wrong(kind):
    x = randn(B, T, D)
    output, _ = kind(D, H, impl="bptt", dtype=torch.float64)(x)
    with pytest.raises(RuntimeError, match="impl='loop'"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_the_output_may_be_changed_in_place(kind):
    layer = kind(D, H, impl="bptt", dtype=torch.float64)
    x = randn(B, T, D)
    gradients = []
    for impl in ("bptt", "loop"):
        layer.impl = impl
        output, _ = layer(x)
        output[:, 2:4] *= 3
        gradients.append(torch.autograd.grad(output.square().sum(), [x, *layer.parameters()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_frozen_weights_get_no_gradient_and_inputs_still_do(kind):
    layer = kind(D, H, impl="bptt", dtype=torch.float64).requires_grad_(False)
    x = randn(B, T, D)
    layer(x)[0].square().sum().backward()
    layer.impl = "loop"
    expected = torch.autograd.grad(layer(x)[0].square().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected, atol=1e-12, rtol=0)
    assert all(parameter.grad is None for parameter in layer.parameters())
