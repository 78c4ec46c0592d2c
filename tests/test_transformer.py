"""The Transformer equals torch's layer by layer; it does not look ahead; its cache changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from seqcourse.attention import RotaryPositions, padding_mask
from seqcourse.transformer import Cache, Decoder, DecoderBlock, Encoder, EncoderBlock, FeedForward

B, T, S, D, N, F, L = 3, 5, 7, 12, 4, 20, 2
LENGTHS = torch.tensor([7, 2, 4])
EXACT = {"rtol": 0, "atol": 1e-10}
ORDERS = [(True, "relu"), (False, "relu"), (True, "gelu"), (False, "gelu")]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


def shake(module: nn.Module) -> nn.Module:
    """Draw biases and normalisations too: at their start they hide what is missing."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return module


def gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weights = torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    return torch.autograd.grad((output * weights).sum(), inputs, retain_graph=True)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def settings(norm_first: bool, activation: str) -> dict:
    return {"dropout": 0.0, "activation": activation, "norm_first": norm_first}


def forbidden(length: int) -> torch.Tensor:
    """The causal mask in torch's convention."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def masks(queries: int, keys: int) -> dict[str, torch.Tensor | None]:
    """Ours, ``(B, queries, keys)``; every query may look somewhere, because torch gives NaN otherwise."""
    mixed = torch.rand(B, queries, keys, generator=torch.Generator().manual_seed(5)) < 0.5
    mixed[..., 0] = True
    real, past = (
        padding_mask(LENGTHS.clamp(max=keys), keys),
        torch.ones(queries, keys, dtype=torch.bool).tril(),
    )
    found = {"causal": past.expand(B, -1, -1), "padding": real.expand(-1, queries, -1)}
    return {"none": None, **found, "both": found["causal"] & found["padding"], "mixed": mixed}


def in_torchs_way(mask: torch.Tensor | None) -> torch.Tensor | None:
    """True where looking is forbidden, once per head."""
    return None if mask is None else ~mask.repeat_interleave(N, dim=0)


def parameter_gradients(ours: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    return list(gradients(output, list(ours.parameters())))


def torchs_parameter_gradients(
    ours: nn.Module, theirs: nn.Module, output: torch.Tensor
) -> list[torch.Tensor]:
    """Torch's gradients where ours stand: copied as if they were the weights."""
    carrier, place = copy.deepcopy(theirs), copy.deepcopy(ours)
    found = gradients(output, list(theirs.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(carrier.parameters(), found, strict=True):
            parameter.copy_(gradient)
    place.load_from_torch(carrier)
    return list(place.parameters())


def assert_same_block(ours, theirs, output, expected, inputs) -> None:
    assert_same(output, expected, inputs)
    found = parameter_gradients(ours, output)
    for a, b in zip(found, torchs_parameter_gradients(ours, theirs, expected), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize(("norm_first", "activation"), ORDERS)
@pytest.mark.parametrize("kind", masks(S, S))
def test_encoder_block_equals_torch(norm_first, activation, kind):
    options = settings(norm_first, activation)
    theirs = shake(nn.TransformerEncoderLayer(D, N, F, batch_first=True, **options).double())
    ours = EncoderBlock(D, N, F, **options).double()
    ours.load_from_torch(theirs)
    x, mask = normal(B, S, D), masks(S, S)[kind]
    assert_same_block(ours, theirs, ours(x, mask), theirs(x, in_torchs_way(mask)), [x])


@pytest.mark.parametrize(("norm_first", "activation"), ORDERS)
@pytest.mark.parametrize(("kind", "memory_kind"), list(zip(masks(T, T), reversed(masks(T, S)), strict=True)))
def test_decoder_block_equals_torch(norm_first, activation, kind, memory_kind):
    options = settings(norm_first, activation)
    theirs = shake(nn.TransformerDecoderLayer(D, N, F, batch_first=True, **options).double())
    ours = DecoderBlock(D, N, F, **options).double()
    ours.load_from_torch(theirs)
    x, memory = normal(B, T, D), normal(B, S, D, seed=1)
    mask, memory_mask = masks(T, T)[kind], masks(T, S)[memory_kind]
    expected = theirs(x, memory, in_torchs_way(mask), in_torchs_way(memory_mask))
    assert_same_block(ours, theirs, ours(x, memory, mask, memory_mask), expected, [x, memory])


def transformers(norm_first: bool) -> tuple[Encoder, Decoder, nn.Transformer]:
    options = settings(norm_first, "relu")
    theirs = nn.Transformer(D, N, L, L, F, batch_first=True, **options).double()
    shake(theirs)
    if not norm_first:  # the paper's order ends with a normalisation already; torch adds another one
        theirs.encoder.norm = theirs.decoder.norm = None
    encoder, decoder = (kind(D, N, L, F, **options).double() for kind in (Encoder, Decoder))
    for ours, layers in ((encoder, theirs.encoder), (decoder, theirs.decoder)):
        for block, layer in zip(ours.blocks, layers.layers, strict=True):
            block.load_from_torch(layer)
        if norm_first:
            ours.norm.load_state_dict(layers.norm.state_dict())
    return encoder, decoder, theirs


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_and_decoder_equal_torch_transformer(norm_first):
    encoder, decoder, theirs = transformers(norm_first)
    source, target, real = normal(B, S, D), normal(B, T, D, seed=1), padding_mask(LENGTHS, S)
    ours = decoder(target, encoder(source, real), real)
    padding = ~real[:, 0]
    expected = theirs(
        source, target, tgt_mask=forbidden(T), src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    assert_same(ours, expected, [source, target])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kind", masks(S, S))
def test_encoder_and_decoder_take_the_masks_of_torch_transformer(norm_first, kind):
    encoder, decoder, theirs = transformers(norm_first)
    source, target = normal(B, S, D), normal(B, T, D, seed=1)
    own, back, across = (masks(*shape)[kind] for shape in ((S, S), (T, T), (T, S)))
    ours = decoder(target, encoder(source, own), across, mask=back)  # the decoder is causal besides
    past = ~forbidden(T) if back is None else back & ~forbidden(T)
    past = past.expand(B, T, T)
    expected = theirs(source, target, in_torchs_way(own), in_torchs_way(past), in_torchs_way(across))
    assert_same(ours, expected, [source, target])


@pytest.mark.parametrize("rotary", [None, RotaryPositions()])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("chunks", [[1] * T, [2, 3], [4, 1]])
def test_cached_equals_uncached(rotary, cross, chunks):
    decoder = shake(Decoder(D, 3, L, F, dropout=0.0, rotary=rotary, cross=cross).double())
    memory = normal(B, S, D, seed=1) if cross else None
    real = padding_mask(LENGTHS, S) if cross else None
    x, cache = normal(B, T, D), Cache()
    pieces = [decoder(piece, memory, real, cache) for piece in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), decoder(x, memory, real), **EXACT)
    assert cache.length == T and len(cache.layers) == L


def test_selecting_rows_of_a_cache_follows_the_hypotheses():
    decoder = shake(Decoder(D, N, L, F, dropout=0.0).double())
    memory, x, rows = normal(B, S, D, seed=1), normal(B, T, D), torch.tensor([2, 0, 2])
    cache = Cache()
    decoder(x[:, :3], memory, cache=cache)
    moved = decoder(x[rows, 3:], memory[rows], cache=cache.select(rows))
    torch.testing.assert_close(moved, decoder(x, memory)[rows, 3:], **EXACT)


def test_no_future_leaks_and_all_of_the_source_is_seen():
    decoder = shake(Decoder(D, N, L, F, dropout=0.0).double())
    x, memory = normal(B, T, D), normal(B, S, D, seed=1)
    of_x, of_memory = torch.autograd.grad(decoder(x, memory)[:, 2].sum(), [x, memory])
    assert of_x[:, :3].ne(0).any(dim=-1).all() and not of_x[:, 3:].any()
    assert of_memory.ne(0).any(dim=-1).all()


def test_neither_padding_nor_the_rest_of_the_batch_matters():
    encoder = shake(Encoder(D, N, L, F, dropout=0.0).double())
    decoder = shake(Decoder(D, N, L, F, dropout=0.0).double())
    source, target, real = normal(B, S, D), normal(B, T, D, seed=1), padding_mask(LENGTHS, S)
    together = decoder(target, encoder(source, real), real)
    for i, length in enumerate(LENGTHS):
        alone = decoder(target[i : i + 1], encoder(source[i : i + 1, :length]))
        torch.testing.assert_close(alone[0], together[i], **EXACT)


@pytest.mark.parametrize("norm_first", [True, False])
def test_alignment_is_the_weights_torch_gives(norm_first):
    _, decoder, theirs = transformers(norm_first)
    target, memory, real = normal(B, T, D), normal(B, S, D, seed=1), padding_mask(LENGTHS, S)
    weights = decoder.alignment(target, memory, real)
    assert weights.shape == (B, L, N, T, S)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, L, N, T, dtype=torch.float64))
    assert not weights.masked_select(~real[:, None, None]).any()
    layer, kept = theirs.decoder.layers[0], []

    def keep(query, key, value, **options):
        kept.append(
            attend(query, key, value, **{**options, "need_weights": True, "average_attn_weights": False})
        )
        return kept[-1]

    attend = layer.multihead_attn.forward
    layer.multihead_attn.forward = keep
    layer(target, memory, tgt_mask=forbidden(T), memory_key_padding_mask=~real[:, 0])
    torch.testing.assert_close(weights[:, 0], kept[0][1], **EXACT)


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match=r"relu, gelu.*got 'tanh'"):
        FeedForward(4, 8, activation="tanh")
    with pytest.raises(ValueError, match="cross=True"):
        DecoderBlock(D, N, F)(torch.zeros(1, 2, D))
    with pytest.raises(ValueError, match="cross=True"):
        DecoderBlock(D, N, F, cross=False)(torch.zeros(1, 2, D), torch.zeros(1, 2, D))


