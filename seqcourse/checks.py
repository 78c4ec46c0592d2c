"""Checks for exercises: each error says what was expected, what came, and where they first differ.

The test cells of the exercises call these functions on what a student's code returns. They take what they
need from torch and numpy when this module is imported, and they compare plain numpy arrays, whose operators
nobody can replace: patching `torch.allclose` or `torch.Tensor` later does not make a wrong value pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_Tensor, _Parameter, _ndarray = torch.Tensor, torch.nn.Parameter, np.ndarray
_detach, _to, _numpy, _item_shape = (
    torch.Tensor.detach,
    torch.Tensor.to,
    torch.Tensor.numpy,
    torch.Tensor.size,
)
_no_functions, _no_dispatch = torch._C.DisableTorchFunction, torch._C._DisableTorchDispatch
_grad, _sum, _cos, _arange, _reshape = torch.autograd.grad, torch.sum, torch.cos, torch.arange, torch.reshape
_mul = torch.mul
_float64 = torch.float64
_isnan, _isfinite = np.isnan, np.isfinite
_array, _abs, _flip, _sort, _swap = np.asarray, np.absolute, np.flip, np.sort, np.swapaxes
_silent = np.errstate

Near = Callable[[np.ndarray, np.ndarray], bool]


def check_shape(actual: Any, expected: Sequence[int], what: str = "output") -> None:
    """Checks the shape of a tensor.

    Args:
        actual: what the student's code returned.
        expected: its shape, for instance `(B, T, H)` with numbers.
        what: its name in the message.

    Raises:
        AssertionError: says both shapes and, where it can tell, what usually causes the difference.
    """
    shape, expected = _as_array(actual, what).shape, tuple(expected)
    if shape != expected:
        raise AssertionError(
            f"{what}: expected shape {expected}, got {shape}.{_shape_cause(shape, expected)}"
        )


def check_close(
    actual: Any, expected: Any, what: str = "output", atol: float = 1e-6, rtol: float = 1e-5
) -> None:
    """Checks that values are equal up to rounding: ``abs(actual - expected) <= atol + rtol * abs(expected)``.

    Args:
        actual: a tensor, array or number; a tuple of them where `expected` is a tuple.
        expected: what it should be.
        what: its name in the message.
        atol: allowed absolute difference.
        rtol: allowed difference relative to the expected value.

    Raises:
        AssertionError: says expected and actual value at the first index where they differ, the largest
            difference and, where it can tell, the usual cause (transposed, off by one step, wrong sign ...).
    """
    if type(expected) is tuple:
        _check_tuple(actual, expected, what, atol, rtol)
        return
    if type(expected) is list:
        expected = _array(expected, dtype="float64")
    wanted = _as_array(expected, "the expected value")
    got = _as_array(actual, what)
    check_shape(got, wanted.shape, what)

    def near(a: np.ndarray, e: np.ndarray) -> bool:
        return bool(_close(a, e, atol, rtol).all())

    if not near(got, wanted):
        message = _difference(got, wanted, what, _close(got, wanted, atol, rtol))
        allowed = f"Allowed: {atol:g} + {rtol:g} * |expected|."
        raise AssertionError(f"{message} {allowed}{_value_cause(got, wanted, near)}")


def check_gradient(
    actual: torch.Tensor,
    expected: torch.Tensor,
    wrt: Mapping[str, torch.Tensor],
    expected_wrt: Mapping[str, torch.Tensor] | None = None,
    what: str = "output",
    atol: float = 1e-6,
    rtol: float = 1e-5,
) -> None:
    """Checks that two outputs have the same gradients, by one backward pass from fixed, unequal weights.

    Args:
        actual: what the student's code returned.
        expected: what a reference returned, of the same shape.
        wrt: name -> tensor that `actual` was computed from.
        expected_wrt: the same names -> tensors that `expected` was computed from; `wrt` by default.
        what: name of the output in the message.
        atol: allowed absolute difference.
        rtol: allowed difference relative to the expected value.

    Raises:
        AssertionError: says which gradient is missing or where it first differs.
    """
    check_shape(actual, _as_array(expected, "the expected output").shape, what)
    expected_wrt = wrt if expected_wrt is None else expected_wrt
    with _nothing_in_between():
        wanted = _gradients(expected, expected_wrt, "the expected output")
        got = _gradients(actual, wrt, what)
    for name, gradient in wanted.items():
        if gradient is None and got[name] is None:
            continue
        if got[name] is None:
            raise AssertionError(f"{what} does not depend on {name}: its gradient is missing. {_DETACHED}")
        check_close(
            got[name],
            0 * got[name] if gradient is None else gradient,
            f"gradient of {what} with respect to {name}",
            atol,
            rtol,
        )


def check_raises(
    exception: type[BaseException], function: Callable[..., Any], *args: Any, match: str = "", **kwargs: Any
) -> None:
    """Checks that a call raises `exception`, and that its message contains `match`.

    Args:
        exception: the class that must come.
        function: what to call.
        args: positional arguments of the call.
        match: text that the message must contain.
        kwargs: named arguments of the call.

    Raises:
        AssertionError: says what came in its place.
    """
    name = getattr(function, "__name__", "the call")
    try:
        result = function(*args, **kwargs)
    except exception as error:
        if match not in str(error):
            raise AssertionError(
                f"{name}: expected the message to contain {match!r}, got {str(error)!r}."
            ) from error
        return
    except Exception as error:
        raise AssertionError(
            f"{name}: expected {exception.__name__}, got {type(error).__name__}: {error}"
        ) from error
    came = f"it returned {type(result).__name__}"
    raise AssertionError(f"{name}: expected {exception.__name__}, but {came}: is the check missing?")


def check_type(actual: Any, expected: type | tuple[type, ...], what: str = "output") -> None:
    """Checks the type of a value.

    Args:
        actual: what the student's code returned.
        expected: a class, or several of which one will do.
        what: its name in the message.

    Raises:
        AssertionError: says both types.
    """
    _check_returned(actual, what)
    if not isinstance(actual, expected):
        names = " or ".join(t.__name__ for t in (expected if type(expected) is tuple else (expected,)))
        raise AssertionError(f"{what}: expected {names}, got {type(actual).__name__}.")


_DETACHED = "Is there a .detach(), .data, .item(), torch.tensor(...) or torch.no_grad() in the way?"


@contextmanager
def _nothing_in_between():
    """Torch without the modes and subclasses that could change what it computes."""
    with _no_functions(), _no_dispatch():
        yield


def _check_returned(actual: Any, what: str) -> None:
    if actual is None:
        raise AssertionError(f"{what}: your function returned None: is the return missing?")
    if actual is NotImplemented:
        raise AssertionError(f"{what}: your function returned NotImplemented: raise errors, return results.")


def _as_array(value: Any, what: str) -> np.ndarray:
    """A plain float64 array; a subclass of Tensor is refused, because it may define its own comparison."""
    _check_returned(value, what)
    if type(value) in (_Tensor, _Parameter):
        with _nothing_in_between():
            return _numpy(_to(_detach(value), "cpu", _float64))
    if type(value) in (int, float, bool, _ndarray) or isinstance(value, np.generic):
        return _array(value, dtype="float64")
    hint = {list: " Is a torch.stack missing?", tuple: " Take one of them?"}.get(type(value), "")
    raise AssertionError(f"{what}: expected a torch.Tensor, got {type(value).__name__}.{hint}")


def _check_tuple(actual: Any, expected: tuple, what: str, atol: float, rtol: float) -> None:
    _check_returned(actual, what)
    if type(actual) is not tuple or len(actual) != len(expected):
        came = f"{len(actual)} of them" if type(actual) is tuple else type(actual).__name__
        raise AssertionError(f"{what}: expected a tuple of {len(expected)} results, got {came}.")
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        check_close(a, e, f"{what}[{i}]", atol, rtol)


def _gradients(
    output: torch.Tensor, wrt: Mapping[str, torch.Tensor], what: str
) -> dict[str, torch.Tensor | None]:
    if output.grad_fn is None and not output.requires_grad:
        raise AssertionError(f"{what} has no gradient: it is detached from {', '.join(wrt)}. {_DETACHED}")
    # Unequal weights: with a plain sum, errors of opposite sign would cancel.
    count = _item_shape(_reshape(output, (-1,)), 0)
    weights = _cos(_arange(1, count + 1, dtype=output.dtype, device=output.device))
    scalar = _sum(_mul(_reshape(output, (-1,)), weights))
    found = _grad(scalar, list(wrt.values()), allow_unused=True, retain_graph=True)
    return dict(zip(wrt, found, strict=True))


def _close(a: np.ndarray, e: np.ndarray, atol: float, rtol: float) -> np.ndarray:
    with _silent(invalid="ignore"):  # inf - inf
        near = (_abs(a - e) <= atol + rtol * _abs(e)) & _isfinite(e)
    return near | (a == e) | (_isnan(a) & _isnan(e))


def _difference(a: np.ndarray, e: np.ndarray, what: str, close: np.ndarray) -> str:
    """Where the two first differ, by how much at most, and in how many places."""
    index = tuple(int(i[0]) for i in (~close).nonzero()) if close.ndim else ()
    place = f" first at index {index if len(index) != 1 else index[0]}" if index else ""
    with _silent(invalid="ignore"):
        largest = float(_abs(a - e)[~close].max()) if close.ndim else float(_abs(a - e))
    return (
        f"{what} differs{place}: expected {_number(e[index], a[index])}, got {_number(a[index], e[index])}. "
        f"Largest difference {largest:.3g}; {int((~close).sum())} of {close.size} values differ."
    )


def _number(value: float, other: float) -> str:
    """Six digits, or all of them where six would hide the difference."""
    value, other = value + 0.0, other + 0.0  # no "-0"
    return f"{value:.6g}" if f"{value:.6g}" != f"{other:.6g}" else f"{value:.17g}"


def _shape_cause(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(got) >= 2 and got == (expected[1:2] + expected[:1] + expected[2:]) and len(expected) > 2:
        return " Are batch and time swapped (this course has the batch first)?"
    if sorted(got) == sorted(expected) and len(got) > 1:
        return " Is it transposed?"
    if got == tuple(n for n in expected if n != 1) or len(got) == len(expected) - 1:
        return f" A dimension is missing: {len(expected)} expected, {len(got)} came."
    if len(got) == len(expected) + 1:
        return f" A dimension is too many: {len(expected)} expected, {len(got)} came."
    if len(got) != len(expected):
        return f" Dimensions: {len(expected)} expected, {len(got)} came."
    return f" They differ along axis {next(i for i, n in enumerate(got) if n != expected[i])}."


def _value_cause(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    """The first usual cause that explains the difference wholly; empty where none does."""
    causes = (_nan, _zero, _sign, _factor, _offset, _transposed, _shifted, _flipped, _until, _order)
    with _silent(all="ignore"):
        found = (cause(a, e, near) for cause in causes)
        return next((f" {explained}" for explained in found if explained), "")


def _nan(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    count = int((_isnan(a) & ~_isnan(e)).sum())
    return f"{count} values are NaN: a log or root of a negative number, 0/0, or inf - inf?" if count else ""


def _zero(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    return "All values are zero: is the result ever filled in?" if a.size > 1 and not a.any() else ""


def _sign(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    return "The sign is wrong." if near(-a, e) else ""


def _factor(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    scale = float((a * e).sum() / (e * e).sum()) if e.size > 2 and e.any() else 0.0
    if not scale or not near(a / scale, e):
        return ""
    return f"All values are {scale:.4g} times the expected ones: a sum for a mean, or a missing scale?"


def _offset(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    offset = float((a - e).mean())
    known = e.size > 2 and near(a - offset, e)
    return f"All values are off by {offset:.4g}: a bias too much or missing?" if known else ""


def _transposed(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    for i in range(a.ndim):
        for j in range(i + 1, a.ndim):
            if a.shape[i] == a.shape[j] > 1 and near(_swap(a, i, j), e):
                return f"Axes {i} and {j} are swapped (transposed)."
    return ""


def _shifted(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    for axis, length in enumerate(a.shape):
        if length > 2:
            a_, e_ = _swap(a, 0, axis), _swap(e, 0, axis)
            if near(a_[1:], e_[:-1]):
                return f"Values come one step late along axis {axis}: off by one?"
            if near(a_[:-1], e_[1:]):
                return f"Values come one step early along axis {axis}: off by one?"
    return ""


def _flipped(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    for axis, length in enumerate(a.shape):
        if length > 1 and near(_flip(a, axis), e):
            return f"The order along axis {axis} is reversed."
    return ""


def _until(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    """Right at first, wrong later: the state is carried wrongly from one step to the next."""
    for axis in range(1, a.ndim - 1):
        a_, e_ = _swap(a, 0, axis), _swap(e, 0, axis)
        right = next(i for i in range(len(a_)) if not near(a_[i], e_[i]))
        if right:
            return (
                f"Along axis {axis} the first {right} of {len(a_)} steps are right: is the state carried on?"
            )
    return ""


def _order(a: np.ndarray, e: np.ndarray, near: Near) -> str:
    same = a.size > 2 and near(_sort(a, axis=None), _sort(e, axis=None))
    return "The values are right but in another order (of gates, features or steps)." if same else ""
