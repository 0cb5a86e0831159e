"""The device `cuda`. This version has no code for it: it can be asked, and says no."""

from __future__ import annotations

from needle.backend_ndarray.device import Device
from needle.errors import DeviceError

__all__ = ["CUDADevice"]


class CUDADevice(Device):
    """An NVIDIA GPU, which this version cannot use."""

    name = "cuda"

    def enabled(self) -> bool:
        """False."""
        return False

    def _missing(self) -> DeviceError:
        return DeviceError(
            "cuda(): expected a device that is enabled, got cuda(), which this version of Needle "
            "cannot use. Use cpu()."
        )
