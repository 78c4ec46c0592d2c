"""One step of each cell: against torch.nn's cells, and against formulas written out here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seqcourse.cells import GRUCell, LSTMCell, MinGRUCell, RNNCell, as_tuple
from seqcourse.recurrent import Recurrent

B, T, D, H = 3, 7, 5, 4
PAIRS = {
    "tanh": (RNNCell, nn.RNNCell, {"nonlinearity": "tanh"}),
    "relu": (RNNCell, nn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (LSTMCell, nn.LSTMCell, {}),
    "gru": (GRUCell, nn.GRUCell, {}),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("kind", PAIRS)
def test_one_step_equals_torchs_cell(kind, with_state, bias):
    ours, theirs, options = PAIRS[kind]
    reference = theirs(D, H, bias=bias, dtype=torch.float64, **options)
    cell = ours(D, H, bias=bias, dtype=torch.float64, **options)
    cell.load_state_dict(reference.state_dict())
    x = randn(B, D)
    state = None
    if with_state:
        state = (randn(B, H), randn(B, H)) if kind == "lstm" else randn(B, H)
    output, new_state = cell(x, state)
    expected = as_tuple(reference(x, state))
    for part, expected_part in zip(as_tuple(new_state), expected, strict=True):
        torch.testing.assert_close(part, expected_part, atol=1e-12, rtol=0)
    assert output is as_tuple(new_state)[0]
    leaves = [x, *(as_tuple(state) if with_state else ())]
    ours_gradients = torch.autograd.grad(sum(p.square().sum() for p in as_tuple(new_state)), leaves)
    torch_gradients = torch.autograd.grad(sum(p.square().sum() for p in expected), leaves)
    for a, b in zip(ours_gradients, torch_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", PAIRS)
def test_default_initialisation_is_torchs(kind):
    """Same distribution: all of U(-1/sqrt(H), 1/sqrt(H)) is used, and nothing outside."""
    ours, _, options = PAIRS[kind]
    cell = ours(50, 100, **options)
    bound = 1 / math.sqrt(100)
    for parameter in cell.parameters():
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(2 * bound / math.sqrt(12), rel=0.15)


@pytest.mark.parametrize("reset_after", [True, False])
def test_an_update_gate_of_one_copies_the_state_and_zero_overwrites_it(reset_after):
    """The convention of torch and of Cho et al.: h = z h + (1 - z) n."""
    cell = GRUCell(D, H, reset_after=reset_after, dtype=torch.float64)
    x, state = randn(B, D), randn(B, H)
    update_rows = slice(H, 2 * H)
    with torch.no_grad():
        cell.bias_ih[update_rows] = 1000
    assert torch.equal(cell(x, state)[0], state)
    with torch.no_grad():
        cell.bias_ih[update_rows] = -1000
    candidate = cell.gates(cell.project(x), state).candidate
    assert torch.equal(cell(x, state)[0], candidate)
    assert not torch.allclose(candidate, state)


def test_gru_with_reset_before_the_product_follows_the_paper():
    """Cho et al. (2014), equations 5 to 8, per sequence, with the weights taken apart."""
    cell = GRUCell(D, H, reset_after=False, dtype=torch.float64)
    x, h = randn(B, D), randn(B, H)
    W_r, W_z, W_n = cell.weight_ih.view(3, H, D)
    U_r, U_z, U_n = cell.weight_hh.view(3, H, H)
    b_r, b_z, b_n = (cell.bias_ih + cell.bias_hh).view(3, H)
    for b in range(B):
        r = 1 / (1 + torch.exp(-(W_r @ x[b] + U_r @ h[b] + b_r)))
        z = 1 / (1 + torch.exp(-(W_z @ x[b] + U_z @ h[b] + b_z)))
        n = torch.tanh(W_n @ x[b] + U_n @ (r * h[b]) + b_n)
        torch.testing.assert_close(cell(x, h)[0][b], z * h[b] + (1 - z) * n, atol=1e-12, rtol=0)
    after = GRUCell(D, H, dtype=torch.float64)
    after.load_state_dict(cell.state_dict())
    assert not torch.allclose(after(x, h)[0], cell(x, h)[0])


def test_reset_before_gru_equals_its_formula_over_time():
    cell = GRUCell(D, H, bias=False, reset_after=False, dtype=torch.float64)
    x = randn(B, T, D)
    h = torch.zeros(B, H, dtype=torch.float64)
    for t in range(T):
        r = torch.sigmoid(x[:, t] @ cell.weight_ih[:H].T + h @ cell.weight_hh[:H].T)
        z = torch.sigmoid(x[:, t] @ cell.weight_ih[H : 2 * H].T + h @ cell.weight_hh[H : 2 * H].T)
        n = torch.tanh(x[:, t] @ cell.weight_ih[2 * H :].T + (r * h) @ cell.weight_hh[2 * H :].T)
        h = z * h + (1 - z) * n
    output, state = Recurrent(cell)(x)
    torch.testing.assert_close(state[0], h, atol=1e-12, rtol=0)
    ours = torch.autograd.grad(output[:, -1].square().sum(), [x, *cell.parameters()])
    expected = torch.autograd.grad(h.square().sum(), [x, *cell.parameters()])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_lstm_gates_decide_what_the_cell_state_keeps():
    cell = LSTMCell(D, H, dtype=torch.float64)
    x, state = randn(B, D), (randn(B, H), randn(B, H))
    with torch.no_grad():
        cell.bias_ih[:H], cell.bias_ih[H : 2 * H] = -1000, 1000  # input gate shut, forget gate open
    assert torch.equal(cell(x, state)[1][1], state[1])
    with torch.no_grad():
        cell.bias_ih[:H], cell.bias_ih[H : 2 * H] = 1000, -1000  # the other way round
    gates = cell.gates(cell.project(x), state)
    assert torch.equal(cell(x, state)[1][1], gates.candidate)


@pytest.mark.parametrize("kind", PAIRS)
def test_projecting_a_sequence_equals_projecting_its_steps(kind):
    ours, _, options = PAIRS[kind]
    cell = ours(D, H, dtype=torch.float64, **options)
    x = randn(B, T, D)
    for t in range(T):
        torch.testing.assert_close(cell.project(x)[:, t], cell.project(x[:, t]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_min_gru_equals_its_sum_over_all_steps(with_state, bias):
    """The recurrence is linear in the state: h_t is a sum over what came in, each times the gates since."""
    cell = MinGRUCell(D, H, bias, dtype=torch.float64)
    x = randn(B, T, D)
    state = randn(1, B, H) if with_state else None
    lengths = torch.tensor([7, 2, 5])
    output, final = Recurrent(cell)(x, state, lengths)

    z = torch.sigmoid(x @ cell.weight_ih[:H].t() + (cell.bias_ih[:H] if bias else 0))  # (B, T, H)
    candidate = x @ cell.weight_ih[H:].t() + (cell.bias_ih[H:] if bias else 0)
    wanted = []
    for t in range(T):
        since = [z[:, s + 1 : t + 1].prod(dim=1) for s in range(t + 1)]
        h = sum((1 - z[:, s]) * candidate[:, s] * since[s] for s in range(t + 1))
        wanted.append(h + (z[:, : t + 1].prod(dim=1) * state[0] if with_state else 0))
    wanted = torch.stack(wanted, dim=1) * (torch.arange(T) < lengths[:, None])[:, :, None]
    torch.testing.assert_close(output, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(final[0], wanted[torch.arange(B), lengths - 1], atol=1e-12, rtol=0)

    leaves = [x, *cell.parameters(), *([state] if with_state else [])]
    weight = torch.randn(B, T, H, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((h * weight).sum(), leaves, retain_graph=True) for h in (output, wanted)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=0)


def test_min_gru_starts_like_a_linear_layer_and_refuses_empty_sizes():
    cell = MinGRUCell(100, 50)
    assert 0.095 < cell.weight_ih.abs().max() <= 0.1 and cell.weight_ih.shape == (100, 100)
    assert MinGRUCell(D, H, device="meta").initial_state(B).shape == (B, H)
    with pytest.raises(ValueError, match="hidden_size=0"):
        MinGRUCell(D, 0)


def test_forget_bias_is_the_sum_of_both_biases():
    cell = LSTMCell(D, H, forget_bias=1.0)
    total = cell.bias_ih + cell.bias_hh
    assert torch.equal(total[H : 2 * H], torch.ones(H))
    assert (total[:H] != 1).all() and (total[2 * H :] != 1).all()
    cell.reset_parameters()
    assert torch.equal((cell.bias_ih + cell.bias_hh)[H : 2 * H], torch.ones(H))
    with pytest.raises(ValueError, match="bias=True"):
        LSTMCell(D, H, bias=False, forget_bias=1.0)


def test_initial_state_takes_size_type_and_device_from_the_cell():
    hidden, cell_state = LSTMCell(D, H, dtype=torch.float64).initial_state(B)
    assert hidden.shape == cell_state.shape == (B, H)
    assert hidden.dtype == torch.float64 and hidden.eq(0).all()
    assert GRUCell(D, H).initial_state(torch.zeros(B, T, D)).shape == (B, H)
    assert RNNCell(D, H, device="meta").initial_state(B).device.type == "meta"


@pytest.mark.parametrize(
    ("x", "state", "error", "message"),
    [
        (torch.zeros(B, T, D), None, ValueError, r"\(B, D\).*2 axes.*\(3, 7, 5\)"),
        (torch.zeros(B, D + 1), None, ValueError, "expected 5 features on axis 1"),
        (torch.zeros(B, D, dtype=torch.int), None, TypeError, "int32"),
        (torch.zeros(B, D), torch.zeros(B, H + 1), ValueError, r"hidden_state of shape \(3, 4\)"),
        (torch.zeros(B, D), (torch.zeros(B, H),) * 2, TypeError, "got tuple"),
        (torch.zeros(B, D), 0, TypeError, "got int"),
    ],
)
def test_bad_input_is_explained(x, state, error, message):
    with pytest.raises(error, match=message):
        GRUCell(D, H)(x, state)
