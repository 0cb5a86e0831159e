"""Division that rounds down with its remainder, and powers of integers: NumPy's rules.

The remainder has the sign of the divisor. Integers divided by 0 give 0; the smallest integer
divided by -1 wraps. No case traps. NumPy leaves the reciprocal of the integer 0 open, and what
floats become that an integer type cannot hold: both are what machine and vector width make of them
there. Here the first is 0, and `Code.cast` saturates at int32 or int64 and keeps the last bits.
"""

from __future__ import annotations

import math

from llvmlite import ir

from needle.compiler.code import Code, Value
from needle.compiler.functions.floats import each_lane, magnitude, rarely
from needle.compiler.types import F32, F64, I32, I64

__all__ = ["floor_divide", "integer_power", "integer_reciprocal", "remainder"]


def floor_divide(code: Code, a: Value, b: Value) -> Value:
    """The largest integer that is not above a / b."""
    if a.type.is_float:
        return _float_floor_divide(code, a, b)
    quotient, left = _integer_division(code, a, b)
    return code.select(_unlike(left, b), quotient - 1, quotient)


def remainder(code: Code, a: Value, b: Value) -> Value:
    """a - b·floor(a / b), exact."""
    if a.type.is_float:
        left = _cut_remainder(code, a, b)
        moved = code.select((left < 0.0) ^ (b < 0.0), left + b, left)
        zero = code.constant(0.0, a.type, a.lanes)
        return code.select(left.equals(0.0), code.intrinsic("copysign", zero, b), moved)
    _, left = _integer_division(code, a, b)
    return code.select(_unlike(left, b), left + b, left)


def _unlike(left: Value, divisor: Value) -> Value:
    """Whether a remainder cut off towards zero has not the divisor's sign."""
    return left.differs(0) & ((left ^ divisor) < 0)


def _integer_division(code: Code, a: Value, b: Value) -> tuple[Value, Value]:
    """Quotient cut off towards zero and what it leaves; both 0 where b is 0."""
    by_zero = b.equals(0)
    unsafe = by_zero
    if a.type.kind == "i":
        unsafe = by_zero | (a.equals(-(1 << (a.type.bits - 1))) & b.equals(-1))
    divisor = code.select(unsafe, 1, b)  # the smallest integer / 1 is what / -1 wraps to
    quotient = a // divisor
    return code.select(by_zero, 0, quotient), a - quotient * divisor


def _float_floor_divide(code: Code, a: Value, b: Value) -> Value:
    left = _cut_remainder(code, a, b)
    quotient = (a - left) / b  # an integer, but for rounding
    below = left.differs(0.0) & ((left < 0.0) ^ (b < 0.0))
    quotient = code.select(below, quotient - 1.0, quotient)
    whole = code.intrinsic("floor", quotient)
    whole = code.select(quotient - whole > 0.5, whole + 1.0, whole)
    zero = code.intrinsic("copysign", code.constant(0.0, a.type, a.lanes), a / b)
    whole = code.select(quotient.equals(0.0), zero, whole)
    return code.select(b.equals(0.0), a / b, whole)


def _cut_remainder(code: Code, a: Value, b: Value) -> Value:
    """a - b·trunc(a / b), exact, with the sign of a: C's fmod.

    float32: while the quotient is below 2²⁴, float64 cuts it off rightly and multiplies exactly.
    """
    if a.type is F64:
        return a % b
    wide_a, wide_b = a.cast(F64), b.cast(F64)
    quotient = wide_a / wide_b
    usual = (magnitude(code, quotient) < 2.0**24) & (magnitude(code, b) < math.inf)
    small = code.select(usual, quotient, 0.0)
    cut = code.wrap(code.builder.fptosi(small.ir, code.ir_type(I32, a.lanes)), I32)
    left = code.fma(cut.cast(F64), -wide_b, wide_a).cast(F32)
    signed = code.intrinsic("copysign", left, a)
    return rarely(code, ~usual, lambda: each_lane(code, lambda x, y: x % y, a, b), signed)


def integer_power(code: Code, x: Value, n: Value) -> Value:
    """xⁿ of integers by repeated squaring; n >= 0."""
    result = code.variable(code.constant(1, x.type, x.lanes))
    square, rest = code.variable(x), code.variable(n)
    with code.loop(0, _bit_length(code, n)):
        odd = (rest.get() & 1).differs(0)
        result.set(code.select(odd, result.get() * square.get(), result.get()))
        square.set(square.get() * square.get())
        rest.set(rest.get() >> 1)
    return result.get()


def _bit_length(code: Code, n: Value) -> Value:
    """Bits that are needed for the largest of the lanes, as an i64."""
    bits = n.ir
    if n.lanes > 1:
        kind = ir.IntType(n.type.bits)
        reduce = code.declare(f"llvm.vector.reduce.or.v{n.lanes}i{n.type.bits}", kind, [bits.type])
        bits = code.builder.call(reduce, [bits])
    leading = code.builder.ctlz(bits, ir.Constant(ir.IntType(1), 0))
    return 64 - _as_i64(code, leading) - (64 - n.type.bits)


def _as_i64(code: Code, value: ir.Value) -> Value:
    if value.type.width < 64:
        value = code.builder.zext(value, I64.ir)
    return code.wrap(value, I64)


def integer_reciprocal(code: Code, x: Value) -> Value:
    """1 / x of integers, cut off towards zero; 0 for 0."""
    unit = x.equals(1) if x.type.kind == "u" else x.equals(1) | x.equals(-1)
    return code.select(unit, x, 0)
