"""Flat buffers and the functions on them that the course's backends consist of.

Contract section 9.2: `Array(size)` is a flat float32 buffer; the functions write into `out`.
They are here for code written against those backends; NDArray itself does not use them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from needle.backend_ndarray import creation
from needle.backend_ndarray.device import Device
from needle.backend_ndarray.layout import Layout, as_shape
from needle.errors import ShapeError

__all__ = ["Array", "Functions", "function_of"]

_TILE = 8
_FLOAT32 = np.dtype(np.float32)


class Array:
    """A flat buffer of `size` elements; `ptr()` is the address of the first."""

    def __init__(self, size: int, device: Device) -> None:
        array = creation.empty((size,), _FLOAT32, device)
        self._layout, self.memory, self.size = array._layout, array._memory, array.size

    @classmethod
    def around(cls, layout: Layout, memory: Any) -> Array:
        """The whole memory that an array of that layout lies in."""
        array = cls.__new__(cls)
        array.size = layout.device.memory_size(layout, memory)
        array._layout = Layout.of(layout.device, layout.dtype, (array.size,))
        array.memory = memory
        return array

    def ptr(self) -> int:
        """The address of the first element."""
        return self._layout.device.address(self.memory)  # type: ignore[no-any-return]

    def view(self) -> np.ndarray[Any, Any]:
        """The elements, shared."""
        return self._layout.device.view(self._layout, self.memory, 0)  # type: ignore[no-any-return]

    @property
    def device(self) -> Device:
        """Where it lies."""
        return self._layout.device  # type: ignore[no-any-return]

    def strided(self, name: str, shape: Any, strides: Any, offset: int) -> np.ndarray[Any, Any]:
        """A view of the elements for `name`. Raises OutOfRangeError where it would leave them."""
        reach = (as_shape(name, (offset,))[0], self.size, name)
        layout, _ = self._layout.as_strided(as_shape(name, shape), as_shape(name, strides), *reach)
        return layout.device.view(layout, self.memory, offset)  # type: ignore[no-any-return]


class Functions:
    """All of a device's raw functions, as the course has them in a module."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return function_of(self._device, name)


def function_of(device: Device, name: str) -> Any:
    """`device.<name>` as contract section 9.2 has it. Raises AttributeError."""
    if not device.enabled() or not device.has_memory:
        reason = "holds no elements" if device.enabled() else "is not enabled"
        raise AttributeError(f"{device!r} {reason} and has no {name!r}.")
    if name == "Array":
        return partial(Array, device=device)
    if name in ("__device_name__", "__tile_size__"):
        return device.name if name == "__device_name__" else _TILE
    function = _FUNCTIONS.get(name)
    if function is None or (name == "matmul_tiled" and device.name != "cpu"):
        raise AttributeError(f"{device!r}: expected a function of the device, got {name!r}.")
    return function


def _require_size(name: str, what: str, buffer: Array, expected: int) -> None:
    if buffer.size != expected:
        raise ShapeError(f"{name}: expected {expected} elements in {what}, got {buffer.size}.")


def to_numpy(a: Array, shape: Any, strides: Any, offset: int) -> np.ndarray[Any, Any]:
    """A copy of a strided view."""
    return np.array(a.strided("to_numpy", shape, strides, offset), order="C")


def from_numpy(values: np.ndarray[Any, Any], out: Array) -> None:
    """out = the values, row after row."""
    _require_size("from_numpy", "out", out, np.size(values))
    out.view()[:] = np.ravel(values)


def fill(out: Array, value: float) -> None:
    """out = value."""
    out.view()[:] = value


def compact(a: Array, out: Array, shape: Any, strides: Any, offset: int) -> None:
    """out = a strided view of a, row after row."""
    view = a.strided("compact", shape, strides, offset)
    _require_size("compact", "out", out, view.size)
    out.view()[:] = view.ravel()


def ewise_setitem(a: Array, out: Array, shape: Any, strides: Any, offset: int) -> None:
    """A strided view of out = a."""
    place = out.strided("ewise_setitem", shape, strides, offset)
    _require_size("ewise_setitem", "a", a, place.size)
    place[...] = a.view().reshape(place.shape)


