"""Rows of the table of operators: nonlinearities with a kink, their gradients, borders, resampling.

Inputs are drawn away from the kinks at 0, ±1/2 and ±3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy_references import erf, sigmoid
from oprows import Row, Shape, anywhere, bad, case

from needle import Tensor, errors, ops
from needle.fixed import fixed

SHAPES: list[Shape] = [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0, 3)]
ALIKE = [case(shape, shape) for shape in SHAPES]


def wide(rng: np.random.RandomState, shape: Shape) -> np.ndarray:
    """Of either sign, on both sides of 3, at least 0.1 from 0 and from 3."""
    sizes = rng.choice([0.0, 3.0], shape) + rng.uniform(0.1, 2.9, shape)
    return np.asarray(rng.choice([-1.0, 1.0], shape) * sizes)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    return np.where(x > 0, x, x * slope)


def elu(x: Any, alpha: float = 1.0) -> Any:
    return np.where(x > 0, x, alpha * (np.exp(x) - 1))


def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    return np.minimum(np.maximum(x, low), high).astype(np.result_type(x, np.float32))


def hardswish(x: Any) -> Any:
    return x * np.clip(x / 6 + 0.5, 0, 1)


def gelu_slope(x: Any, approximate: str) -> Any:
    if approximate == "none":
        return (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return (1 + t) / 2 + x * (1 - t * t) * inner / 2


def silu_slope(x: Any) -> Any:
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)))


def gradient_row(op: Any, slope: Any, *params: dict[str, Any], draw: Any = anywhere) -> Row:
    """g · f'(x)."""

    def reference(g: Any, x: Any, **given: Any) -> Any:
        return g * slope(x, **given)

    cases = [case(shape, shape, **given) for shape in SHAPES for given in params or ({},)]
    return Row(
        op, lambda g, x, **given: op(**given)(g, x), reference, cases, draws=(anywhere, draw),
        public=False,
    )  # fmt: skip


NOT_FINITE = [
    bad(errors.OptionError, "slope to be a finite number, got nan", (3,), slope=math.nan),
    bad(errors.OptionError, "slope to be a finite number, got '1'", (3,), slope="1"),
]
MODES = ("reflect", "replicate", "circular")

ROWS_ACTIVATION = [
    Row(ops.LeakyReLU, ops.leaky_relu, leaky_relu,
        [case(shape, slope=slope) for shape in SHAPES for slope in (0.01, 0.0, -0.5, 1.5)],
        NOT_FINITE),
    Row(ops.PReLU, ops.prelu, lambda x, weight: np.where(x > 0, x, x * weight),
        [case((2, 3), (3,)), case((2, 3, 2), (3, 1)), case((2, 3), (1,)), case((), ()),
         case((3,), (2, 3)), case((0, 3), (3,))],
        [bad(errors.ShapeError, r"got float64\[2,3\] and float64\[2\]", (2, 3), (2,))]),
    Row(ops.ELU, ops.elu, elu,
        [case(shape, alpha=alpha) for shape in SHAPES for alpha in (1.0, 0.5)],
        [bad(errors.OptionError, "alpha to be a finite number, got inf", (3,), alpha=math.inf)]),
    Row(ops.Hardtanh, ops.hardtanh, hardtanh,
        [case(shape, low=low, high=high) for shape in SHAPES for low, high in [(-3, 3), (0, 3)]],
        [bad(errors.OptionError, "low below high, got 1 and 1", (3,), low=1, high=1),
         bad(errors.OptionError, "low to be a finite number, got None", (3,), low=None)],
        draws=(wide,)),
    Row(ops.Hardswish, ops.hardswish, hardswish, [case(shape) for shape in SHAPES], draws=(wide,)),
    gradient_row(ops.SiLUGradient, silu_slope),
    gradient_row(ops.GELUGradient, gelu_slope, {"approximate": "none"}, {"approximate": "tanh"}),
    gradient_row(ops.LeakyReLUGradient, lambda x, slope: np.where(x > 0, 1.0, slope),
                 {"slope": 0.1}),
    gradient_row(ops.ELUGradient, lambda x, alpha: np.where(x > 0, 1.0, alpha * np.exp(x)),
                 {"alpha": 1.0}, {"alpha": 0.5}),
    gradient_row(ops.HardtanhGradient, lambda x, low, high: ((x > low) & (x < high)) * 1.0,
                 {"low": -3.0, "high": 3.0}, draw=wide),
    gradient_row(ops.HardswishGradient,
                 lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0) * 1.0), draw=wide),
]  # fmt: skip


