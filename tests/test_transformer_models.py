"""Transformer classifier and language model: torch's own with the same weights, and the same properties."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.data.batching import pad
from seqcourse.models import TransformerClassifier, TransformerLanguageModel

B, T, D, N, L, V, K = 3, 7, 12, 3, 2, 11, 5
LENGTHS = torch.tensor([7, 2, 5])
EXACT = {"rtol": 0, "atol": 1e-10}
POSITIONS = ["sinusoidal", "learned", "rotary", "none"]
POOLINGS = ["mean", "max", "attention"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens() -> Tensor:
    ids = torch.randint(1, V, (B, T))
    return ids.masked_fill(torch.arange(T) >= LENGTHS[:, None], 0)


def shake(model: nn.Module) -> nn.Module:
    """Draw biases and normalisations too: at their start they hide what is missing."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def classifier(**options) -> TransformerClassifier:
    return shake(TransformerClassifier(V, D, 2, L, K, 20, **options))


def language_model(**options) -> TransformerLanguageModel:
    return shake(TransformerLanguageModel(V, D, 2, L, 20, **options))


def torch_encoder(model: nn.Module, blocks: nn.ModuleList, norm: nn.Module, activation: str) -> nn.Module:
    """Torch's encoder with our parameters themselves, so that gradients arrive at the same place."""
    layer = nn.TransformerEncoderLayer(D, 2, 20, 0.0, activation, norm_first=True, batch_first=True)
    theirs = nn.TransformerEncoder(layer, L, nn.LayerNorm(D), enable_nested_tensor=False).double()
    for ours, other in zip(blocks, theirs.layers, strict=True):
        attention = ours.self_attention
        projections = [attention.query_projection, attention.key_projection, attention.value_projection]
        for name in ("weight", "bias"):
            stacked = torch.cat([getattr(projection, name) for projection in projections])
            replace(other.self_attn, f"in_proj_{name}", stacked)
        other.self_attn.out_proj = attention.output_projection
        other.linear1, other.linear2 = ours.feed_forward[0], ours.feed_forward[3]
        other.norm1, other.norm2 = ours.attention_residual.norm, ours.feed_forward_residual.norm
    theirs.norm = norm
    return theirs


def replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    delattr(module, name)
    setattr(module, name, tensor)


def embedded(model: nn.Module, tokens: Tensor) -> Tensor:
    """Embedding and sinusoids, entry by entry."""
    rows = [
        [(math.cos if i % 2 else math.sin)(t / 10_000 ** ((i - i % 2) / D)) for i in range(D)]
        for t in range(tokens.shape[1])
    ]
    return math.sqrt(D) * model.embedding.embedding.weight[tokens] + torch.tensor(rows, dtype=torch.float64)


def assert_same(ours: Tensor, theirs: Tensor, model: nn.Module) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)
    weights = torch.cos(torch.arange(ours.numel(), dtype=ours.dtype)).view_as(ours)
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad((x * weights).sum(), parameters) for x in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


# --- classifier --------------------------------------------------------------------------------------------


def test_classifier_equals_torchs_encoder(tokens):
    model = classifier()
    theirs = torch_encoder(model, model.encoder.blocks, model.encoder.norm, "relu").train()  # no fast path
    output = theirs(embedded(model, tokens), src_key_padding_mask=tokens == 0)
    pooled = torch.stack([row[:n].sum(0) / n for row, n in zip(output, LENGTHS, strict=True)])
    assert_same(model(tokens, LENGTHS), model.head(pooled), model)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_classifier_sees_neither_padding_nor_the_batch(tokens, pooling, positions):
    model = classifier(pooling=pooling, positions=positions)
    together = model(tokens, LENGTHS)
    rows = zip(tokens, LENGTHS, strict=True)
    alone = torch.cat([model(row[None, :n]) for row, n in rows])
    torch.testing.assert_close(together, alone, **EXACT)
    longer = torch.cat([tokens.masked_fill(tokens == 0, 9), torch.full((B, 4), 3)], dim=1)
    torch.testing.assert_close(model(longer, LENGTHS), alone, **EXACT)
    torch.testing.assert_close(model(tokens), alone, **EXACT)
    assert together.shape == (B, K) and not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(("positions", "blind"), [(p, p == "none") for p in POSITIONS])
