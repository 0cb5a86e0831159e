"""Nonlinearities with a kink, beside ReLU: leaky, exponential, and bounded ones."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError
from needle.ops.activations import ActivationGradient
from needle.ops.arithmetic import TOGETHER
from needle.ops.broadcasting import unbroadcast
from needle.ops.comparison import greater, less, where
from needle.ops.elementwise import REAL, Clip, abs, clip, exp

__all__ = [
    "ELU",
    "ELUGradient",
    "Hardswish",
    "HardswishGradient",
    "Hardtanh",
    "HardtanhGradient",
    "LeakyReLU",
    "LeakyReLUGradient",
    "PReLU",
    "elu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "prelu",
    "relu6",
]


def _number(op: str, option: str, value: Any) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise OptionError(f"{op}: expected {option} to be a finite number, got {value!r}.")
    return float(value)


# -- a slope below 0 -------------------------------------------------------------------------------


class LeakyReLU(TensorOp):
    """y = x where x > 0, else slope · x.

    x: any shape -> y: same shape and dtype.
    Gradient: dx = dy where x > 0, else slope · dy; at 0 too.
    Source: Maas et al., "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.
    """

    name = "leaky_relu"
    expects = REAL

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = _number(self.name, "slope", slope)

    def compute(self, x: Array) -> Array:
        if not self.slope:  # and not 0 · Inf
            return array_api.maximum(x, primitives.scalar_for(x, 0))
        lines = x, x * primitives.scalar_for(x, self.slope)
        return array_api.maximum(*lines) if self.slope <= 1 else array_api.minimum(*lines)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return LeakyReLUGradient(self.slope)(out_grad, node.inputs[0])


def leaky_relu(a: Tensor, slope: float = 0.01) -> Tensor:
    """x where x > 0, else slope · x."""
    return LeakyReLU(slope)(a)


class LeakyReLUGradient(ActivationGradient):
    """y = g where x > 0, else slope · g. Gradient by x: 0."""

    name = "leaky_relu_gradient"

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def _product(self, x: Array, g: Array) -> Array:
        return array_api.where(x > 0, g, g * self.slope)


class PReLU(TensorOp):
    """y = x where x > 0, else weight · x: a slope that is learnt.

    x, weight: shapes that broadcast together -> y: the broadcast shape.
    Gradient: dx = dy where x > 0, else weight · dy; dweight = Σ dy · x where x ≤ 0.
    Source: He et al., "Delving Deep into Rectifiers", 2015, eq. 1.
    """

    expects = TOGETHER

    def compute(self, x: Array, weight: Array) -> Array:
        zero = primitives.scalar_for(x, 0)
        return primitives.multiply_add(
            array_api.minimum(x, zero), weight, array_api.maximum(x, zero)
        )

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, weight = node.inputs
        positive = greater(x, 0)
        dx = where(positive, out_grad, out_grad * weight) if x.requires_grad else None
        if not weight.requires_grad:
            return dx if dx is None else unbroadcast(dx, x), None
        dweight = unbroadcast(where(positive, 0, out_grad * x), weight)
        return dx if dx is None else unbroadcast(dx, x), dweight


def prelu(a: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight · x; the two broadcast."""
    return PReLU()(a, weight)


# -- an exponential below 0 ------------------------------------------------------------------------


class ELU(TensorOp):
    """y = x where x > 0, else alpha · (exp x - 1).

    x: any shape -> y: same shape and dtype.
    Gradient: dx = dy where x > 0, else dy · alpha · exp x.
    Source: Clevert et al., "Fast and Accurate Deep Network Learning by ELUs", 2016, eq. 15.
    """

    expects = REAL

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _number("elu", "alpha", alpha)

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._of_wide, x)

    def _of_wide(self, x: Array) -> Array:
        below = array_api.expm1(array_api.minimum(x, 0))  # which is finite
        return primitives.multiply_add(below, self.alpha, array_api.maximum(x, 0))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return ELUGradient(self.alpha)(out_grad, node.inputs[0])


def elu(a: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha · (exp x - 1)."""
    return ELU(alpha)(a)


class ELUGradient(ActivationGradient):
    """y = g where x > 0, else g · alpha · exp x. Gradient by x: g · alpha · exp x where x ≤ 0."""

    name = "elu_gradient"

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def _product(self, x: Array, g: Array) -> Array:
        slope = array_api.exp(array_api.minimum(x, 0))
        return g * slope if self.alpha == 1 else array_api.where(x > 0, g, g * (slope * self.alpha))

    def _curvature(self, x: Tensor) -> Tensor:
        return where(greater(x, 0), 0, exp(clip(x, None, 0)) * self.alpha)


# -- between two bounds ----------------------------------------------------------------------------


class Hardtanh(Clip):
    """y = min(max(x, low), high), which differs from `clip` in the slope at the bounds.

    x: any shape -> y: same shape and dtype.
    Gradient: dx = dy where low < x < high, else 0.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(_number("hardtanh", "low", low), _number("hardtanh", "high", high))
        if not low < high:
            raise OptionError(f"hardtanh: expected low below high, got {low} and {high}.")

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return HardtanhGradient(self.low, self.high)(out_grad, node.inputs[0])


def hardtanh(a: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """x, no lower than `low` and no higher than `high`, with slope 0 at both."""
    return Hardtanh(low, high)(a)


def relu6(a: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return Hardtanh(0.0, 6.0)(a)


def hardsigmoid(a: Tensor) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return hardtanh(a, -3.0, 3.0) * (1 / 6) + 0.5


class HardtanhGradient(ActivationGradient):
    """y = g where low < x < high, else 0. Gradient by x: 0."""

    name = "hardtanh_gradient"

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low, self.high = low, high

    def _product(self, x: Array, g: Array) -> Array:
        return array_api.where(array_api.logical_and(x > self.low, x < self.high), g, 0)


class Hardswish(TensorOp):
    """y = x · min(max(x / 6 + 1/2, 0), 1), lines in place of the sigmoid of `SiLU`.

    x: any shape -> y: same shape and dtype.
    Gradient: dx = 0 where x ≤ -3, dy · (x / 3 + 1/2) between, dy where x ≥ 3.
    Source: Howard et al., "Searching for MobileNetV3", 2019, section 5.2.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._of_wide, x)

    def _of_wide(self, x: Array) -> Array:
        return x * array_api.clip(primitives.multiply_add(x, 1 / 6, 0.5), 0.0, 1.0)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return HardswishGradient()(out_grad, node.inputs[0])


def hardswish(a: Tensor) -> Tensor:
    """x · min(max(x / 6 + 1/2, 0), 1)."""
    return Hardswish()(a)


class HardswishGradient(ActivationGradient):
    """y = g · (x / 3 + 1/2) where -3 < x < 3, g above, 0 below. Gradient by x: g / 3 between."""

    name = "hardswish_gradient"

    def _product(self, x: Array, g: Array) -> Array:
        line = primitives.multiply_add(x, 1 / 3, 0.5)
        return g * array_api.where(x < 3, array_api.where(x > -3, line, 0), 1)

    def _curvature(self, x: Tensor) -> Tensor:
        return where(less(abs(x), 3), x * 0 + 1 / 3, 0)
