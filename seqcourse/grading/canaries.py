"""Tests that must fail. If one passes, the submission has tampered with what decides about marks."""

from __future__ import annotations

import random


def canary() -> list[str]:
    """A few failing tests of different kinds, with new numbers every time."""
    a, b = random.uniform(0, 1), random.uniform(2, 3)
    n = random.randrange(2, 6)
    tensors = f"_torch.full(({n},), {a}), _torch.full(({n},), {b})"
    checks = "import torch as _torch, seqcourse.checks as _checks"
    return [
        f"assert {a} == {b}",
        f"assert abs({a} - {b}) < 1e-6, 'off'",
        f"assert all(x > {b} for x in [{a}] * {n})",
        f"assert isinstance({a}, str) and len([{a}]) == {n}",
        f"raise AssertionError('expected {a}')",
        f"import torch as _torch\nassert _torch.allclose({tensors})",
        f"import torch as _torch\nassert _torch.equal({tensors})",
        f"import torch as _torch\n_torch.testing.assert_close({tensors})",
        f"import torch as _torch\nassert (_torch.full(({n},), {a}) == {b}).all()",
        f"{checks}\n_checks.check_close({tensors})",
        f"{checks}\n_checks.check_shape(_torch.zeros({n}), ({n + 1},))",
        f"import numpy as _numpy\n_numpy.testing.assert_allclose([{a}], [{b}])",
    ]
