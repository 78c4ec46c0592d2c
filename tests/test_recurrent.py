"""The driver: parity with torch.nn in results and gradients, then properties that need no reference."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from seqcourse.cells import Cell, GRUCell, LSTMCell, RNNCell, as_tuple
from seqcourse.padding import padding_mask, reverse
from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent

B, T, D, H = 3, 7, 5, 4
KINDS = {
    "rnn-tanh": (RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, nn.LSTM, {}),
    "gru": (GRU, nn.GRU, {}),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_pair(kind, dtype=torch.float64, impl="auto", **options):
    """Our layer and torch's with the same weights."""
    ours, theirs, extra = KINDS[kind]
    reference = theirs(D, H, batch_first=True, dtype=dtype, **options, **extra)
    layer = ours(D, H, dtype=dtype, impl=impl, **options, **extra).load_from_torch(reference)
    return layer, reference


def run_torch(reference, x, state, lengths):
    """torch.nn with packed sequences where there are lengths."""
    if lengths is None:
        return reference(x, state)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, state = reference(packed, state)
    output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
    return output, state


def weighted_sum(tensors):
    """A scalar whose gradient differs from element to element and over outputs and states."""
    total = 0.0
    for index, tensor in enumerate(tensors):
        weight = torch.arange(1, tensor.numel() + 1, dtype=tensor.dtype).sin().view_as(tensor)
        total = total + (index + 1) * (weight * tensor).sum()
    return total


def results_and_gradients(run, leaves, weights):
    output, state = run()
    results = [output, *as_tuple(state)]
    return results, torch.autograd.grad(weighted_sum(results), leaves + weights)


def assert_close(ours, theirs, dtype):
    """Float32 gradients are sums over all steps: their tolerance grows with their size."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def random_state(layer, batch, dtype):
    shape = (layer.num_layers * layer.directions, batch, H)
    parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in layer.cells[0].state_names]
    return (tuple(parts) if len(parts) > 1 else parts[0]), parts


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("impl", ["loop", "bptt", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_parity_with_torch(kind, impl, dtype, num_layers, bidirectional):
    cases = [*itertools.product([B], [True, False], [None, [4, 7, 1]], [False, True]), (1, True, [5], True)]
    for batch, bias, lengths, with_state in cases:
        options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias}
        layer, reference = make_pair(kind, dtype, impl, **options)
        x = torch.randn(batch, T, D, dtype=dtype, requires_grad=True)
        lengths = lengths and torch.tensor(lengths)
        state, parts = random_state(layer, batch, dtype) if with_state else (None, [])
        names = layer.torch_parameters()
        ours = results_and_gradients(lambda: layer(x, state, lengths), [x, *parts], [*names.values()])  # noqa: B023
        theirs = results_and_gradients(
            lambda: run_torch(reference, x, state, lengths),  # noqa: B023
            [x, *parts],
            [getattr(reference, name) for name in names],
        )
        for part_of_ours, part_of_theirs in zip(ours, theirs, strict=True):
            assert_close(part_of_ours, part_of_theirs, dtype)


@pytest.mark.parametrize("impl", ["loop", "bptt", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_has_no_effect(kind, impl):
    layer, _ = make_pair(kind, impl=impl, num_layers=2, bidirectional=True)
    lengths = torch.tensor([4, 7, 1])
    x = torch.randn(B, T, D, dtype=torch.float64)
    outputs = []
    for junk in (0.0, 1e6, float("nan")):
        x[padding_mask(lengths, T)] = junk
        leaf = x.clone().requires_grad_()
        output, state = layer(leaf, lengths=lengths)
        (gradient,) = torch.autograd.grad(weighted_sum([output, *as_tuple(state)]), leaf)
        outputs.append([output, *as_tuple(state), gradient])
    for other in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], other, strict=True))
    assert outputs[0][-1][padding_mask(lengths, T)].eq(0).all()
    assert outputs[0][0][padding_mask(lengths, T)].eq(0).all()


@pytest.mark.parametrize("impl", ["loop", "bptt", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_equals_each_sequence_alone(kind, impl):
    layer, _ = make_pair(kind, impl=impl, num_layers=2, bidirectional=True)
    lengths, x = torch.tensor([4, 7, 1]), torch.randn(B, T, D, dtype=torch.float64)
    output, state = layer(x, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, alone_state = layer(x[b : b + 1, :length])
        torch.testing.assert_close(output[b, :length], alone[0], atol=1e-12, rtol=0)
        for part, alone_part in zip(as_tuple(state), as_tuple(alone_state), strict=True):
            torch.testing.assert_close(part[:, b], alone_part[:, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("impl", ["loop", "bptt", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_chunks_with_the_state_handed_on_equal_the_whole(kind, impl):
    layer, _ = make_pair(kind, impl=impl, num_layers=2)
    x = torch.randn(B, T, D, dtype=torch.float64)
    whole, final = layer(x)
    first, state = layer(x[:, :3])
    second, state = layer(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-12, rtol=0)
    for part, final_part in zip(as_tuple(state), as_tuple(final), strict=True):
        torch.testing.assert_close(part, final_part, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_reach_the_past(kind):
    layer, _ = make_pair(kind)
    x = torch.randn(B, T, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = layer(x)[0], layer(changed)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 7, 1])])
def test_trace_agrees_with_forward_and_its_gates_make_its_states(kind, lengths):
    layer, _ = make_pair(kind, num_layers=2, bidirectional=True)
    x = torch.randn(B, T, D, dtype=torch.float64)
    output, state = layer(x, lengths=lengths)
    trace = layer.trace(x, lengths=lengths)
    assert_close([output, *as_tuple(state)], [trace.output, *as_tuple(trace.state)], torch.float64)
    assert len(trace.states) == len(trace.gates) == len(trace.steps) == 4
    top = torch.cat([trace.states[2]["hidden_state"], trace.states[3]["hidden_state"]], dim=2)
    torch.testing.assert_close(top, output, atol=1e-10, rtol=0)
    for index, (states, gates) in enumerate(zip(trace.states, trace.gates, strict=True)):
        backward = index % 2 == 1
        states = {name: reverse(values, lengths) if backward else values for name, values in states.items()}
        gates = {name: reverse(values, lengths) if backward else values for name, values in gates.items()}
        valid = torch.ones(B, T, dtype=torch.bool) if lengths is None else ~padding_mask(lengths, T)
        expected = recombine(kind, states, gates)
        for name, values in expected.items():
            torch.testing.assert_close(values[valid], states[name][valid], atol=1e-12, rtol=0)


def recombine(kind, states, gates):
    """The last line of each cell's equations, for all steps at once, from a zero state."""
    previous = {name: torch.cat([torch.zeros(B, 1, H), values[:, :-1]], 1) for name, values in states.items()}
    if kind == "lstm":
        kept = gates["forget_gate"] * previous["cell_state"]
        cell_state = kept + gates["input_gate"] * gates["candidate"]
        return {"cell_state": cell_state, "hidden_state": gates["output_gate"] * states["cell_state"].tanh()}
    if kind == "gru":
        z = gates["update_gate"]
        return {"hidden_state": z * previous["hidden_state"] + (1 - z) * gates["candidate"]}
    squash = torch.tanh if kind == "rnn-tanh" else torch.relu
    return {"hidden_state": squash(gates["preactivation"])}


