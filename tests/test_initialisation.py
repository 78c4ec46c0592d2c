"""Initialisations: what they set, what they leave alone, and the effect they exist for."""

from __future__ import annotations

import pytest
import torch

from seqcourse.cells import GRUCell, LSTMCell, RNNCell
from seqcourse.initialisation import chrono_init_, forget_bias_init_, identity_init_, orthogonal_init_
from seqcourse.recurrent import Recurrent

B, T, D, H = 3, 7, 5, 64


def total_bias(cell, gate):
    return (cell.bias_ih + cell.bias_hh).view(cell.gate_count, cell.hidden_size)[gate]


def test_forget_bias_touches_the_forget_gate_alone():
    cell = LSTMCell(D, H)
    before = cell.bias_ih.detach().clone()
    assert forget_bias_init_(cell, 2.0) is cell
    assert torch.equal(total_bias(cell, 1), torch.full((H,), 2.0))
    unchanged = torch.ones(4 * H, dtype=torch.bool)
    unchanged[H : 2 * H] = False
    assert torch.equal(cell.bias_ih[unchanged], before[unchanged])


@pytest.mark.parametrize("max_time", [10, 200])
@pytest.mark.parametrize("cell_class", [LSTMCell, GRUCell])
def test_chrono_spreads_time_scales_up_to_the_longest(cell_class, max_time):
    cell = chrono_init_(cell_class(D, 2000), max_time, torch.Generator().manual_seed(0))
    time_scales = total_bias(cell, 1).exp()
    assert time_scales.min() >= 1 and time_scales.max() <= max_time - 1
    assert time_scales.mean().item() == pytest.approx(max_time / 2, rel=0.05)  # of U(1, max_time - 1)
    if cell_class is LSTMCell:
        assert torch.equal(total_bias(cell, 0), -total_bias(cell, 1))


def test_chrono_draws_from_the_generator():
    first, second, other = (
        chrono_init_(LSTMCell(D, H), 20, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(total_bias(first, 1), total_bias(second, 1))
    assert not torch.equal(total_bias(first, 1), total_bias(other, 1))


@pytest.mark.parametrize("cell_class", [LSTMCell, GRUCell])
def test_chrono_keeps_the_state_for_longer(cell_class):
    """The state's gradient after 50 steps without input is larger than with the default start."""
    carried = []
    for chrono in (False, True):
        torch.manual_seed(0)
        cell = cell_class(D, H)
        if chrono:
            chrono_init_(cell, 100)
        layer = Recurrent(cell)
        start = cell.initial_state(B)
        start = (
            tuple(s[None].requires_grad_() for s in start)
            if cell_class is LSTMCell
            else start[None].requires_grad_()
        )
        _, final = layer(torch.zeros(B, 50, D), start)
        long_term = (start[1], final[1]) if cell_class is LSTMCell else (start, final)
        (gradient,) = torch.autograd.grad(long_term[1].sum(), long_term[0])
        carried.append(gradient.norm())
    assert carried[1] > 100 * carried[0]


def test_identity_makes_a_relu_rnn_hold_its_state_without_input():
    cell = identity_init_(RNNCell(D, H, nonlinearity="relu"))
    state = torch.rand(1, B, H)
    _, final = Recurrent(cell)(torch.zeros(B, T, D), state)
    assert torch.equal(final, state)
    halved = identity_init_(cell, scale=0.5)
    torch.testing.assert_close(Recurrent(halved)(torch.zeros(B, T, D), state)[1], state * 0.5**T)
    assert identity_init_(RNNCell(D, H, bias=False, nonlinearity="relu")).bias_ih is None


@pytest.mark.parametrize("cell_class", [RNNCell, LSTMCell, GRUCell])
def test_orthogonal_blocks_have_equal_singular_values(cell_class):
    cell = orthogonal_init_(cell_class(D, H), gain=1.5, generator=torch.Generator().manual_seed(0))
    for block in cell.weight_hh.view(cell.gate_count, H, H):
        torch.testing.assert_close(torch.linalg.svdvals(block), torch.full((H,), 1.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: forget_bias_init_(GRUCell(D, H)), TypeError, "expected LSTMCell, got GRUCell"),
        (lambda: forget_bias_init_(LSTMCell(D, H, bias=False)), ValueError, "bias=True"),
        (lambda: chrono_init_(RNNCell(D, H), 10), TypeError, "LSTMCell or GRUCell"),
        (lambda: chrono_init_(LSTMCell(D, H), 2), ValueError, "larger than 2"),
        (lambda: identity_init_(RNNCell(D, H)), ValueError, "relu"),
        (lambda: identity_init_(Recurrent(RNNCell(D, H))), TypeError, "layer.cells"),
        (lambda: orthogonal_init_(torch.nn.Linear(D, H)), TypeError, "got Linear"),
    ],
)
def test_misuse_is_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()
