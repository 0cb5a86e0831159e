"""The nonlinearities between layers."""

from __future__ import annotations

import math
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError
from needle.ops.elementwise import REAL, exp, sign

__all__ = [
    "GELU",
    "ActivationGradient",
    "GELUGradient",
    "ReLU",
    "SiLU",
    "SiLUGradient",
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


class ActivationGradient(TensorOp):
    """y = g · f'(x): what an activation f makes of the adjoint g of its result, as one op.

    g, x: of one shape -> y: that shape, x's dtype; 16-bit floats are float32 on the way.
    Gradient: dg = dy · f'(x), dx = dy · g · f''(x).
    """

    expects = "g and x of one shape"

    def compute(self, g: Array, x: Array) -> Array:
        return primitives.in_float32(self._product, x, g=g)

    def _product(self, x: Array, g: Array) -> Array:
        """g · f'(x), on arrays."""
        raise NotImplementedError(f"{self.name}: _product(self, x, g) is not written.")

    def _curvature(self, x: Tensor) -> Tensor | None:
        """f''(x), in ops that can be differentiated on; None: 0 everywhere."""
        return None

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        g, x = node.inputs
        dg = self(out_grad, x) if g.requires_grad else None
        if not x.requires_grad:
            return dg, None
        curvature = self._curvature(x)
        slope = out_grad * g
        return dg, slope * 0 if curvature is None else slope * curvature


class SiLU(TensorOp):
    """y = x · sigmoid(x), also called swish.

    Gradient: dx = dy · s · (1 + x · (1 - s)) with s = sigmoid(x).
    Source: Elfwing et al., "Sigmoid-Weighted Linear Units", 2017.
    """

    expects = REAL

    def compute(self, x: Array) -> Array:
        return x * primitives.sigmoid(x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return SiLUGradient()(out_grad, node.inputs[0])


class SiLUGradient(ActivationGradient):
    """y = g · s · (1 + x · (1 - s)), s = sigmoid(x).

    Gradient by x: g · s · (1 - s) · (2 + x · (1 - 2s)).
    """

    name = "silu_gradient"

    def _product(self, x: Array, g: Array) -> Array:
        s = primitives.sigmoid(x)
        return g * (s * primitives.multiply_add(x, 1 - s, 1.0))

    def _curvature(self, x: Tensor) -> Tensor:
        s = sigmoid(x)
        return s * (1 - s) * (x * (1 - s * 2) + 2)


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
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)
_LINEAR = 2 * math.sqrt(2 / math.pi)  # (1 + tanh z) / 2 is sigmoid(2z): of 2z, the coefficients
_CUBIC = 0.044715 * _LINEAR


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
        return x * (_phi(x) if self.approximate == "none" else _phi_by_tanh(x, x * x))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return GELUGradient(self.approximate)(out_grad, node.inputs[0])


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x); approximate = "tanh" for the cheaper form."""
    return GELU(approximate)(a)


def _phi(x: Array) -> Array:
    return primitives.multiply_add(primitives.erf(x * _SQRT_HALF), 0.5, 0.5)


def _phi_by_tanh(x: Array, square: Array) -> Array:
    return primitives.sigmoid(x * primitives.multiply_add(square, _CUBIC, _LINEAR))


class GELUGradient(ActivationGradient):
    """y = g · (Φ + x · Φ'), with Φ as in `GELU`. Gradient by x: g · (2 Φ' + x · Φ'')."""

    name = "gelu_gradient"

    def __init__(self, approximate: str) -> None:
        self.approximate = approximate

    def _product(self, x: Array, g: Array) -> Array:
        square = x * x
        if self.approximate == "none":
            density = array_api.exp(square * -0.5)
            return g * primitives.multiply_add(x * _DENSITY_AT_0, density, _phi(x))
        phi = _phi_by_tanh(x, square)
        # x next to Φ (1 - Φ), which is 0 far out, before what grows with x²
        far = x * (phi * (1 - phi))
        inner = primitives.multiply_add(square, 3 * _CUBIC, _LINEAR)
        return g * primitives.multiply_add(far, inner, phi)

    def _curvature(self, x: Tensor) -> Tensor:
        square = x * x
        if self.approximate == "none":
            return exp(square * -0.5) * (2 - square) * _DENSITY_AT_0
        phi = sigmoid(x * (square * _CUBIC + _LINEAR))
        inner = square * (3 * _CUBIC) + _LINEAR
        bend = (1 - phi * 2) * inner * inner + x * (6 * _CUBIC)
        return phi * (1 - phi) * (inner * 2 + x * bend)
