"""exp, expm1, tanh and sigmoid.

float32: x = n·ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite's two-part ln 2: the product of n with
the first part is exact), eʳ - 1 by a polynomial, and the power of two put back. Largest errors over
all float32 numbers, in ulp: exp 0.9, tanh 1.1, expm1 1.6, sigmoid 1.9. float64: `wide`; sigmoid
is written once for both, its largest error in float64 1.8.
"""

from __future__ import annotations

import math

from needle.compiler.code import Code, Value
from needle.compiler.functions import wide
from needle.compiler.functions.floats import (
    at_least,
    at_most,
    magnitude,
    nearest,
    polynomial,
    power_of_two,
    scaled,
    sign_bit,
    with_sign,
)
from needle.compiler.types import F64

__all__ = ["LN2", "exp", "exp_to_zero", "expm1", "sigmoid", "tanh"]

# ln 2 in two parts, the first of 16 bits: integers below 2⁸ multiply it without rounding
LN2 = (0.693145751953125, 1.42860676533e-06)

# (eʳ - 1 - r) / r² on |r| <= ln 2 / 2: minimax (Remez), rounded to float32 one by one, the later
# ones fitted again; relative error of eʳ below 2^-28
_EXPM1 = (0.4999999404, 0.1666651517, 0.04166808352, 0.008369348012, 0.001384036732)

# (tanh(x) - x) / x³ in powers of x², |x| <= 0.8: found likewise; relative error of tanh 2^-28
_TANH = (-0.3333329856, 0.1333224177, -0.05385359749, 0.02130652592, -0.00741416961, 0.001587038045)

# From here on the result is 0, or infinite; beyond, n would not fit.
_LOWEST, _HIGHEST = -104.0, 89.0


def _reduced(code: Code, x: Value) -> tuple[Value, Value]:
    """n and eʳ - 1, where x = n·ln 2 + r."""
    whole, n = nearest(code, x, 1 / math.log(2))
    near = code.fma(whole, -LN2[0], x)  # exact; what the second part takes off is kept by itself
    rest = whole * -LN2[1]
    r = near + rest
    return n, near + code.fma(r * r, polynomial(code, r, _EXPM1), rest)


def exp(code: Code, x: Value) -> Value:
    """eˣ."""
    if x.type is F64:
        return wide.exp(code, x)
    return exp_to_zero(code, at_most(code, x, _HIGHEST))


def exp_to_zero(code: Code, x: Value) -> Value:
    """eˣ in float32 for x <= 89, down to denormals and 0."""
    n, p = _reduced(code, at_least(code, x, _LOWEST))
    return scaled(code, p + 1.0, n)


def expm1(code: Code, x: Value) -> Value:
    """eˣ - 1, as 2ⁿ·(eʳ - 1) + (2ⁿ - 1)."""
    if x.type is F64:
        return wide.expm1(code, x)
    n, p = _reduced(code, at_least(code, at_most(code, x, _HIGHEST), -18.0))
    # halved and doubled, since 2¹²⁸ is no number
    half = power_of_two(code, n - 1, x.type)
    result = code.fma(p, half, half - 0.5) * 2.0
    return code.select(magnitude(code, x) < 2.0**-26, x, result)


def tanh(code: Code, x: Value) -> Value:
    """x + x³·P(x²) for |x| <= 0.8, beyond it 1 - 2 / (exp(2|x|) + 1), and the sign of x."""
    if x.type is F64:
        return wide.tanh(code, x)
    size = magnitude(code, x)
    square = size * size
    near = code.fma(size * square, polynomial(code, square, _TANH), size)
    n, p = _reduced(code, at_most(code, size + size, 20.0))  # tanh(10) rounds to 1
    far = 1.0 - 2.0 / ((p + 1.0) * power_of_two(code, n, x.type) + 1.0)
    return with_sign(code.select(size > 0.8, far, near), sign_bit(x))


def sigmoid(code: Code, x: Value) -> Value:
    """1 / (1 + e⁻ˣ), written with d = exp(-|x|) so that it overflows nowhere: 1 or d over 1 + d.

    d is 2ⁿ·(1 + p). What 1 + d loses by rounding is made up for by one Newton step, and the factor
    1 + p comes last: r + r·p loses less than r·(1 + p).
    """
    reduced, lowest = (wide.reduced, wide.LOWEST) if x.type is F64 else (_reduced, _LOWEST)
    n, p = reduced(code, at_least(code, -magnitude(code, x), lowest))
    decay = scaled(code, p + 1.0, n)
    total = decay + 1.0
    lost = decay - (total - 1.0)
    inverse = 1.0 / total
    factor = code.fma(lost, -inverse, code.select(x < 0.0, p, 0.0))
    result = code.fma(factor, inverse, inverse)
    return code.select(x < 0.0, scaled(code, result, n), result)
