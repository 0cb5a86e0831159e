"""Addition, multiplication, division, powers: elementwise, and with a number."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_integer
from needle.errors import DTypeError, describe
from needle.ops.broadcasting import unbroadcast
from needle.run_numbers import RunNumber

__all__ = [
    "AddScalar",
    "DivScalar",
    "EWiseAdd",
    "EWiseDiv",
    "EWiseMul",
    "EWisePow",
    "MulScalar",
    "Negate",
    "PowerScalar",
    "add",
    "add_scalar",
    "divide",
    "divide_scalar",
    "mul_scalar",
    "multiply",
    "negate",
    "power",
    "power_scalar",
    "subtract",
]

TOGETHER = "shapes that broadcast together"


class ScalarOp(TensorOp):
    """An op of a Tensor and a number. The result keeps the Tensor's dtype if that is a float."""

    expects = "numbers"

    def __init__(self, scalar: Any) -> None:
        # NumPy's scalars and one-element arrays would promote float32 to float64; numbers do not
        if isinstance(scalar, (np.generic, np.ndarray)) and scalar.size == 1:
            scalar = scalar.item()
        if type(scalar) is not float and not isinstance(scalar, (int, complex, RunNumber)):
            if not isinstance(scalar, Real):
                raise DTypeError(f"{self.name}: expected a number, got {describe(scalar)}.")
            scalar = float(scalar)  # a Fraction; NumPy would make objects of it
        self.scalar: Any = scalar


class EWiseAdd(TensorOp):
    """y = a + b, elementwise.

    a, b: shapes that broadcast together -> y: the broadcast shape, the promoted dtype.
    Gradient: da = dy, db = dy, each summed over what broadcasting repeated.
    """

    name = "add"
    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        return a + b

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        return unbroadcast(out_grad, a), unbroadcast(out_grad, b)


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, elementwise."""
    return EWiseAdd()(a, b)


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """a - b, elementwise: the sum of a and the negated b."""
    return a - b


class AddScalar(ScalarOp):
    """y = a + scalar. Gradient: da = dy."""

    name = "add_scalar"

    def compute(self, a: Array) -> Array:
        return a + primitives.scalar_for(a, self.scalar)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad


def add_scalar(a: Tensor, scalar: Any) -> Tensor:
    """a + scalar."""
    return AddScalar(scalar)(a)


class EWiseMul(TensorOp):
    """y = a · b, elementwise.

    a, b: shapes that broadcast together -> y: the broadcast shape, the promoted dtype.
    Gradient: da = dy · b, db = dy · a, each summed over what broadcasting repeated.
    """

    name = "multiply"
    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        return a * b

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        da = unbroadcast(out_grad * b, a) if a.requires_grad else None
        db = unbroadcast(out_grad * a, b) if b.requires_grad else None
        return da, db


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a · b, elementwise."""
    return EWiseMul()(a, b)


class MulScalar(ScalarOp):
    """y = a · scalar. Gradient: da = dy · scalar."""

    name = "mul_scalar"

    def compute(self, a: Array) -> Array:
        return a * primitives.scalar_for(a, self.scalar)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad * self.scalar


def mul_scalar(a: Tensor, scalar: Any) -> Tensor:
    """a · scalar."""
    return MulScalar(scalar)(a)


class EWiseDiv(TensorOp):
    """y = a / b, elementwise; integers divide to floats.

    a, b: shapes that broadcast together -> y: the broadcast shape, the promoted dtype.
    Gradient: da = dy / b, db = -dy · y / b.
    """

    name = "divide"
    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        return a / b

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        da = unbroadcast(out_grad / b, a) if a.requires_grad else None
        db = unbroadcast(-(out_grad * node) / b, b) if b.requires_grad else None
        return da, db


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, elementwise."""
    return EWiseDiv()(a, b)


class DivScalar(ScalarOp):
    """y = a / scalar. Gradient: da = dy / scalar."""

    name = "divide_scalar"

    def compute(self, a: Array) -> Array:
        return a / primitives.scalar_for(a, self.scalar)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad / self.scalar


def divide_scalar(a: Tensor, scalar: Any) -> Tensor:
    """a / scalar."""
    return DivScalar(scalar)(a)


class EWisePow(TensorOp):
    """y = a ** b, elementwise.

    a, b: shapes that broadcast together -> y: the broadcast shape, the promoted dtype.
    Gradient: da = dy · b · a^(b-1), db = dy · y · log a; at a = 0 and b ≥ 0 both in the limit,
    so that 0 ** 0 has gradient 0 and not NaN.
    """

    name = "power"
    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        if is_integer(a.dtype) and is_integer(b.dtype):
            primitives.require(b >= 0, lambda: _negative_exponents(a, b))
        return array_api.power(a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        from needle.ops.comparison import equal, where

        a, b = node.inputs
        if is_integer(b.dtype):
            b = b.astype(node.dtype)  # b - 1 wraps around in a uint8
        da = db = None
        if a.requires_grad:
            exponent = where(equal(a, 0), where(equal(b, 0), 1, b - 1), b - 1)
            da = unbroadcast(out_grad * b * power(a, exponent), a)
        if b.requires_grad:
            base = where(equal(a, 0), 1, a)
            db = unbroadcast(out_grad * node * base.log(), b)
        return da, db


def _negative_exponents(a: Array, b: Array) -> DTypeError:
    return DTypeError(f"power: expected floats for negative exponents, got {describe(a, b)}.")


def power(a: Tensor, b: Tensor) -> Tensor:
    """a ** b, elementwise."""
    return EWisePow()(a, b)


class PowerScalar(ScalarOp):
    """y = a ** scalar, for any real exponent. Gradient: da = dy · scalar · a^(scalar-1)."""

    name = "power_scalar"
    expects = "floats, or integers and an exponent of 0 or more"

    def compute(self, a: Array) -> Array:
        if is_integer(a.dtype) and isinstance(self.scalar, int) and self.scalar < 0:
            raise DTypeError(f"power_scalar: expected {self.expects}, got {describe(a)}.")
        return a ** primitives.scalar_for(a, self.scalar)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        if self.scalar == 0:
            return out_grad * 0  # and not 0 · a^-1, which is NaN at a = 0
        return out_grad * (node.inputs[0] ** (self.scalar - 1) * self.scalar)


def power_scalar(a: Tensor, scalar: Any) -> Tensor:
    """a ** scalar."""
    return PowerScalar(scalar)(a)


class Negate(TensorOp):
    """y = -a. Gradient: da = -dy."""

    expects = "numbers"

    def compute(self, a: Array) -> Array:
        return -a

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return -out_grad


def negate(a: Tensor) -> Tensor:
    """-a."""
    return Negate()(a)