def test_trace_keeps_the_states_in_the_graph():
    layer, _ = make_pair("lstm")
    trace = layer.trace(torch.randn(B, T, D, dtype=torch.float64))
    cell_states = [cell_state for _, cell_state in trace.steps[0]]
    gradients = torch.autograd.grad(trace.output[:, -1].sum(), cell_states)
    # Along the cell state alone d c[t+1] / d c[t] is the forget gate; the rest goes through the hidden state.
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    last = trace.gates[0]["output_gate"][:, -1] * (1 - trace.states[0]["cell_state"][:, -1].tanh() ** 2)
    torch.testing.assert_close(gradients[-1], last, atol=1e-12, rtol=0)


@pytest.mark.parametrize("impl", ["loop", "bptt", "fused"])
def test_dropout_works_between_layers_and_in_training_only(impl):
    layer, _ = make_pair("lstm", impl=impl, num_layers=2)
    layer.dropout = 0.5
    x = torch.randn(B, T, D, dtype=torch.float64)
    layer.eval()
    plain = layer(x)[0]
    layer.dropout = 0.0
    assert torch.equal(plain, layer.train()(x)[0])
    layer.dropout = 0.5
    torch.manual_seed(1)
    first, _ = layer(x)
    assert not torch.allclose(first, plain)
    assert first.ne(0).all()  # nothing is dropped after the last layer
    lengths = torch.tensor([T, T - 1, T])
    assert not torch.allclose(layer(x, lengths=lengths)[0], first)
    single, _ = make_pair("lstm", impl=impl)
    single.dropout = 0.5
    assert torch.equal(single(x)[0], single.eval()(x)[0])


def test_dropout_drops_the_stated_share_and_keeps_the_mean():
    """A relu RNN with identity weights passes its input on, so dropout between its layers can be seen."""
    layer = RNN(H, H, num_layers=2, nonlinearity="relu", bias=False, dropout=0.25, impl="loop")
    with torch.no_grad():
        for cell in layer.cells:
            cell.weight_ih.copy_(torch.eye(H))
            cell.weight_hh.zero_()
    output = layer(torch.ones(50, T, H))[0]
    assert output.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert output.eq(0).float().mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_is_one_of_the_fast_paths(kind):
    layer, _ = make_pair(kind)
    chosen = layer.choose_impl(torch.device("cpu"))
    assert chosen == ("fused" if kind == "lstm" else "bptt")
    assert layer.choose_impl(torch.device("cuda")) == "fused"
    x = torch.randn(B, T, D, dtype=torch.float64)
    automatic = layer(x)[0]
    layer.impl = chosen
    assert torch.equal(automatic, layer(x)[0])


