"""Transformers in the places of the recurrent models: a classifier of texts and a language model."""

from __future__ import annotations

from torch import Tensor, nn

from seqcourse.attention import padding_mask
from seqcourse.models.classifier import Classifier
from seqcourse.models.common import check_tokens, lengths_from_padding
from seqcourse.models.embedding import TokenEmbedding, rotary
from seqcourse.models.language_model import NextTokenModel
from seqcourse.models.pooling import AttentionPooling, max_over_time, mean_over_time
from seqcourse.padding import check_lengths
from seqcourse.transformer import Cache, Decoder, Encoder

POOLINGS = ("mean", "max", "attention")


class TransformerClassifier(Classifier):
    """Embed the tokens, let each look at all others, pool over time, classify.

    Shapes:
        tokens (B, T), lengths (B,); returns logits (B, K).

    Args:
        vocabulary_size: V.
        size: D.
        heads: N.
        layers: number of encoder blocks.
        classes: K.
        inner_size: features between the two layers of a feed-forward network; 4 D if left out.
        pooling: what stands for the whole text: the ``"mean"`` or ``"max"`` over time, or ``"attention"``.
        dropout: of embeddings, attention weights, feed-forward layers, what each layer adds, and the pooled
            features.
        positions: ``"sinusoidal"``, ``"learned"``, ``"rotary"`` or ``"none"``.
        norm_first: pre-norm instead of post-norm.
        pad_id: the id of padding.
        max_length: how many positions can be learned.

    Raises:
        ValueError: if ``pooling`` or ``positions`` is unknown, or sizes do not fit each other.
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        heads: int,
        layers: int,
        classes: int = 2,
        inner_size: int | None = None,
        pooling: str = "mean",
        dropout: float = 0.1,
        positions: str = "sinusoidal",
        norm_first: bool = True,
        pad_id: int = 0,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"expected pooling to be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.vocabulary_size, self.pooling, self.pad_id = vocabulary_size, pooling, pad_id
        self.embedding = TokenEmbedding(vocabulary_size, size, positions, dropout, max_length)
        options = {"dropout": dropout, "norm_first": norm_first, "rotary": rotary(positions, size, heads)}
        self.encoder = Encoder(size, heads, layers, inner_size, **options)
        self.attention = AttentionPooling(size) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits of the classes.

        Args:
            tokens: ids, padded at the end.
            lengths: real tokens per text; by default everything up to the last token that is not ``pad_id``.

        Raises:
            TypeError: if tokens or lengths are not integer tensors.
            ValueError: if a shape, an id or a length does not fit.
        """
        x, mask = self._embed(tokens, lengths)
        output = self.encoder(x, mask)  # (B, T, D)
        pool = {"mean": mean_over_time, "max": max_over_time, "attention": self.attention}[self.pooling]
        return self.head(self.dropout(pool(output, mask[:, 0])))  # (B, T, D) -> (B, D) -> (B, K)

    def attention_weights(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return how much each token counts for its text.

        Shapes:
            tokens (B, T), lengths (B,); returns (B, T), zero at padding, each row adds up to one.

        Raises:
            ValueError: if the model does not pool by attention.
        """
        if self.attention is None:
            raise ValueError(f"expected pooling='attention', this model has pooling={self.pooling!r}")
        x, mask = self._embed(tokens, lengths)
        return self.attention.weights(self.encoder(x, mask), mask[:, 0])

    def attention_maps(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the self-attention of every layer and head, (B, layers, N, T, T)."""
        return self.encoder.attention_maps(*self._embed(tokens, lengths))

    def _embed(self, tokens: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the encoder reads, (B, T, D), and where it may look, (B, 1, T)."""
        check_tokens(tokens, self.vocabulary_size)
        if lengths is None:
            lengths = lengths_from_padding(tokens, self.pad_id)
        check_lengths(lengths, *tokens.shape)
        return self.embedding(tokens), padding_mask(lengths.to(tokens.device), tokens.shape[1])


class TransformerLanguageModel(NextTokenModel):
    """A decoder without a source: each token looks back at all before it, and predicts the next one.

    Radford et al. (2018), Improving Language Understanding by Generative Pre-Training; here with the choices
    of :mod:`seqcourse.transformer`. The state is a key-value cache, so text is generated reading each token once.
    It grows with the text: train with the model's own ``loss``, where every batch starts anew, and not with
    :class:`~seqcourse.models.language_model.StreamLoss`.

    Shapes:
        tokens (B, T); returns logits (B, T, V) and the cache of all positions so far.

    Args:
        vocabulary_size: V.
        size: D.
        heads: N.
        layers: number of decoder blocks.
        inner_size: features between the two layers of a feed-forward network; 4 D if left out.
        dropout: of embeddings, attention weights, feed-forward layers, and what each layer adds.
        positions: ``"sinusoidal"``, ``"learned"``, ``"rotary"`` or ``"none"``.
        norm_first: pre-norm instead of post-norm.
        tie_weights: the embedding is the output projection too (Press & Wolf 2017).
        activation: of the feed-forward networks, ``"gelu"`` or ``"relu"``.
        max_length: how many positions can be learned.

    Raises:
        ValueError: if ``positions`` or ``activation`` is unknown, or sizes do not fit each other.
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        heads: int,
        layers: int,
        inner_size: int | None = None,
        dropout: float = 0.1,
        positions: str = "sinusoidal",
        norm_first: bool = True,
        tie_weights: bool = True,
        activation: str = "gelu",
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length if positions == "learned" else None
        self.embedding = TokenEmbedding(vocabulary_size, size, positions, dropout, max_length)
        options = {"dropout": dropout, "norm_first": norm_first, "activation": activation}
        options |= {"rotary": rotary(positions, size, heads), "cross": False}
        self.decoder = Decoder(size, heads, layers, inner_size, **options)
        self.head = nn.Linear(size, vocabulary_size)
        if tie_weights:
            self.head.weight = self.embedding.embedding.weight

    def forward(self, tokens: Tensor, state: Cache | None = None) -> tuple[Tensor, Cache]:
        """Return the logits of the token after each token, and the cache to go on from.

        Args:
            tokens: ids; with a state, the new ones only.
            state: the cache of what was read before; it stays as it is.

        Raises:
            TypeError: if tokens are not an integer tensor.
            ValueError: if a shape or an id does not fit, or there are more positions than were learned.
        """
        check_tokens(tokens, self.vocabulary_size)
        cache = Cache() if state is None else state.copy()
        x = self.embedding(tokens, start=cache.length)  # (B, T, D)
        return self.head(self.decoder(x, cache=cache)), cache  # (B, T, V)
