"""Reading answers before they run."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from seqcourse.grading.suspicion import suspicions


def test_what_no_exercise_needs_is_named_with_its_line():
    source = "import torch\nimport ctypes\nfrom os import path\ntorch.allclose = None\nx.f_back\n"
    found = suspicions(source)
    for what, line in (("import ctypes", 2), ("from os", 3), ("torch.allclose = ...", 4), (".f_back", 5)):
        assert any(what in remark and f"line {line} " in remark for remark in found), (what, found)


def test_ordinary_answers_and_empty_ones_are_not_remarked():
    assert suspicions("import torch\n\ndef step(x, h):\n    return torch.tanh(x + h)\n") == []
    assert suspicions("") == [] == suspicions("  \n")


def test_what_is_not_python_is_remarked():
    assert suspicions("%timeit 1") == ["suspicious: an answer is not plain Python"]


@pytest.fixture
def threads_change_while_trees_are_built() -> Iterator[None]:
    """A collection of garbage in the middle of it lets another thread run, as a busy grader's does by chance."""
    thresholds, switch = gc.get_threshold(), lambda phase, info: time.sleep(0)
    gc.set_threshold(100)
    gc.callbacks.append(switch)
    yield
    gc.callbacks.remove(switch)
    gc.set_threshold(*thresholds)


def test_many_threads_read_at_once(threads_change_while_trees_are_built):
    nested = "\n".join(f"x{i} = {'-' * 40}{i} + [{', '.join('y' * 30)}][0]" for i in range(20))
    with ThreadPoolExecutor(4) as pool:
        assert all(found == [] for found in pool.map(suspicions, [nested] * 20))
