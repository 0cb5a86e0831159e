"""The array library under the operators, chosen once by `NEEDLE_BACKEND`.

Everything above this file reaches arrays through these names only:

    array_api   module of array functions in array-API terms (np mode: NumPy itself)
    NDArray     the array class (np mode: `numpy.ndarray`)
    primitives  what NumPy's namespace lacks: `erf`, `sigmoid`, `scatter_add`, `asarray`, ...
    Device, cpu, default_device, all_devices
"""

from __future__ import annotations

from typing import Any

import numpy as array_api
from numpy import ndarray as NDArray  # the contract's name for the array class

from needle import backend_numpy as primitives
from needle.backend_numpy import Device, all_devices, cpu, default_device
from needle.config import BACKEND

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
    "default_device",
    "primitives",
]
