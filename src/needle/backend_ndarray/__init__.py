"""Strided arrays on devices, and the functions on them, under NumPy's names.

In nd mode this module is `array_api`. `NDArray` is documented in `ndarray.py`; a plan of the whole
is in docs/design/arrays.md.
"""

from __future__ import annotations

from typing import Any

from needle.backend_ndarray import methods
from needle.backend_ndarray.creation import (
    arange,
    array,
    asarray,
    empty,
    eye,
    full,
    full_like,
    one_hot,
    ones,
    zeros,
)
from needle.backend_ndarray.device import BackendDevice, Device
from needle.backend_ndarray.devices import all_devices, cpu, cpu_numpy, cuda, default_device
from needle.backend_ndarray.dlpack import from_dlpack, from_numpy
from needle.backend_ndarray.elementwise import (
    apply,
    binary_function,
    power_function,
    unary_function,
)
from needle.backend_ndarray.linalg import einsum, matmul
from needle.backend_ndarray.ndarray import NDArray
from needle.backend_ndarray.reductions import (
    all,
    any,
    argmax,
    argmin,
    cumsum,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from needle.backend_ndarray.shapes import (
    astype,
    broadcast_to,
    compact,
    concatenate,
    expand_dims,
    flip,
    pad,
    permute_dims,
    reshape,
    squeeze,
    stack,
    swapaxes,
    tril,
    triu,
)

methods.bind()

abs = unary_function("abs")
ceil = unary_function("ceil")
cos = unary_function("cos")
erf = unary_function("erf")
exp = unary_function("exp")
expm1 = unary_function("expm1")
floor = unary_function("floor")
isfinite = unary_function("isfinite")
isinf = unary_function("isinf")
isnan = unary_function("isnan")
log = unary_function("log")
log1p = unary_function("log1p")
log2 = unary_function("log2")
logical_not = unary_function("logical_not")
negative = unary_function("negative")
reciprocal = unary_function("reciprocal")
rint = unary_function("rint")
sigmoid = unary_function("sigmoid")
sign = unary_function("sign")
sin = unary_function("sin")
sqrt = unary_function("sqrt")
square = unary_function("square")
tanh = unary_function("tanh")

add = binary_function("add")
divide = binary_function("divide")
equal = binary_function("equal")
floor_divide = binary_function("floor_divide")
greater = binary_function("greater")
greater_equal = binary_function("greater_equal")
less = binary_function("less")
less_equal = binary_function("less_equal")
logical_and = binary_function("logical_and")
logical_or = binary_function("logical_or")
maximum = binary_function("maximum")
minimum = binary_function("minimum")
multiply = binary_function("multiply")
not_equal = binary_function("not_equal")
power = power_function()
remainder = binary_function("remainder")
subtract = binary_function("subtract")


def where(condition: NDArray, a: Any, b: Any) -> NDArray:
    """a where the condition (bool) holds, else b; the three broadcast together."""
    return apply("where", condition, a, b)


def clip(x: NDArray, low: Any = None, high: Any = None) -> NDArray:
    """A fresh array: x, no lower than `low` and no higher than `high`; None leaves a side open."""
    if low is None and high is None:
        return astype(x, x.dtype)
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)


__all__ = [
    "BackendDevice",
    "Device",
    "NDArray",
    "abs",
    "add",
    "all",
    "all_devices",
    "any",
    "arange",
    "argmax",
    "argmin",
    "array",
    "asarray",
    "astype",
    "broadcast_to",
    "ceil",
    "clip",
    "compact",
    "concatenate",
    "cos",
    "cpu",
    "cpu_numpy",
    "cuda",
    "cumsum",
    "default_device",
    "divide",
    "einsum",
    "empty",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "flip",
    "floor",
    "floor_divide",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "greater",
    "greater_equal",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "logical_and",
    "logical_not",
    "logical_or",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "one_hot",
    "ones",
    "pad",
    "permute_dims",
    "power",
    "prod",
    "reciprocal",
    "remainder",
    "reshape",
    "rint",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "swapaxes",
    "tanh",
    "tril",
    "triu",
    "var",
    "where",
    "zeros",
]
