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


MUTANTS = {
    "toy-double": """answer = "toy-double"
[[wrong]]
name = "three times"
replace = ["2 * x", "3 * x"]
fails = ["toy-double-values", "toy-double-hidden"]
[[wrong]]
name = "adds two"
replace = ["2 * x", "2 + x"]
fails = ["toy-double-values", "toy-double-zero", "toy-double-hidden"]
[[wrong]]
name = "forgets to return"
replace = ["    return doubled\\n", ""]
fails = ["toy-double-shape", "toy-double-values", "toy-double-zero", "toy-double-hidden"]
[[wrong]]
name = "transposed"
code = '''
def double(x):
    return 2 * x.permute(list(range(x.dim()))[::-1])'''
fails = ["toy-double-shape", "toy-double-values"]
[[wrong]]
name = "needs at least one dimension"
code = '''
def double(x):
    return torch.stack([2 * row for row in x])'''
fails = ["toy-double-hidden"]
[[right]]
name = "sum"
replace = ["2 * x", "x + x"]
[[right]]
name = "in two steps"
code = '''
def double(x):
    y = x.clone()
    y += x
    return y'''
[[right]]
name = "in one line"
code = "def double(x): return x.mul(2)"
""",
    "toy-sums": """answer = "toy-sums"
[[wrong]]
name = "wrong axis"
replace = ["dim=1", "dim=0"]
fails = ["toy-sums-first", "toy-sums-last", "toy-sums-hidden", "toy-sums-batch"]
[[wrong]]
name = "one step late"
replace = ["torch.cumsum(x, dim=1)", "torch.cumsum(x, dim=1) - x"]
fails = ["toy-sums-first", "toy-sums-last", "toy-sums-hidden", "toy-sums-batch"]
[[wrong]]
name = "the last sum only"
replace = ["torch.cumsum(x, dim=1)", "x.sum(1)"]
fails = ["toy-sums-shape", "toy-sums-first", "toy-sums-last", "toy-sums-hidden", "toy-sums-batch"]
[[wrong]]
name = "hard-coded"
code = '''
class Sums:
    def __call__(self, x):
        return torch.tensor([[1.0, -1.0, -0.5], [3.0, 3.25, 2.25]])'''
fails = ["toy-sums-hidden", "toy-sums-batch"]
[[wrong]]
name = "one row for all"
replace = ["torch.cumsum(x, dim=1)", "torch.cumsum(x, dim=1)[:1].expand_as(x)"]
fails = ["toy-sums-first", "toy-sums-last", "toy-sums-batch"]
[[right]]
name = "loop"
code = '''
class Sums:
    def __call__(self, x):
        total, sums = 0, []
        for t in range(x.shape[1]):
            total = total + x[:, t]
            sums.append(total)
        return torch.stack(sums, 1)'''
[[right]]
name = "triangular matrix"
replace = ["torch.cumsum(x, dim=1)", "x @ torch.ones(x.shape[1], x.shape[1]).triu()"]
[[right]]
name = "einsum"
replace = ["torch.cumsum(x, dim=1)",
           "torch.einsum('bt,ts->bs', x, torch.ones(x.shape[1], x.shape[1]).triu())"]
""",
}


def toy_mutants(course: Path, mutants: dict[str, str] = MUTANTS) -> Path:
    """Write mutants into a course made by `toy_course`."""
    folder = course / "tests" / "mutants" / NAME
    folder.mkdir(parents=True)
    for answer, text in mutants.items():
        (folder / f"{answer}.toml").write_text(text, encoding="utf-8")
    return course
