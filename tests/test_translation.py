"""Translators: the recurrent one equals a version written out; nothing leaks, padding and batch do not matter."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.models import RecurrentTranslator, TransformerTranslator

B, S, T, E, H, V_SOURCE, V = 3, 7, 5, 6, 4, 13, 11
PAD, BEGIN, END = 0, 2, 3
LENGTHS = torch.tensor([7, 2, 4])
EXACT = {"rtol": 0, "atol": 1e-10}
ATTENTIONS = [None, "additive", "dot", "general", "concat"]
POSITIONS = ["sinusoidal", "learned", "rotary", "none"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def source() -> Tensor:
    ids = torch.randint(4, V_SOURCE, (B, S))
    return ids.masked_fill(torch.arange(S) >= LENGTHS[:, None], PAD)


@pytest.fixture
def target() -> Tensor:
    """From begin to end, of lengths 6, 4 and 3."""
    rows = [[BEGIN, 5, 7, 4, 9, END], [BEGIN, 8, 5, END, PAD, PAD], [BEGIN, 10, END, PAD, PAD, PAD]]
    return torch.tensor(rows)


def recurrent(**options) -> RecurrentTranslator:
    model = RecurrentTranslator(V_SOURCE, V, E, H, **options).double().eval()
    with torch.no_grad():  # strong weights: a leak shows, and attention is far from uniform
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def transformer(**options) -> TransformerTranslator:
    model = TransformerTranslator(V_SOURCE, V, 8, 2, 2, 12, **options).double().eval()
    with torch.no_grad():  # biases too: at zero they hide what is missing
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


MODELS = {
    **{
        f"{kind}-{a}": (recurrent, {"recurrent": kind, "attention": a})
        for kind in ("gru", "lstm")
        for a in ATTENTIONS
    },
    "gru-additive-deep": (recurrent, {"attention": "additive", "num_layers": 3}),
    "lstm-None-deep": (recurrent, {"recurrent": "lstm", "num_layers": 2}),
    **{f"transformer-{p}": (transformer, {"positions": p}) for p in POSITIONS},
    "transformer-post-norm": (transformer, {"norm_first": False, "tie_weights": False}),
}


@pytest.fixture(params=MODELS)
def model(request):
    build, options = MODELS[request.param]
    return build(**options)


# --- parity ------------------------------------------------------------------------------------------


def written_out(model: RecurrentTranslator, source: Tensor, lengths: Tensor, target_in: Tensor) -> Tensor:
    """The same translator for one sentence at a time, with torch's layers and plain products."""
    rows = [
        written_out_sentence(model, ids[:length], written)
        for ids, length, written in zip(source, lengths, target_in, strict=True)
    ]
    return torch.stack(rows)


def written_out_sentence(model: RecurrentTranslator, source: Tensor, target_in: Tensor) -> Tensor:
    encoder, lowest = model.encoder.to_torch(), model.decoder.to_torch()
    share(encoder, model.encoder)
    share(lowest, model.decoder)
    output, last = encoder(model.source_embedding.weight[source][None])
    last = last if isinstance(last, tuple) else (last,)
    layers = len(last[0]) // 2
    states = []
    for bridge, part in zip(model.bridges, last, strict=True):
        both = [torch.cat([part[2 * i, 0], part[2 * i + 1, 0]]) for i in range(layers)]
        states.append([torch.tanh(bridge.weight @ code + bridge.bias) for code in both])
    fixed = torch.cat([last[0][-2, 0], last[0][-1, 0]])
    logits, others = [], None
    if layers > 1:
        upper = share(model.upper.to_torch(), model.upper)
        others = tuple(torch.stack(part[1:])[:, None] for part in states)
        others = others if len(others) > 1 else others[0]
    state = tuple(part[0][None, None] for part in states)
    for id_ in target_in:
        context = fixed if model.score is None else expected_context(model, state[0][0, 0], output[0])
        embedded = model.target_embedding.weight[id_]
        step = torch.cat([embedded, context])[None, None]
        hidden, state = lowest(step, state if len(state) > 1 else state[0])
        state = state if isinstance(state, tuple) else (state,)
        if layers > 1:
            hidden, others = upper(hidden, others)
        read = torch.cat([hidden[0, 0], context, embedded])
        features = torch.tanh(model.readout.weight @ read + model.readout.bias)
        logits.append(model.head.weight @ features + model.head.bias)
    return torch.stack(logits)


