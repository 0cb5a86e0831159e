"""The nonlinearities between layers."""

from __future__ import annotations

import math
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError
from needle.ops.elementwise import REAL, erf, exp, sign

__all__ = [
    "GELU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "gelu",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]


class ReLU(TensorOp):
    """y = max(x, 0).

    x: any shape -> y: same shape and dtype.
    Gradient: dx = dy where x > 0, else 0; at 0 it is 0.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.maximum(x, primitives.scalar_for(x, 0))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * sign(node)  # 0 or 1; and a graph, through which the slope is 0


def relu(a: Tensor) -> Tensor:
    """max(x, 0)."""
    return ReLU()(a)


class Tanh(TensorOp):
    """y = tanh x. Gradient: dx = dy · (1 - y²)."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return array_api.tanh(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * (1 - node * node)


def tanh(a: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return Tanh()(a)


class Sigmoid(TensorOp):
    """y = 1 / (1 + exp(-x)), without overflow. Gradient: dx = dy · y · (1 - y)."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        return primitives.sigmoid(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * (node * (1 - node))


def sigmoid(a: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return Sigmoid()(a)


class SiLU(TensorOp):
    """y = x · sigmoid(x), also called swish.

    Gradient: dx = dy · s · (1 + x · (1 - s)) with s = sigmoid(x).
    Source: Elfwing et al., "Sigmoid-Weighted Linear Units", 2017.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return x * primitives.sigmoid(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        s = sigmoid(x)
        return out_grad * (s * (x * (1 - s) + 1))


def silu(a: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return SiLU()(a)


class Softplus(TensorOp):
    """y = log(1 + exp x), without overflow. Gradient: dx = dy · sigmoid(x)."""

    expects = REAL

    def compute(self, x: Array) -> Array:
        positive = array_api.maximum(x, primitives.scalar_for(x, 0))
        return positive + array_api.log1p(array_api.exp(-array_api.abs(x)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * sigmoid(node.inputs[0])


def softplus(a: Tensor) -> Tensor:
    """log(1 + exp x)."""
    return Softplus()(a)


_SQRT_HALF = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


class GELU(TensorOp):
    """y = x · Φ(x), Φ the distribution function of N(0, 1).

    approximate  "none": Φ by erf; "tanh": Φ ≈ (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
    Gradient: dx = dy · (Φ + x · Φ').
    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
    """

    expects = REAL

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise OptionError(f"gelu: expected approximate 'none' or 'tanh', got {approximate!r}.")
        self.approximate = approximate

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._of_wide, x)

    def _of_wide(self, x: Array) -> Array:
        if self.approximate == "none":
            return x * ((primitives.erf(x * _SQRT_HALF) + 1) * 0.5)
        return x * ((array_api.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x)) + 1) * 0.5)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        if self.approximate == "none":
            phi = (erf(x * _SQRT_HALF) + 1) * 0.5
            slope = exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        else:
            t = tanh((x + x * x * x * _TANH_CUBIC) * _TANH_SCALE)
            phi = (t + 1) * 0.5
            slope = (1 - t * t) * (x * x * (3 * _TANH_CUBIC) + 1) * (_TANH_SCALE * 0.5)
        return out_grad * (phi + x * slope)


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x); approximate = "tanh" for the cheaper form."""
    return GELU(approximate)(a)
