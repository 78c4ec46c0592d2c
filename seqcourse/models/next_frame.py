"""What will the next picture show? Moving images and a convolutional LSTM."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.cells import ConvLSTMCell, State
from seqcourse.recurrent import Recurrent


class NextFramePredictor(nn.Module):
    """Read frames with a ConvLSTM and predict, after each, the one that follows.

    Shi et al. (2015), Convolutional LSTM Network.

    Shapes:
        frames (B, T, C, height, width) in 0 .. 1; returns logits of the same shape, position t for frame t +
        1.

    Args:
        channels: C.
        hidden_channels: of each layer's states.
        kernel_size: odd.
        num_layers: L.
        recurrent: a ready :class:`~seqcourse.recurrent.Recurrent` of ConvLSTM cells, instead of the three
            above.

    Raises:
        ValueError: if a ready module does not fit ``channels``, or sees the future.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_channels: int = 16,
        kernel_size: int = 3,
        num_layers: int = 1,
        recurrent: Recurrent | None = None,
    ) -> None:
        super().__init__()
        self.recurrent = recurrent or Recurrent(
            lambda size: ConvLSTMCell(size, hidden_channels, kernel_size), num_layers, input_size=channels
        )
        if self.recurrent.input_size != channels or self.recurrent.bidirectional:
            raise ValueError(
                f"expected a one-directional recurrent module over {channels} channels, got "
                f"{self.recurrent.input_size} channels and bidirectional={self.recurrent.bidirectional}"
            )
        self.head = nn.Conv2d(self.recurrent.output_size, channels, kernel_size, padding="same")

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits of each next frame's pixels, and the state to go on from.

        Raises:
            TypeError: if frames are not a floating-point tensor.
            ValueError: if a shape does not fit.
        """
        output, state = self.recurrent(frames, state)  # (B, T, hidden, height, width)
        logits = self.head(output.flatten(0, 1)).unflatten(0, output.shape[:2])  # (B, T, C, height, width)
        return logits, state

    def loss(self, batch: Any) -> Tensor:
        """Return the mean binary cross-entropy of all frames but the first (in a tuple they come first).

        Raises:
            ValueError: if there are fewer than two frames.
        """
        frames = batch[0] if isinstance(batch, tuple | list) else batch
        if frames.dim() == 5 and frames.shape[1] < 2:
            raise ValueError(f"expected at least 2 frames to predict one, got shape {tuple(frames.shape)}")
        logits, _ = self(frames[:, :-1])
        return F.binary_cross_entropy_with_logits(logits, frames[:, 1:])

    @torch.no_grad()
    def forecast(self, frames: Tensor, steps: int) -> Tensor:
        """Go on after the last frame, reading each predicted frame as the next input.

        Shapes:
            frames (B, T, C, height, width); returns (B, steps, C, height, width) in 0 .. 1.

        Raises:
            ValueError: if ``steps`` is below 1.
        """
        if steps < 1:
            raise ValueError(f"expected at least 1 step, got {steps}")
        logits, state = self(frames)
        predicted = [logits[:, -1:].sigmoid()]
        for _ in range(steps - 1):
            logits, state = self(predicted[-1], state)
            predicted.append(logits.sigmoid())
        return torch.cat(predicted, dim=1)
