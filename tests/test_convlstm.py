"""ConvLSTM against a plain loop of torch convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from seqcourse.cells import ConvLSTMCell
from seqcourse.recurrent import Recurrent

B, T, D, C, HEIGHT, WIDTH = 3, 5, 2, 4, 6, 7


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain_loop(cell, x, kernel_size):
    """Shi et al. (2015), without peepholes: eight convolutions a step, no code shared with the cell."""
    W_x, W_h = cell.input_convolution.weight, cell.hidden_convolution.weight
    bias = cell.input_convolution.bias
    padding = kernel_size // 2
    h = c = torch.zeros(x.shape[0], C, HEIGHT, WIDTH, dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        parts = []
        for gate in range(4):
            rows = slice(gate * C, (gate + 1) * C)
            b = None if bias is None else bias[rows]
            parts.append(
                F.conv2d(x[:, t], W_x[rows], b, padding=padding) + F.conv2d(h, W_h[rows], padding=padding)
            )
        i, f, g, o = parts
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_a_loop_of_convolutions_with_gradients(kernel_size, bias):
    cell = ConvLSTMCell(D, C, kernel_size, bias=bias, dtype=torch.float64)
    x = torch.randn(B, T, D, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    output, (hidden, cell_state) = Recurrent(cell)(x)
    expected = plain_loop(cell, x, kernel_size)
    assert output.shape == (B, T, C, HEIGHT, WIDTH)
    leaves = [x, *cell.parameters()]
    for ours, theirs in zip((output, hidden[0], cell_state[0]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
        weight = torch.randn_like(ours)
        gradients = torch.autograd.grad((ours * weight).sum(), leaves, retain_graph=True)
        expected_gradients = torch.autograd.grad((theirs * weight).sum(), leaves, retain_graph=True)
        for a, b in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_stack_of_two_directions_with_lengths_equals_each_film_alone():
    layer = Recurrent(
        lambda channels: ConvLSTMCell(channels, C, dtype=torch.float64), 2, bidirectional=True, input_size=D
    )
    x, lengths = torch.randn(B, T, D, HEIGHT, WIDTH, dtype=torch.float64), torch.tensor([3, 5, 1])
    output, state = layer(x, lengths=lengths)
    assert output.shape == (B, T, 2 * C, HEIGHT, WIDTH)
    assert state[1].shape == (4, B, C, HEIGHT, WIDTH)
    for b, length in enumerate(lengths.tolist()):
        alone, alone_state = layer(x[b : b + 1, :length])
        torch.testing.assert_close(output[b, :length], alone[0], atol=1e-12, rtol=0)
        assert output[b, length:].eq(0).all()
        for part, alone_part in zip(state, alone_state, strict=True):
            torch.testing.assert_close(part[:, b], alone_part[:, 0], atol=1e-12, rtol=0)


def test_a_shifted_film_gives_a_shifted_state():
    """Away from the border a convolution does not care where it is."""
    layer = Recurrent(ConvLSTMCell(D, C, 3, dtype=torch.float64))
    x = torch.zeros(1, 2, D, 12, 12, dtype=torch.float64)
    x[..., 4:6, 4:6] = torch.randn(1, 2, D, 2, 2, dtype=torch.float64)
    shifted = x.roll((2, 1), dims=(3, 4))
    here, there = layer(x)[0], layer(shifted)[0]
    torch.testing.assert_close(here.roll((2, 1), (3, 4))[..., 4:-2, 4:-2], there[..., 4:-2, 4:-2])
    assert not torch.allclose(here, there)


def test_one_frame_and_trace():
    cell = ConvLSTMCell(D, C)
    x = torch.randn(B, T, D, HEIGHT, WIDTH)
    layer = Recurrent(cell)
    output, state = cell(x[:, 0])
    torch.testing.assert_close(layer(x[:, :1])[0][:, 0], output)
    trace = layer.trace(x)
    assert trace.gates[0]["forget_gate"].shape == (B, T, C, HEIGHT, WIDTH)
    torch.testing.assert_close(trace.states[0]["cell_state"][:, 0], state[1])


def test_bad_input_is_explained():
    layer = Recurrent(ConvLSTMCell(D, C))
    with pytest.raises(ValueError, match=r"\(B, T, C, height, width\), that is 5 axes"):
        layer(torch.zeros(B, T, D))
    with pytest.raises(ValueError, match="expected 2 features on axis 2"):
        layer(torch.zeros(B, T, D + 1, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="expected 2 features on axis 1"):
        layer.cells[0](torch.zeros(B, D + 1, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="odd kernel_size"):
        ConvLSTMCell(D, C, kernel_size=2)
    with pytest.raises(TypeError, match="not a batch size"):
        layer.cells[0].initial_state(3)
    with pytest.raises(ValueError, match="faster path"):
        Recurrent(ConvLSTMCell(D, C), impl="bptt")
