"""NDArray: a layout, the memory it lies in, and where in it the first element is.

This file has what an array is and every view of it. Its operators and the methods that compute
are functions of other files, bound to the class in `methods.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from needle.backend_ndarray import indexing
from needle.backend_ndarray.device import Device
from needle.backend_ndarray.layout import Layout, Shape, as_shape, compact_strides
from needle.backend_ndarray.plans import require_memory
from needle.errors import DTypeError, ShapeError, describe

__all__ = ["NDArray", "new_array", "require_array"]

_POINTER = 8  # bytes in a list for each of its elements


class NDArray:
    """A strided array on a device.

    other   an NDArray (copied), a NumPy array or whatever NumPy makes one of
    device  where it lies; default: where `other` lies, else `default_device()`
    dtype   default: an NDArray's own, else float32

    Views share the memory: `reshape` where strides allow, `permute`, `broadcast_to`, `flip` by
    slices, `x[2:5, ::-1]`. An int in an index leaves an axis of length 1. `x += y` and its like
    write into the memory as well. A class derived from this one is not kept: views of its arrays,
    and what is computed of them, are NDArrays.

    >>> import needle.backend_ndarray as nd
    >>> x = nd.array([[1, 2, 3], [4, 5, 6]])
    >>> x.permute((1, 0)).strides
    (1, 3)
    >>> x[1, :2] = 0
    >>> x + 1
    NDArray([[2., 3., 4.],
             [1., 1., 7.]], device=cpu())
    >>> x[0] += 1
    >>> x.sum(axis=1)
    NDArray([9., 6.], device=cpu())
    """

    __slots__ = ("__weakref__", "_layout", "_memory", "_offset")

    _layout: Layout
    _memory: Any
    _offset: int

    def __init__(self, other: Any, device: Device | None = None, dtype: Any = None) -> None:
        from needle.backend_ndarray import creation

        made = creation.array(other, dtype, device)
        self._layout, self._memory, self._offset = made._layout, made._memory, made._offset

    @staticmethod
    def make(
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        device: Device | None = None,
        handle: Any = None,
        offset: int = 0,
        dtype: Any = "float32",
    ) -> NDArray:
        """An array of that shape on the memory of `handle`, or on fresh memory."""
        from needle.backend_ndarray import creation

        return creation.make(shape, strides, device, handle, offset, dtype)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """The extent of each axis."""
        return self._layout.shape

    @property
    def strides(self) -> Shape:
        """Elements from one index to the next, on each axis."""
        return self._layout.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self._layout.dtype

    @property
    def device(self) -> Device:
        """Where it lives."""
        device: Device = self._layout.device
        return device

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._layout.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._layout.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self._layout.nbytes

    # contract section 9.3 has these fields
    _shape = shape
    _strides = strides
    _device = device

    @property
    def _handle(self) -> Any:
        from needle.backend_ndarray.raw import Array

        return Array.around(self._layout, self._memory)

    @property
    def T(self) -> NDArray:
        """The axes in reverse order."""
        return self.permute(tuple(range(self.ndim))[::-1])

    @staticmethod
    def compact_strides(shape: Sequence[int]) -> Shape:
        """Strides of an array that lies row after row."""
        return compact_strides(as_shape("compact_strides", shape))

    def is_compact(self) -> bool:
        """Whether the elements lie row after row, and the memory holds nothing else."""
        return self._layout.compact and self._memory_size() == self.size

    def _memory_size(self) -> int:
        return self.device.memory_size(self._layout, self._memory)

    # -- views ---------------------------------------------------------------------------------

    def _view(self, view: tuple[Layout, int]) -> NDArray:
        layout, change = view
        array = _new(NDArray)
        array._layout, array._memory = layout, self._memory
        array._offset = self._offset + change
        return array

    def as_strided(self, shape: Sequence[int], strides: Sequence[int]) -> NDArray:
        """A view of any shape and strides from the first element on, within the memory."""
        extents, steps = as_shape("as_strided", shape), as_shape("as_strided", strides)
        reach = (self._offset, self._memory_size())
        return self._view(self._layout.as_strided(extents, steps, *reach))

    def permute(self, *axes: Any) -> NDArray:
        """A view whose axis i is this array's axis `axes[i]`: permute((1, 0)) or permute(1, 0)."""
        order = as_shape("permute", axes[0] if len(axes) == 1 else axes)
        return self._view(self._layout.permute(order))

    def swapaxes(self, first: int, second: int) -> NDArray:
        """A view with two axes exchanged."""
        return self._view(self._layout.swapaxes(*as_shape("swapaxes", (first, second))))

    def broadcast_to(self, *shape: Any) -> NDArray:
        """A view in which axes of length 1, and new axes in front, repeat: broadcast_to((2, 3)) or
        broadcast_to(2, 3)."""
        extents = as_shape("broadcast_to", shape[0] if len(shape) == 1 else shape)
        return self._view(self._layout.broadcast_to(extents))

    def reshape(self, *shape: Any) -> NDArray:
        """The elements in another shape, one extent of which may be -1: a view where strides
        allow, else a copy."""
        extents = as_shape("reshape", shape[0] if len(shape) == 1 else shape)
        view = self._layout.reshape(extents)
        if view is not None:
            return self._view(view)
        from needle.backend_ndarray.shapes import copied

        return copied("reshape", self).reshape(extents)

    def squeeze(self, axis: int | Sequence[int] | None = None) -> NDArray:
        """A view without these axes of length 1; None means all of them."""
        axes = None if axis is None else as_shape("squeeze", axis)
        return self._view(self._layout.squeeze(axes))

    def expand_dims(self, axis: int | Sequence[int]) -> NDArray:
        """A view with axes of length 1 at these places of the result."""
        return self._view(self._layout.expand_dims(as_shape("expand_dims", axis)))

    @property
    def flat(self) -> Any:
        """The elements in order, to read and to write: a 1-D view, or what acts like one."""
        view = self._layout.reshape((-1,)) if self.size else self._layout.reshape((0,))
        if view is not None:
            return self._view(view)
        from needle.backend_ndarray.flat import Flat

        return Flat(self)

    @flat.setter
    def flat(self, value: Any) -> None:
        self.flat[:] = value

    def process_slice(self, sl: slice, dim: int) -> slice:
        """The slice along axis `dim` with explicit start, stop and step."""
        return indexing.process_slice(sl, self.shape[dim])

    # -- Python's protocols --------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length("len")

    def __iter__(self) -> Iterator[NDArray]:
        return (self[i] for i in range(self._length("iter")))

    def _length(self, name: str) -> int:
        if not self.ndim:
            raise TypeError(f"{name}: expected at least one axis, got a 0-d NDArray.")
        return self.shape[0]

    def __contains__(self, value: Any) -> bool:
        """Whether some element equals the value; of an array, the one that stands beside it."""
        from needle.backend_ndarray.elementwise import apply

        return bool(apply("equal", self, value).any())

    def __bool__(self) -> bool:
        return bool(self._one("bool", " Use any() or all()."))

    def __float__(self) -> float:
        return float(self._one("float"))

    def __int__(self) -> int:
        return int(self._one("int"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.size != 1:
            raise DTypeError(f"index: expected one integer, got {describe(self)}.")
        return int(self.item())

    def item(self) -> Any:
        """The one element, as a Python number."""
        return self._one("item")

    def _one(self, name: str, hint: str = "") -> Any:
        if self.size != 1:
            raise ShapeError(f"{name}: expected one element, got {describe(self)}.{hint}")
        return self._shared().item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        require_memory("tolist", self.size * _POINTER)
        return self._shared().tolist()

    def _shared(self) -> np.ndarray[Any, Any]:
        """A NumPy array on the same memory, read-only where elements show more than once."""
        shared = self.device.view(self._layout, self._memory, self._offset)
        if self._layout.repeats:
            shared.flags.writeable = False
        return shared

    def numpy(self) -> np.ndarray[Any, Any]:
        """A NumPy copy."""
        require_memory("numpy", self.nbytes)
        return np.array(self._shared(), order="C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        shared = self._shared()
        if dtype is not None and shared.dtype != dtype:
            if copy is False:
                raise ValueError(f"expected no copy, but {shared.dtype} has to become {dtype}.")
            return shared.astype(dtype)
        return shared.copy() if copy else shared

    def __bytes__(self) -> bytes:
        require_memory("bytes", self.nbytes)
        return self._shared().tobytes()

    def __buffer__(self, flags: int) -> memoryview:
        """The elements for `memoryview(x)`, shared; Python asks for it from 3.12 on."""
        if self.dtype.name == "bfloat16":
            raise BufferError(f"buffer: expected a dtype with a code, got {describe(self)}.")
        return self._shared().data

    def __reduce__(self) -> Any:
        """How `copy` and `pickle` take it: its elements and the device."""
        return _rebuilt, (self.numpy(), self.device.name)

    def __repr__(self) -> str:
        """As NumPy prints an array, dtype and shape where they do not show; then the device."""
        if not self.device.has_memory:
            return f"NDArray({describe(self)}, device={self.device})"
        parts = ["[]"]
        if self.size:
            parts = [np.array2string(self._shared(), separator=", ", prefix="NDArray(")]
        if not 0 < self.size <= np.get_printoptions()["threshold"] and self.shape != (0,):
            parts.append(f"shape={self.shape}")
        if self.dtype != np.float32:
            parts.append(f"dtype={self.dtype}")
        return f"NDArray({', '.join(parts)}, device={self.device})"

    def __str__(self) -> str:
        return str(self._shared()) if self.device.has_memory else describe(self)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        if self.size != 1:
            raise ShapeError(f"format: expected one element for {spec!r}, got {describe(self)}.")
        return format(self.item(), spec)

    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    if TYPE_CHECKING:  # bound in methods.py
        __add__: Any
        __radd__: Any
        __sub__: Any
        __rsub__: Any
        __mul__: Any
        __rmul__: Any
        __truediv__: Any
        __rtruediv__: Any
        __floordiv__: Any
        __rfloordiv__: Any
        __mod__: Any
        __rmod__: Any
        __pow__: Any
        __rpow__: Any
        __matmul__: Any
        __rmatmul__: Any
        __and__: Any
        __rand__: Any
        __or__: Any
        __ror__: Any
        __xor__: Any
        __rxor__: Any
        __eq__: Any
        __ne__: Any
        __lt__: Any
        __le__: Any
        __gt__: Any
        __ge__: Any
        __iadd__: Any
        __isub__: Any
        __imul__: Any
        __itruediv__: Any
        __ifloordiv__: Any
        __imod__: Any
        __ipow__: Any
        __imatmul__: Any
        __iand__: Any
        __ior__: Any
        __ixor__: Any
        __divmod__: Any
        __rdivmod__: Any
        __pos__: Any
        __neg__: Any
        __abs__: Any
        __invert__: Any
        __getitem__: Any
        __setitem__: Any
        __array_ufunc__: Any
        __array_function__: Any
        __dlpack__: Any
        __dlpack_device__: Any
        astype: Any
        compact: Any
        copy: Any
        to: Any
        fill: Any
        flip: Any
        pad: Any
        sum: Any
        max: Any
        min: Any
        mean: Any
        std: Any
        var: Any
        prod: Any
        all: Any
        any: Any
        argmax: Any
        argmin: Any
        maximum: Any
        minimum: Any
        log: Any
        exp: Any
        tanh: Any


_new = object.__new__


def new_array(layout: Layout, memory: Any) -> NDArray:
    """An array that begins where its memory does."""
    array = _new(NDArray)
    array._layout = layout
    array._memory = memory
    array._offset = 0
    return array


def require_array(name: str, *values: Any) -> None:
    """Raise DTypeError, naming the op, unless all are NDArrays."""
    if not all(isinstance(value, NDArray) for value in values):
        raise DTypeError(f"{name}: expected NDArrays, got {describe(*values)}. Use array(x).")


def _rebuilt(values: np.ndarray[Any, Any], device: str) -> NDArray:
    from needle.backend_ndarray import creation, devices

    return creation.array(values, values.dtype, getattr(devices, device)())