class DoublingCell(LSTMCell):
    """A subclass that changes the equation must not be sent to a kernel that does not know."""

    def step(self, projected_t, state):
        output, state = super().step(projected_t, state)
        return 2 * output, state


def test_a_changed_cell_runs_in_the_loop():
    layer = Recurrent(DoublingCell(D, H))
    plain = Recurrent(LSTMCell(D, H))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(B, T, D)
    assert layer.choose_impl(x.device) == "loop"
    torch.testing.assert_close(layer(x)[0], 2 * plain(x)[0])
    with pytest.raises(ValueError, match="faster path"):
        Recurrent(DoublingCell(D, H), impl="fused")
    with pytest.raises(ValueError, match="faster path"):
        GRU(D, H, reset_after=False, impl="bptt")


def test_mixed_stack_of_cells_feeds_layer_to_layer():
    cells = [GRUCell(D, H, reset_after=False), RNNCell(H, H)]
    layer = Recurrent(cells)
    x = torch.randn(B, T, D)
    below, state_below = Recurrent(cells[0])(x)
    above, state_above = Recurrent(cells[1])(below)
    output, state = layer(x)
    torch.testing.assert_close(output, above)
    torch.testing.assert_close(state, torch.cat([state_below, state_above]))


def test_a_function_makes_the_cells():
    layer = Recurrent(lambda size: GRUCell(size, H), num_layers=2, bidirectional=True, input_size=D)
    assert [cell.input_size for cell in layer.cells] == [D, D, 2 * H, 2 * H]
    assert layer.output_size == 2 * H
    with pytest.raises(ValueError, match="input_size"):
        Recurrent(lambda size: GRUCell(size, H))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_copy_to_torch_and_back(kind):
    layer, reference = make_pair(kind, num_layers=2, bidirectional=True)
    for name, value in layer.to_torch().state_dict().items():
        assert torch.equal(value, reference.state_dict()[name])
    x = torch.randn(B, T, D, dtype=torch.float64)
    torch.testing.assert_close(layer.to_torch()(x)[0], layer(x)[0], atol=1e-12, rtol=0)


def test_state_dict_deepcopy_and_dtype():
    layer = LSTM(D, H, num_layers=2)
    other = LSTM(D, H, num_layers=2)
    other.load_state_dict(layer.state_dict())
    clone = copy.deepcopy(layer)
    x = torch.randn(B, T, D)
    assert torch.equal(layer(x)[0], other(x)[0])
    assert torch.equal(layer(x)[0], clone(x)[0])
    with torch.no_grad():
        clone.cells[0].weight_hh.zero_()
    assert not torch.equal(layer(x)[0], clone(x)[0])
    double = layer.double()
    assert double(x.double())[0].dtype == torch.float64


@pytest.mark.parametrize("impl", ["loop", "bptt", "fused", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_by_autocast_and_as_parameters(kind, impl):
    layer, _ = make_pair(kind, torch.float32, impl, num_layers=2, bidirectional=True)
    x, lengths = torch.randn(B, T, D), torch.tensor([4, 7, 1])
    exact = layer(x, lengths=lengths)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x, lengths=lengths)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), exact, atol=3e-2, rtol=3e-2)
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    low, _ = layer.to(torch.bfloat16)(x.bfloat16(), lengths=lengths)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, atol=6e-2, rtol=6e-2)