def scalar_setitem(
    size: int, value: float, out: Array, shape: Any, strides: Any, offset: int
) -> None:
    """A strided view of out, of `size` elements, = value."""
    place = out.strided("scalar_setitem", shape, strides, offset)
    if place.size != size:
        raise ShapeError(f"scalar_setitem: expected a view of {size} elements, got {place.shape}.")
    place[...] = value


def matmul(a: Array, b: Array, out: Array, m: int, n: int, p: int) -> None:
    """out (m, p) = a (m, n) @ b (n, p)."""
    _require_matrices("matmul", a, b, out, m, n, p)
    np.matmul(a.view().reshape(m, n), b.view().reshape(n, p), out=out.view().reshape(m, p))


def matmul_tiled(a: Array, b: Array, out: Array, m: int, n: int, p: int) -> None:
    """The same on tiles: a (m/t, n/t, t, t), b (n/t, p/t, t, t) -> out (m/t, p/t, t, t)."""
    t = _TILE
    if m % t or n % t or p % t:
        raise ShapeError(f"matmul_tiled: expected multiples of {t}, got {(m, n, p)}.")
    _require_matrices("matmul_tiled", a, b, out, m, n, p)
    x = a.view().reshape(m // t, n // t, t, t)
    y = b.view().reshape(n // t, p // t, t, t)
    out.view().reshape(m // t, p // t, t, t)[...] = np.einsum("ikab,kjbc->ijac", x, y)


def reduce_max(a: Array, out: Array, reduce_size: int) -> None:
    """out[i] = the largest of the i-th `reduce_size` elements of a."""
    out.view()[:] = _rows("reduce_max", a, out, reduce_size).max(axis=1)


def reduce_sum(a: Array, out: Array, reduce_size: int) -> None:
    """out[i] = the sum of the i-th `reduce_size` elements of a."""
    out.view()[:] = _rows("reduce_sum", a, out, reduce_size).sum(axis=1)


def _rows(name: str, a: Array, out: Array, reduce_size: int) -> np.ndarray[Any, Any]:
    """The elements in rows, one for each element of out."""
    if reduce_size < 1:
        raise ShapeError(f"{name}: expected a reduce_size of 1 or more, got {reduce_size}.")
    _require_size(name, "a", a, out.size * reduce_size)
    return a.view().reshape(out.size, reduce_size)


def _require_matrices(name: str, a: Array, b: Array, out: Array, m: int, n: int, p: int) -> None:
    for what, buffer, size in (("a", a, m * n), ("b", b, n * p), ("out", out, m * p)):
        _require_size(name, what, buffer, size)


def _binary(name: str, function: Callable[..., Any]) -> Callable[..., None]:
    def run(a: Array, b: Any, out: Array) -> None:
        _require_size(name, "a", a, out.size)
        if isinstance(b, Array):
            _require_size(name, "b", b, out.size)
        with np.errstate(all="ignore"):
            out.view()[:] = function(a.view(), b.view() if isinstance(b, Array) else b)

    return run


def _unary(name: str, function: Callable[..., Any]) -> Callable[..., None]:
    def run(a: Array, out: Array) -> None:
        _require_size(name, "a", a, out.size)
        with np.errstate(all="ignore"):
            out.view()[:] = function(a.view())

    return run


_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "eq": np.equal,
    "ge": np.greater_equal,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "to_numpy": to_numpy,
    "from_numpy": from_numpy,
    "fill": fill,
    "compact": compact,
    "ewise_setitem": ewise_setitem,
    "scalar_setitem": scalar_setitem,
    "matmul": matmul,
    "matmul_tiled": matmul_tiled,
    "reduce_max": reduce_max,
    "reduce_sum": reduce_sum,
    "scalar_power": _binary("scalar_power", np.power),
}
for _name, _function in _BINARY.items():
    for _kind in ("ewise", "scalar"):
        _FUNCTIONS[f"{_kind}_{_name}"] = _binary(f"{_kind}_{_name}", _function)
for _name, _function in {"log": np.log, "exp": np.exp, "tanh": np.tanh}.items():
    _FUNCTIONS[f"ewise_{_name}"] = _unary(f"ewise_{_name}", _function)
