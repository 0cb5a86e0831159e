"""The device `cpu_numpy`: NumPy does everything. The reference that other devices are held to.

Memory is a 1-D NumPy array of bytes' owner: views are made of it as they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from needle import backend_numpy
from needle.backend_ndarray.device import Device, Run, Scalar
from needle.backend_ndarray.layout import Layout
from needle.dtypes import is_floating

__all__ = ["NumPyDevice"]

Array = np.ndarray[Any, Any]

# where NumPy's name is another, or NumPy has none
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "erf": backend_numpy.erf,
    "sigmoid": backend_numpy.sigmoid,
    "where": np.where,
    "multiply_add": backend_numpy.multiply_add,
}


class NumPyDevice(Device):
    """The processor, by way of NumPy."""

    name = "cpu_numpy"

    def empty_memory(self, layout: Layout) -> Array:
        memory: Array = np.empty(layout.size, layout.dtype)
        return memory

    def view(self, layout: Layout, memory: Any, offset: int) -> Array:
        if layout.size == 0:
            return np.empty(layout.shape, layout.dtype)
        view: Array = np.ndarray(
            layout.shape,
            layout.dtype,
            memory,
            offset * layout.itemsize,
            tuple([step * layout.itemsize for step in layout.strides]),
        )
        return view

    def memory_size(self, layout: Layout, memory: Any) -> int:
        return memory.nbytes // layout.itemsize  # type: ignore[no-any-return]

    def address(self, memory: Any) -> int:
        return memory.__array_interface__["data"][0]  # type: ignore[no-any-return]

    def adopt(self, array: Array) -> Array:
        return np.ascontiguousarray(array).reshape(-1)

    def _views(self, layouts: Sequence[Layout], arguments: Sequence[Any]) -> list[Array]:
        pairs = zip(arguments[::2], arguments[1::2], strict=False)
        return [
            self.view(layout, memory, offset)
            for layout, (memory, offset) in zip(layouts, pairs, strict=False)
        ]

    def _result(self, values: Any, out: Layout) -> Array:
        """Memory with the values, converted and laid out as `out` has them."""
        memory = self.empty_memory(out)
        self.view(out, memory, 0)[...] = values
        return memory

    def elementwise(
        self,
        name: str,
        inputs: Sequence[Layout | Scalar],
        compute: Sequence[np.dtype[Any]],
        out: Layout,
    ) -> Run:
        layouts = [x for x in inputs if isinstance(x, Layout)]
        function: Any = _FUNCTIONS.get(name) or getattr(np, name, None)

        def run(*arguments: Any) -> Array:
            views = iter(self._views(layouts, arguments))
            numbers = iter(arguments[2 * len(layouts) :])
            given = [next(views if isinstance(x, Layout) else numbers) for x in inputs]
            with np.errstate(all="ignore"):
                values = [
                    _converted(np.asarray(x), to) for x, to in zip(given, compute, strict=True)
                ]
                if name == "copy":
                    return self._result(values[0], out)
                return self._computed(function, [_widened(x) for x in values], out)

        return run

    def _computed(self, function: Callable[..., Any], values: list[Array], out: Layout) -> Array:
        """Memory with what the function makes of the values, written there if NumPy can."""
        if not isinstance(function, np.ufunc):
            return self._result(function(*values), out)
        memory = self.empty_memory(out)
        function(*values, out=self.view(out, memory, 0), casting="unsafe")
        return memory

    def assign(self, source: Layout | Scalar, target: Layout) -> Run:
        def run(*arguments: Any) -> None:
            with np.errstate(all="ignore"):
                if isinstance(source, Scalar):
                    number = _converted(np.asarray(arguments[2]), target.dtype)
                    self.view(target, *arguments[:2])[...] = number
                else:
                    from_view, to_view = self._views([source, target], arguments)
                    to_view[...] = _converted(from_view, target.dtype)

        return run

    def reduce(self, name: str, x: Layout, axes: tuple[int, ...], out: Layout) -> Run:
        function = getattr(np, name)
        options = {"dtype": _wide(out.dtype)} if name in ("sum", "prod") else {}

        def run(memory: Any, offset: int) -> Array:
            view = self.view(x, memory, offset)
            with np.errstate(all="ignore"):
                return self._result(function(view, axis=axes, **options).reshape(out.shape), out)

        return run

    def arg_reduce(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        def run(memory: Any, offset: int) -> Array:
            found = getattr(np, name)(self.view(x, memory, offset), axis=axis)
            return self._result(np.reshape(found, out.shape), out)

        return run

    def scan(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        def run(memory: Any, offset: int) -> Array:
            view = self.view(x, memory, offset)
            with np.errstate(all="ignore"):
                return self._result(getattr(np, name)(view, axis=axis, dtype=_wide(out.dtype)), out)

        return run

    def contract(self, a: Layout, b: Layout, out: Layout, groups: tuple[int, int, int, int]) -> Run:
        batch, m, n, k = groups
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        rest = iter(letters)
        b_, m_, n_, k_ = ["".join(islice(rest, count)) for count in (batch, m, n, k)]
        subscripts = f"{b_}{m_}{k_},{b_}{k_}{n_}->{b_}{m_}{n_}"
        by_einsum = partial(backend_numpy.einsum, subscripts)
        multiply = np.matmul if groups == (batch, 1, 1, 1) else by_einsum
        dtype = _wide(out.dtype)

        def run(*arguments: Any) -> Array:
            x, y = [view.astype(dtype, copy=False) for view in self._views([a, b], arguments)]
            with np.errstate(all="ignore"):
                return self._result(multiply(x, y), out)

        return run

    def gather(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        def run(*arguments: Any) -> Array:
            values, *index = self._views([x, *indices], arguments)
            _require_within(index, x.shape[axis:])
            return self._result(values[(slice(None),) * axis + tuple(index)], out)

        return run

    def scatter_add(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        def run(*arguments: Any) -> Array:
            values, *index = self._views([x, *indices], arguments)
            _require_within(index, out.shape[axis:])
            total = np.zeros(out.shape, _wide(out.dtype))
            np.add.at(total, (slice(None),) * axis + tuple(index), values)  # type: ignore[arg-type]
            return self._result(total, out)

        return run

    def iota(self, out: Layout) -> Run:
        return lambda: _converted(np.arange(out.size), out.dtype)


def _converted(values: Array, dtype: Any) -> Array:
    """`astype`, rounded once: what is no float32 would be rounded twice on its way to bfloat16.

    So float32 is reached by rounding to odd, as in `needle.compiler.half`.
    """
    if dtype.name != "bfloat16" or values.dtype.itemsize < 4 or values.dtype == np.float32:
        return values.astype(dtype, copy=False)
    if values.dtype.itemsize == 8 and values.dtype.kind in "iu":
        odd = ((values >> 11) | ((values & 0x7FF) != 0)) << 11
        values = np.where((values > 2**53) | (values < -(2**53)), odd, values)
    exact = values.astype(np.float64)
    near = exact.astype(np.float32)
    cut_off = near.view(np.uint32) - (np.abs(near, dtype=np.float64) > np.abs(exact))
    odd = np.where(near == exact, cut_off, cut_off | 1)
    return odd.astype(np.uint32).view(np.float32).astype(dtype)


def _widened(values: Array) -> Array:
    """16-bit floats as float32, in which functions of them are computed, to be rounded once."""
    return values.astype(_wide(values.dtype), copy=False)


def _wide(dtype: Any) -> Any:
    """What is added up in: float32 for shorter floats."""
    return np.dtype(np.float32) if is_floating(dtype) and dtype.itemsize < 4 else dtype


def _require_within(indices: Sequence[Array], extents: Sequence[int]) -> None:
    """Raise IndexError with the flat position of the first index outside its axis."""
    for index, extent in zip(indices, extents, strict=False):
        wrong = (index < -extent) | (index >= extent)
        if wrong.any():
            raise IndexError(int(np.flatnonzero(wrong)[0]))
