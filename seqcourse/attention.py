"""Attention: scores, masks, several heads, positions.

Letters: B batch, T queries (time), S keys and values (source), D features of a model, N heads, E = D / N
features of a head, A size of an additive score.

One convention for masks everywhere: boolean, **True where a query may look**, shaped so that it broadcasts
to the scores ``(B, T, S)``, or ``(B, N, T, S)`` with heads. It is the convention of
``torch.nn.functional.scaled_dot_product_attention``, and the opposite of the ``key_padding_mask`` and
``attn_mask`` of ``torch.nn.MultiheadAttention``. A query that may look nowhere gets zeros, never NaN.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- masks -----------------------------------------------------------------------------------------------


def causal_mask(queries: int, keys: int | None = None, device=None) -> Tensor:
    """Let each query look at itself and at what came before.

    Shapes:
        result ``(T, S)``, True where a query may look. With more keys than queries, the queries are the last
        T of S positions: the ones before are in a cache.

    Args:
        queries: T.
        keys: S; T if left out.
        device: where the mask lives.

    Raises:
        ValueError: if there are fewer keys than queries.
    """
    keys = queries if keys is None else keys
    if keys < queries:
        raise ValueError(f"expected at least as many keys as queries, got {queries} queries and {keys} keys")
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def padding_mask(lengths: Tensor, keys: int | None = None) -> Tensor:
    """Let nobody look at padding.

    Shapes:
        lengths ``(B,)``; result ``(B, 1, S)``, True for the first ``lengths`` positions of each sequence.

    Args:
        lengths: how many positions of each sequence are real.
        keys: S; the greatest length if left out.
    """
    keys = int(lengths.max()) if keys is None else keys
    return (torch.arange(keys, device=lengths.device) < lengths[:, None])[:, None]


# --- scores and weights ----------------------------------------------------------------------------------


def attention_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Turn scores into weights that sum to one over the keys.

    Shapes:
        scores ``(..., T, S)``; mask broadcasts to it; result as scores. A row that may look nowhere is zero.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    # The softmax of a row of -inf is NaN: such a row goes in unmasked, and its weights are taken away.
    somewhere = mask.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(~mask & somewhere, -math.inf).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


def scaled_dot_product(query: Tensor, key: Tensor) -> Tensor:
    """Score each key by its product with the query, divided by the root of their size.

    Vaswani et al. (2017), Attention Is All You Need, equation 1. Without the root, the variance of a score
    grows with the number of features, and the softmax saturates.

    Shapes:
        query ``(..., T, E)``; key ``(..., S, E)``; result ``(..., T, S)``.
    """
    return query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, readable: the weighted mean of the values, and the weights.

    Shapes:
        query ``(..., T, E)``; key ``(..., S, E)``; value ``(..., S, E_v)``; mask broadcasts to
        ``(..., T, S)``; output ``(..., T, E_v)``; weights ``(..., T, S)``.

    Args:
        query: what looks.
        key: what is looked at.
        value: what is taken from there.
        mask: True where a query may look.
        dropout: share of the weights set to zero, the others scaled up.

    Raises:
        ValueError: if the shapes do not fit each other.
        TypeError: if the mask is not boolean.
    """
    check_attention(query, key, value, mask)
    weights = attention_weights(scaled_dot_product(query, key), mask)
    return F.dropout(weights, dropout) @ value, weights


def attend_fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The output of :func:`attend` from torch's fused kernel, which never stores the T x S weights.

    Dao et al. (2022), FlashAttention. Shapes, arguments and errors as :func:`attend`.
    """
    check_attention(query, key, value, mask)
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    mask = torch.atleast_2d(mask)  # the kernel takes no mask of shape (S,)
    somewhere = mask.any(dim=-1, keepdim=True)  # kernels differ in what they do with a row of -inf
    output = F.scaled_dot_product_attention(query, key, value, mask | ~somewhere, dropout_p=dropout)
    return output.masked_fill(~somewhere, 0.0)


def check_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Say clearly what does not fit.

    Raises:
        ValueError: if the shapes do not fit each other.
        TypeError: if the mask is not boolean.
    """
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"expected queries and keys of one size, got {query.shape[-1]} and {key.shape[-1]} features "
            f"(query {tuple(query.shape)}, key {tuple(key.shape)})"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"expected one value per key, got {key.shape[-2]} keys and {value.shape[-2]} values "
            f"(key {tuple(key.shape)}, value {tuple(value.shape)})"
        )
    if mask is not None:
        check_mask(mask, (*query.shape[:-1], key.shape[-2]))


