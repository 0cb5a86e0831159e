"""Comparisons, and the choice between two arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp, as_operand, as_tensor
from needle.autograd.value import Value
from needle.backend_selection import Array, array_api, default_device, primitives
from needle.dtypes import is_floating
from needle.errors import DTypeError, describe
from needle.ops.arithmetic import TOGETHER
from needle.ops.broadcasting import unbroadcast

__all__ = [
    "Equal",
    "Greater",
    "GreaterEqual",
    "Indicator",
    "Less",
    "LessEqual",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "Maximum",
    "Minimum",
    "NotEqual",
    "Where",
    "equal",
    "greater",
    "greater_equal",
    "indicator",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "maximum",
    "minimum",
    "not_equal",
    "where",
]


def _operand(value: Any, like: Any, *others: Any, compared: bool = False) -> Any:
    """`value` as a Tensor on the others' device; a number takes like's dtype if it fits."""
    if isinstance(value, Value):
        return value
    neighbours = [x for x in (like, *others) if isinstance(x, Tensor)]
    device = neighbours[0].device if neighbours else default_device()
    if not isinstance(value, (int, float)):
        dtype = like.dtype if isinstance(like, Tensor) else None
        return as_operand(value, device, dtype, compared=compared)
    if isinstance(like, Tensor):
        dtype = like.dtype
        if is_floating(dtype) or _holds(dtype, value):
            return Tensor.make_const(primitives.constant(value, dtype, device))
    return as_tensor(value, device)


def _holds(dtype: Any, value: float) -> bool:
    """Whether an int survives in an integer dtype: 300 does not in int8, nor -1 in uint8."""
    return isinstance(value, int) and bool(np.asarray(value).astype(dtype) == value)


class _Comparison(TensorOp):
    """A bool array. Not differentiable."""

    expects = TOGETHER
    differentiable = False


class Equal(_Comparison):
    """y = (a == b), elementwise, as bool."""

    def compute(self, a: Array, b: Array) -> Array:
        return a == b


def equal(a: Any, b: Any) -> Tensor:
    """a == b, elementwise."""
    return Equal()(a, _operand(b, a, compared=True))


class NotEqual(_Comparison):
    """y = (a != b), elementwise, as bool."""

    name = "not_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a != b


def not_equal(a: Any, b: Any) -> Tensor:
    """a != b, elementwise."""
    return NotEqual()(a, _operand(b, a, compared=True))


class Less(_Comparison):
    """y = (a < b), elementwise, as bool."""

    def compute(self, a: Array, b: Array) -> Array:
        return a < b


def less(a: Any, b: Any) -> Tensor:
    """a < b, elementwise."""
    return Less()(a, _operand(b, a, compared=True))


class LessEqual(_Comparison):
    """y = (a <= b), elementwise, as bool."""

    name = "less_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a <= b


def less_equal(a: Any, b: Any) -> Tensor:
    """a <= b, elementwise."""
    return LessEqual()(a, _operand(b, a, compared=True))


class Greater(_Comparison):
    """y = (a > b), elementwise, as bool."""

    def compute(self, a: Array, b: Array) -> Array:
        return a > b


def greater(a: Any, b: Any) -> Tensor:
    """a > b, elementwise."""
    return Greater()(a, _operand(b, a, compared=True))


class GreaterEqual(_Comparison):
    """y = (a >= b), elementwise, as bool."""

    name = "greater_equal"

    def compute(self, a: Array, b: Array) -> Array:
        return a >= b


def greater_equal(a: Any, b: Any) -> Tensor:
    """a >= b, elementwise."""
    return GreaterEqual()(a, _operand(b, a, compared=True))


class LogicalAnd(_Comparison):
    """y = a and b, elementwise, as bool; any number but 0 counts as true."""

    name = "logical_and"

    def compute(self, a: Array, b: Array) -> Array:
        return array_api.logical_and(a, b)


def logical_and(a: Any, b: Any) -> Tensor:
    """a and b, elementwise; b may be a bool."""
    return LogicalAnd()(a, _operand(b, a, compared=True))


class LogicalOr(_Comparison):
    """y = a or b, elementwise, as bool; any number but 0 counts as true."""

    name = "logical_or"

    def compute(self, a: Array, b: Array) -> Array:
        return array_api.logical_or(a, b)


def logical_or(a: Any, b: Any) -> Tensor:
    """a or b, elementwise; b may be a bool."""
    return LogicalOr()(a, _operand(b, a, compared=True))


class LogicalNot(_Comparison):
    """y = not a, elementwise, as bool."""

    name = "logical_not"
    expects = "bool values"

    def compute(self, a: Array) -> Array:
        return array_api.logical_not(a)


def logical_not(a: Tensor) -> Tensor:
    """not a, elementwise."""
    return LogicalNot()(a)


class Maximum(TensorOp):
    """y = max(a, b), elementwise; NaN where either is.

    Gradient: dy to the larger of the two, half to each where they are equal.
    """

    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        return array_api.maximum(a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        return _shares(out_grad, a, b, greater(a, b))


def maximum(a: Tensor, b: Any) -> Tensor:
    """The larger of a and b, elementwise; b may be a number."""
    return Maximum()(a, _operand(b, a))


class Minimum(TensorOp):
    """y = min(a, b), elementwise; NaN where either is.

    Gradient: dy to the smaller of the two, half to each where they are equal.
    """

    expects = TOGETHER

    def compute(self, a: Array, b: Array) -> Array:
        return array_api.minimum(a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        a, b = node.inputs
        return _shares(out_grad, a, b, less(a, b))


def minimum(a: Tensor, b: Any) -> Tensor:
    """The smaller of a and b, elementwise; b may be a number."""
    return Minimum()(a, _operand(b, a))


class Indicator(TensorOp):
    """y = 1 where the condition holds, else 0, in the dtype of x, which the condition is about.

    Gradient: dx = 0. For the gradients of ops with kinks: with it they have a graph, and what they
    are differentiated to is zeros.
    """

    expects = "a bool condition, and the values that it is about"

    def compute(self, condition: Array, x: Array) -> Array:
        return condition.astype(x.dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return None, unbroadcast(out_grad * 0, node.inputs[1])


def indicator(condition: Tensor, x: Tensor) -> Tensor:
    """1 where the condition holds, else 0, in the dtype of x, which the condition is about."""
    return Indicator()(condition, x)


def _shares(out_grad: Tensor, a: Tensor, b: Tensor, takes_a: Tensor) -> Any:
    about = a if a.requires_grad else b
    share = indicator(takes_a, about) + indicator(equal(a, b), about) * 0.5
    return unbroadcast(out_grad * share, a), unbroadcast(out_grad * (1 - share), b)


class Where(TensorOp):
    """y = a where the condition holds, else b.

    condition (bool), a, b: shapes that broadcast together -> y: the broadcast shape.
    Gradient: da = dy where the condition holds, else 0; db the other way round.
    """

    expects = "a bool condition, and " + TOGETHER

    def compute(self, condition: Array, a: Array, b: Array) -> Array:
        if condition.dtype != np.bool_:
            raise DTypeError(f"where: expected a bool condition, got {describe(condition)}.")
        return array_api.where(condition, a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        condition, a, b = node.inputs
        da = unbroadcast(where(condition, out_grad, 0), a) if a.requires_grad else None
        db = unbroadcast(where(condition, 0, out_grad), b) if b.requires_grad else None
        return None, da, db


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, else b; a number takes the dtype of the other."""
    return Where()(
        _operand(condition, None, a, b), _operand(a, b, condition), _operand(b, a, condition)
    )