def test_classifier_without_positions_cannot_tell_order(positions, blind):
    model, ids = classifier(positions=positions), torch.randint(1, V, (B, T))
    same = torch.allclose(model(ids.flip(1)), model(ids), rtol=0, atol=1e-10)
    assert same is blind


def test_classifier_loss_and_prediction(tokens):
    model, labels = classifier(), torch.tensor([0, 4, 2])
    expected = F.cross_entropy(model(tokens, LENGTHS), labels)
    torch.testing.assert_close(model.loss((tokens, LENGTHS, labels)), expected, **EXACT)
    torch.testing.assert_close(model.loss((tokens, labels)), expected, **EXACT)
    assert torch.equal(model.predict(tokens), model(tokens).argmax(1))


def test_classifier_shows_where_it_looks(tokens):
    model = classifier(pooling="attention")
    weights = model.attention_weights(tokens, LENGTHS)
    torch.testing.assert_close(weights.sum(1), torch.ones(B).double())
    assert (weights[tokens == 0] == 0).all() and (weights[tokens != 0] > 0).all()
    maps = model.attention_maps(tokens, LENGTHS)
    assert maps.shape == (B, L, 2, T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(B, L, 2, T).double())
    assert not maps[1, ..., 2:].any() and (maps[1, ..., :2] > 0).all()
    with pytest.raises(ValueError, match=r"pooling='attention'.*'mean'"):
        classifier().attention_weights(tokens)


def test_attention_maps_mix_the_values_the_block_mixes(tokens):
    """The first block, rebuilt from its map."""
    model = classifier()
    x = model.embedding(tokens)
    weights, block = model.attention_maps(tokens)[:, 0], model.encoder.blocks[0]
    attention = block.self_attention
    value = attention.value_projection(block.attention_residual.norm(x)).unflatten(-1, (2, -1))
    mixed = torch.einsum("bnts,bsne->btne", weights, value).flatten(-2)
    expected = x + attention.output_projection(mixed)
    expected = expected + block.feed_forward(block.feed_forward_residual.norm(expected))
    torch.testing.assert_close(block(x, (tokens != 0)[:, None]), expected, **EXACT)


# --- language model ----------------------------------------------------------------------------------------


def test_language_model_equals_torchs_causal_encoder():
    model, tokens = language_model(), torch.randint(0, V, (B, T))
    theirs = torch_encoder(model, model.decoder.blocks, model.decoder.norm, "gelu").train()
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    assert_same(model(tokens)[0], model.head(theirs(embedded(model, tokens), mask=future)), model)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("size", [1, 3])
def test_language_model_chunks_equal_the_whole(positions, size):
    model, tokens = language_model(positions=positions), torch.randint(0, V, (B, T))
    whole, final = model(tokens)
    assert whole.shape == (B, T, V) and final.length == T
    state, parts = None, []
    for chunk in tokens.split(size, dim=1):
        before = state
        logits, state = model(chunk, state)
        parts.append(logits)
        assert before is None or before.length < state.length, "the state that was given must stay"
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **EXACT)


@pytest.mark.parametrize("positions", POSITIONS)
def test_language_model_does_not_see_the_future(positions):
    model, tokens = language_model(positions=positions), torch.randint(0, V, (B, T))
    for t in range(T - 1):
        changed = tokens.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 3) % V
        before, after = model(tokens)[0], model(changed)[0]
        torch.testing.assert_close(before[:, : t + 1], after[:, : t + 1], **EXACT)
        assert not torch.allclose(before[:, t + 1], after[:, t + 1])


