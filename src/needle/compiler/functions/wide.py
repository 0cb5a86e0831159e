"""exp, expm1, tanh, log and log1p in float64.

As in float32: x = n·ln 2 + r and eʳ - 1 by a polynomial; x = 2ᵏ·(1 + f) and log(1 + f) by one in
s = f / (2 + f). Both are the first terms of a power series, as many as float64 can tell apart.
Largest errors in samples of some millions, in ulp: exp 0.9, expm1 1.3, tanh 1.5, log 0.9,
log1p 1.4.
"""

from __future__ import annotations

import math

from needle.compiler.code import Code, Value
from needle.compiler.functions.floats import (
    at_least,
    at_most,
    in_domain,
    magnitude,
    nearest,
    polynomial,
    power_of_two,
    scaled,
    sign_bit,
    with_sign,
)
from needle.compiler.types import F64, I64, U64

__all__ = ["LOWEST", "exp", "expm1", "log", "log1p", "reduced", "tanh"]

# ln 2 in two parts, the first of 32 bits: integers below 2²⁰ multiply it without rounding
_LN2 = (0.6931471803691238, 1.9082149292705877e-10)

# (eʳ - 1 - r) / r²: 1/2!, 1/3!, ...; what is left out is below 2^-57 of eʳ for |r| <= ln 2 / 2
_EXPM1 = [1 / math.factorial(n) for n in range(2, 14)]

# (log((1 + s) / (1 - s)) / s - 2) / s² in powers of s²; left out: 2^-60 of the logarithm
_ATANH = [2 / n for n in range(3, 22, 2)]

# From here on eˣ is 0, or infinite; beyond, n would not fit.
LOWEST, _HIGHEST = -746.0, 710.0

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_SMALLEST_NORMAL = 2.0**-1022
_TINY = 2.0**-54  # where expm1 and log1p are x
_WHOLE = 1.5 * 2.0**52  # plus a small integer it has that integer in its last bits
_WHOLE_BITS = 0x4338000000000000
_OFFSET = 2048  # makes exponents positive: AVX2 has no arithmetic shift of int64


def _parts(code: Code, x: Value) -> tuple[Value, Value, Value]:
    """n, and eʳ - 1 as the sum of a large and a small part, where x = n·ln 2 + r."""
    whole, n = nearest(code, x, 1 / math.log(2))
    near = code.fma(whole, -_LN2[0], x)  # exact
    rest = whole * -_LN2[1]
    r = near + rest
    return n, near, code.fma(r * r, polynomial(code, r, _EXPM1), rest)


def reduced(code: Code, x: Value) -> tuple[Value, Value]:
    """n and eʳ - 1, where x = n·ln 2 + r."""
    n, near, small = _parts(code, x)
    return n, near + small


def exp(code: Code, x: Value) -> Value:
    """eˣ."""
    n, p = reduced(code, at_least(code, at_most(code, x, _HIGHEST), LOWEST))
    return scaled(code, p + 1.0, n)


def _half_expm1(code: Code, x: Value) -> tuple[Value, Value]:
    """(eˣ - 1) / 2, since 2¹⁰²⁴ is no number; and what its two roundings took off."""
    n, near, small = _parts(code, at_least(code, at_most(code, x, _HIGHEST), -38.0))
    half = power_of_two(code, n - 1, F64)
    base = half - 0.5
    large, small = code.fma(near, half, base), small * half
    total = large + small
    return total, code.fma(near, half, base - large) + (small - (total - large))


def expm1(code: Code, x: Value) -> Value:
    """eˣ - 1, as 2ⁿ·(eʳ - 1) + (2ⁿ - 1)."""
    half, _ = _half_expm1(code, x)
    return code.select(magnitude(code, x) < _TINY, x, half + half)


def tanh(code: Code, x: Value) -> Value:
    """q = t / (t + 1) with t = (exp(2|x|) - 1) / 2, and the sign of x.

    What t and t + 1 lost by rounding is made up for; 1 / (t + 1), for this, is 1 - q.
    """
    size = magnitude(code, x)
    t, lost = _half_expm1(code, at_most(code, size + size, 37.42))  # t < 2⁵³: total - 1 is exact
    total = t + 1.0
    q = t / total
    rest = code.fma(-q, (t - (total - 1.0)) + lost, lost)
    result = code.fma(rest, 1.0 - q, q)
    result = code.select(size > 19.06, 1.0, code.select(size < 2.0**-28, size, result))
    return with_sign(result, sign_bit(x))


def _split(x: Value) -> tuple[Value, Value]:
    """k + 2048 and 1 + f, from √½ to √2, of a positive normal number."""
    bits = x.bits_as(U64) - _SQRT_HALF_BITS
    m = ((bits & (2**52 - 1)) + _SQRT_HALF_BITS).bits_as(F64)
    return ((bits + (_OFFSET << 52)) >> 52).bits_as(I64), m


def _natural(code: Code, k: Value, f: Value) -> Value:
    """k·ln 2 + log(1 + f) = k·ln 2 + f - f²/2 + s·(f²/2 + R), by the size of its parts."""
    s = f / (f + 2.0)
    z = s * s
    h = f * f * 0.5
    small = code.fma(s, code.fma(z, polynomial(code, z, _ATANH), h), k * _LN2[1])
    return code.fma(k, _LN2[0], f - (h - small))


def _as_float(code: Code, k: Value) -> Value:
    """k + 2048 as the float k; SSE2 and AVX2 cannot convert int64 in vectors."""
    return (k + _WHOLE_BITS).bits_as(F64) - (_WHOLE + _OFFSET)


def log(code: Code, x: Value) -> Value:
    """ln x."""
    small = x < _SMALLEST_NORMAL
    k, m = _split(code.select(small, x * 2.0**54, x))
    k = _as_float(code, k) - code.select(small, code.constant(54.0, F64), 0.0)
    return in_domain(code, x, 0.0, _natural(code, k, m - 1.0))


def log1p(code: Code, x: Value) -> Value:
    """ln(1 + x): k is that of the rounded 1 + x, f = 2⁻ᵏ·x + (2⁻ᵏ - 1) is rounded once."""
    k, _ = _split(x + 1.0)
    scale = power_of_two(code, (2 + _OFFSET) - k, F64)  # four times too large: 2⁻¹⁰²⁴ is not normal
    f = code.fma(x * 0.25, scale, scale * 0.25 - 1.0)
    result = in_domain(code, x, -1.0, _natural(code, _as_float(code, k), f))
    return code.select(magnitude(code, x) < _TINY, x, result)
