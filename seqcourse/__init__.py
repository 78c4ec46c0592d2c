"""Readable, GPU-ready sequence models: from a vanilla RNN through LSTM and GRU to the Transformer."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> module. Loaded on first use, so that `import seqcourse` costs nothing.
_LAZY = {
    "setup_cpu": "runtime",
    "seed_everything": "runtime",
    "RNNCell": "cells",
    "LSTMCell": "cells",
    "GRUCell": "cells",
    "MinGRUCell": "cells",
    "ConvLSTMCell": "cells",
    "Recurrent": "recurrent",
    "RNN": "recurrent",
    "LSTM": "recurrent",
    "GRU": "recurrent",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'seqcourse' has no attribute {name!r}")
    return getattr(importlib.import_module(f"seqcourse.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
