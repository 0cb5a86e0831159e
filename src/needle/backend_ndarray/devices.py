"""The devices there are: `cpu()`, `cpu_numpy()`, `cuda()`, `trace()`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle.backend_ndarray.device import Device
from needle.backend_ndarray.ndarray_backend_cpu import CPUDevice
from needle.backend_ndarray.ndarray_backend_cuda import CUDADevice
from needle.backend_ndarray.ndarray_backend_numpy import NumPyDevice
from needle.errors import DeviceError
from needle.fixed import Fixed

__all__ = [
    "all_devices",
    "as_device",
    "conditions_apart",
    "cpu",
    "cpu_numpy",
    "cuda",
    "default_device",
    "making_traced",
    "note_condition",
    "note_values",
    "trace",
]

_CPU, _CPU_NUMPY, _CUDA = CPUDevice(), NumPyDevice(), CUDADevice()
_default: Device = _CPU  # tests put another here


class _Making(threading.local):
    traced: Any = None  # who is told of what is done with traced arrays


_making = _Making()


@contextmanager
def making_traced(listener: Any) -> Iterator[None]:
    """In this thread, arrays asked for on a device are made on its trace.

    The listener is told of values that come in, `from_outside(values)`, and of conditions that
    values have to meet, `check(holds)`.
    """
    before, _making.traced = _making.traced, listener
    try:
        yield
    finally:
        _making.traced = before


class _Apart:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def from_outside(self, given: Any) -> None:
        self.told.append(given)

    def check(self, holds: Any) -> None:
        self.told.append(holds)


@contextmanager
def conditions_apart() -> Iterator[list[Any]]:
    """Keep values that come in, and conditions, from the listener: what it would be told."""
    if _making.traced is None:
        yield []
        return
    apart = _Apart()
    with making_traced(apart):
        yield apart.told


def note_values(given: Any) -> None:
    """Say that a traced array is made of values that may be others the next time."""
    if _making.traced is None or isinstance(given, Fixed):
        return
    if hasattr(given, "__array__") and np.ndim(given):
        _making.traced.from_outside(given)


def note_condition(holds: Any) -> None:
    """Say that all elements of a traced array have to be true."""
    if _making.traced is not None and holds.size:
        _making.traced.check(holds)


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

    return ndarray_backend_trace.trace(_default if device is None else device)


def default_device() -> Device:
    """Where an array is made when no device is named: `cpu()`."""
    return _default


def all_devices() -> list[Device]:
    """Every device there is a name for, those that are not enabled among them."""
    return [_CPU, _CPU_NUMPY, _CUDA]


def as_device(device: Device | None) -> Device:
    """The device that an array is to be made on: that one, or the default one.

    Raises DeviceError for what is none.
    """
    if device is None:
        device = _default
    elif not isinstance(device, Device):
        raise DeviceError(f"device: expected a device such as ndl.cpu(), got {device!r}.")
    if _making.traced is not None and device.has_memory:
        return trace(device)
    return device
