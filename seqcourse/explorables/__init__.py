"""Explorables: pictures of the course's own arithmetic that the reader can move.

On the page of the book they run in the browser alone, without a kernel; in JupyterLab they are widgets whose
values Python sees. :mod:`seqcourse.explorables.controls` has plain ipywidgets controls that drive a trained
model; those need a kernel. All of this needs the extra ``book`` (anywidget, ipywidgets).
"""

from __future__ import annotations

import importlib
from typing import Any

# Name -> module. Loaded on first use: importing seqcourse must not need anywidget.
_LAZY = {
    "AttentionMap": "attention_map",
    "Explorable": "base",
    "LSTMStep": "lstm_step",
    "RotaryScore": "rotary",
    "drive_language_model": "controls",
    "drive_lstm": "controls",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'seqcourse.explorables' has no attribute {name!r}")
    return getattr(importlib.import_module(f"seqcourse.explorables.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
