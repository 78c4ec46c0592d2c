"""From one output per step to one vector per sequence. Padding never takes part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqcourse.cells import State, as_tuple


def last_state(state: State, directions: int) -> Tensor:
    """Take the top layer's final hidden state, of both directions side by side if there are two.

    Shapes:
        state (L * directions, B, H) or a pair of them; returns (B, H * directions).
    """
    hidden_state = as_tuple(state)[0]
    return torch.cat(tuple(hidden_state[-directions:]), dim=1)  # (B, H * directions)


def mean_over_time(output: Tensor, mask: Tensor) -> Tensor:
    """Average the real steps.

    Shapes:
        output (B, T, H), mask (B, T); returns (B, H).
    """
    real = mask.unsqueeze(2)  # (B, T, 1)
    return (output * real).sum(dim=1) / real.sum(dim=1)


def max_over_time(output: Tensor, mask: Tensor) -> Tensor:
    """Take each feature's largest value among the real steps.

    Shapes:
        output (B, T, H), mask (B, T); returns (B, H).
    """
    return output.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(dim=1)


class AttentionPooling(nn.Module):
    """Average the steps with learned weights, which say where the model looks.

    Yang et al. (2016), Hierarchical Attention Networks, equations 5 to 7.

    Shapes:
        output (B, T, H), mask (B, T); returns (B, H).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(size, size)
        self.query = nn.Linear(size, 1, bias=False)

    def weights(self, output: Tensor, mask: Tensor) -> Tensor:
        """Return the weight of each step: (B, T), zero at padding, each row adds up to one."""
        scores = self.query(torch.tanh(self.projection(output))).squeeze(2)  # (B, T)
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)

    def forward(self, output: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted mean over time."""
        return torch.einsum("bt,bth->bh", self.weights(output, mask), output)  # (B, H)
