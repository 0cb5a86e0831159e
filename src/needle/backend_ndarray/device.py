"""Devices: where arrays live, and what each must be able to do.

A device turns a primitive and layouts into a function that runs it. All functions take
`(memory, offset)` for each operand, offsets in elements; what memory is, is the device's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from needle.backend_ndarray.layout import Layout
from needle.errors import DeviceError

__all__ = ["BackendDevice", "Device", "Run", "Scalar"]

Run = Callable[..., Any]


class Scalar(NamedTuple):
    """In place of a Layout: a Python number, which is handed over at the call."""

    dtype: np.dtype[Any]


class Device:
    """A place where arrays live and are computed on. Devices of one name are equal."""

    name = "device"
    has_memory = True  # False where arrays are shapes only

    def __repr__(self) -> str:
        return f"{self.name}()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __getattr__(self, attribute: str) -> Any:
        """What `mod` has."""
        if attribute.startswith("_") and attribute not in ("__device_name__", "__tile_size__"):
            raise AttributeError(attribute)
        from needle.backend_ndarray import raw

        return raw.function_of(self, attribute)

    @property
    def mod(self) -> Any:
        """The raw functions of contract section 9.2, for who knows the course's backends.

        None where the device is not enabled.
        """
        from needle.backend_ndarray import raw

        return raw.Functions(self) if self.enabled() else None

    def enabled(self) -> bool:
        """Whether arrays can be made on this device here."""
        return True

    @property
    def real(self) -> Device:
        """Where its arrays come to lie: itself, unless it is a trace of another."""
        return self

    # -- memory --------------------------------------------------------------------------------

    def empty_memory(self, layout: Layout) -> Any:
        """Memory for a compact layout, with arbitrary contents."""
        raise self._missing()

    def view(self, layout: Layout, memory: Any, offset: int) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array that shares the memory."""
        raise self._missing()

    def memory_size(self, layout: Layout, memory: Any) -> int:
        """How many elements of the layout's dtype the whole memory holds."""
        raise self._missing()

    def address(self, memory: Any) -> int:
        """Where the memory begins."""
        raise self._missing()

    def adopt(self, array: np.ndarray[Any, Any]) -> Any:
        """The memory of a NumPy array as this device's, shared where that is possible."""
        raise self._missing()

    # -- primitives ----------------------------------------------------------------------------

    def elementwise(
        self,
        name: str,
        inputs: Sequence[Layout | Scalar],
        compute: Sequence[np.dtype[Any]],
        out: Layout,
    ) -> Run:
        """(memory, offset, ..., numbers) -> memory. `compute`: what each is converted to first."""
        raise self._missing()

    def assign(self, source: Layout | Scalar, target: Layout) -> Run:
        """Copy with conversion into a view: (memory, offset, memory, offset) -> None.

        A number comes after the target's memory and offset.
        """
        raise self._missing()

    def reduce(self, name: str, x: Layout, axes: tuple[int, ...], out: Layout) -> Run:
        """sum, prod, max, min, all, any over axes: (memory, offset) -> memory."""
        raise self._missing()

    def arg_reduce(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        """argmax, argmin along an axis: (memory, offset) -> memory."""
        raise self._missing()

    def scan(self, name: str, x: Layout, axis: int, out: Layout) -> Run:
        """cumsum along an axis: (memory, offset) -> memory."""
        raise self._missing()

    def contract(self, a: Layout, b: Layout, out: Layout, groups: tuple[int, int, int, int]) -> Run:
        """Sums of products. a: batch + m + k axes, b: batch + k + n, out: batch + m + n.

        groups  how many axes batch, m, n and k have
        out     its m axes can be walked with one stride, and so its n axes; one of these is 1.
                Or an axis of its batch has stride 1, as it has in a and b
        """
        raise self._missing()

    def gather(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        """Slices picked by index arrays of one shape on the axes from `axis` on; x comes first.

        What it runs raises IndexError with the flat position of an index that is out of range.
        """
        raise self._missing()

    def scatter_add(self, x: Layout, indices: Sequence[Layout], axis: int, out: Layout) -> Run:
        """The reverse: zeros, and what x has added where the indices say."""
        raise self._missing()

    def iota(self, out: Layout) -> Run:
        """0, 1, 2, ...: () -> memory."""
        raise self._missing()

    def _missing(self) -> DeviceError:
        return DeviceError(f"{self!r}: expected a device of this machine, got one that it lacks.")

    # -- what the course's devices offer -------------------------------------------------------

    def randn(self, *shape: int, dtype: Any = "float32") -> Any:
        """Normal draws, N(0, 1), from NumPy's global stream."""
        return self._array(np.random.randn(*shape), dtype)

    def rand(self, *shape: int, dtype: Any = "float32") -> Any:
        """Uniform draws in [0, 1) from NumPy's global stream."""
        return self._array(np.random.rand(*shape), dtype)

    def one_hot(self, n: int, i: Any, dtype: Any = "float32") -> Any:
        """1 at the class ids `i`, else 0; shape `i.shape + (n,)`."""
        from needle.backend_ndarray import creation

        return creation.one_hot(n, i, dtype, self)

    def empty(self, shape: Any, dtype: Any = "float32") -> Any:
        """An array with arbitrary contents."""
        from needle.backend_ndarray import creation

        return creation.empty(shape, dtype, self)

    def full(self, shape: Any, fill_value: Any, dtype: Any = "float32") -> Any:
        """An array filled with one value."""
        from needle.backend_ndarray import creation

        return creation.full(shape, fill_value, dtype, self)

    def _array(self, values: Any, dtype: Any) -> Any:
        from needle.backend_ndarray import creation

        return creation.array(values, dtype, self)


BackendDevice = Device
