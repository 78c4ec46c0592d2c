"""Data: real data sets with pinned hashes, and generated stand-ins that say what they are."""

from __future__ import annotations

import importlib
from typing import Any

# Name -> module. Loaded on first use, so that `seqcourse data list` imports no torch.
_LAZY = {
    "DataUnavailable": "source",
    "GeneratedDataWarning": "source",
    "Source": "source",
    "load_tinyshakespeare": "text",
    "load_shakespeare": "text",
    "load_imdb": "text",
    "load_wikitext2": "text",
    "load_multi30k": "parallel",
    "load_tatoeba": "parallel",
    "load_wnut17": "tagged",
    "load_wikiann": "tagged",
    "load_wikigold": "tagged",
    "load_sp500": "series",
    "load_nab": "series",
    "load_physionet2012": "series",
    "load_japanese_vowels": "series",
    "load_mnist_digits": "images",
    "load_moving_digits": "images",
    "load_spoken_digits": "audio",
    "load_scitldr": "documents",
    "load_sgd": "documents",
}

# The rest has its place in `seqcourse.data.source`.
__all__ = [name for name in _LAZY if name.startswith("load_")]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'seqcourse.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"seqcourse.data.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_LAZY)
