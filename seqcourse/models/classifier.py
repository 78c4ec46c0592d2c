"""One label for a whole text: is this review good or bad?"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.data.batching import mask_from_lengths
from seqcourse.models.common import check_tokens, labelled, lengths_from_padding, make_recurrent
from seqcourse.models.pooling import AttentionPooling, last_state, max_over_time, mean_over_time
from seqcourse.recurrent import Recurrent

POOLINGS = ("last", "mean", "max", "attention")


class Classifier(nn.Module):
    """What classifiers of texts share; a subclass gives ``forward(tokens, lengths=None)``, logits (B, K)."""

    def loss(self, batch: Any) -> Tensor:
        """Return the mean cross-entropy of a labelled batch."""
        tokens, lengths, labels = labelled(batch)
        return F.cross_entropy(self(tokens, lengths), labels)

    def predict(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the most probable class of each text, (B,)."""
        return self(tokens, lengths).argmax(dim=1)


class TextClassifier(Classifier):
    """Embed the tokens, read them with a recurrent layer, pool over time, classify.

    Shapes:
        tokens (B, T), lengths (B,); returns logits (B, K).

    Args:
        vocabulary_size: V.
        embedding_size: features per token.
        hidden_size: H.
        classes: K.
        recurrent: ``"rnn"``, ``"lstm"``, ``"gru"`` or a ready :class:`~seqcourse.recurrent.Recurrent`.
        pooling: what stands for the whole text: ``"last"`` state, ``"mean"`` or ``"max"`` over time, or
            ``"attention"``.
        bidirectional: read backwards too.
        num_layers: L.
        dropout: of embeddings, between layers, and of the pooled features.
        pad_id: the id of padding.

    Raises:
        ValueError: if ``pooling`` or ``recurrent`` is unknown, or a ready module does not fit.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        classes: int = 2,
        recurrent: str | Recurrent = "lstm",
        pooling: str = "last",
        bidirectional: bool = False,
        num_layers: int = 1,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"expected pooling to be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.vocabulary_size, self.pooling, self.pad_id = vocabulary_size, pooling, pad_id
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=pad_id)
        self.recurrent = make_recurrent(
            recurrent, embedding_size, hidden_size, num_layers, dropout, bidirectional
        )
        features = self.recurrent.output_size
        self.attention = AttentionPooling(features) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits of the classes.

        Args:
            tokens: ids, padded at the end.
            lengths: real tokens per text; by default everything up to the last token that is not ``pad_id``.

        Raises:
            TypeError: if tokens or lengths are not integer tensors.
            ValueError: if a shape, an id or a length does not fit.
        """
        output, state, mask = self._read(tokens, lengths)
        if self.pooling == "last":
            pooled = last_state(state, self.recurrent.directions)  # (B, H)
        else:
            pool = {"mean": mean_over_time, "max": max_over_time, "attention": self.attention}[self.pooling]
            pooled = pool(output, mask)  # (B, T, H) -> (B, H)
        return self.head(self.dropout(pooled))  # (B, K)

    def attention_weights(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return how much each token counts for its text.

        Shapes:
            tokens (B, T), lengths (B,); returns (B, T), zero at padding, each row adds up to one.

        Raises:
            ValueError: if the model does not pool by attention.
        """
        if self.attention is None:
            raise ValueError(f"expected pooling='attention', this model has pooling={self.pooling!r}")
        output, _, mask = self._read(tokens, lengths)
        return self.attention.weights(output, mask)

    def _read(self, tokens: Tensor, lengths: Tensor | None) -> tuple[Tensor, Any, Tensor]:
        check_tokens(tokens, self.vocabulary_size)
        lengths = lengths_from_padding(tokens, self.pad_id) if lengths is None else lengths
        embedded = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, D)
        output, state = self.recurrent(embedded, lengths=lengths)  # (B, T, H)
        return output, state, mask_from_lengths(lengths, tokens.shape[1])
