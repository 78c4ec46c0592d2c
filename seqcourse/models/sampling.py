"""Choosing the next token from logits: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude all but the k most probable tokens; among equals the first ones stay.

    Fan et al. (2018), Hierarchical Neural Story Generation, section 5.4.

    Shapes:
        logits (..., V), unchanged where kept, -inf elsewhere.
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)
    excluded = torch.ones_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], False)
    return logits.masked_fill(excluded, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Exclude the tail: keep the fewest most probable tokens that together have at least probability p.

    Holtzman et al. (2020), The Curious Case of Neural Text Degeneration, section 3.1.

    Shapes:
        logits (..., V), unchanged where kept, -inf elsewhere.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # of the tokens ahead; 0 for the first, which stays
    late = before >= p
    late[..., 0] = False
    return logits.masked_fill(late.scatter(-1, order, late), -torch.inf)


def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Turn logits into the distribution that is sampled from: temperature first, then top-k, then top-p.

    Shapes:
        logits (..., V); returns (..., V), adds up to one.

    Args:
        logits: of the next token.
        temperature: above 1 flattens, below 1 sharpens, 0 leaves the most probable token alone (greedy).
        top_k: how many tokens may be drawn.
        top_p: how much probability they have together.
    """
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return logits.softmax(dim=-1)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Say clearly which of the sampling options is out of range.

    Raises:
        ValueError: if temperature is negative, top_k below 1, or top_p outside (0, 1].
    """
    if temperature < 0:
        raise ValueError(f"expected temperature of at least 0 (0 is greedy), got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k of at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"expected top_p in (0, 1], got {top_p}")
