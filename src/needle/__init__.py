"""Needle: a deep-learning framework one can read.

>>> import needle as ndl
>>> x = ndl.Tensor([1.0, 2.0, 3.0])
>>> (x * x).sum().backward()
>>> x.grad
needle.Tensor([2. 4. 6.])
"""

from __future__ import annotations

from needle import startup as startup  # first: what else goes wrong here, it puts in one line

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING, Any

from needle import autograd, errors, init, nn, ops
from needle.autograd import (
    Op,
    Tensor,
    TensorOp,
    TensorTuple,
    TensorTupleOp,
    Value,
    checkpoint,
    detect_anomaly,
    enable_grad,
    from_dlpack,
    grad,
    hvp,
    jacobian,
    lazy,
    no_grad,
    realize,
    value_and_grad,
)
from needle.backend_selection import (
    BACKEND,
    Device,
    NDArray,
    all_devices,
    array_api,
    cpu,
    cpu_numpy,
    cuda,
    default_device,
)
from needle.init import (
    ones,
    ones_like,
    rand,
    randn,
    zeros,
    zeros_like,
)
from needle.inspection.profiling import profile
from needle.ops import *  # noqa: F403  # every operator, as its own __all__ lists them
from needle.runtime.threads import get_num_threads, set_num_threads
from needle.serialization import load, save
from needle.version import __version__

if TYPE_CHECKING:
    from needle import data, optim
    from needle.jit import JitError, disable_jit, jit

__all__ = [
    "BACKEND",
    "Device",
    "JitError",
    "NDArray",
    "Op",
    "Tensor",
    "TensorOp",
    "TensorTuple",
    "TensorTupleOp",
    "Value",
    "__version__",
    "all_devices",
    "array_api",
    "autograd",
    "checkpoint",
    "cpu",
    "cpu_numpy",
    "cuda",
    "data",
    "default_device",
    "detect_anomaly",
    "disable_jit",
    "enable_grad",
    "errors",
    "from_dlpack",
    "get_num_threads",
    "grad",
    "hvp",
    "init",
    "jacobian",
    "jit",
    "lazy",
    "load",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "ops",
    "optim",
    "profile",
    "rand",
    "randn",
    "realize",
    "save",
    "set_num_threads",
    "value_and_grad",
    "zeros",
    "zeros_like",
]
__all__ += ops.__all__

# Loaded when first named: a third of what `import needle` would cost, and not every user's.
_LAZY = ("data", "jit", "optim")
_LAZY_NAMES = ("JitError", "disable_jit")  # of needle.jit


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"needle.{name}")
    if name in _LAZY_NAMES:
        return getattr(import_module("needle.jit"), name)
    raise AttributeError(f"module 'needle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_NAMES})
