"""The Transformer: blocks of attention and feed-forward layers, encoder, decoder, and a cache for decoding.

Vaswani et al. (2017), Attention Is All You Need. Letters: B batch, T target positions, S source positions,
D model size, N heads, E = D / N, F features between the two layers of a feed-forward network.

Masks are those of :mod:`seqcourse.attention`: boolean, True where a query may look.

Initialisation: Glorot's uniform distribution for the projections of the attention, zero biases; the
feed-forward layers and normalisations start as ``torch.nn.Linear`` and ``torch.nn.LayerNorm`` do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from seqcourse.attention import MultiHeadAttention, RotaryPositions, causal_mask

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass
class LayerCache:
    """What one decoder layer keeps between steps, so that no position is projected twice.

    Shapes:
        key and value ``(B, N, T so far, E)``; memory_key and memory_value ``(B, N, S, E)``.
    """

    key: Tensor | None = None
    value: Tensor | None = None
    memory_key: Tensor | None = None
    memory_value: Tensor | None = None

    @property
    def length(self) -> int:
        """How many positions are kept."""
        return 0 if self.key is None else self.key.shape[2]

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of new positions; return all."""
        if self.key is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value

    def select(self, rows: Tensor) -> LayerCache:
        """Return a cache of these rows of the batch, in this order."""
        kept = vars(self).items()
        return LayerCache(**{name: x if x is None else x.index_select(0, rows) for name, x in kept})


@dataclass
class Cache:
    """The caches of all layers of a decoder; empty at the start."""

    layers: list[LayerCache] = field(default_factory=list)

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer, made when first asked for."""
        while len(self.layers) <= index:
            self.layers.append(LayerCache())
        return self.layers[index]

    @property
    def length(self) -> int:
        """How many positions were decoded."""
        return self.layers[0].length if self.layers else 0

    def copy(self) -> Cache:
        """Return a cache that can be filled further while this one stays; no tensor is copied."""
        return Cache([replace(layer) for layer in self.layers])

    def select(self, rows: Tensor) -> Cache:
        """Return a cache of these rows of the batch: a beam search drops and doubles hypotheses."""
        return Cache([layer.select(rows) for layer in self.layers])


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between, applied to each position by itself.

    Shapes:
        x ``(..., D)``; result the same.

    Args:
        size: D.
        inner_size: F.
        dropout: after the activation.
        activation: ``"relu"`` (the paper) or ``"gelu"`` (BERT, GPT).

    Raises:
        ValueError: if the activation is neither.
    """

    def __init__(self, size: int, inner_size: int, dropout: float = 0.0, activation: str = "relu") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"expected one of {', '.join(ACTIVATIONS)} as activation, got {activation!r}")
        super().__init__(
            nn.Linear(size, inner_size),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(inner_size, size),
        )


