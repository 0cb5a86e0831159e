"""Memory shared with other libraries: DLPack in both directions, and NumPy's arrays.

What is exported is NumPy's capsule for a view of the memory. It keeps the memory, and gives it back
from any thread, also while an exception is on its way, at which a deleter written in Python fails.
NumPy knows no bfloat16: such arrays go through it as uint16, and the capsule says what they are.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from needle.backend_ndarray import creation
from needle.backend_ndarray.device import Device
from needle.backend_ndarray.devices import as_device
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.promotion import as_supported
from needle.backend_ndarray.window import window
from needle.errors import DeviceError, DTypeError, OptionError, describe

__all__ = ["dlpack", "dlpack_device", "from_dlpack", "from_numpy"]

_CPU, _CUDA_HOST = 1, 3  # kinds of device whose memory the processor reaches
_UINT, _BFLOAT = 1, 4  # kinds of number
_READ_ONLY = 1  # the flag


class _Type(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_STRUCTURES: dict[bytes, Any] = {b"dltensor": _Managed, b"dltensor_versioned": _ManagedVersioned}

_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _managed(capsule: Any) -> Any:
    """What a capsule that nobody has consumed yet points to."""
    for name, structure in _STRUCTURES.items():
        if _is_valid(capsule, name):
            return structure.from_address(_pointer(capsule, name))
    raise BufferError(f"from_dlpack: expected a capsule of DLPack, not used yet, got {capsule!r}.")


# -- out ---------------------------------------------------------------------------------------


def dlpack_device(x: NDArray) -> tuple[int, int]:
    """DLPack's kind and number of the device: (1, 0), the processor."""
    if not x.device.has_memory:
        raise BufferError(f"dlpack: expected an array with data, got {describe(x)} without.")
    return _CPU, 0


