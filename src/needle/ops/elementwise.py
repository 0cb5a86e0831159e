"""Functions of one array, element by element."""

from __future__ import annotations

import math
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.autograd.value import Value
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, OptionError, describe

__all__ = [
    "Abs",
    "Cast",
    "Clip",
    "Cos",
    "Erf",
    "Exp",
    "Log",
    "Sign",
    "Sin",
    "Sqrt",
    "abs",
    "cast",
    "clip",
    "cos",
    "erf",
    "exp",
    "log",
    "sign",
    "sin",
    "sqrt",
]

REAL = "real numbers"


class Log(TensorOp):
    """y = log x, the natural logarithm.

    x: any shape, float -> y: same shape and dtype.
    Gradient: dx = dy / x.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.log(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad / node.inputs[0]


def log(a: Tensor) -> Tensor:
    """log x, the natural logarithm."""
    return Log()(a)


class Exp(TensorOp):
    """y = exp(x).

    x: any shape, float -> y: same shape and dtype.
    Gradient: dx = dy · y. The output is reused, so exp runs once.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.exp(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * node


def exp(a: Tensor) -> Tensor:
    """exp(x)."""
    return Exp()(a)


class Sqrt(TensorOp):
    """y = √x.

    x: any shape, float -> y: same shape and dtype; NaN below 0.
    Gradient: dx = dy / (2y).
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.sqrt(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad / (node * 2)


def sqrt(a: Tensor) -> Tensor:
    """√x."""
    return Sqrt()(a)


class Sin(TensorOp):
    """y = sin x, x in radians. Gradient: dx = dy · cos x."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.sin(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * cos(node.inputs[0])


def sin(a: Tensor) -> Tensor:
    """sin x, x in radians."""
    return Sin()(a)


class Cos(TensorOp):
    """y = cos x, x in radians. Gradient: dx = -dy · sin x."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.cos(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return -(out_grad * sin(node.inputs[0]))


def cos(a: Tensor) -> Tensor:
    """cos x, x in radians."""
    return Cos()(a)


class Erf(TensorOp):
    """y = erf(x) = 2/√π ∫₀ˣ exp(-t²) dt. Gradient: dx = dy · 2/√π · exp(-x²)."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return primitives.erf(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x = node.inputs[0]
        return out_grad * (exp(-(x * x)) * (2 / math.sqrt(math.pi)))


def erf(a: Tensor) -> Tensor:
    """The error function, 2/√π ∫₀ˣ exp(-t²) dt."""
    return Erf()(a)


class Sign(TensorOp):
    """y = -1, 0 or 1, as x is below, at or above 0. Gradient: 0."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.sign(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * 0


def sign(a: Tensor) -> Tensor:
    """-1, 0 or 1, as x is below, at or above 0."""
    return Sign()(a)


class Abs(TensorOp):
    """y = |x|. Gradient: dx = dy · sign x, which is 0 at 0."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.abs(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * sign(node.inputs[0])


def abs(a: Tensor) -> Tensor:
    """|x|."""
    return Abs()(a)


class Clip(TensorOp):
    """y = min(max(x, low), high); None leaves a side open.

    x: any shape -> y: same shape and dtype.
    Gradient: dx = dy where low ≤ x ≤ high, else 0.
    """

    expects = REAL

    def __init__(self, low: float | None, high: float | None) -> None:
        if low is None and high is None:
            raise OptionError("clip: expected low, high or both, got neither.")
        bounds = [bound for bound in (low, high) if isinstance(bound, Value)]
        if bounds:
            raise DTypeError(
                f"clip: expected numbers as bounds, got {describe(bounds[0])}. "
                "Use ndl.maximum and ndl.minimum."
            )
        self.low, self.high = low, high

    def compute(self, x: Array) -> Array:
        y = array_api.clip(x, self.low, self.high)
        return y.astype(x.dtype, copy=False) if is_floating(x.dtype) else y

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        from needle.ops.comparison import equal, indicator

        (x,) = node.inputs
        return out_grad * indicator(equal(x, node), x)


def clip(a: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """x, no lower than `low` and no higher than `high`."""
    return Clip(low, high)(a)


class Cast(TensorOp):
    """y = x in another dtype, rounded as NumPy rounds.

    Integers that the dtype cannot hold wrap around. So may floats cast to integers: what NaN and
    floats out of range become depends on the device, and is not defined.
    Gradient: dx = dy in x's dtype; none for a cast to integers or bool.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = as_dtype(dtype)
        self.differentiable = is_floating(self.dtype)
        self.expects = f"values that {self.dtype} can hold"

    def compute(self, x: Array) -> Array:
        return x.astype(self.dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        return cast(out_grad, x.dtype) if is_floating(x.dtype) else out_grad


def cast(a: Tensor, dtype: Any) -> Tensor:
    """The values in another dtype; the Tensor itself if it has that dtype."""
    return a if a.dtype == as_dtype(dtype) else Cast(dtype)(a)
