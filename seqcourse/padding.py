"""Sequences of different lengths in one tensor: masks, and what must not depend on the padding.

Shapes everywhere: x ``(B, T, ...)``, lengths ``(B,)``, the number of valid steps of each sequence. ``None``
instead of lengths stands for "nothing is padded".
"""

from __future__ import annotations

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, T: int) -> Tensor:
    """Return ``(B, T)``, true where a step lies behind the end of its sequence."""
    return torch.arange(T, device=lengths.device) >= lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Set padded steps to zero, also where NaN stands in them."""
    if lengths is None:
        return x
    mask = padding_mask(lengths, x.shape[1])
    return x.masked_fill(mask.view(*mask.shape, *[1] * (x.dim() - 2)), 0)


def hide_padding(x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Zero the padding; lengths come back on the device of ``x``, or ``None`` where nothing is padded."""
    if lengths is None or int(lengths.min()) == x.shape[1]:
        return x, None
    lengths = lengths.to(x.device)
    return zero_padding(x, lengths), lengths


def reverse(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse each sequence within its own length; its padding stays behind it."""
    if lengths is None:
        return x.flip(1)
    B, T = x.shape[:2]
    t = torch.arange(T, device=x.device)
    source = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)  # (B, T)
    rows = source + T * torch.arange(B, device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, rows.flatten()).view_as(x)


def last_valid(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return each sequence's last valid step, ``(B, ...)``."""
    if lengths is None:
        return x[:, -1]
    return x[torch.arange(x.shape[0], device=x.device), lengths - 1]


def check_lengths(lengths: Tensor, B: int, T: int) -> None:
    """Say clearly what is wrong with lengths.

    Raises:
        TypeError: if they are not an integer tensor.
        ValueError: if there is not one per sequence, or one lies outside 1 to T.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"expected lengths as an integer tensor (B,), got {kind}; from a mask: mask.sum(1)")
    if lengths.shape != (B,):
        raise ValueError(f"expected one length per sequence, shape ({B},), got shape {tuple(lengths.shape)}")
    if int(lengths.min()) < 1 or int(lengths.max()) > T:
        raise ValueError(
            f"expected lengths from 1 to T={T}, got {int(lengths.min())} to {int(lengths.max())}"
        )
