"""`compute` speaks in array terms only, so that it runs on arrays that are not NumPy's.

Each op of the table runs on `Opaque` arrays: they have a shape and a dtype, operators and `astype`,
and do not show their elements. Which functions `compute` may call is named here: it is
what a backend must have.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oprows import Case, Row
from test_opspecs import apply, every_case, expected

import needle as ndl
from needle import backend_numpy, ops
from needle.autograd import value
from needle.backend_selection import BACKEND
from needle.dtypes import as_dtype
from needle.testing import assert_close
from needle.unrolled import unrolled

pytestmark = pytest.mark.skipif(BACKEND != "np", reason="hides the elements of NumPy's arrays")


def words(text: str) -> list[str]:
    return text.split()


FUNCTIONS = words("""
    abs all any argmax argmin broadcast_to clip concatenate cos cumsum exp expand_dims expm1 flip
    full_like isfinite log log1p logical_and logical_not logical_or matmul max maximum mean min
    minimum pad permute_dims power reshape sign sin sqrt squeeze stack swapaxes tanh tril triu where
""")
PRIMITIVES = words("""
    add_along einsum erf in_float32 index multiply_add put put_parts quietly require scalar_for
    scatter_add scatter_along sigmoid take_along total windows
""")
OPERATORS = words("add sub mul truediv pow neg eq ne lt le gt ge")


class Opaque:
    """An array of which only the shape and the dtype can be known."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: Any) -> None:
        self._hidden = np.asarray(array)

    shape = property(lambda self: self._hidden.shape)
    dtype = property(lambda self: self._hidden.dtype)
    ndim = property(lambda self: self._hidden.ndim)
    size = property(lambda self: self._hidden.size)

    def astype(self, dtype: Any, copy: bool = True) -> Opaque:
        return Opaque(self._hidden.astype(dtype, copy=copy))

    def _no_data(self, *arguments: Any) -> Any:
        raise AssertionError("compute looked at the elements of an array")

    __array__ = __bool__ = __float__ = __int__ = __index__ = __iter__ = __len__ = _no_data
    __getitem__ = __setitem__ = __iadd__ = __isub__ = __imul__ = __itruediv__ = _no_data
    __array_ufunc__ = None


def _add_operators() -> None:
    def on_hidden(function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
        def method(*operands: Any) -> Any:
            return hidden(function(*map(shown, operands[::-1] if swapped else operands)))

        return method

    for name in OPERATORS:
        function = getattr(operator, f"__{name}__")
        setattr(Opaque, f"__{name}__", on_hidden(function))
        if name in ("add", "sub", "mul", "truediv"):
            setattr(Opaque, f"__r{name}__", on_hidden(function, swapped=True))


_add_operators()


def shown(tree: Any) -> Any:
    """NumPy's arrays for opaque ones; functions of opaque arrays become functions of NumPy's."""
    if isinstance(tree, Opaque):
        return tree._hidden
    if isinstance(tree, (tuple, list)):
        return type(tree)([shown(item) for item in tree])
    if callable(tree) and not isinstance(tree, type):
        return lambda *a, **k: shown(tree(*map(hidden, a), **k))
    return tree


def hidden(tree: Any) -> Any:
    if isinstance(tree, (np.ndarray, np.generic)):
        return Opaque(tree)
    return tuple([hidden(item) for item in tree]) if isinstance(tree, tuple) else tree


def _opaque(module: Any, names: list[str]) -> SimpleNamespace:
    """The functions of a module on opaque arrays: those named, and no other."""

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **k: hidden(function(*map(shown, a), **k))

    return SimpleNamespace(**{name: wrapped(getattr(module, name)) for name in names})


ROOMS = [room for room in vars(ops).values() if getattr(room, "__package__", "") == "needle.ops"]


@pytest.fixture
def opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op computes with opaque arrays."""
    functions, primitives = _opaque(np, FUNCTIONS), _opaque(backend_numpy, PRIMITIVES)
    primitives.scalar_for = lambda x, number: backend_numpy.scalar_for(x._hidden, number)
    primitives.constant = backend_numpy.constant  # makes Tensors of numbers, not in compute
    primitives.recur = partial(
        unrolled, at=lambda x, t: primitives.index(x, (t,)), stack=functions.stack
    )
    for room in ROOMS:
        for name, replacement in [("array_api", functions), ("primitives", primitives)]:
            if hasattr(room, name):
                monkeypatch.setattr(room, name, replacement)
    compute = value._compute

    def compute_hidden(kind: Any, op: Any, arrays: list[Any]) -> Any:
        veiled = SimpleNamespace(
            name=op.name,
            expects=op.expects,
            compute=lambda *arrays: shown(op.compute(*map(hidden, arrays))),
        )
        return compute(kind, veiled, arrays)

    monkeypatch.setattr(value, "_compute", compute_hidden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_case()
def test_compute_and_gradient_need_no_more_of_arrays_than_is_named_here(
    row: Row, case: Case, dtype: str, opaque: None
) -> None:
    arrays = row.arrays(case, np.float32)
    results = apply(row, case, [_narrowed(a, dtype) if row.narrow else a for a in arrays])
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for y, e in zip(results, expected(row, case, arrays), strict=True):
        assert_close(y, e, rtol=tolerance, atol=tolerance)
        if y.op is not None:
            y.backward(ndl.ones_like(y))


def _narrowed(array: Any, dtype: str) -> Any:
    return array.astype(as_dtype(dtype)) if array.dtype == np.float32 else array


def test_an_opaque_array_shows_no_elements() -> None:
    for peek in (bool, float, list, np.asarray, lambda x: x[0], lambda x: np.exp(x)):
        with pytest.raises((AssertionError, TypeError), match=r"elements|Opaque"):
            peek(Opaque([1.0]))
