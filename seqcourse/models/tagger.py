"""One label for each token: which words name a person, a place, an organisation?"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.data.batching import IGNORED_LABEL
from seqcourse.models.common import check_tokens, labelled, lengths_from_padding, make_recurrent
from seqcourse.recurrent import Recurrent


class SequenceTagger(nn.Module):
    """Embed the tokens, read them in both directions, classify every step.

    Shapes:
        tokens (B, T), lengths (B,); returns logits (B, T, K).

    Args:
        vocabulary_size: V.
        embedding_size: features per token.
        hidden_size: H, of one direction.
        tags: K.
        recurrent: ``"rnn"``, ``"lstm"``, ``"gru"`` or a ready :class:`~seqcourse.recurrent.Recurrent`.
        bidirectional: let a tag depend on the words to its right as well.
        num_layers: L.
        dropout: of embeddings, between layers, and of the outputs.
        pad_id: the id of padding.

    Raises:
        ValueError: if ``recurrent`` is unknown, or a ready module does not fit.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        tags: int,
        recurrent: str | Recurrent = "lstm",
        bidirectional: bool = True,
        num_layers: int = 1,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.pad_id = vocabulary_size, pad_id
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=pad_id)
        self.recurrent = make_recurrent(
            recurrent, embedding_size, hidden_size, num_layers, dropout, bidirectional
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.recurrent.output_size, tags)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits of the tags; those at padding mean nothing.

        Args:
            tokens: ids, padded at the end.
            lengths: real tokens per text; by default everything up to the last token that is not ``pad_id``.

        Raises:
            TypeError: if tokens or lengths are not integer tensors.
            ValueError: if a shape, an id or a length does not fit.
        """
        check_tokens(tokens, self.vocabulary_size)
        lengths = lengths_from_padding(tokens, self.pad_id) if lengths is None else lengths
        embedded = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, D)
        output, _ = self.recurrent(embedded, lengths=lengths)  # (B, T, H * directions)
        return self.head(self.dropout(output))  # (B, T, K)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean cross-entropy over the real tokens; padding carries the label -100."""
        tokens, lengths, labels = labelled(batch)
        return F.cross_entropy(
            self(tokens, lengths).flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL
        )

    def predict(self, tokens: Tensor, lengths: Tensor | None = None) -> list[list[int]]:
        """Return the most probable tag ids of each text, as many as it has tokens."""
        lengths = lengths_from_padding(tokens, self.pad_id) if lengths is None else lengths
        best = self(tokens, lengths).argmax(dim=2)  # (B, T)
        return [row[:length].tolist() for row, length in zip(best, lengths, strict=True)]
