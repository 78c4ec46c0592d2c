"""The Transformer equals torch's layer by layer; it does not look ahead; its cache changes nothing."""

from __future__ import annotations

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


@pytest.mark.parametrize(("norm_first", "activation"), ORDERS)
@pytest.mark.parametrize("padded", [True, False])
def test_encoder_block_equals_torch(norm_first, activation, padded):
    options = settings(norm_first, activation)
    theirs = shake(nn.TransformerEncoderLayer(D, N, F, batch_first=True, **options).double())
    ours = EncoderBlock(D, N, F, **options).double()
    ours.load_from_torch(theirs)
    x, real = normal(B, S, D), padding_mask(LENGTHS, S)
    expected = theirs(x, src_key_padding_mask=~real[:, 0] if padded else None)
    assert_same(ours(x, real if padded else None), expected, [x])
    own = gradients(ours(x, real if padded else None), [ours.feed_forward[0].weight])
    torch.testing.assert_close(own, gradients(expected, [theirs.linear1.weight]), **EXACT)


@pytest.mark.parametrize(("norm_first", "activation"), ORDERS)
def test_decoder_block_equals_torch(norm_first, activation):
    options = settings(norm_first, activation)
    theirs = shake(nn.TransformerDecoderLayer(D, N, F, batch_first=True, **options).double())
    ours = DecoderBlock(D, N, F, **options).double()
    ours.load_from_torch(theirs)
    x, memory, real = normal(B, T, D), normal(B, S, D, seed=1), padding_mask(LENGTHS, S)
    expected = theirs(x, memory, tgt_mask=forbidden(T), memory_key_padding_mask=~real[:, 0])
    assert_same(ours(x, memory, ~forbidden(T), real), expected, [x, memory])


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