def test_language_model_loss_counts_real_targets(tokens):
    model = language_model()
    rows = [row[:n] for row, n in zip(tokens, LENGTHS, strict=True)]
    each = [F.cross_entropy(model(row[None, :-1])[0][0], row[1:], reduction="sum") for row in rows]
    torch.testing.assert_close(model.loss(pad(rows)), sum(each) / (LENGTHS - 1).sum(), **EXACT)


def test_greedy_text_is_the_argmax_of_the_whole_again_and_again():
    torch.manual_seed(1)
    model = language_model(tie_weights=False)  # tied, an untrained model repeats what it read
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    text = [3, 1, 4]
    for _ in range(12):
        text.append(model(torch.tensor([text]))[0][0, -1].argmax().item())
    assert len(set(text[3:])) > 2, "the case must be able to differ"
    assert list(model.generate(text[:3], 12, temperature=0)) == text[3:]


def test_generation_reads_each_token_once():
    model, reads = language_model(), []
    model.embedding.register_forward_hook(lambda module, inputs, output: reads.append(inputs[0].shape[1]))
    assert len(list(model.generate([1, 2, 3, 4], 5))) == 5
    assert reads == [4, 1, 1, 1, 1]


def test_generation_ends_where_learned_positions_end():
    model = language_model(positions="learned", max_length=6)
    assert len(list(model.generate([1, 2, 3], 4))) == 4  # the last token is not read any more
    with pytest.raises(ValueError, match=r"at most 6 positions to read.*3 tokens and max_new=5"):
        model.generate([1, 2, 3], 5)


def test_tied_weights_are_one_parameter():
    tied, loose = language_model(), language_model(tie_weights=False)
    assert tied.head.weight is tied.embedding.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (loose, tied)]
    assert count[0] - count[1] == V * D


@pytest.mark.parametrize("build", [classifier, language_model])
def test_embeddings_and_logits_start_with_unit_variance(build):
    """What the initialisation promises; normalised features and weights of variance 1/D."""
    kind = TransformerClassifier if build is classifier else TransformerLanguageModel
    model = kind(400, 256, 4, 1).eval()
    ids = torch.randint(0, 400, (4, 50))
    x = model.embedding(ids) - model.embedding.positions(torch.zeros(1, 50, 256))
    assert x.std().item() == pytest.approx(1, rel=0.02)
    if build is language_model:
        logits = model(ids)[0]
        others = torch.ones_like(logits, dtype=torch.bool).scatter(2, ids[..., None], False)
        assert logits[others].std().item() == pytest.approx(1, rel=0.1)


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [classifier, language_model])
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(B, T), TypeError, "integer tensor"),
        (torch.ones(T, dtype=torch.long), ValueError, r"\(B, T\), got shape \(7,\)"),
        (torch.ones(0, T, dtype=torch.long), ValueError, "at least one sequence"),
        (torch.full((B, T), V), ValueError, "token id 11 is outside the vocabulary 0 .. 10"),
    ],
)
def test_wrong_tokens_are_named(build, tokens, error, message):
    with pytest.raises(error, match=message):
        build()(tokens)


@pytest.mark.parametrize("lengths", [[7, 0, 5], [7, 8, 5], [7, 2]])
def test_wrong_lengths_are_refused(tokens, lengths):
    with pytest.raises(ValueError, match="length"):
        classifier()(tokens, torch.tensor(lengths))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (classifier, {"pooling": "last"}, "mean, max, attention, got 'last'"),
        (classifier, {"positions": "sine"}, "sinusoidal, learned, rotary, none, got 'sine'"),
        (language_model, {"positions": "sine"}, "sinusoidal, learned, rotary, none, got 'sine'"),
        (language_model, {"activation": "tanh"}, "relu, gelu as activation, got 'tanh'"),
    ],
)
def test_wrong_models_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
