"""sin and cos.

float32: r = x - n·π/2 in float64, with π/2 in two parts, then polynomials on |r| <= π/4; for
|x| >= 10⁶ libm. Largest error over all float32 numbers: 1.5 ulp. float64: libm.
"""

from __future__ import annotations

import math

from needle.compiler.code import Code, Value
from needle.compiler.functions.floats import (
    each_lane,
    magnitude,
    nearest,
    polynomial,
    rarely,
    with_sign,
)
from needle.compiler.types import F32, F64, I32, U32

__all__ = ["cos", "sin"]

# π/2, the first part of 33 bits: integers below 2²⁰ multiply it without rounding
_HALF_PI = (1.5707963267341256, 6.077100506506192e-11)
_LARGE = 1e6

# sin(r) = r + r³·S(r²), cos(r) = 1 - r²/2 + r⁴·C(r²) on |r| <= π/4: minimax (Remez), rounded to
# float32 one by one, the later ones fitted again; errors below 2^-32
_SIN = (-0.1666666716, 0.008333380334, -0.0001985351118, 2.837513875e-6)
_COS = (0.04166664556, -0.001388730132, 2.443067024e-5)


def sin(code: Code, x: Value) -> Value:
    """sin x, x in radians."""
    return _turned(code, x, "sin", 0)


def cos(code: Code, x: Value) -> Value:
    """cos x, x in radians."""
    return _turned(code, x, "cos", 1)


def _turned(code: Code, x: Value, name: str, quarters: int) -> Value:
    """sin(x + quarters·π/2)."""
    if x.type is F64:
        return code.call_libm(name, x)
    size = magnitude(code, x)
    large = (size >= _LARGE) & (size < math.inf)
    usual = _moderate(code, x, quarters)
    return rarely(
        code, large, lambda: each_lane(code, lambda one: code.call_libm(name, one), x), usual
    )


def _moderate(code: Code, x: Value, quarters: int) -> Value:
    wide = x.cast(F64)
    whole, n = nearest(code, wide, 2 / math.pi)
    r = code.fma(whole, -_HALF_PI[1], code.fma(whole, -_HALF_PI[0], wide)).cast(F32)
    quadrant = (n.cast(I32) + quarters).bits_as(U32)
    use_cos = (quadrant & 1).differs(0)
    # r's sign is put back at the end, which keeps that of zero
    size = magnitude(code, r)
    square = r * r
    sine = code.fma(size * square, polynomial(code, square, _SIN), size)
    half = square * 0.5
    most = 1.0 - half
    cut_off = (1.0 - most) - half
    cosine = most + code.fma(square * square, polynomial(code, square, _COS), cut_off)
    turned = (quadrant & 2) << 30
    sign = code.select(use_cos, turned, turned ^ (r.bits_as(U32) & (1 << 31)))
    return with_sign(code.select(use_cos, cosine, sine), sign)