class Residual(nn.Module):
    """Add what a layer computes to its input, and normalise: before the layer, or after the sum.

    After the sum is the paper's order (post-norm). Before the layer (pre-norm) leaves a path from output to
    input that nothing changes, and trains without a warm-up: Xiong et al. (2020), On Layer Normalization in
    the Transformer Architecture.

    Args:
        size: D.
        dropout: of what the layer computes.
        norm_first: pre-norm.
    """

    def __init__(self, size: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm, self.dropout, self.norm_first = nn.LayerNorm(size), nn.Dropout(dropout), norm_first

    def before(self, x: Tensor) -> Tensor:
        """Return what the layer sees of ``x``."""
        return self.norm(x) if self.norm_first else x

    def forward(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the layer around the residual connection."""
        if self.norm_first:
            return x + self.dropout(layer(self.norm(x)))
        return self.norm(x + self.dropout(layer(x)))


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward, each within a residual connection.

    Shapes:
        x ``(B, S, D)``; mask broadcasts to ``(B, S, S)``; result as x.

    Args:
        size: D.
        heads: N.
        inner_size: F.
        dropout: of attention weights, between the feed-forward layers, and of what each layer adds.
        activation: of the feed-forward network.
        norm_first: pre-norm instead of post-norm.
        rotary: positions by rotation, or None.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        inner_size: int,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = True,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(size, heads, dropout, rotary=rotary)
        self.feed_forward = FeedForward(size, inner_size, dropout, activation)
        self.attention_residual = Residual(size, dropout, norm_first)
        self.feed_forward_residual = Residual(size, dropout, norm_first)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let each position look at the others, then think by itself."""
        x = self.attention_residual(x, lambda y: self.self_attention(y, mask=mask)[0])
        return self.feed_forward_residual(x, self.feed_forward)

    def attention_weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weights of the self-attention, ``(B, N, S, S)``, for inputs as in :meth:`forward`."""
        return self.self_attention(self.attention_residual.before(x), mask=mask, need_weights=True)[1]

    def load_from_torch(self, theirs: nn.TransformerEncoderLayer) -> None:
        """Copy the weights of a ``torch.nn.TransformerEncoderLayer`` of the same sizes."""
        self.self_attention.load_from_torch(theirs.self_attn)
        _copy(self.attention_residual.norm, theirs.norm1)
        _copy_feed_forward(self, theirs, theirs.norm2)


class DecoderBlock(nn.Module):
    """Self-attention over what was written, attention over the source, feed-forward.

    Without a source (a language model) there is no cross-attention: ``cross=False``.

    Shapes:
        x ``(B, T, D)``; memory ``(B, S, D)``; mask broadcasts to ``(B, T, T)``, memory_mask to
        ``(B, T, S)``; result as x.

    Args:
        size: D.
        heads: N.
        inner_size: F.
        dropout: as in :class:`EncoderBlock`.
        activation: of the feed-forward network.
        norm_first: pre-norm instead of post-norm.
        rotary: positions by rotation in the self-attention, or None.
        cross: attend to a memory.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        inner_size: int,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = True,
        rotary: RotaryPositions | None = None,
        cross: bool = True,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(size, heads, dropout, rotary=rotary)
        self.cross_attention = MultiHeadAttention(size, heads, dropout) if cross else None
        self.feed_forward = FeedForward(size, inner_size, dropout, activation)
        self.attention_residual = Residual(size, dropout, norm_first)
        self.cross_residual = Residual(size, dropout, norm_first) if cross else None
        self.feed_forward_residual = Residual(size, dropout, norm_first)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Look back, look at the source, think. With a cache, ``x`` holds the new positions only.

        Raises:
            ValueError: if a memory is missing or cannot be used.
        """
        if (memory is None) != (self.cross_attention is None):
            raise ValueError(f"expected a memory exactly if cross=True, got {memory is not None=}")
        cache = LayerCache() if cache is None else cache
        x = self.attention_residual(x, lambda y: self._look_back(y, mask, cache))
        if self.cross_attention is not None:
            x = self.cross_residual(x, lambda y: self._look_at(y, memory, memory_mask, cache)[0])
        return self.feed_forward_residual(x, self.feed_forward)

    def _look_back(self, x: Tensor, mask: Tensor | None, cache: LayerCache) -> Tensor:
        start = cache.length
        key, value = cache.extend(*self.self_attention.keys_and_values(x, start))
        return self.self_attention.look(x, key, value, mask, start=start)[0]

    def _look_at(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, cache: LayerCache, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        if cache.memory_key is None:  # the source does not change while the target is written
            cache.memory_key, cache.memory_value = self.cross_attention.keys_and_values(memory)
        return self.cross_attention.look(x, cache.memory_key, cache.memory_value, mask, need_weights)

    def alignment(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """The weights of the cross-attention, ``(B, N, T, S)``, for inputs as in :meth:`forward`."""
        cache = LayerCache()
        x = self.attention_residual(x, lambda y: self._look_back(y, mask, cache))
        return self._look_at(self.cross_residual.before(x), memory, memory_mask, cache, need_weights=True)[1]

    def load_from_torch(self, theirs: nn.TransformerDecoderLayer) -> None:
        """Copy the weights of a ``torch.nn.TransformerDecoderLayer`` of the same sizes."""
        self.self_attention.load_from_torch(theirs.self_attn)
        self.cross_attention.load_from_torch(theirs.multihead_attn)
        _copy(self.attention_residual.norm, theirs.norm1)
        _copy(self.cross_residual.norm, theirs.norm2)
        _copy_feed_forward(self, theirs, theirs.norm3)


class Encoder(nn.Module):
    """A stack of encoder blocks; with pre-norm, a last normalisation.

    Shapes:
        x ``(B, S, D)``; mask broadcasts to ``(B, S, S)``; result as x.

    Args:
        size: D.
        heads: N.
        layers: number of blocks.
        inner_size: F; 4 D if left out.
        options: of :class:`EncoderBlock`.
    """

    def __init__(self, size: int, heads: int, layers: int, inner_size: int | None = None, **options) -> None:
        super().__init__()
        make = lambda: EncoderBlock(size, heads, inner_size or 4 * size, **options)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(layers))
        self.norm = nn.LayerNorm(size) if options.get("norm_first", True) else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the blocks in turn."""
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def attention_maps(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of the self-attention of every layer, ``(B, layers, N, S, S)``."""
        found = []
        for block in self.blocks:
            found.append(block.attention_weights(x, mask))
            x = block(x, mask)
        return torch.stack(found, dim=1)


class Decoder(nn.Module):
    """A stack of decoder blocks, causal; with pre-norm, a last normalisation.

    Shapes:
        x ``(B, T, D)``; memory ``(B, S, D)``; memory_mask broadcasts to ``(B, T, S)``; result as x.

    Args:
        size: D.
        heads: N.
        layers: number of blocks.
        inner_size: F; 4 D if left out.
        options: of :class:`DecoderBlock`.
    """

    def __init__(self, size: int, heads: int, layers: int, inner_size: int | None = None, **options) -> None:
        super().__init__()
        make = lambda: DecoderBlock(size, heads, inner_size or 4 * size, **options)  # noqa: E731
        self.blocks = nn.ModuleList(make() for _ in range(layers))
        self.norm = nn.LayerNorm(size) if options.get("norm_first", True) else nn.Identity()

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Cache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the blocks in turn; with a cache, to the new positions only.

        Args:
            x: the target so far, or its new positions.
            memory: the encoder's output.
            memory_mask: True where a position of the memory may be looked at.
            cache: filled by each call; results are the same as without one.
            mask: besides causality, True where a target position may be looked at.
        """
        cache = Cache() if cache is None else cache
        start = cache.length
        causal = causal_mask(x.shape[1], start + x.shape[1], x.device)
        mask = causal if mask is None else causal & mask
        for index, block in enumerate(self.blocks):
            x = block(x, memory, mask, memory_mask, cache.layer(index))
        return self.norm(x)

    def alignment(self, x: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Weights of the cross-attention of every layer, ``(B, layers, N, T, S)``."""
        mask, found = causal_mask(x.shape[1], device=x.device), []
        for block in self.blocks:
            found.append(block.alignment(x, memory, mask, memory_mask))
            x = block(x, memory, mask, memory_mask)
        return torch.stack(found, dim=1)


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def _copy_feed_forward(block: nn.Module, theirs: nn.Module, norm: nn.LayerNorm) -> None:
    _copy(block.feed_forward[0], theirs.linear1)
    _copy(block.feed_forward[3], theirs.linear2)
    _copy(block.feed_forward_residual.norm, norm)
