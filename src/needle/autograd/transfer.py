"""A Tensor on another device, as an op: gradients come back the other way."""

from __future__ import annotations

from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, Device, primitives
from needle.errors import DeviceError

__all__ = ["ToDevice", "to_device"]


class ToDevice(TensorOp):
    """y = x on another device. Gradient: dx = dy, on the device of x."""

    name = "to"

    def __init__(self, device: Device) -> None:
        if not isinstance(device, Device) or not device.enabled():
            raise DeviceError(
                f"to: expected a device that is enabled, such as ndl.cpu(), got {device!r}."
            )
        self.device = device

    def compute(self, x: Array) -> Array:
        return primitives.to_device(x, self.device)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return to_device(out_grad, node.inputs[0].device)


def to_device(x: Tensor, device: Device) -> Tensor:
    """x on a device; x itself if it is there."""
    device = primitives.place(device) if isinstance(device, Device) else device
    return x if device == x.device else ToDevice(device)(x)