def expected_context(model: RecurrentTranslator, query: Tensor, output: Tensor) -> Tensor:
    """The weighted mean of the encoder's outputs, one score after the other."""
    weights = torch.stack([expected_score(model, query, key) for key in output]).exp()
    return (weights / weights.sum()) @ output


def expected_score(model: RecurrentTranslator, query: Tensor, key: Tensor) -> Tensor:
    score = model.score
    if model.attention == "dot":
        return query @ (key[:H] + key[H:])
    if model.attention == "general":
        return query @ score.key_projection.weight @ key
    if model.attention == "concat":
        return score.vector.weight[0] @ torch.tanh(score.projection.weight @ torch.cat([query, key]))
    inner = score.query_projection.weight @ query + score.key_projection.weight @ key
    return score.vector.weight[0] @ torch.tanh(inner)


def share(theirs: nn.Module, ours) -> nn.Module:
    """Let torch's layer use our parameters themselves, so that gradients arrive at the same place."""
    for name, parameter in ours.torch_parameters().items():
        setattr(theirs, name, parameter)
    return theirs


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_translator_equals_the_equations_written_out(source, kind, attention, layers):
    model = recurrent(recurrent=kind, attention=attention, num_layers=layers)
    parameters, target_in = list(model.parameters()), torch.randint(1, V, (B, T))
    ours = model(source, target_in, LENGTHS)
    theirs = written_out(model, source, LENGTHS, target_in)
    torch.testing.assert_close(ours, theirs, **EXACT)
    weights = torch.cos(torch.arange(ours.numel(), dtype=ours.dtype)).view_as(ours)
    found = torch.autograd.grad((ours * weights).sum(), parameters)
    expected = torch.autograd.grad((theirs * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
        assert a.abs().sum() > 0


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_translator_equals_torch_with_its_parts(source, target, norm_first):
    model = transformer(norm_first=norm_first, tie_weights=False)
    theirs = nn.Transformer(8, 2, 2, 2, 12, 0.0, norm_first=norm_first, batch_first=True).double()
    if not norm_first:
        theirs.encoder.norm = theirs.decoder.norm = None
    for ours, layers in ((model.encoder, theirs.encoder), (model.decoder, theirs.decoder)):
        for block, layer in zip(ours.blocks, layers.layers, strict=True):
            block.load_from_torch(layer)
        if norm_first:
            ours.norm.load_state_dict(layers.norm.state_dict())
    padding, future = source == PAD, torch.ones(T, T, dtype=torch.bool).triu(1)
    x, y = (
        math.sqrt(8) * part.embedding.weight[ids] + wave(ids.shape[1], 8)
        for part, ids in ((model.source_embedding, source), (model.target_embedding, target[:, :-1]))
    )
    expected = theirs(x, y, tgt_mask=future, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    torch.testing.assert_close(model(source, target[:, :-1]), model.head(expected), **EXACT)


def wave(length: int, size: int) -> Tensor:
    """Sinusoids, one entry at a time."""
    rows = [
        [(math.cos if i % 2 else math.sin)(t / 10_000 ** ((i - i % 2) / size)) for i in range(size)]
        for t in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


# --- properties ----------------------------------------------------------------------------------------


def test_neither_padding_nor_the_batch_matters(model, source, target):
    together = model(source, target[:, :-1], LENGTHS)
    assert together.shape == (B, T, V)
    for i, length in enumerate(LENGTHS):
        alone = model(source[i : i + 1, :length], target[i : i + 1, :-1])
        torch.testing.assert_close(alone[0], together[i], **EXACT)
    longer = torch.cat([source.masked_fill(source == PAD, 9), torch.full((B, 3), 5)], dim=1)
    torch.testing.assert_close(model(longer, target[:, :-1], LENGTHS), together, **EXACT)


def test_lengths_are_counted_from_the_padding(model, source, target):
    torch.testing.assert_close(model(source, target[:, :-1]), model(source, target[:, :-1], LENGTHS), **EXACT)


def test_no_future_leaks_from_the_target(model, source):
    target = torch.randint(4, V, (B, T))
    before = model(source, target, LENGTHS)
    for t in range(1, T):
        changed = target.clone()
        changed[:, t:] = (changed[:, t:] - 4 + 1) % (V - 4) + 4
        after = model(source, changed, LENGTHS)
        torch.testing.assert_close(after[:, :t], before[:, :t], **EXACT)
        assert not torch.isclose(after[:, t], before[:, t]).all(-1).any(), "the token itself is seen"


def test_every_source_token_is_seen_at_every_step(model, source, target):
    before = model(source, target[:, :-1], LENGTHS)
    for s in range(S):
        changed = source.clone()
        changed[0, s] = source[0, s] % (V_SOURCE - 4) + 4
        after = model(changed, target[:, :-1], LENGTHS)
        assert (after[0] - before[0]).abs().amax(dim=-1).gt(1e-12).all()
        torch.testing.assert_close(after[1:], before[1:], **EXACT)


@pytest.mark.parametrize("chunks", [[1] * T, [2, 3], [4, 1]])
def test_decoding_bit_by_bit_equals_teacher_forcing(model, source, target, chunks):
    memory = model.encode(source, LENGTHS)
    state, parts = model.start(memory), []
    for piece in target[:, :-1].split(chunks, dim=1):
        logits, state = model.decode(piece, memory, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(source, target[:, :-1], LENGTHS), **EXACT)


def test_a_state_can_be_gone_on_from_twice_and_follows_selected_rows(model, source, target):
    memory, rows = model.encode(source, LENGTHS), torch.tensor([2, 0, 2, 1])
    _, state = model.decode(target[:, :2], memory, model.start(memory))
    whole = model(source, target[:, :-1], LENGTHS)
    for _ in range(2):
        logits, _ = model.decode(target[rows, 2:-1], memory.select(rows), state.select(rows))
        torch.testing.assert_close(logits, whole[rows, 2:], **EXACT)
    logits, _ = model.decode(target[:, 2:-1], memory, state)
    torch.testing.assert_close(logits, whole[:, 2:], **EXACT)


def test_alignment_is_a_distribution_over_the_real_source(model, source, target):
    if not model.attends:
        with pytest.raises(ValueError, match="attention"):
            model.alignment(source, target[:, :-1], LENGTHS)
        return
    weights = model.alignment(source, target[:, :-1], LENGTHS)
    assert weights.shape == (B, T, S)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T, dtype=torch.float64))
    hidden = torch.arange(S) >= LENGTHS[:, None]
    assert not weights.masked_select(hidden[:, None]).any() and (weights[0] > 0).all()


def test_alignment_is_the_mixture_the_decoder_used(source, target):
    """A context made from the returned weights gives back the logits."""
    model = recurrent(attention="additive")
    output = model.encode(source, LENGTHS).output
    contexts = model.alignment(source, target[:, :-1], LENGTHS) @ output
    embedded = model.target_embedding(target[:, :-1])
    state = model.start(model.encode(source, LENGTHS)).layers
    hidden, _ = model.decoder(torch.cat([embedded, contexts], dim=2), state)
    features = model.readout(torch.cat([hidden, contexts, embedded], dim=2)).tanh()
    torch.testing.assert_close(model.head(features), model(source, target[:, :-1], LENGTHS), **EXACT)


@pytest.mark.parametrize(("positions", "blind"), [(p, p == "none") for p in POSITIONS])
def test_without_positions_the_order_of_the_source_is_invisible(target, positions, blind):
    model = transformer(positions=positions)
    source, order = torch.randint(4, V_SOURCE, (B, S)), torch.randperm(S)
    memory, shuffled = model.encode(source), model.encode(source[:, order])
    assert torch.allclose(shuffled.output, memory.output[:, order], rtol=0, atol=1e-10) is blind
    before, after = model(source, target[:, :-1]), model(source[:, order], target[:, :-1])
    assert torch.allclose(before, after, rtol=0, atol=1e-10) is blind


# --- loss ----------------------------------------------------------------------------------------------


def pair_batch(source: Tensor, target: Tensor) -> SimpleNamespace:
    return SimpleNamespace(
        source=source, source_lengths=LENGTHS, target=target, target_lengths=(target != PAD).sum(1)
    )


def test_loss_is_the_mean_over_real_target_tokens(model, source, target):
    each = []
    for i, length in enumerate(LENGTHS):
        row = target[i][target[i] != PAD]
        logits = model(source[i : i + 1, :length], row[None, :-1])[0]
        each.append(F.cross_entropy(logits, row[1:], reduction="sum"))
    expected = sum(each) / (5 + 3 + 2)
    torch.testing.assert_close(model.loss(pair_batch(source, target)), expected, **EXACT)
    torch.testing.assert_close(model.loss((source, LENGTHS, target)), expected, **EXACT)


def test_label_smoothing_acts_in_training_only(source, target):
    plain, smooth = recurrent(), recurrent(label_smoothing=0.1)
    smooth.load_state_dict(plain.state_dict())
    batch = (source, LENGTHS, target)
    torch.testing.assert_close(smooth.loss(batch), plain.loss(batch), **EXACT)
    logits = smooth(source, target[:, :-1], LENGTHS).log_softmax(-1)
    goal = 0.9 * F.one_hot(target[:, 1:], V).double() + 0.1 / V
    real = target[:, 1:] != PAD
    expected = -(goal * logits).sum(-1)[real].mean()
    torch.testing.assert_close(smooth.train().loss(batch), expected, **EXACT)


def test_tied_weights_are_one_parameter():
    tied, loose = transformer(), transformer(tie_weights=False)
    assert tied.head.weight is tied.target_embedding.embedding.weight
    size = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert size(loose) - size(tied) == V * 8


# --- what is refused -----------------------------------------------------------------------------------


def wrong_target(*rows: list[int]) -> tuple:
    return torch.full((len(rows), 2), 4), torch.full((len(rows),), 2), torch.tensor(rows)


@pytest.mark.parametrize("build", [recurrent, transformer])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (wrong_target([BEGIN, 5, END], [5, 6, END]), r"begins with id 2, got \[5, 6, 3\] in row 1"),
        (wrong_target([BEGIN, 5, 6]), r"contains the end id 3, got \[2, 5, 6\] in row 0"),
        (wrong_target([BEGIN]), r"from begin to end, got shape \(1, 1\)"),
        (wrong_target([BEGIN, V, END]), "token id 11 is outside the vocabulary 0 .. 10"),
        ((torch.full((1, 2), V_SOURCE), None, torch.tensor([[2, 3]])), "token id 13 is outside"),
        ((torch.ones(0, 2).long(), None, torch.ones(0, 2).long()), "at least one sequence"),
        ((torch.ones(2, 2).long(), None, torch.tensor([[2, 3]])), "one target per source, got 1 and 2"),
        ((torch.ones(1, 2).long(), torch.tensor([3]), torch.tensor([[2, 3]])), "lengths from 1 to T=2"),
        ((torch.ones(1, 2).long(), torch.tensor([1, 1]), torch.tensor([[2, 3]])), "one length per sequence"),
    ],
)
def test_wrong_batches_are_named(build, batch, message):
    with pytest.raises(ValueError, match=message):
        build().loss(batch)


@pytest.mark.parametrize("build", [recurrent, transformer])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin_id": None}, "begin_id in the vocabulary 0 .. 10, got None"),
        ({"end_id": V}, "end_id in the vocabulary 0 .. 10, got 11"),
        ({"begin_id": 3}, "three different ids"),
    ],
)
def test_missing_special_ids_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: recurrent(attention="luong"), "additive, dot, general, concat, got 'luong'"),
        (lambda: recurrent(recurrent="transformer"), "rnn, lstm, gru, got 'transformer'"),
        (lambda: transformer(positions="absolute"), "sinusoidal, learned, rotary, none, got 'absolute'"),
        (lambda: TransformerTranslator(9, 9, 6, 2, 1, positions="rotary"), "even number .* got 3"),
    ],
)
def test_wrong_models_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_learned_positions_end_where_the_table_ends(source, target):
    model = transformer(positions="learned", max_length=6)
    with pytest.raises(ValueError, match="at most 6 positions, got 7"):
        model(source, target[:, :-1])
