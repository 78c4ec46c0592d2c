"""Tokens as vectors that know their position: what every Transformer of the course reads."""

from __future__ import annotations

import math

from torch import Tensor, nn

from seqcourse.attention import LearnedPositions, RotaryPositions, SinusoidalPositions

POSITIONS = ("sinusoidal", "learned", "rotary", "none")


class TokenEmbedding(nn.Module):
    """Embed tokens, multiply by the root of D, add positions, drop out.

    Vaswani et al. (2017), sections 3.4 and 3.5. Weights start as N(0, 1/D), so that a feature has variance 1
    after the multiplication; where they are the output's weights as well, so have logits, but for that of the
    token just read. Learned positions start with the standard deviation of the sinusoids, 1/sqrt(2).

    Shapes:
        tokens ``(B, T)``; result ``(B, T, D)``.

    Args:
        vocabulary_size: V.
        size: D.
        positions: ``"sinusoidal"``, ``"learned"``, or one that adds nothing: ``"rotary"`` (see
            :func:`rotary`), ``"none"``.
        dropout: of the sum.
        max_length: how many positions can be learned.

    Raises:
        ValueError: if ``positions`` is unknown, or ``size`` odd for sinusoids.
    """

    def __init__(
        self, vocabulary_size: int, size: int, positions: str, dropout: float = 0.0, max_length: int = 512
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"expected positions to be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.size = size
        self.embedding = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        self.positions = None
        if positions == "sinusoidal":
            self.positions = SinusoidalPositions(size)
        elif positions == "learned":
            self.positions = LearnedPositions(size, max_length, std=0.5**0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Embed tokens that stand at the positions from ``start`` on."""
        x = math.sqrt(self.size) * self.embedding(tokens)  # (B, T) -> (B, T, D)
        return self.dropout(x if self.positions is None else self.positions(x, start))


def rotary(positions: str, size: int, heads: int) -> RotaryPositions | None:
    """Return what turns queries and keys where positions are ``"rotary"``, otherwise None.

    Raises:
        ValueError: if a head has an odd number of features, which do not form pairs.
    """
    if positions != "rotary":
        return None
    if size % heads == 0 and size // heads % 2:
        raise ValueError(f"expected an even number of features per head for rotary, got {size // heads}")
    return RotaryPositions()
