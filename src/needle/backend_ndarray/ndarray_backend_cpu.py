"""The device `cpu`: machine code, made at run time for this processor.

The compiler is imported when the first kernel is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
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
        from needle.compiler.kernels import elementwise

        prepared = elementwise.prepare(name, inputs, compute, out)
        arrays = [x for x in inputs if isinstance(x, Layout)]
        scalars = [x.dtype.kind == "f" for x in inputs if isinstance(x, Scalar)]
        return _bind(prepared, arrays, out, scalars)

    def assign(self, source: Layout | Scalar, target: Layout) -> Run:
        from needle.compiler.kernels import elementwise
        from needle.runtime.call import bind

        prepared = elementwise.prepare("copy", [source], [target.dtype], target)
        if isinstance(source, Scalar):
            return bind(prepared, [target.itemsize], None, [source.dtype.kind == "f"])
        return bind(prepared, [source.itemsize, target.itemsize])

    def reduce(self, name: str, x: Layout, axes: tuple[int, ...], out: Layout) -> Run:
        from needle.compiler.kernels import reduction

        return _bind(reduction.prepare(name, x, axes, out), [x], out)

    def arg_reduce(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        from needle.compiler.kernels import arg_reduction

        return _bind(arg_reduction.prepare(name, x, axis, out), [x], out)

    def scan(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        from needle.compiler.kernels import scan

        return _bind(scan.prepare(name, x, axis, out), [x], out)

    def contract(self, a: Layout, b: Layout, out: Layout, groups: tuple[int, int, int, int]) -> Run:
        from needle.compiler.kernels import contraction

        return _bind(contraction.prepare(a, b, out, *groups), [a, b], out)

    def gather(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        from needle.compiler.kernels import gather

        return _bind(gather.prepare_gather(x, indices, axis, out), [x, *indices], out)

    def scatter_add(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        from needle.compiler.kernels import gather

        return _bind(gather.prepare_scatter_add(x, indices, axis, out), [x, *indices], out)

    def iota(self, out: Layout) -> Run:
        from needle.compiler.kernels import iota

        return _bind(iota.prepare(out), [], out)


def _bind(prepared: Any, operands: Sequence[Layout], out: Layout, scalars: Any = ()) -> Run:
    from needle.runtime.call import bind

    return bind(prepared, [x.itemsize for x in operands], out.nbytes, scalars)


@cache
def _runtime(name: str) -> Callable[..., Any]:
    if find_spec("llvmlite") is None:
        raise DeviceError(
            "cpu(): expected the package llvmlite, which makes its machine code, got none. "
            "Install it, or set NEEDLE_BACKEND=np, or use ndl.cpu_numpy()."
        )
    from needle.runtime.call import runtime_function

    return runtime_function(name)
