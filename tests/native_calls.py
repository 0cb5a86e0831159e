"""Calling prepared kernels by hand, with NumPy arrays as operands."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from needle.compiler.prepared import Prepared

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [*map(np.dtype, ("float16", "float32", "float64")), BFLOAT16]
INTEGERS = [np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES = [*FLOATS, *INTEGERS, np.dtype(bool)]
WORDS, SCRATCH, OUT_OF_RANGE, COUNTER = 16, 13, 14, 15


@dataclass(frozen=True)
class View:
    """What a NumPy array looks like to the compiler: strides in elements."""

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def view(array: np.ndarray) -> View:
    return View(array.dtype, array.shape, tuple(s // array.itemsize for s in array.strides))


def call(prepared: Prepared, *operands: np.ndarray, tasks: int = 1) -> int:
    """Run every task of a kernel, the last one first; gives the word that an index sets."""
    numbers = np.array(prepared.numbers, np.int64)
    scratch = np.full(prepared.scratch * tasks + 128, 0xAB, np.uint8)
    start = -scratch.ctypes.data % 64
    scratch[start : start + 64] = 0
    context = np.zeros(WORDS, np.int64)
    context[0], context[SCRATCH] = numbers.ctypes.data, scratch.ctypes.data + start
    context[COUNTER] = context[SCRATCH]
    context[1 : 1 + len(operands)] = [x.ctypes.data for x in operands]
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        prepared.address
    )
    for task in reversed(range(tasks)):
        kernel(context.ctypes.data, task, tasks)
    return int(context[OUT_OF_RANGE])
