"""The array library under the operators, chosen once by `NEEDLE_BACKEND`.

Everything above this file reaches arrays through these names only:

    array_api   module of array functions in array-API terms (np mode: NumPy itself; nd mode:
                `needle.backend_ndarray`)
    NDArray     the array class (np mode: `numpy.ndarray`)
    primitives  what such a namespace lacks: `from_numpy`, `index`, `scatter_add`, `total`, ...
    Device, cpu, cuda, cpu_numpy, default_device, all_devices
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from needle.config import BACKEND

# the types of the two are alike; they are checked against np mode's
if TYPE_CHECKING or BACKEND == "np":
    import numpy as array_api
    from numpy import ndarray as NDArray  # the contract's name for the array class

    from needle import backend_numpy as primitives
    from needle.backend_numpy import Device, all_devices, cpu, cpu_numpy, cuda, default_device
else:
    from needle import backend_ndarray as array_api
    from needle.backend_ndarray import (
        Device,
        NDArray,
        all_devices,
        cpu,
        cpu_numpy,
        cuda,
        default_device,
        primitives,
    )

# A raw array of whichever backend. Operators are written in array-API terms, so the type is open.
Array = Any

__all__ = [
    "BACKEND",
    "Array",
    "Device",
    "NDArray",
    "all_devices",
    "array_api",
    "cpu",
    "cpu_numpy",
    "cuda",
    "default_device",
    "primitives",
]
