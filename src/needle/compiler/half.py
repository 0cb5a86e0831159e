"""16-bit floats: how they lie in memory, and their way to float32 and back.

Widening is exact. Narrowing gives the nearest value, ties to even, infinity where that is nearest;
NaN stays NaN and keeps its sign. float16 is converted by the machine where it has the instructions.

What is wider than float32 must not be rounded twice on its way to 16 bits. So float32 is reached by
rounding to odd: what is no float32 becomes its neighbour whose last bit is 1, which keeps the side
of every tie that it lies on. (Boldo and Melquiond, Emulation of a FMA and correctly rounded sums:
proved algorithms using rounding to odd, IEEE Transactions on Computers 57, 2008; p + 2 bits do,
and float32 has 24 where float16 has 11.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from needle.compiler.types import F32, F64, U32

if TYPE_CHECKING:
    from needle.compiler.code import Code, Value

__all__ = ["STORAGE", "narrow", "odd_float32", "rounded", "widen"]

# Loaded and stored as integers: conversions are written out where the machine has none.
STORAGE: dict[str, Any] = {"float16": ir.IntType(16), "bfloat16": ir.IntType(16)}

# float32's bits: the sign, infinity, and what float16 tells from 0, from denormals and infinity
_SIGN, _INFINITY = 1 << 31, 0x7F800000
_HALF_NORMAL, _HALF_INFINITY = 0x38800000, 0x47800000  # 2⁻¹⁴ and 2¹⁶


def widen(code: Code, raw: Any, dtype: str) -> Value:
    """The float32 value of 16 bits from memory."""
    lanes = raw.type.count if isinstance(raw.type, ir.VectorType) else 1
    if dtype == "float16" and code.target.has_half:
        half = code.builder.bitcast(raw, _wide(ir.HalfType(), lanes))
        return code.wrap(code.builder.fpext(half, code.ir_type(F32, lanes)), F32)
    bits = code.wrap(code.builder.zext(raw, code.ir_type(U32, lanes)), U32)
    return (bits << 16).bits_as(F32) if dtype == "bfloat16" else _widen_float16(code, bits)


def narrow(code: Code, value: Value, dtype: str) -> Any:
    """The 16 bits of the nearest value."""
    short = _wide(ir.IntType(16), value.lanes)
    if dtype == "float16" and code.target.has_half:
        half = code.builder.fptrunc(value.ir, _wide(ir.HalfType(), value.lanes))
        return code.builder.bitcast(half, short)
    bits = value.bits_as(U32)
    is_nan = value.differs(value)
    if dtype == "bfloat16":
        narrowed = code.select(is_nan, (bits >> 16) | 0x40, _round_off(bits, 16))
    else:
        narrowed = _narrow_float16(code, bits & (_SIGN - 1), is_nan) | ((bits & _SIGN) >> 16)
    return code.builder.trunc(narrowed.ir, short)


def rounded(code: Code, value: Value, dtype: str) -> Value:
    """The nearest value of the dtype, as a float32."""
    return widen(code, narrow(code, odd_float32(code, value), dtype), dtype)


def odd_float32(code: Code, x: Value) -> Value:
    """A number of any type as float32, rounded to odd, so that `narrow` rounds it rightly."""
    if x.type is F32 or (x.type is not F64 and x.type.bits < 32):
        return x.cast(F32)  # exact
    x = x if x.type is F64 else _odd_float64(code, x)
    near = x.cast(F32)
    back = near.cast(F64)
    bits = near.bits_as(U32)
    size, near_size = code.intrinsic("fabs", x), code.intrinsic("fabs", back)
    cut_off = code.select(near_size > size, bits - 1, bits)
    return code.select(back.differs(x), cut_off | 1, bits).bits_as(F32)


def _odd_float64(code: Code, x: Value) -> Value:
    """An integer as float64, rounded to odd: beyond 2⁵³ without the last 11 of its 64 bits."""
    if x.type.bits < 64:
        return x.cast(F64)
    lost = code.select((x & 0x7FF).differs(0), code.constant(1, x.type), 0)
    inexact = x > 1 << 53
    if x.type.kind == "i":
        inexact = inexact | (x < -(1 << 53))
    return code.select(inexact, ((x >> 11) | lost) << 11, x).cast(F64)


def _wide(element: Any, lanes: int) -> Any:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def _round_off(bits: Value, count: int) -> Value:
    """The last bits cut off, the others rounded to the nearest, ties to even."""
    odd = (bits >> count) & 1
    return (bits + odd + ((1 << (count - 1)) - 1)) >> count


def _widen_float16(code: Code, bits: Value) -> Value:
    """Exponent and mantissa moved into place, times 2¹¹², which also makes denormals normal."""
    moved = (bits & 0x7FFF) << 13
    size = (moved.bits_as(F32) * 2.0**112).bits_as(U32)
    size = code.select((bits & 0x7FFF) >= 0x7C00, moved | _INFINITY, size)
    return (size | ((bits & 0x8000) << 16)).bits_as(F32)


def _narrow_float16(code: Code, size: Value, is_nan: Value) -> Value:
    """The bits of a magnitude, given as float32's."""
    normal = _round_off(size - (_HALF_NORMAL - (1 << 23)), 13)  # may carry into infinity
    # next to 1/2 float32 has the spacing of float16's denormals: the addition rounds to it
    denormal = (size.bits_as(F32) + 0.5).bits_as(U32) - 0x3F000000
    narrowed = code.select(size < _HALF_NORMAL, denormal, normal)
    narrowed = code.select(size >= _HALF_INFINITY, 0x7C00, narrowed)
    return code.select(is_nan, 0x7E00, narrowed)