@pytest.mark.parametrize("norm_first", [True, False])
def test_attention_maps_of_the_encoder_are_the_weights_torch_gives(norm_first):
    encoder, _, theirs = transformers(norm_first)
    x, real = normal(B, S, D), padding_mask(LENGTHS, S)
    maps = encoder.attention_maps(x, real)
    for index, layer in enumerate(theirs.encoder.layers):
        seen = layer.norm1(x) if norm_first else x
        _, weights = layer.self_attn(
            seen, seen, seen, key_padding_mask=~real[:, 0], average_attn_weights=False
        )
        torch.testing.assert_close(maps[:, index], weights, **EXACT)
        x = layer(x, src_key_padding_mask=~real[:, 0])


def test_a_source_that_is_nothing_but_padding_gives_finite_numbers():
    encoder = shake(Encoder(D, N, L, F, dropout=0.0).double())
    decoder = shake(Decoder(D, N, L, F, dropout=0.0).double())
    source, target = normal(B, S, D), normal(B, T, D, seed=1)
    real = padding_mask(torch.tensor([7, 0, 4]), S)
    output = decoder(target, encoder(source, real), real)
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.sum(), [source, target]):
        assert gradient.isfinite().all()
    assert not torch.autograd.grad(decoder(target, encoder(source, real), real)[1].sum(), source)[0].any()


def test_initialisation_is_the_documented_one():
    """Glorot for the attention's projections, zero biases; torch's own for the rest."""
    block = DecoderBlock(64, 4, 96)
    for attention in (block.self_attention, block.cross_attention):
        for projection in attention.children():
            limit = (6 / 128) ** 0.5
            assert projection.weight.abs().max() <= limit and projection.weight.std() > 0.9 * limit / 3**0.5
            assert not projection.bias.any()
    inner = block.feed_forward[0]
    assert inner.weight.abs().max() <= 1 / 8 and inner.bias.any()
    assert (block.feed_forward_residual.norm.weight == 1).all()
