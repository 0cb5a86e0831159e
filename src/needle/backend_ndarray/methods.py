"""NDArray's operators and the methods that compute, bound to the class once, at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle.backend_ndarray import (
    access,
    dlpack,
    elementwise,
    linalg,
    promotion,
    reductions,
    shapes,
)
from needle.backend_ndarray.ndarray import NDArray
from needle.errors import DTypeError, ShapeError, describe

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


def _positive(x: NDArray) -> Any:
    """A copy, as `-x` is an array of its own."""
    return shapes.astype(x, x.dtype)


def _in_place(name: str, function: Callable[[Any, Any], Any]) -> Callable[[NDArray, Any], NDArray]:
    """`x += y` and the like: the result, written to where x lies; x and its views show it."""

    def method(x: NDArray, other: Any) -> NDArray:
        result = function(x, other)
        if result is NotImplemented:
            return result  # type: ignore[no-any-return]
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


def bind() -> None:
    """Give NDArray what this package has written for it."""
    operators = {**elementwise.operators(), "__matmul__": _matmul}
    names = {**elementwise.BINARY, "matmul": "matmul"}
    methods: dict[str, Any] = {
        **operators,
        **{f"__i{key}__": _in_place(names[key], operators[f"__{key}__"]) for key in names},
        "__rmatmul__": elementwise.reflected(linalg.matmul),
        "__pos__": _positive,
        "__getitem__": access.getitem,
        "__setitem__": access.setitem,
        "__dlpack__": dlpack.dlpack,
        "__dlpack_device__": dlpack.dlpack_device,
        "astype": shapes.astype,
        "compact": shapes.compact,
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
