"""Shared by all tests."""

from __future__ import annotations

import torch

# Models here are small: a second thread only disturbs the other test process, and sums would differ.
torch.set_num_threads(1)
