"""From the past of a series to its next values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.attention import LearnedPositions
from seqcourse.models.common import make_recurrent
from seqcourse.models.pooling import last_state
from seqcourse.recurrent import Recurrent
from seqcourse.transformer import Encoder


class Forecaster(nn.Module):
    """Read a window of a series and forecast the values that follow it.

    Shapes:
        x (B, T, D), lengths (B,); returns (B, horizon).

    Args:
        input_size: D.
        hidden_size: H.
        recurrent: ``"rnn"``, ``"lstm"``, ``"gru"`` or a ready :class:`~seqcourse.recurrent.Recurrent`.
        horizon: how many steps to forecast.
        num_layers: L.
        dropout: between layers, and of the final state.
        strategy: ``"direct"`` forecasts all steps at once; ``"recursive"`` one at a time, each read as the
            next input (needs D = 1).
        residual: forecast the change from the last value, so that an untrained model is close to persistence.
        target: the feature to forecast.

    Raises:
        ValueError: if sizes, strategy, target or the recurrent layer do not fit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrent: str | Recurrent = "lstm",
        horizon: int = 1,
        num_layers: int = 1,
        dropout: float = 0.0,
        strategy: str = "direct",
        residual: bool = False,
        target: int = 0,
    ) -> None:
        super().__init__()
        _check_options(input_size, horizon, strategy, target)
        self.horizon, self.strategy, self.residual, self.target = horizon, strategy, residual, target
        self.recurrent = make_recurrent(recurrent, input_size, hidden_size, num_layers, dropout)
        if strategy == "recursive" and self.recurrent.bidirectional:
            raise ValueError("expected one direction for strategy 'recursive', which goes on step by step")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.recurrent.output_size, horizon if strategy == "direct" else 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the forecast.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if a shape or a length does not fit.
        """
        _, state = self.recurrent(x, lengths=lengths)
        last_value = self._last_value(x, lengths)  # (B, 1)
        forecast = self._read_out(state, last_value)  # (B, horizon), or (B, 1)
        if self.strategy == "direct":
            return forecast
        forecasts = [forecast]
        for _ in range(self.horizon - 1):
            _, state = self.recurrent(forecasts[-1].unsqueeze(2), state)  # reads (B, 1, 1)
            forecasts.append(self._read_out(state, forecasts[-1]))
        return torch.cat(forecasts, dim=1)  # (B, horizon)

    def _read_out(self, state: Any, last_value: Tensor) -> Tensor:
        change = self.head(self.dropout(last_state(state, self.recurrent.directions)))
        return last_value + change if self.residual else change

    def _last_value(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        series = x[:, :, self.target]  # (B, T)
        return series[:, -1:] if lengths is None else series.gather(1, lengths.to(x.device)[:, None] - 1)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean squared error of a batch (inputs (B, T, D), targets (B, horizon), ...)."""
        inputs, targets = batch[0], batch[1]
        if targets.shape != (len(inputs), self.horizon):
            raise ValueError(
                f"expected targets (B, horizon) = {(len(inputs), self.horizon)}, got {tuple(targets.shape)}"
            )
        return F.mse_loss(self(inputs), targets)


class TransformerForecaster(nn.Module):
    """Read a window of a series with a Transformer encoder; forecast from its last position.

    Shapes:
        x (B, T, D); returns (B, horizon).

    Args:
        input_size: D.
        size: features of the encoder.
        heads: N; must divide the size.
        layers: number of blocks.
        horizon: how many steps to forecast, all at once.
        dropout: within the encoder.
        max_length: the longest window, for the learned positions.

    Raises:
        ValueError: if the heads do not divide the size.
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        heads: int = 4,
        layers: int = 1,
        horizon: int = 1,
        dropout: float = 0.0,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, size)
        self.positions = LearnedPositions(size, max_length)
        self.encoder = Encoder(size, heads, layers, dropout=dropout)
        self.head = nn.Linear(size, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast.

        Raises:
            ValueError: if the window is longer than ``max_length``.
        """
        return self.head(self.encoder(self.positions(self.projection(x)))[:, -1])  # (B, horizon)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean squared error of a batch (inputs (B, T, D), targets (B, horizon), ...)."""
        return F.mse_loss(self(batch[0]), batch[1])


def _check_options(input_size: int, horizon: int, strategy: str, target: int) -> None:
    if horizon < 1:
        raise ValueError(f"expected horizon of at least 1, got {horizon}")
    if strategy not in ("direct", "recursive"):
        raise ValueError(f"expected strategy 'direct' or 'recursive', got {strategy!r}")
    if strategy == "recursive" and input_size != 1:
        raise ValueError(
            f"strategy 'recursive' reads its own forecasts, so it needs input_size 1; got {input_size}"
        )
    if not 0 <= target < input_size:
        raise ValueError(f"expected target to be a feature 0 .. {input_size - 1}, got {target}")