def check_mask(mask: Tensor, scores: tuple[int, ...]) -> None:
    """Demand a boolean mask that broadcasts to the scores.

    Raises:
        TypeError: if it is not boolean.
        ValueError: if it does not broadcast.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"expected a boolean mask, True where a query may look, got {mask.dtype}")
    fits = mask.dim() <= len(scores) and all(
        m in (1, s) for m, s in zip(reversed(mask.shape), reversed(scores), strict=False)
    )
    if not fits:
        raise ValueError(
            f"expected a mask that broadcasts to scores of shape {scores} (..., queries, keys), "
            f"got {tuple(mask.shape)}"
        )


class Score(nn.Module):
    """What the scores share: keys are projected once, then compared with query after query.

    A decoder asks about the same source at every step; what depends on the keys alone need not be computed
    again.

    Shapes:
        query ``(B, T, D_q)``; key ``(B, S, D_k)``; scores ``(B, T, S)``.
    """

    def project_keys(self, key: Tensor) -> Tensor:
        """Return the part of the score that does not depend on the query."""
        return key

    def compare(self, query: Tensor, projected_key: Tensor) -> Tensor:
        """Return the scores of all pairs, given what :meth:`project_keys` returned."""
        raise NotImplementedError

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the scores of all pairs."""
        return self.compare(query, self.project_keys(key))


class AdditiveScore(Score):
    """Score by a small network: ``v . tanh(W q + U k)``.

    Bahdanau, Cho & Bengio (2015), Neural Machine Translation by Jointly Learning to Align and Translate,
    appendix A.1.2. Without biases, as there.

    Shapes:
        query ``(B, T, D_q)``; key ``(B, S, D_k)``; projected_key ``(B, S, A)``; scores ``(B, T, S)``.

    Args:
        query_size: D_q.
        key_size: D_k.
        size: A, features of the layer between.
    """

    def __init__(self, query_size: int, key_size: int, size: int) -> None:
        super().__init__()
        self.query_projection = nn.Linear(query_size, size, bias=False)  # W
        self.key_projection = nn.Linear(key_size, size, bias=False)  # U
        self.vector = nn.Linear(size, 1, bias=False)  # v

    def project_keys(self, key: Tensor) -> Tensor:
        """Return U k."""
        return self.key_projection(key)

    def compare(self, query: Tensor, projected_key: Tensor) -> Tensor:
        """Add each query to each key, squash, weigh the features."""
        pairs = self.query_projection(query)[:, :, None] + projected_key[:, None]  # (B, T, S, A)
        return self.vector(pairs.tanh()).squeeze(-1)  # (B, T, S)


class DotScore(Score):
    """Score by the product of query and key, which must be of one size.

    Luong, Pham & Manning (2015), Effective Approaches to Attention-based Neural Machine Translation,
    section 3.1, "dot".

    Shapes:
        query ``(B, T, D)``; key ``(B, S, D)``; scores ``(B, T, S)``.
    """

    def compare(self, query: Tensor, projected_key: Tensor) -> Tensor:
        """Return the products of all pairs."""
        return query @ projected_key.transpose(1, 2)


