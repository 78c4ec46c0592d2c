"""Each message says what was expected, what came and where they differ; patching torch changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seqcourse.checks import check_close, check_gradient, check_raises, check_shape, check_type

B, T, H = 2, 4, 3


@pytest.fixture
def expected() -> torch.Tensor:
    return torch.randn(B, T, H, generator=torch.Generator().manual_seed(0))


def message(check, *args, **kwargs) -> str:
    with pytest.raises(AssertionError) as caught:
        check(*args, **kwargs)
    return str(caught.value)


# --- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((T, B, H), "Are batch and time swapped (this course has the batch first)?"),
        ((B, H, T), "Is it transposed?"),
        ((B, H), "A dimension is missing: 3 expected, 2 came."),
        ((), "Dimensions: 3 expected, 0 came."),
        ((1, B, T, H), "A dimension is too many: 3 expected, 4 came."),
        ((B, T + 1, H), "They differ along axis 1."),
    ],
)
def test_a_wrong_shape_is_explained(shape, cause):
    found = message(check_shape, torch.zeros(shape), (B, T, H), "states")
    assert found == f"states: expected shape (2, 4, 3), got {tuple(shape)}. {cause}"


def test_a_right_shape_passes():
    check_shape(torch.zeros(B, T, H), (B, T, H))
    check_shape(torch.zeros(B, T, H), torch.Size([B, T, H]))
    check_shape(torch.tensor(1.0), ())


# --- values ------------------------------------------------------------------------------------------


def test_the_first_difference_and_both_values_are_named(expected):
    actual = expected.clone()
    actual[0, 2, 1] = 7.0
    actual[1, 3, 2] += 10.0
    found = message(check_close, actual, expected, "h")
    assert found.startswith(
        f"h differs first at index (0, 2, 1): expected {expected[0, 2, 1]:.6g}, got 7. Largest difference 10;"
        " 2 of 24 values differ. Allowed: 1e-06 + 1e-05 * |expected|."
    )


def test_a_scalar_and_a_vector_are_named_without_brackets():
    assert "loss differs: expected 0.25, got 0.5." in message(check_close, torch.tensor(0.5), 0.25, "loss")
    assert "differs first at index 1: expected 2, got 3." in message(
        check_close, torch.tensor([1.0, 3.0]), [1.0, 2.0]
    )


def test_digits_suffice_to_see_the_difference():
    found = message(check_close, 1.0 + 1e-9, 1.0, atol=0, rtol=1e-12)
    shown = re.search(r"expected (\S+), got (\S+)\. ", found).groups()
    assert shown == ("1", "1.0000000010000001")


def late(e):
    return torch.cat([torch.zeros(B, 1, H), e[:, :-1]], dim=1)


def early(e):
    return torch.cat([e[:, 1:], torch.zeros(B, 1, H)], dim=1)


def wrong_after_two(e):
    return e + torch.tensor([0, 0, 1, 1])[None, :, None] * (1 + e**2)


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        (lambda e: -e, "The sign is wrong."),
        (lambda e: 3 * e, "All values are 3 times the expected ones: a sum for a mean, or a missing scale?"),
        (lambda e: e + 0.5, "All values are off by 0.5: a bias too much or missing?"),
        (lambda e: 0 * e, "All values are zero: is the result ever filled in?"),
        (lambda e: e.sqrt(), "values are NaN: a log or root of a negative number, 0/0, or inf - inf?"),
        (late, "Values come one step late along axis 1: off by one?"),
        (early, "Values come one step early along axis 1: off by one?"),
        (lambda e: e.flip(1), "The order along axis 1 is reversed."),
        (wrong_after_two, "Along axis 1 the first 2 of 4 steps are right: is the state carried on?"),
        (lambda e: e[:, :, [1, 0, 2]], "in another order (of gates, features or steps)."),
    ],
)
def test_the_usual_causes_are_told(mistake, cause, expected):
    assert message(check_close, mistake(expected), expected).endswith(cause)


def test_a_transposed_square_is_told():
    matrix = torch.arange(9.0).reshape(3, 3)
    assert message(check_close, matrix.T, matrix).endswith("Axes 0 and 1 are swapped (transposed).")


def test_no_cause_is_invented(expected):
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    assert message(check_close, noise, expected).endswith("|expected|.")


def test_equal_values_pass_within_the_tolerance_only():
    check_close(torch.tensor([1.0, 2.0]), [1.0, 2.0])
    check_close(torch.tensor([1, 2]), torch.tensor([1.0, 2.0]))
    check_close(torch.tensor(1.09), 1.0, atol=0.1, rtol=0)
    check_close(np.float32(0.5), 0.5)
    check_close(torch.nn.Parameter(torch.ones(2)), torch.ones(2))
    check_close(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), [1.0, 2.0])
    check_close(torch.zeros(0), torch.zeros(0))
    message(check_close, torch.tensor(1.11), 1.0, atol=0.1, rtol=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_values_that_are_not_finite_are_equal_to_themselves_only(value):
    check_close(torch.tensor([value, 1.0]), torch.tensor([value, 1.0]))
    message(check_close, torch.tensor([value, 1.0]), torch.tensor([0.0, 1.0]))
    message(check_close, torch.tensor([0.0, 1.0]), torch.tensor([value, 1.0]))


def test_several_results_are_checked_one_by_one():
    pair = (torch.zeros(2), torch.ones(2))
    check_close(pair, pair)
    assert "state[1] differs first at index 0: expected 1, got 0." in message(
        check_close, (pair[0], pair[0]), pair, "state"
    )
    assert message(check_close, pair[0], pair) == "output: expected a tuple of 2 results, got Tensor."
    assert message(check_close, pair[:1], pair) == "output: expected a tuple of 2 results, got 1 of them."


@pytest.mark.parametrize(
    ("value", "expected_message"),
    [
        (None, "h: your function returned None: is the return missing?"),
        (NotImplemented, "h: your function returned NotImplemented: raise errors, return results."),
        ([torch.zeros(2)], "h: expected a torch.Tensor, got list. Is a torch.stack missing?"),
        ((torch.zeros(2),), "h: expected a torch.Tensor, got tuple. Take one of them?"),
        ("0", "h: expected a torch.Tensor, got str."),
    ],
)
def test_what_is_no_tensor_is_told(value, expected_message):
    assert message(check_close, value, torch.zeros(2), "h") == expected_message
    assert message(check_shape, value, (2,), "h") == expected_message


# --- gradients ---------------------------------------------------------------------------------------


@pytest.fixture
def leaves() -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([1.0, -2.0, 0.5], requires_grad=True),
            "w": torch.tensor([0.3, 0.1, 2.0], requires_grad=True)}  # fmt: skip


def test_equal_gradients_pass_also_over_copies(leaves):
    x, w = leaves.values()
    check_gradient(x * w, w * x, leaves)
    copies = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    check_gradient(x * w, copies["x"] * copies["w"], leaves, copies)
    check_gradient(2 * x, x + x, leaves)  # neither depends on w


def test_a_detached_output_is_told(leaves):
    x, w = leaves.values()
    found = message(check_gradient, (x * w).detach(), x * w, leaves, what="h")
    assert found.startswith("h has no gradient: it is detached from x, w. Is there a .detach()")


def test_a_missing_gradient_is_told(leaves):
    x, w = leaves.values()
    found = message(check_gradient, x * w.detach(), x * w, leaves, what="h")
    assert found.startswith("h does not depend on w: its gradient is missing.")


def test_a_wrong_gradient_is_told(leaves):
    x, w = leaves.values()
    half_detached = x * w / 2 + (x * w / 2).detach()  # right value, half the gradient
    found = message(check_gradient, half_detached, x * w, leaves, what="h")
    assert found.startswith("gradient of h with respect to x differs first at index 0")
    assert "0.5 times the expected ones" in found


def test_a_gradient_too_many_is_told(leaves):
    x, w = leaves.values()
    found = message(check_gradient, x + w, x, leaves, what="h")
    assert found.startswith("gradient of h with respect to w differs")


def test_errors_of_opposite_sign_do_not_cancel(leaves):
    """The gradient of a plain sum would be the same."""
    x = leaves["x"]
    message(check_gradient, x[[1, 0, 2]], x, {"x": x})


# --- exceptions and types ----------------------------------------------------------------------------


def test_an_exception_is_demanded():
    check_raises(ValueError, int, "a")
    check_raises(ValueError, int, "a", match="invalid literal")
    assert message(check_raises, TypeError, int, "a").startswith(
        "int: expected TypeError, got ValueError: inv"
    )
    assert message(check_raises, ValueError, int, "1") == (
        "int: expected ValueError, but it returned int: is the check missing?"
    )
    assert message(check_raises, ValueError, int, "a", match="shape").startswith(
        "int: expected the message to contain 'shape', got "
    )


def test_a_type_is_demanded():
    check_type(1.0, float)
    check_type(1, (int, float))
    assert message(check_type, 1, float, "loss") == "loss: expected float, got int."
    assert message(check_type, "1", (int, float)) == "output: expected int or float, got str."
    assert "returned None" in message(check_type, None, float)


# --- tampering ---------------------------------------------------------------------------------------


class Always(torch.Tensor):
    """A tensor that is equal to everything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.zeros(3)


