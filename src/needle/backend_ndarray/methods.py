"""NDArray's operators and the methods that compute, bound to the class once, at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray import (
    access,
    dlpack,
    elementwise,
    linalg,
    promotion,
    reductions,
    shapes,
)
from needle.backend_ndarray.flat import Flat
from needle.backend_ndarray.ndarray import NDArray
from needle.errors import DTypeError, ShapeError, describe, kind_of

__all__ = ["bind"]


def fill(x: NDArray, value: Any) -> None:
    """Every element = value, in place."""
    access.assign(x, (...,), value)


def flip(x: NDArray, axes: int | Sequence[int] | None = None) -> NDArray:
    """A fresh array, reversed along the axes; None means all."""
    return shapes.flip(x, axes)


def pad(x: NDArray, axes: Sequence[tuple[int, int]]) -> NDArray:
    """A fresh array with zeros around: (left, right) for each axis."""
    return shapes.pad(x, axes)


def copy(x: NDArray) -> NDArray:
    """A fresh array with the same elements, row after row."""
    return shapes.copied("copy", x)


def _positive(x: NDArray) -> Any:
    """A copy, as `-x` is an array of its own."""
    return shapes.astype(x, x.dtype)


def _in_place(name: str, function: Callable[[Any, Any], Any]) -> Callable[[NDArray, Any], NDArray]:
    """`x += y` and the like: the result, written to where x lies; x and its views show it."""

    def method(x: NDArray, other: Any) -> NDArray:
        result = function(x, other[:] if isinstance(other, Flat) else other)
        if result is NotImplemented:  # a Tensor's, of which x would become another
            raise DTypeError(
                f"{name}: expected an NDArray or a number beside {describe(x)} in place, got "
                f"{kind_of(other)}. Use x = x + y, or the array of y."
            )
        if result.shape != x.shape:
            raise ShapeError(
                f"{name}: expected a result that fits {describe(x)} in place, got "
                f"{describe(result)}."
            )
        if promotion.rank(result.dtype) > promotion.rank(x.dtype):
            raise DTypeError(
                f"{name}: expected a result that {x.dtype} can take in place, got "
                f"{describe(result)}. Use x = x + y."
            )
        access.assign(x, (...,), result)
        return x

    return method


def _matmul(a: NDArray, b: Any) -> Any:
    return NotImplemented if elementwise.goes_first(b) else linalg.matmul(a, b)


def _array_ufunc(
    x: NDArray, ufunc: Any, method: str, *operands: Any, out: Any = None, **options: Any
) -> Any:
    """`a + x` and `a += x` for an array `a` of NumPy's, which asks for them here.

    The first is an NDArray, the second writes into `a`, as whatever has `out=` and `ufunc.at` do.
    No other ufunc takes NDArrays.
    """
    name = ufunc.__name__
    if out is not None:
        options["out"] = out
    if out is not None or method == "at":
        made = getattr(ufunc, method)(*_as_numpys(operands), **_as_numpys(options))
        return _given_back(made, out)
    if method != "__call__" or options or name not in _UFUNCS:
        raise TypeError(
            f"{name}: expected NumPy's arrays, got {describe(*operands)}; __array_ufunc__ is for "
            "operators. Use the function of needle.backend_ndarray, or numpy.asarray(x)."
        )
    return _UFUNCS[name](*operands)


_UFUNCS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: elementwise.primitive(name) for name in elementwise.BINARY.values()},
    **{name: elementwise.primitive(name) for name in elementwise.COMPARISONS.values()},
    "matmul": linalg.matmul,
    "divmod": elementwise.quotient_and_rest,
}


def _array_function(
    x: NDArray, function: Any, types: Any, arguments: Any, options: dict[str, Any]
) -> Any:
    """NumPy's functions see NumPy's array on the memory of an NDArray, and give NumPy's arrays."""
    if not all(issubclass(kind, (NDArray, np.ndarray)) for kind in types):
        return NotImplemented
    if function not in (np.shape, np.ndim, np.size):  # which arrays without values have as well
        arguments, out = _as_numpys(arguments), options.get("out")
        return _given_back(function._implementation(*arguments, **_as_numpys(options)), out)
    return function._implementation(*arguments, **options)


def _given_back(made: Any, out: Any) -> Any:
    """What NumPy made; where it wrote into NDArrays, those."""
    if isinstance(out, tuple) and len(out) == 1:
        (out,) = out
    return out if isinstance(out, NDArray) else made


def _as_numpys(value: Any) -> Any:
    """`value`, in which NumPy's arrays stand for NDArrays, in lists, tuples and dicts as well."""
    if isinstance(value, NDArray):
        return np.asarray(value)
    if type(value) in (list, tuple):
        return type(value)(map(_as_numpys, value))
    if type(value) is dict:
        return {key: _as_numpys(item) for key, item in value.items()}
    return value


def bind() -> None:
    """Give NDArray what this package has written for it."""
    operators = {**elementwise.operators(), "__matmul__": _matmul}
    names = {**elementwise.BINARY, "matmul": "matmul"}
    methods: dict[str, Any] = {
        **operators,
        **{f"__i{key}__": _in_place(names[key], operators[f"__{key}__"]) for key in names},
        "__rmatmul__": elementwise.reflected(linalg.matmul),
        "__pos__": _positive,
        "__array_ufunc__": _array_ufunc,
        "__array_function__": _array_function,
        "__getitem__": access.getitem,
        "__setitem__": access.setitem,
        "__dlpack__": dlpack.dlpack,
        "__dlpack_device__": dlpack.dlpack_device,
        "astype": shapes.astype,
        "compact": shapes.compact,
        "copy": copy,
        "to": shapes.to,
        "fill": fill,
        "flip": flip,
        "pad": pad,
        **{name: getattr(reductions, name) for name in reductions.__all__},
        **{name: elementwise.unary_function(name) for name in ("log", "exp", "tanh")},
        **{name: elementwise.binary_function(name) for name in ("maximum", "minimum")},
    }
    for name, method in methods.items():
        setattr(NDArray, name, method)
