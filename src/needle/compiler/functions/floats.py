"""What functions of floats are written with: polynomials, bits, powers of two, rare cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from needle.compiler.code import Code, Value
from needle.compiler.types import BOOL, F32, F64, I32, I64, U32, U64, Type

__all__ = [
    "any_lane",
    "at_least",
    "at_most",
    "each_lane",
    "in_domain",
    "magnitude",
    "nearest",
    "polynomial",
    "power_of_two",
    "rarely",
    "scaled",
    "sign_bit",
    "with_sign",
]

_MANTISSA = {F32: 23, F64: 52}
_BIAS = {F32: 127, F64: 1023}
_SIGNED: dict[Type, Type] = {F32: I32, F64: I64}
_UNSIGNED: dict[Type, Type] = {F32: U32, F64: U64}


def polynomial(code: Code, x: Value, coefficients: Sequence[float]) -> Value:
    """c₀ + c₁·x + c₂·x² + ..., by Horner's rule."""
    total = code.constant(coefficients[-1], x.type, x.lanes)
    for c in reversed(coefficients[:-1]):
        total = code.fma(total, x, code.constant(c, x.type, x.lanes))
    return total


def nearest(code: Code, x: Value, scale: float) -> tuple[Value, Value]:
    """The integer next to x · scale, as a float and as an integer; |x · scale| below 2²².

    Adding 1.5 · 2ᵐ, m the bits of the mantissa, leaves no room for a fraction: the integer then
    stands in the last bits. It takes no instruction that SSE2 lacks.
    """
    shift = code.constant(1.5 * 2.0 ** _MANTISSA[x.type], x.type, x.lanes)
    shifted = code.fma(x, scale, shift)
    integer = _SIGNED[x.type]
    return shifted - shift, shifted.bits_as(integer) - shift.bits_as(integer)


def power_of_two(code: Code, n: Value, type: Type) -> Value:
    """2ⁿ, for integers n that give a normal number."""
    return ((n.cast(_SIGNED[type]) + _BIAS[type]) << _MANTISSA[type]).bits_as(type)


def scaled(code: Code, x: Value, n: Value) -> Value:
    """x · 2ⁿ, rounded once where it is denormal."""
    if code.target.name == "avx512":
        return _ldexp(code, x, n.cast(I32))  # an instruction there, a call to a library elsewhere
    half = n >> 1  # in two steps, both factors normal; only the second may round or overflow
    return x * power_of_two(code, half, x.type) * power_of_two(code, n - half, x.type)


def _ldexp(code: Code, x: Value, n: Value) -> Value:
    vector = f"v{x.lanes}" if x.lanes > 1 else ""
    symbol = f"llvm.ldexp.{vector}f{x.type.bits}.{vector}i32"
    function = code.declare(symbol, x.ir.type, [x.ir.type, n.ir.type])
    return code.wrap(code.builder.call(function, [x.ir, n.ir]), x.type)


def magnitude(code: Code, x: Value) -> Value:
    """|x|."""
    return code.intrinsic("fabs", x)


def sign_bit(x: Value) -> Value:
    """The bit that says whether x is negative, in its place among zeros."""
    return x.bits_as(_UNSIGNED[x.type]) & (1 << (x.type.bits - 1))


def with_sign(x: Value, sign: Value) -> Value:
    """x, negated where the sign bit is set."""
    return (x.bits_as(sign.type) ^ sign).bits_as(x.type)


def at_least(code: Code, x: Value, limit: float) -> Value:
    """max(x, limit); NaN stays NaN."""
    return code.select(x < limit, limit, x)


def at_most(code: Code, x: Value, limit: float) -> Value:
    """min(x, limit); NaN stays NaN."""
    return code.select(x > limit, limit, x)


def in_domain(code: Code, x: Value, start: float, result: Value) -> Value:
    """`result` between start and infinity; else -inf at start, NaN below, x (inf, NaN) above."""
    outside = code.select(x < start, math.nan, x)
    outside = code.select(x.equals(start), -math.inf, outside)
    return code.select((x > start) & (x < math.inf), result, outside)


def any_lane(code: Code, condition: Value) -> Value:
    """Whether a bool holds in any lane."""
    if condition.lanes == 1:
        return condition
    bits = code.builder.bitcast(condition.ir, ir.IntType(condition.lanes))
    return code.wrap(code.builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), BOOL)


def rarely(code: Code, condition: Value, otherwise: Callable[[], Value], usual: Value) -> Value:
    """`usual`, but `otherwise()` in lanes where the condition holds: skipped if there are none."""
    result = code.variable(usual)
    with code.when(any_lane(code, condition), likely=False):
        result.set(code.select(condition, otherwise(), usual))
    return result.get()


def each_lane(code: Code, function: Callable[..., Value], *operands: Value) -> Value:
    """A function of scalars applied in a loop over the lanes: short code for what is rare."""
    lanes, type = operands[0].lanes, operands[0].type
    if lanes == 1:
        return function(*operands)
    rows = [code.stack(lanes * type.itemsize) for _ in operands]
    for row, operand in zip(rows, operands, strict=True):
        code.store(operand, row, str(type))
    with code.loop(0, lanes) as i:
        scalars = [code.load(row, str(type), i) for row in rows]
        code.store(function(*scalars), rows[0], str(type), i)
    return code.load(rows[0], str(type), 0, lanes)