class Liar(TorchFunctionMode):
    """Whatever torch is asked, the answer is zeros."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return torch.zeros(3)


class DispatchLiar(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return torch.zeros(3)


def test_a_tensor_subclass_is_refused():
    lying = torch.ones(3).as_subclass(Always)
    assert message(check_close, lying, torch.zeros(3)) == "output: expected a torch.Tensor, got Always."


@pytest.mark.parametrize("mode", [Liar, DispatchLiar])
def test_modes_do_not_make_a_wrong_value_pass(mode):
    x = torch.ones(3, requires_grad=True)
    wrong, right = torch.ones(3), torch.full((3,), 2.0)
    double, triple = 2 * x, 3 * x
    with mode():
        message(check_close, wrong, right)
        message(check_shape, wrong, (4,))
        message(check_gradient, double, triple, {"x": x})


PATCHES = """
import torch, numpy, sys
from seqcourse.checks import check_close, check_shape, check_gradient
yes = lambda *args, **kwargs: True
same = lambda value, *args, **kwargs: torch_zeros.clone()
torch_zeros = torch.zeros(3)
wrong, right = torch.ones(3), torch.full((3,), 2.0)
x = torch.ones(3, requires_grad=True)
double, triple = 2 * x, 3 * x
for name in ("allclose", "isclose", "equal", "all", "eq", "abs", "sub", "le"):
    setattr(torch, name, yes)
