"""A small exercise in a course of its own, for the tests of writing, releasing and grading."""

from __future__ import annotations

from pathlib import Path

NAME = "01-toy"
CONFIG = Path(__file__).parents[1] / "nbgrader_config.py"

SOURCE = '''---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
points: 19
---

# A toy

Double a tensor, then sum it up step by step.

```{code-cell} ipython3
:role: demo

import sys
```

```{code-cell} ipython3
import torch

from seqcourse.checks import check_close, check_shape

x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])
```

```{code-cell} ipython3
:role: answer
:name: toy-double

def double(x):
    """Twice x, of any shape."""
    ### BEGIN SOLUTION
    doubled = 2 * x
    return doubled
    ### END SOLUTION
```

```{code-cell} ipython3
:role: test
:name: toy-double-shape
:points: 1

check_shape(double(x), (2, 3))
```

```{code-cell} ipython3
:role: test
:name: toy-double-values
:points: 2
:timeout: 20

check_close(double(x), [[2.0, -4.0, 1.0], [6.0, 0.5, -2.0]])
```

```{code-cell} ipython3
:role: test
:name: toy-double-zero
:points: 1

check_close(double(torch.zeros(4)), torch.zeros(4))
```

```{code-cell} ipython3
:role: hidden
:name: toy-double-hidden
:points: 3
:hint: "a scalar has no dimension at all"

# A tensor without dimensions.
doubled_scalar = double(torch.tensor(3.0))
### BEGIN HIDDEN TESTS
check_close(doubled_scalar, 6.0, "twice the scalar")
### END HIDDEN TESTS
```

## Running sums

```{code-cell} ipython3
:role: answer
:name: toy-sums

class Sums:
    """Running sums over time: x (B, T) gives (B, T)."""

    def __call__(self, x):
        ### BEGIN SOLUTION
        return torch.cumsum(x, dim=1)
        ### END SOLUTION
```

```{code-cell} ipython3
summed = Sums()(x)
```

```{code-cell} ipython3
:role: test
:name: toy-sums-shape
:points: 1

check_shape(summed, (2, 3))
```

```{code-cell} ipython3
:role: test
:name: toy-sums-first
:points: 1

check_close(summed[:, 0], x[:, 0], "first step")
```

```{code-cell} ipython3
:role: test
:name: toy-sums-last
:points: 2

check_close(summed[:, -1], [-0.5, 2.25], "last step")
```

```{code-cell} ipython3
:role: hidden
:name: toy-sums-hidden
:points: 2
:hint: "one step is a sequence too"

# A sequence of one step.
one = Sums()(torch.ones(2, 1))
### BEGIN HIDDEN TESTS
check_close(one, [[1.0], [1.0]], "sum of one step")
### END HIDDEN TESTS
```

```{code-cell} ipython3
:role: hidden
:name: toy-sums-batch
:points: 3
:hint: "rows do not see each other"

# Rows one by one and together.
together = Sums()(torch.arange(12.0).reshape(3, 4))
### BEGIN HIDDEN TESTS
check_close(together[1], [4.0, 9.0, 15.0, 22.0], "sums of the second row")
### END HIDDEN TESTS
```

A good answer names the order of the steps (2) and gives an example (1).

+++ {"role": "written", "name": "toy-why", "points": 3}

Why does the order matter?

<!-- BEGIN SOLUTION -->
Each sum needs the one before it: with 1, 2 the sums are 1, 3.
<!-- END SOLUTION -->
'''


def toy_course(folder: Path, source: str = SOURCE) -> Path:
    """A course with this one exercise and the project's own nbgrader configuration."""
    (folder / "solutions").mkdir(parents=True)
    (folder / "nbgrader_config.py").write_text(CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "solutions" / f"{NAME}.md").write_text(source, encoding="utf-8")
    return folder
