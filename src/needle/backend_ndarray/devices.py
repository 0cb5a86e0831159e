"""The devices there are: `cpu()`, `cpu_numpy()`, `cuda()`, `trace()`."""

from __future__ import annotations

from needle.backend_ndarray.device import Device
from needle.backend_ndarray.ndarray_backend_cpu import CPUDevice
from needle.backend_ndarray.ndarray_backend_cuda import CUDADevice
from needle.backend_ndarray.ndarray_backend_numpy import NumPyDevice
from needle.errors import DeviceError

__all__ = ["all_devices", "as_device", "cpu", "cpu_numpy", "cuda", "default_device", "trace"]

_CPU, _CPU_NUMPY, _CUDA = CPUDevice(), NumPyDevice(), CUDADevice()
_default: Device = _CPU  # tests put another here


def cpu() -> Device:
    """The processor, running native code made for it."""
    return _CPU


def cpu_numpy() -> Device:
    """The processor, by way of NumPy: the reference."""
    return _CPU_NUMPY


def cuda() -> Device:
    """An NVIDIA GPU. `enabled()` says whether there is one that Needle can use."""
    return _CUDA


def trace(device: Device | None = None) -> Device:
    """Where arrays have no data, and what would run on `device` is only recorded."""
    from needle.backend_ndarray import ndarray_backend_trace

    return ndarray_backend_trace.trace(as_device(device))


def default_device() -> Device:
    """Where an array is made when no device is named: `cpu()`."""
    return _default


def all_devices() -> list[Device]:
    """Every device there is a name for, those that are not enabled among them."""
    return [_CPU, _CPU_NUMPY, _CUDA]


def as_device(device: Device | None) -> Device:
    """The device, or the default one. Raises DeviceError for what is none."""
    if device is None:
        return _default
    if not isinstance(device, Device):
        raise DeviceError(f"device: expected a device such as ndl.cpu(), got {device!r}.")
    return device
