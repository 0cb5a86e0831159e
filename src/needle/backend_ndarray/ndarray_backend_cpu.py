"""The device `cpu`: machine code, made at run time for this processor.

The compiler is imported when the first kernel is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from needle.backend_ndarray.device import Device, Run, Scalar
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.window import window
from needle.errors import DeviceError

__all__ = ["CPUDevice"]


class CPUDevice(Device):
    """The processor, running native code on all its threads."""

    name = "cpu"

    def empty_memory(self, layout: Layout) -> Any:
        return _runtime("new")(layout.nbytes)

    def address(self, memory: Any) -> int:
        return _runtime("address")(memory)  # type: ignore[no-any-return]

    def view(self, layout: Layout, memory: Any, offset: int) -> np.ndarray[Any, Any]:
        start = self.address(memory) + offset * layout.itemsize
        return window(layout, start, memory)

    def memory_size(self, layout: Layout, memory: Any) -> int:
        return _runtime("size")(memory) // layout.itemsize  # type: ignore[no-any-return]

    def adopt(self, array: np.ndarray[Any, Any]) -> Any:
        """The array's own memory where it lies row after row, else a copy's."""
        array = np.ascontiguousarray(array)
        return _runtime("foreign")(array.__array_interface__["data"][0], array, array.nbytes)

    def elementwise(
        self,
        name: str,
        inputs: Sequence[Layout | Scalar],
        compute: Sequence[np.dtype[Any]],
        out: Layout,
    ) -> Run:
        prepared = _kernels("elementwise").prepare(name, inputs, compute, out)
        arrays = [x for x in inputs if isinstance(x, Layout)]
        scalars = [x.dtype.kind == "f" for x in inputs if isinstance(x, Scalar)]
        return _bind(prepared, arrays, out, scalars)

    def assign(self, source: Layout | Scalar, target: Layout) -> Run:
        prepared = _kernels("elementwise").prepare("copy", [source], [target.dtype], target)
        if isinstance(source, Scalar):
            return _bind(prepared, [target], None, [source.dtype.kind == "f"])
        return _bind(prepared, [source, target], None)

    def reduce(self, name: str, x: Layout, axes: tuple[int, ...], out: Layout) -> Run:
        return _bind(_kernels("reduction").prepare(name, x, axes, out), [x], out)

    def arg_reduce(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        return _bind(_kernels("arg_reduction").prepare(name, x, axis, out), [x], out)

    def scan(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        return _bind(_kernels("scan").prepare(name, x, axis, out), [x], out)

    def contract(self, a: Layout, b: Layout, out: Layout, groups: tuple[int, int, int, int]) -> Run:
        return _bind(_kernels("contraction").prepare(a, b, out, *groups), [a, b], out)

    def gather(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        return _bind(_kernels("gather").prepare_gather(x, indices, axis, out), [x, *indices], out)

    def scatter_add(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        return _bind(
            _kernels("gather").prepare_scatter_add(x, indices, axis, out), [x, *indices], out
        )

    def iota(self, out: Layout) -> Run:
        return _bind(_kernels("iota").prepare(out), [], out)


def _bind(
    prepared: Any, operands: Sequence[Layout], out: Layout | None, scalars: Sequence[bool] = ()
) -> Run:
    sizes = [x.itemsize for x in operands]
    return _module("needle.runtime.call").bind(  # type: ignore[no-any-return]
        prepared, sizes, None if out is None else out.nbytes, scalars
    )


@cache
def _runtime(name: str) -> Callable[..., Any]:
    return _module("needle.runtime.call").runtime_function(name)  # type: ignore[no-any-return]


def _kernels(name: str) -> Any:
    return _module(f"needle.compiler.kernels.{name}")


@cache
def _module(name: str) -> Any:
    """A module that writes or calls machine code: imported when it is needed."""
    if find_spec("llvmlite") is None:
        raise DeviceError(
            "cpu(): expected the package llvmlite, which makes its machine code, got none. "
            "Install it, or set NEEDLE_BACKEND=np, or use ndl.cpu_numpy()."
        )
    return import_module(name)
