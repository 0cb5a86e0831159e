"""NDArray's operators and the methods that compute, bound to the class once, at import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.backend_ndarray import access, dlpack, elementwise, linalg, reductions, shapes
from needle.backend_ndarray.ndarray import NDArray
from needle.errors import describe

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


def _matmul(a: NDArray, b: Any) -> Any:
    if not isinstance(b, NDArray):
        b = elementwise.as_operand("matmul", b, a)
        if not isinstance(b, NDArray):
            raise TypeError(f"matmul: expected an NDArray, got {describe(b)}.")
    return linalg.matmul(a, b)


def _reflected_matmul(b: NDArray, a: Any) -> Any:
    return _matmul(elementwise.as_operand("matmul", a, b), b)


def bind() -> None:
    """Give NDArray what this package has written for it."""
    methods: dict[str, Any] = {
        **elementwise.operators(),
        "__getitem__": access.getitem,
        "__setitem__": access.setitem,
        "__dlpack__": dlpack.dlpack,
        "__dlpack_device__": dlpack.dlpack_device,
        "__matmul__": _matmul,
        "__rmatmul__": _reflected_matmul,
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
