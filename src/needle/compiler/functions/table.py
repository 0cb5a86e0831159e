"""The elementwise primitives: what each does to values in registers.

Operands have the type that the primitive computes in; promotion was decided before. Results are
those of NumPy, with its NaN, infinities, signed zeros, denormals and wrapping integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from needle.compiler.code import Code, Value
from needle.compiler.functions import (
    division,
    error_function,
    exponential,
    logarithm,
    trigonometric,
)
from needle.compiler.types import BOOL, U64

__all__ = ["NAMES", "apply"]

Function = Callable[..., Value]


def apply(code: Code, name: str, *x: Value) -> Value:
    """The value of primitive `name`; scalars next to vectors are spread."""
    lanes = max(operand.lanes for operand in x)
    return _FUNCTIONS[name](code, *[operand.spread(lanes) for operand in x])


def _copy(code: Code, x: Value) -> Value:
    return x


# -- arithmetic ------------------------------------------------------------------------------------


def _add(code: Code, a: Value, b: Value) -> Value:
    return a | b if a.type is BOOL else a + b


def _subtract(code: Code, a: Value, b: Value) -> Value:
    return a - b


def _multiply(code: Code, a: Value, b: Value) -> Value:
    return a & b if a.type is BOOL else a * b


def _multiply_add(code: Code, a: Value, b: Value, c: Value) -> Value:
    """One rounding where the machine has the instruction."""
    return code.fma(a, b, c) if c.type.is_float else _add(code, _multiply(code, a, b), c)


def _divide(code: Code, a: Value, b: Value) -> Value:
    return a / b


def _power(code: Code, a: Value, b: Value) -> Value:
    return logarithm.power(code, a, b) if a.type.is_float else division.integer_power(code, a, b)


def _square(code: Code, x: Value) -> Value:
    return _multiply(code, x, x)


def _reciprocal(code: Code, x: Value) -> Value:
    return 1.0 / x if x.type.is_float else division.integer_reciprocal(code, x)


def _negative(code: Code, x: Value) -> Value:
    return -x


def _abs(code: Code, x: Value) -> Value:
    if x.type.is_float:
        return code.intrinsic("fabs", x)
    return code.select(x < 0, -x, x) if x.type.kind == "i" else x


def _sign(code: Code, x: Value) -> Value:
    if not x.type.is_float:
        positive = code.select(x.differs(0), code.constant(1, x.type), 0)
        return code.select(x < 0, -1, positive) if x.type.kind == "i" else positive
    size = code.select(x > 0.0, 1.0, code.select(x < 0.0, -1.0, x))
    return size + 0.0  # -0 becomes 0


def _sqrt(code: Code, x: Value) -> Value:
    return code.intrinsic("sqrt", x)


def _rounding(name: str) -> Function:
    """floor, ceil, rint: LLVM's intrinsic of floats; integers are integers already."""

    def function(code: Code, x: Value) -> Value:
        return code.intrinsic(name, x) if x.type.is_float else x

    return function


# -- order -----------------------------------------------------------------------------------------


def _maximum(code: Code, a: Value, b: Value) -> Value:
    if a.type is BOOL:
        return a | b
    larger = code.select(a > b, a, b)  # b where one is NaN: only a remains to be looked at
    return code.select(a.differs(a), a, larger) if a.type.is_float else larger


def _minimum(code: Code, a: Value, b: Value) -> Value:
    if a.type is BOOL:
        return a & b
    smaller = code.select(a < b, a, b)
    return code.select(a.differs(a), a, smaller) if a.type.is_float else smaller


def _compare_signs(code: Code, operator: str, a: Value, b: Value) -> Value:
    """Of an int64 and a uint64: below 0 decides, else both are compared as unsigned."""
    unsigned = code.compare(operator, a.bits_as(U64), b.bits_as(U64))
    signed, negative_is_less = (a, True) if a.type.kind == "i" else (b, False)
    less = operator in ("<", "<=") if negative_is_less else operator in (">", ">=")
    answer = code.constant(operator == "!=" or less, BOOL, a.lanes)
    return code.select(signed < 0, answer, unsigned)


def _comparison(operator: str) -> Function:
    def function(code: Code, a: Value, b: Value) -> Value:
        if {a.type.kind, b.type.kind} == {"i", "u"}:
            return _compare_signs(code, operator, a, b)
        return code.compare(operator, a, b)

    return function


def _where(code: Code, condition: Value, a: Value, b: Value) -> Value:
    return code.select(condition.cast(BOOL), a, b)


# -- tests and logic -------------------------------------------------------------------------------


def _isnan(code: Code, x: Value) -> Value:
    return x.differs(x) if x.type.is_float else code.constant(0, BOOL, x.lanes)


def _isinf(code: Code, x: Value) -> Value:
    if not x.type.is_float:
        return code.constant(0, BOOL, x.lanes)
    return code.intrinsic("fabs", x).equals(math.inf)


def _isfinite(code: Code, x: Value) -> Value:
    if not x.type.is_float:
        return code.constant(1, BOOL, x.lanes)
    return code.intrinsic("fabs", x) < math.inf


def _logical_and(code: Code, a: Value, b: Value) -> Value:
    return a.cast(BOOL) & b.cast(BOOL)


def _logical_or(code: Code, a: Value, b: Value) -> Value:
    return a.cast(BOOL) | b.cast(BOOL)


def _logical_not(code: Code, x: Value) -> Value:
    return ~x.cast(BOOL)


def _bitwise_and(code: Code, a: Value, b: Value) -> Value:
    return a & b


def _bitwise_or(code: Code, a: Value, b: Value) -> Value:
    return a | b


def _bitwise_xor(code: Code, a: Value, b: Value) -> Value:
    return a ^ b


def _invert(code: Code, x: Value) -> Value:
    return ~x


_FUNCTIONS: dict[str, Function] = {
    "copy": _copy,
    "where": _where,
    # arithmetic
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "multiply_add": _multiply_add,
    "divide": _divide,
    "floor_divide": division.floor_divide,
    "remainder": division.remainder,
    "power": _power,
    "square": _square,
    "reciprocal": _reciprocal,
    "negative": _negative,
    "abs": _abs,
    "sign": _sign,
    "sqrt": _sqrt,
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "rint": _rounding("rint"),
    # functions
    "exp": exponential.exp,
    "expm1": exponential.expm1,
    "tanh": exponential.tanh,
    "sigmoid": exponential.sigmoid,
    "log": logarithm.log,
    "log1p": logarithm.log1p,
    "log2": logarithm.log2,
    "erf": error_function.erf,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    # order
    "maximum": _maximum,
    "minimum": _minimum,
    "equal": _comparison("=="),
    "not_equal": _comparison("!="),
    "less": _comparison("<"),
    "less_equal": _comparison("<="),
    "greater": _comparison(">"),
    "greater_equal": _comparison(">="),
    # tests and logic
    "isnan": _isnan,
    "isinf": _isinf,
    "isfinite": _isfinite,
    "logical_and": _logical_and,
    "logical_or": _logical_or,
    "logical_not": _logical_not,
    "bitwise_and": _bitwise_and,
    "bitwise_or": _bitwise_or,
    "bitwise_xor": _bitwise_xor,
    "invert": _invert,
}

NAMES = frozenset(_FUNCTIONS)