def dlpack(
    x: NDArray,
    *,
    stream: None = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A capsule with the array's memory, shared unless `copy` is True, for `from_dlpack`.

    max_version  the newest DLPack that the consumer knows; None or (0, x): the unversioned one
    Raises BufferError for what cannot be shared: a reversed axis, at which PyTorch would end the
    process; compact() straightens it. What repeats elements, a broadcast array, is read-only, which
    an unversioned capsule cannot say.
    """
    here = dlpack_device(x)
    if stream is not None or dl_device not in (None, here):
        raise BufferError(
            f"dlpack: expected no stream and device {here}, got stream {stream} and device "
            f"{dl_device}."
        )
    backwards = [s for n, s in zip(x.shape, x.strides, strict=True) if n > 1 and s < 0]
    if backwards and x.size and not copy:
        raise BufferError(
            f"dlpack: expected strides of 0 or more, got {x.strides} of {describe(x)}. "
            "Use compact()."
        )
    if x._layout.repeats and not copy and (max_version is None or max_version < (1, 0)):
        raise BufferError(
            "dlpack: expected a max_version from (1, 0) on, which can say that an array is "
            f"read-only, for {describe(x)}, which repeats elements, got {max_version}. "
            "Use compact()."
        )
    values, narrow = x._shared(), x.dtype.name == "bfloat16"
    if narrow:
        values = values.view(np.uint16)
    capsule = values.__dlpack__(max_version=max_version, copy=copy)
    if narrow:
        _managed(capsule).tensor.dtype.kind = _BFLOAT
    return capsule


# -- in ----------------------------------------------------------------------------------------


def from_dlpack(x: Any, device: Device | None = None, copy: bool | None = None) -> NDArray:
    """The array of another library (or of another device) as an NDArray on the same memory.

    x       whatever has `__dlpack__` and `__dlpack_device__`: a PyTorch tensor, a NumPy array
    device  default: an NDArray's own, else `default_device()`
    copy    None: where `x` may not be written to, since an NDArray may; True: always; False: never

    >>> import numpy as np
    >>> import needle.backend_ndarray as nd
    >>> numbers = np.zeros(3)
    >>> nd.from_dlpack(numbers)[1] = 5
    >>> numbers
    array([0., 5., 0.])
    """
    if isinstance(x, NDArray):
        if device in (None, x.device):
            return x.astype(x.dtype) if copy else x._view((x._layout, 0))
        values, read_only = x._shared(), x._layout.repeats
    elif isinstance(x, np.ndarray):
        values, read_only = x, not x.flags.writeable
    else:
        values, read_only = _imported(x, copy)
    return _sharing("from_dlpack", values, device, copy, read_only)


def from_numpy(array: np.ndarray[Any, Any], device: Device | None = None) -> NDArray:
    """A NumPy array's memory as an NDArray: what is written to one, the other has as well.

    `nd.array` copies. Raises OptionError where the memory cannot be shared, DTypeError for a dtype
    that NDArrays do not have.
    """
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}.")
    return _sharing("from_numpy", array, device, False, not array.flags.writeable)


def _imported(x: Any, copy: bool | None) -> tuple[np.ndarray[Any, Any], bool]:
    """The producer's memory as NumPy sees it, and whether it is read-only."""
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise DTypeError(f"from_dlpack: expected an object with __dlpack__, got {describe(x)}.")
    kind, number = x.__dlpack_device__()
    if kind not in (_CPU, _CUDA_HOST):
        raise DeviceError(
            "from_dlpack: expected an array in the processor's memory, got one on DLPack's device "
            f"({int(kind)}, {number}). Move it there first."
        )
    capsule = _capsule_of(x, copy)
    managed = _managed(capsule)
    read_only = bool(getattr(managed, "flags", 0) & _READ_ONLY)
    dtype = managed.tensor.dtype
    narrow = (dtype.kind, dtype.bits, dtype.lanes) == (_BFLOAT, 16, 1)
    if not narrow:
        return _through_numpy(capsule), read_only
    dtype.kind = _UINT
    try:
        return _through_numpy(capsule).view(as_supported("bfloat16")), read_only
    finally:
        dtype.kind = _BFLOAT


def _capsule_of(x: Any, copy: bool | None) -> Any:
    options = {} if copy is None else {"copy": copy}
    try:
        return x.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # a producer from before DLPack 1.0
        return x.__dlpack__()


def _through_numpy(capsule: Any) -> np.ndarray[Any, Any]:
    """NumPy takes the capsule over, and gives the memory back when its array goes."""
    try:
        return np.from_dlpack(_Carrier(capsule))
    except (RuntimeError, BufferError) as error:
        raise DTypeError(f"from_dlpack: expected a dtype that NDArrays have. {error}") from None


class _Carrier:
    """An object of which NumPy takes the capsule."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


def _sharing(
    name: str,
    values: np.ndarray[Any, Any],
    device: Device | None,
    copy: bool | None,
    read_only: bool,
) -> NDArray:
    """`values` as an NDArray on their own memory, or on a copy where `copy` allows."""
    dtype, place = as_supported(values.dtype), as_device(device)
    if not place.has_memory:
        raise DeviceError(f"{name}: expected a device with memory, got {place!r}.")
    obstacle = _obstacle(values, read_only)
    if copy or (obstacle and copy is None):
        return creation.array(values, dtype, place)
    if obstacle:
        raise OptionError(
            f"{name}: expected memory to share, got {describe(values)}, which {obstacle}. "
            "Copy it with array()."
        )
    strides = tuple([step // values.itemsize for step in values.strides])
    layout = Layout.of(place, dtype, values.shape, strides)
    return _adopted(layout, values) if layout.size else creation.empty(values.shape, dtype, place)


def _obstacle(values: np.ndarray[Any, Any], read_only: bool) -> str | None:
    """Why an NDArray cannot lie on an array's memory, if it cannot."""
    if read_only:
        return "is read-only"
    if not values.dtype.isnative:
        return f"is in byte order {values.dtype.byteorder!r}"
    steps = [step for n, step in zip(values.shape, values.strides, strict=True) if n > 1]
    if not values.flags.aligned or any(step % values.itemsize for step in steps):
        return f"does not lie at multiples of its {values.itemsize} bytes"
    return None


def _adopted(layout: Layout, values: np.ndarray[Any, Any]) -> NDArray:
    """An NDArray over all of the memory that `values` reach."""
    first, last = layout.reach()
    start = values.__array_interface__["data"][0] + first * layout.itemsize
    span = Layout.of(layout.device, layout.dtype, (last - first + 1,))
    device: Any = layout.device
    array = new_array(layout, device.adopt(window(span, start, values)))
    array._offset = -first
    return array
