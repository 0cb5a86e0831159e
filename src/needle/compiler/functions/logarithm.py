"""log, log1p, log2, and powers of floats.

float32: x = 2ᵏ·(1 + f) with 1 + f from √½ to √2, a polynomial in f, and k·ln 2 in two parts.
Largest errors over all float32 numbers, in ulp: log 0.9, log1p 1.5, log2 1.3. Powers are
2^(y·log₂ x) in float64. Of float64: log and log1p in `wide`; log2 and powers by libm.
"""

from __future__ import annotations

import math

from needle.compiler.code import Code, Value
from needle.compiler.functions import wide
from needle.compiler.functions.exponential import LN2
from needle.compiler.functions.floats import (
    at_least,
    at_most,
    in_domain,
    magnitude,
    nearest,
    polynomial,
    power_of_two,
    sign_bit,
    with_sign,
)
from needle.compiler.types import F32, F64, I32, U32

__all__ = ["log", "log1p", "log2", "power"]

# (log(1 + f) - f + f²/2) / f³ for 1 + f in [√½, √2]: minimax (Remez), rounded to float32 one by
# one, the later ones fitted again; relative error of the logarithm below 2^-28
_LOG = (
    0.3333331347, -0.2500016689, 0.2000222355, -0.1665936708, 0.1420955062,
    -0.1254965216, 0.12109828, -0.1091520935, 0.05329839885,
)  # fmt: skip

# 1 / ln 2 in two parts, the first of 13 bits
_LOG2_E = (1.442626953125, 6.80877637933e-05)

# log₂((1 + s) / (1 - s)) / s in powers of s², |s| <= (√2 - 1) / (√2 + 1): minimax (Remez), in
# float64; relative error 2^-43
_LOG2_ATANH = (
    2.88539008177784906, 0.96179669411511659, 0.577077941833373687,
    0.412209307638251921, 0.3199033684210974, 0.282934289632549241,
)  # fmt: skip

# 2ˣ for |x| <= 1/2: minimax (Remez), in float64; relative error 2^-34
_EXP2 = (
    0.999999999961684796, 0.693147180728452653, 0.240226511981511697, 0.0555041035344014323,
    0.00961802725387747305, 0.00133339225705587128, 0.000154692911666482946,
    0.0000152019198441193831,
)  # fmt: skip

_SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 2.0**-126


def _split(x: Value) -> tuple[Value, Value]:
    """k and 1 + f of a positive normal number."""
    bits = x.bits_as(I32) - _SQRT_HALF_BITS
    return bits >> 23, ((bits & 0x7FFFFF) + _SQRT_HALF_BITS).bits_as(F32)


def _normal(code: Code, x: Value) -> tuple[Value, Value]:
    """What of k stems from making denormals normal, and x made normal."""
    small = x < _SMALLEST_NORMAL
    return code.select(small, code.constant(-23, I32), 0), code.select(small, x * 2.0**23, x)


def _series(code: Code, f: Value) -> Value:
    """log(1 + f) - f."""
    return f * f * code.fma(f, polynomial(code, f, _LOG), code.constant(-0.5, F32, f.lanes))


def _natural(code: Code, k: Value, f: Value) -> Value:
    """k·ln 2 + log(1 + f)."""
    whole = k.cast(F32)
    return code.fma(whole, LN2[0], f + code.fma(whole, LN2[1], _series(code, f)))


def log(code: Code, x: Value) -> Value:
    """ln x."""
    if x.type is F64:
        return wide.log(code, x)
    shift, normal = _normal(code, x)
    k, m = _split(normal)
    return in_domain(code, x, 0.0, _natural(code, k + shift, m - 1.0))


def log2(code: Code, x: Value) -> Value:
    """log₂ x; powers of two give integers."""
    if x.type is F64:
        return code.call_libm("log2", x)
    shift, normal = _normal(code, x)
    k, m = _split(normal)
    f = m - 1.0
    high = (f.bits_as(U32) & 0xFFFFE000).bits_as(F32)  # 11 bits: times 13 there is no rounding
    small = code.fma(f, _LOG2_E[1], _series(code, f) * (1 / math.log(2)))
    result = code.fma(high, _LOG2_E[0], code.fma(f - high, _LOG2_E[0], small))
    return in_domain(code, x, 0.0, (k + shift).cast(F32) + result)


def log1p(code: Code, x: Value) -> Value:
    """ln(1 + x): k is that of the rounded 1 + x, f = 2⁻ᵏ·x + (2⁻ᵏ - 1) is rounded once."""
    if x.type is F64:
        return wide.log1p(code, x)
    k, _ = _split(x + 1.0)
    scale = power_of_two(code, 2 - k, F32)  # four times too large: 2⁻¹²⁸ is not normal
    f = code.fma(x * 0.25, scale, scale * 0.25 - 1.0)
    result = in_domain(code, x, -1.0, _natural(code, k, f))
    return code.select(magnitude(code, x) < 2.0**-26, x, result)


def power(code: Code, x: Value, y: Value) -> Value:
    """xʸ of floats, with the special cases of C's pow."""
    if x.type is F64:
        return code.call_libm("pow", x, y)
    size = magnitude(code, x)
    logarithm = code.select(size.equals(1.0), 0.0, _wide_log2(code, size))
    exponent = y.cast(F64) * logarithm
    # 1 to an infinite power is 1, and so is anything to the power 0
    trivial = size.equals(1.0) & y.equals(y)
    exponent = code.select(trivial | y.equals(0.0) | x.equals(1.0), 0.0, exponent)
    result = _wide_exp2(code, exponent).cast(F32)
    whole, odd = _parity(code, y)
    result = code.select((x < 0.0) & (x > -math.inf) & ~whole, math.nan, result)
    return with_sign(result, code.select(odd, sign_bit(x), 0))


def _wide_log2(code: Code, x: Value) -> Value:
    """log₂ of a float32 that is not negative, in float64: 2·atanh(s) / ln 2, s = f / (2 + f)."""
    shift, normal = _normal(code, x)
    k, m = _split(normal)
    m = m.cast(F64)
    s = (m - 1.0) / (m + 1.0)
    result = code.fma(s, polynomial(code, s * s, _LOG2_ATANH), (k + shift).cast(F64))
    return in_domain(code, x.cast(F64), 0.0, result)


def _wide_exp2(code: Code, x: Value) -> Value:
    """2ˣ in float64, within what float32 can tell from 0 and from infinity."""
    x = at_least(code, at_most(code, x, 200.0), -200.0)
    whole, n = nearest(code, x, 1.0)
    return polynomial(code, x - whole, _EXP2) * power_of_two(code, n, F64)


def _parity(code: Code, y: Value) -> tuple[Value, Value]:
    """Whether a float32 is an integer (infinity counts), and whether it is an odd one."""
    large = magnitude(code, y) >= 2.0**24  # even, all of them
    small = code.select(magnitude(code, y) < 2.0**24, y, 0.0)
    cut = code.wrap(code.builder.fptosi(small.ir, code.ir_type(I32, y.lanes)), I32)
    whole = cut.cast(F32).equals(y)
    return large | whole, whole & (cut & 1).differs(0)
