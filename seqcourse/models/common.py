"""What the models share: choosing a recurrent layer, and checks of what a user passes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqcourse.recurrent import GRU, LSTM, RNN, Recurrent

LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


def make_recurrent(
    recurrent: str | Recurrent,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    dropout: float = 0.0,
    bidirectional: bool = False,
) -> Recurrent:
    """Build the named layer, or check that a ready one fits; a ready one keeps its own layers and directions.

    Raises:
        TypeError: if ``recurrent`` is neither a name nor a Recurrent module.
        ValueError: if the name is unknown, or a ready module has other sizes.
    """
    if isinstance(recurrent, Recurrent):
        sizes = (recurrent.input_size, recurrent.hidden_size)
        if sizes != (input_size, hidden_size):
            raise ValueError(
                f"expected a recurrent module with input_size {input_size} and hidden_size {hidden_size}, "
                f"got {sizes[0]} and {sizes[1]}"
            )
        return recurrent
    if not isinstance(recurrent, str):
        raise TypeError(f"expected 'rnn', 'lstm', 'gru' or a Recurrent, got {type(recurrent).__name__}")
    if recurrent not in LAYERS:
        raise ValueError(f"expected recurrent to be one of {', '.join(LAYERS)}, got {recurrent!r}")
    between = dropout if num_layers > 1 else 0.0
    return LAYERS[recurrent](
        input_size, hidden_size, num_layers, dropout=between, bidirectional=bidirectional
    )


def check_tokens(tokens: Tensor, vocabulary_size: int) -> None:
    """Say clearly what is wrong with a batch of token ids.

    Shapes:
        tokens (B, T).

    Raises:
        TypeError: if they are not an integer tensor.
        ValueError: if the shape is not (B, T), nothing is in it, or an id is outside the vocabulary.
    """
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool:
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"expected token ids as an integer tensor (B, T), got {kind}")
    if tokens.dim() != 2:
        raise ValueError(
            f"expected token ids (B, T), got shape {tuple(tokens.shape)}; for one sequence, unsqueeze(0)"
        )
    if tokens.numel() == 0:
        raise ValueError(f"expected at least one sequence and one token, got shape {tuple(tokens.shape)}")
    low, high = torch.stack(tokens.aminmax()).tolist()  # one transfer from the device
    if low < 0 or high >= vocabulary_size:
        wrong = low if low < 0 else high
        raise ValueError(
            f"token id {wrong} is outside the vocabulary 0 .. {vocabulary_size - 1}; was the text encoded by "
            "another tokeniser than the one vocabulary_size was taken from?"
        )


def lengths_from_padding(tokens: Tensor, pad_id: int) -> Tensor:
    """Count each sequence up to its last token that is not padding, at least one.

    Shapes:
        tokens (B, T); returns (B,).
    """
    positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return (positions * (tokens != pad_id)).amax(dim=1).clamp(min=1)  # (B, T) -> (B,)


def labelled(batch: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """Take tokens, lengths and labels out of a batch: a ``Batch``, or a tuple of two or three.

    Raises:
        ValueError: if there are no labels.
    """
    parts = batch if isinstance(batch, tuple | list) else (batch.tokens, batch.lengths, batch.labels)
    if len(parts) not in (2, 3) or parts[-1] is None:
        raise ValueError(
            "expected a batch with labels: (tokens, labels), (tokens, lengths, labels), or a Batch whose "
            "examples were pairs (sequence, label)"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]