class GeneralScore(DotScore):
    """Score by ``q . W k``: query and key may differ in size. Luong et al. (2015), "general".

    Shapes:
        query ``(B, T, D_q)``; key ``(B, S, D_k)``; projected_key ``(B, S, D_q)``; scores ``(B, T, S)``.

    Args:
        query_size: D_q.
        key_size: D_k.
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        super().__init__()
        self.key_projection = nn.Linear(key_size, query_size, bias=False)

    def project_keys(self, key: Tensor) -> Tensor:
        """Return W k."""
        return self.key_projection(key)


class ConcatScore(Score):
    """Score by ``v . tanh(W [q; k])``: one matrix on both, set side by side. Luong et al. (2015), "concat".

    W [q; k] is W_q q + W_k k with the columns of W in two parts, so no pair has to be set side by side.

    Shapes:
        query ``(B, T, D_q)``; key ``(B, S, D_k)``; projected_key ``(B, S, A)``; scores ``(B, T, S)``.

    Args:
        query_size: D_q.
        key_size: D_k.
        size: A, features of the layer between.
    """

    def __init__(self, query_size: int, key_size: int, size: int) -> None:
        super().__init__()
        self.query_size = query_size
        self.projection = nn.Linear(query_size + key_size, size, bias=False)
        self.vector = nn.Linear(size, 1, bias=False)

    def project_keys(self, key: Tensor) -> Tensor:
        """Return W_k k."""
        return F.linear(key, self.projection.weight[:, self.query_size :])

    def compare(self, query: Tensor, projected_key: Tensor) -> Tensor:
        """Add W_q q, squash, weigh the features."""
        projected_query = F.linear(query, self.projection.weight[:, : self.query_size])
        pairs = projected_query[:, :, None] + projected_key[:, None]  # (B, T, S, A)
        return self.vector(pairs.tanh()).squeeze(-1)  # (B, T, S)


# --- several heads ---------------------------------------------------------------------------------------


class MultiHeadAttention(nn.Module):
    """N attentions side by side on parts of the features, for self-attention and cross-attention.

    Vaswani et al. (2017), section 3.2.2. Weights are laid out as in ``torch.nn.MultiheadAttention`` (one
    projection per role), so they copy both ways with :meth:`load_from_torch`.

    Shapes:
        query ``(B, T, D)``; memory ``(B, S, D)``; mask broadcasts to ``(B, T, S)``; output ``(B, T, D)``;
        weights ``(B, N, T, S)``.

    Args:
        size: D.
        heads: N; must divide D.
        dropout: of the weights, in training.
        bias: of all four projections.
        rotary: turn queries and keys by their positions (:class:`RotaryPositions`); for self-attention.

    Raises:
        ValueError: if the heads do not divide the size.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        if size % heads:
            raise ValueError(f"expected heads that divide the size, got {size=} and {heads=}")
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query_projection = nn.Linear(size, size, bias=bias)
        self.key_projection = nn.Linear(size, size, bias=bias)
        self.value_projection = nn.Linear(size, size, bias=bias)
        self.output_projection = nn.Linear(size, size, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections from Glorot's uniform distribution; biases are zero."""
        for projection in self.children():
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """Give each head its part of the features: ``(B, T, D)`` becomes ``(B, N, T, E)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """Set the heads side by side again: ``(B, N, T, E)`` becomes ``(B, T, D)``."""
        return x.transpose(1, 2).flatten(-2)

    def keys_and_values(self, memory: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """Project what is looked at, once for all queries to come: the content of a cache.

        Shapes:
            memory ``(B, S, D)``; results ``(B, N, S, E)``.

        Args:
            memory: what is looked at.
            start: position of its first entry, for rotary positions.
        """
        key = self.split_heads(self.key_projection(memory))
        key = key if self.rotary is None else self.rotary(key, start)
        return key, self.split_heads(self.value_projection(memory))

    def forward(
        self,
        query: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Look from each query at the memory, or at the other queries.

        Args:
            query: what looks.
            memory: what is looked at; the queries themselves if left out.
            mask: True where a query may look.
            need_weights: take the readable path and return the weights of every head.

        Raises:
            ValueError: if the shapes do not fit each other.
            TypeError: if the mask is not boolean.
        """
        key, value = self.keys_and_values(query if memory is None else memory)
        return self.look(query, key, value, mask, need_weights)

    def look(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        need_weights: bool = False,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """Look at keys and values that are projected already; ``start`` is the position of the first query.

        Shapes:
            query ``(B, T, D)``; key and value ``(B, N, S, E)``; mask broadcasts to ``(B, T, S)``.
        """
        q = self.split_heads(self.query_projection(query))
        q = q if self.rotary is None else self.rotary(q, start)
        mask = mask if mask is None or mask.dim() < 3 else mask[:, None]  # the same for every head
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            output, weights = attend(q, key, value, mask, dropout)
        else:
            output, weights = attend_fused(q, key, value, mask, dropout), None
        return self.output_projection(self.merge_heads(output)), weights

    def load_from_torch(self, theirs: nn.MultiheadAttention) -> None:
        """Copy the weights of a ``torch.nn.MultiheadAttention`` of the same size and heads.

        Raises:
            ValueError: if sizes or heads differ.
        """
        size = self.output_projection.out_features
        if theirs.embed_dim != size or theirs.num_heads != self.heads:
            raise ValueError(
                f"expected {size} features in {self.heads} heads, "
                f"got {theirs.embed_dim} in {theirs.num_heads}"
            )
        ours = (self.query_projection, self.key_projection, self.value_projection)
        with torch.no_grad():
            for projection, weight in zip(ours, theirs.in_proj_weight.chunk(3), strict=True):
                projection.weight.copy_(weight)
            self.output_projection.weight.copy_(theirs.out_proj.weight)
            if theirs.in_proj_bias is not None:
                for projection, bias in zip(ours, theirs.in_proj_bias.chunk(3), strict=True):
                    projection.bias.copy_(bias)
                self.output_projection.bias.copy_(theirs.out_proj.bias)


# --- positions -------------------------------------------------------------------------------------------


def sinusoids(length: int, size: int, base: float = 10_000.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sines and cosines of falling frequency, alternating: one row per position.

    Vaswani et al. (2017), section 3.5.

    Shapes:
        result ``(T, D)``; column 2i holds sin(t / base^(2i/D)), column 2i + 1 the cosine.

    Raises:
        ValueError: if the size is odd.
    """
    if size % 2:
        raise ValueError(f"expected an even size, a sine and a cosine per frequency, got {size}")
    angles = rotary_angles(length, size, base)  # (T, D/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(dtype)


def rotary_angles(length: int, size: int, base: float = 10_000.0, start: int = 0) -> Tensor:
    """The angle of each position for each pair of features: ``t / base^(2i/D)``, ``(T, D/2)``, float64."""
    position = torch.arange(start, start + length, dtype=torch.float64)
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return position[:, None] * frequency


class _Table(nn.Module):
    """Rows that depend on the position alone: computed once, kept in the type and on the device of use.

    Not a buffer: a model turned to float64 would get the float32 rows with zeros behind them.
    """

    _rows: Tensor | None = None

    def compute(self, length: int, size: int, dtype: torch.dtype) -> Tensor:
        """Return the rows of the first positions, ``(T, size)``."""
        raise NotImplementedError

    def rows(self, start: int, end: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the rows of these positions, ``(end - start, size)``."""
        kept = self._rows
        known = kept is not None and (kept.dtype, kept.device, kept.shape[1]) == (dtype, device, size)
        if not known or len(kept) < end:
            kept = self._rows = self.compute(max(64, 2 * end), size, dtype).to(device)
        return kept[start:end]


class SinusoidalPositions(_Table):
    """Add :func:`sinusoids` to the input: any position has a code, nothing is learned.

    Shapes:
        x ``(B, T, D)``; result the same.

    Args:
        size: D, even.

    Raises:
        ValueError: if the size is odd.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        sinusoids(1, size)  # an odd size is an error here and not at the first input

    def compute(self, length: int, size: int, dtype: torch.dtype) -> Tensor:
        """Return the sinusoids of the first positions."""
        return sinusoids(length, size, dtype=dtype)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the codes of the positions from ``start`` on."""
        return x + self.rows(start, start + x.shape[1], self.size, x.dtype, x.device)


class LearnedPositions(nn.Module):
    """Add a learned vector per position; a position beyond the table is an error: it was never learned.

    Gehring et al. (2017), Convolutional Sequence to Sequence Learning; used by BERT and GPT-2.

    Shapes:
        x ``(B, T, D)``; result the same.

    Args:
        size: D.
        max_length: how many positions there are.
        std: standard deviation of the vectors at the start; GPT-2's by default, for embeddings as small.
    """

    def __init__(self, size: int, max_length: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = nn.Embedding(max_length, size)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the codes of the positions from ``start`` on.

        Raises:
            ValueError: if the sequence is longer than the table.
        """
        end = start + x.shape[1]
        if end > self.table.num_embeddings:
            raise ValueError(f"expected at most {self.table.num_embeddings} positions, got {end}")
        return x + self.table.weight[start:end]


class RotaryPositions(_Table):
    """Turn pairs of features by an angle that grows with the position.

    The product of a turned query and a turned key depends on the distance of their positions only.
    Su et al. (2021), RoFormer, equation 34: features 2i and 2i + 1 form a pair.

    Shapes:
        x ``(..., T, E)``, E even; result the same.

    Args:
        base: the wavelengths run from 2 pi to 2 pi times ``base``.
    """

    def __init__(self, base: float = 10_000.0) -> None:
        super().__init__()
        self.base = base

    def compute(self, length: int, size: int, dtype: torch.dtype) -> Tensor:
        """Return sines and cosines of the first positions, alternating."""
        return sinusoids(length, size, self.base, dtype)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn by the angles of the positions from ``start`` on.

        Raises:
            ValueError: if the number of features is odd.
        """
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision could not tell far positions
        rows = self.rows(start, start + x.shape[-2], x.shape[-1], exact, x.device)
        sine, cosine = rows[:, 0::2], rows[:, 1::2]  # (T, E/2)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return turned.flatten(-2).to(x.dtype)