def pad(x: Any, widths: Any, value: float = 0.0, mode: str = "constant") -> Any:
    if not widths:
        return x
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    options = {"constant_values": value} if mode == "constant" else {}
    border = [(max(before, 0), max(after, 0)) for before, after in widths]
    padded = np.pad(x, border, mode=names[mode], **options)  # type: ignore[call-overload]
    ends = [(max(-before, 0), max(-after, 0)) for before, after in widths]
    inner = [slice(a, n - b) for (a, b), n in zip(ends, padded.shape, strict=True)]
    return padded[tuple(inner)]


def shares(x: Any, axis: int) -> Any:
    """The weights, along `axis`."""
    return np.reshape(SHARES, (5,) + (1,) * (x.ndim - axis - 1))


def constants(x: Any, axis: int) -> list[Any]:
    """Places and weights as Tensors, which have no gradients."""
    kinds = ["int64", "int64", x.dtype]
    return [
        Tensor(fixed(value), dtype=kind, device=x.device, requires_grad=False)
        for value, kind in zip((LEFT, RIGHT, shares(x, axis)), kinds, strict=True)
    ]


def take_between(x: Any, axis: int) -> Any:
    weight = shares(x, axis)
    return np.take(x, LEFT, axis) * (1 - weight) + np.take(x, RIGHT, axis) * weight


def put_between(y: Any, axis: int, shape: Shape) -> Any:
    x, weight, before = np.zeros(shape), shares(y, axis), (slice(None),) * axis
    np.add.at(x, (*before, LEFT), y * (1 - weight))
    np.add.at(x, (*before, RIGHT), y * weight)
    return x


LEFT, RIGHT = np.array([0, 0, 1, 2, 2]), np.array([1, 1, 2, 2, 2])
SHARES = [0.25, 0.75, 0.5, 0.0, 1.0]

ROWS_BETWEEN = [
    Row(ops.TakeBetween, lambda x, axis: ops.TakeBetween(axis)(x, *constants(x, axis)),
        take_between, [case((2, 3, 2), axis=1), case((3,), axis=0), case((0, 3), axis=1)],
        narrow=False, integers=False, public=False),
    Row(ops.PutBetween,
        lambda y, axis, shape: ops.PutBetween(axis, shape)(y, *constants(y, axis)), put_between,
        [case((2, 5, 2), axis=1, shape=(2, 3, 2)), case((5,), axis=0, shape=(3,))],
        narrow=False, integers=False, public=False),
]  # fmt: skip


ROWS_PADDING = [
    Row(ops.Pad, ops.pad, pad,
        [case((2, 3), widths=[(1, 0), (0, 2)]), case((3,), widths=((1, 1),), value=2),
         case((), widths=()), case((0, 2), widths=[(1, 0), (0, 0)]), case((2,), widths=[(0, 0)]),
         case((4, 3), widths=[(-1, -2), (2, -1)], value=1), case((2, 3), widths=[(0, 0), (-3, 0)]),
         *[case((4, 3), widths=[(2, 1), (0, 2)], mode=mode) for mode in MODES],
         *[case((2, 4), widths=[(0, 0), (-2, 3)], mode=mode) for mode in MODES],
         case((1, 2), widths=[(3, 2), (0, 0)], mode="replicate")],
        [bad(errors.ShapeError, r"crop no more than there is, got \(\(-2, -2\),\) for float64\[3\]",
             (3,), widths=[(-2, -2)]),
         bad(errors.OptionError, r"expected .*\(before, after\)", (3,), widths=(1, 1)),
         bad(errors.OptionError, r"expected .*\(before, after\)", (3,), widths=[(1, 1, 1)]),
         bad(errors.ShapeError, r"expected 1 axes.*got float64\[2,3\]", (2, 3), widths=[(1, 1)]),
         bad(errors.ShapeError, r"expected 1 axes.*got float64\[2,3\]", (2, 3), widths=[(1, 1)],
             mode="reflect"),
         bad(errors.OptionError, "mode of constant, reflect, replicate, circular, got 'edge'", (3,),
             widths=[(1, 1)], mode="edge"),
         *[bad(errors.ShapeError, rf"long enough for {mode} padding by \({n}, 0\), got a length of "
               "3", (3,), widths=[(n, 0)], mode=mode) for n, mode in [(3, "reflect"),
                                                                      (4, "circular")]],
         bad(errors.ShapeError, "replicate padding .* got a length of 0", (0,), widths=[(1, 0)],
             mode="replicate")], bools=True),
]  # fmt: skip