@pytest.mark.parametrize(("half", "autocast"), [(True, False), (False, True), (False, False)])
def test_half_precision_lstm_leaves_onednn_out(monkeypatch, half, autocast):
    """Only processors with bfloat16 instructions fail otherwise, so the call itself is watched."""
    seen, kernel = [], torch.lstm
    watch = lambda *arguments: (seen.append(torch.backends.mkldnn.enabled), kernel(*arguments))[1]  # noqa: E731
    monkeypatch.setattr(torch, "lstm", watch)
    layer, _ = make_pair("lstm", torch.bfloat16 if half else torch.float32, "fused")
    x = torch.randn(B, T, D, dtype=torch.bfloat16 if half else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        layer(x)
    assert seen == [not (half or autocast)]
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.randn(T, D)}, ValueError, r"\(B, T, D\).*\(7, 5\).*unsqueeze"),
        ({"x": torch.randn(B, T, D + 1)}, ValueError, "expected 5 features.*got 6"),
        ({"x": torch.randn(B, 0, D)}, ValueError, "at least one time step"),
        ({"x": torch.ones(B, T, D, dtype=torch.long)}, TypeError, "floating-point.*int64.*Embedding"),
        ({"x": [[1.0]]}, TypeError, "floating-point.*list"),
        ({"lengths": [4, 7, 1]}, TypeError, "integer tensor.*list"),
        ({"lengths": torch.tensor([4.0, 7, 1])}, TypeError, "integer tensor.*float32"),
        ({"lengths": torch.tensor([4, 7])}, ValueError, r"shape \(3,\), got shape \(2,\)"),
        ({"lengths": torch.tensor([4, 8, 1])}, ValueError, "from 1 to T=7, got 1 to 8"),
        ({"lengths": torch.tensor([4, 7, 0])}, ValueError, "from 1 to T=7, got 0 to 7"),
        ({"state": torch.zeros(1, B, H)}, TypeError, r"LSTMCell.*\(hidden_state, cell_state\)"),
        ({"state": (torch.zeros(1, B, H), torch.zeros(1, B, H + 1))}, ValueError, "cell_state.*got"),
        ({"state": (torch.zeros(B, H), torch.zeros(B, H))}, ValueError, r"\(1, 3, 4\), got \(3, 4\)"),
    ],
)
def test_bad_input_is_explained(arguments, error, message):
    layer = LSTM(D, H)
    with pytest.raises(error, match=message):
        layer(**({"x": torch.randn(B, T, D)} | arguments))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LSTM(D, H, impl="fast"), ValueError, "auto, loop, bptt, fused; got 'fast'"),
        (lambda: LSTM(D, H, dropout=1.0), ValueError, "dropout"),
        (lambda: LSTM(D, H, num_layers=0), ValueError, "num_layers"),
        (lambda: LSTM(D, 0), ValueError, "hidden_size=0"),
        (lambda: RNN(D, H, nonlinearity="gelu"), ValueError, "gelu"),
        (lambda: Recurrent([nn.LSTMCell(D, H)]), TypeError, "LSTMCell"),
        (lambda: Recurrent([]), ValueError, "expected 1 cells"),
        (lambda: Recurrent([RNNCell(D, H)] * 3, bidirectional=True), ValueError, "expected 2 cells.*got 3"),
        (lambda: Recurrent([RNNCell(D, H), RNNCell(D, H)]), ValueError, "cell 1 to have input_size 4"),
        (lambda: LSTM(D, H).load_from_torch(nn.GRU(D, H)), TypeError, "expected LSTM, got GRU"),
        (lambda: LSTM(D, H).load_from_torch(nn.LSTM(D, H + 1)), ValueError, "weight_hh_l0"),
        (lambda: LSTM(D, H).load_from_torch(nn.LSTM(D, H, bias=False)), ValueError, "bias_hh_l0"),
        (lambda: RNN(D, H).load_from_torch(nn.RNN(D, H, nonlinearity="relu")), ValueError, "relu"),
        (lambda: GRU(D, H, reset_after=False).to_torch(), ValueError, "reset_after"),
        (lambda: GRU(D, H, reset_after=False).load_from_torch(nn.GRU(D, H)), ValueError, "reset_after"),
    ],
)
def test_bad_construction_is_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_repr_names_what_decides_the_result():
    text = repr(LSTM(D, H, num_layers=2, dropout=0.1))
    assert "num_layers=2" in text and "dropout=0.1" in text and "LSTMCell(5, 4, bias=True)" in text


def test_reverse_is_its_own_inverse_and_leaves_the_padding():
    x, lengths = torch.arange(B * T * 2.0).view(B, T, 2), torch.tensor([4, 7, 1])
    assert torch.equal(reverse(reverse(x, lengths), lengths), x)
    assert torch.equal(reverse(x, lengths)[0, :4], x[0, :4].flip(0))
    assert torch.equal(reverse(x, lengths)[0, 4:], x[0, 4:])


def test_a_cell_of_ones_own_needs_only_the_contract():
    class Sum(Cell):
        """Adds up its inputs."""

        input_size = hidden_size = D

        def project(self, x):
            return x

        def step(self, projected_t, state):
            return state + projected_t, state + projected_t

        def initial_state(self, batch):
            return batch.new_zeros(batch.shape[0], D)

    x, lengths = torch.randn(B, T, D), torch.tensor([4, 7, 1])
    output, state = Recurrent([Sum(), Sum()], bidirectional=True)(x, lengths=lengths)
    valid = x.masked_fill(padding_mask(lengths, T)[..., None], 0)
    torch.testing.assert_close(state, valid.sum(1).expand(2, B, D))
    torch.testing.assert_close(output[1, :, :D], x[1].cumsum(0))
    torch.testing.assert_close(output[1, :, D:], x[1].flip(0).cumsum(0).flip(0))