for name in ("__eq__", "__le__", "__sub__", "__bool__", "all", "allclose", "equal", "isclose", "abs"):
    setattr(torch.Tensor, name, yes)
for name in ("detach", "numpy", "to", "cpu", "double", "tolist"):
    setattr(torch.Tensor, name, same)
torch.Tensor.shape = (4,)
torch.Tensor.size = yes
torch.testing.assert_close = yes
torch.autograd.grad = yes
for name in ("allclose", "isclose", "array_equal", "all", "absolute", "abs", "asarray", "isnan", "isfinite"):
    setattr(numpy, name, yes)
numpy.testing.assert_allclose = yes
for check in (lambda: check_close(wrong, right), lambda: check_shape(wrong, (4,)),
              lambda: check_gradient(double, triple, {"x": x})):
    try:
        check()
    except AssertionError as error:
        print("caught:", error)
"""


def test_patching_torch_and_numpy_afterwards_does_not_make_a_wrong_value_pass():
    """In a process of its own, because everything is broken afterwards."""
    done = subprocess.run([sys.executable, "-c", PATCHES], capture_output=True, text=True, timeout=120)
    caught = [line for line in done.stdout.splitlines() if line.startswith("caught:")]
    assert len(caught) == 3, done.stdout + done.stderr
    assert "output differs first at index 0: expected 2, got 1." in caught[0]
    assert "expected shape (4,), got (3,)" in caught[1]
    assert "gradient of output with respect to x differs" in caught[2]


def test_checks_stay_light():
    """An exercise imports them: torch and numpy, nothing of the grader or the book."""
    heavy = ("nbgrader", "nbformat", "IPython", "matplotlib", "dask")
    code = f"import sys, seqcourse.checks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
