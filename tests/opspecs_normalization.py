"""Rows of the table of operators: moments and normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from oprows import Row, anywhere, bad, case, positive

from needle import errors, ops


def moments(x: Any, axes: Any = None, centre: bool = True) -> Any:
    x = np.asarray(x, np.result_type(x, np.float32))
    axes = tuple(axes) if isinstance(axes, list) else axes
    if not centre:
        return ((x * x).mean(axes, keepdims=True),)
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


def normalize(
    x: Any, *affine: Any, axes: Any = -1, eps: float = 1e-5, centre: bool = True
) -> np.ndarray:
    *mean, var = moments(x, axes, centre)
    y = (x - mean[0] if mean else x) / np.sqrt(var + eps)
    if affine:
        y = y * affine[0]
    return np.asarray(y + affine[1] if len(affine) > 1 else y)


def standardize(x: Any, mean: Any, var: Any, *affine: Any, axes: Any = ()) -> np.ndarray:
    weight, bias = (*affine, *(1, 0)[len(affine) :])
    return np.asarray((x - mean) / np.sqrt(var + 1e-5) * weight + bias)


def normalize_gradient(
    g: Any, x: Any, weight: Any = None, axes: Any = (-1,), centre: bool = True
) -> Any:
    """By the formula as it stands in the docstring of the op."""
    r = 1 / np.sqrt(moments(x, axes, centre)[-1] + 1e-5)
    n = normalize(x, axes=axes, centre=centre)
    gw = g if weight is None else g * weight
    level = gw.mean(axes, keepdims=True) if centre else 0
    dx = r * (gw - level - n * (gw * n).mean(axes, keepdims=True))
    if weight is None:
        return (dx,)
    return dx, _summed(g * n, weight.shape), _summed(np.asarray(g), weight.shape)


def _summed(x: np.ndarray, shape: Any) -> np.ndarray:
    new = x.ndim - len(shape)
    ones = [new + i for i, n in enumerate(shape) if n == 1]
    return np.asarray(x.sum((*range(new), *ones), keepdims=True).reshape(shape))


def _normalized(x: Any, *affine: Any, **params: Any) -> Any:
    weight, bias = (*affine, None, None)[:2]
    return ops.normalize(x, weight=weight, bias=bias, **params)


_normalized.__name__ = "normalize"


def _gradient(g: Any, x: Any, weight: Any = None, axes: Any = (-1,), centre: bool = True) -> Any:
    axes = tuple(sorted(axis % x.ndim for axis in axes))
    known = [m.detach() for m in ops.moments(x, axes, centre)]
    affine = [] if weight is None else [weight]
    return ops.NormalizeGradient(axes, centre=centre)(g, x, *known, *affine)


def _standardized(x: Any, mean: Any, var: Any, *affine: Any, axes: Any = ()) -> Any:
    weight, bias = (*affine, None, None)[:2]
    return ops.Standardize(axes).with_affine(x, [mean, var], weight, bias)


ROWS_NORMALIZATION = [
    Row(ops.Moments, ops.moments, moments,
        [case((2, 3, 4), axes=axes) for axes in (None, 0, -1, (0, 2), [1])]
        + [case((3, 4), axes=1, centre=False), case((1,)), case((0, 3), axes=1), case(())],
        [bad(errors.ShapeError,
             r"expected at least one element along axes \(0,\), got float64\[0,3\]",
             (0, 3), axes=0),
         bad(errors.AxisError, r"expected axes in \[-1, 1\).*got 1", (2,), axes=1)],
        integers=False, keeps_dtype=False),
    Row(ops.Normalize, _normalized, normalize,
        [case((3, 4)), case((3, 4), axes=0), case((2, 3, 4), axes=(0, 2), eps=0.1),
         case((3, 4), (4,)), case((3, 4), (4,), (4,)), case((4, 3), (3,), (3,), axes=0),
         case((2, 3, 4), (3, 1), (3, 1), axes=(0, 2)), case((2, 3, 4), (3, 4), (3, 4), axes=(1, 2)),
         case((2, 2, 3, 4), (2, 3, 1), (2, 3, 1), axes=(2, 3)), case((3, 4), (1, 4), (4,)),
         case((3, 4), (3, 1), (3, 4), axes=0), case((3, 4), centre=False),
         case((3, 4), (4,), centre=False), case((4, 3), (3,), (3,), axes=0, centre=False),
         case((3, 1), (1,)), case((0, 3), (3,), (3,))],
        [bad(errors.ShapeError, r"expected weight and bias that broadcast to x, got float64\[3\] "
             r"for float64\[2,4\]", (2, 4), (3,)),
         bad(errors.ShapeError, r"got float64\[2,4\] for float64\[4\]", (4,), (2, 4)),
         bad(errors.ShapeError, r"expected at least one element along axes \(1,\)", (2, 0)),
         bad(errors.AxisError, "got 2", (2, 3), axes=2)],
        draws=(anywhere,), integers=False),
    Row(ops.Standardize, _standardized, standardize,
        [case((3, 4), (4,), (4,)), case((3, 4), (4,), (4,), (4,), axes=(0,)),
         case((3, 4), (4,), (4,), (4,), (4,), axes=(0,)),
         case((2, 3, 4), (3, 1), (3, 1), (3, 1), (3, 1), axes=(0, 2)),
         case((0, 3), (3,), (3,), (3,), (3,), axes=(0,))],
        [bad(errors.ShapeError, "expected x, its moments", (2, 4), (3,), (3,))],
        draws=(anywhere, anywhere, positive, anywhere), integers=False, public=False),
    Row(ops.NormalizeGradient, _gradient, normalize_gradient,
        [case((3, 4), (3, 4)), case((3, 4), (3, 4), (4,)), case((4, 3), (4, 3), (3,), axes=(0,)),
         case((2, 3, 4), (2, 3, 4), (3, 4), axes=(1, 2)),
         case((2, 3, 4), (2, 3, 4), (3, 1), axes=(0, 2)),
         case((2, 2, 3), (2, 2, 3), (2, 3), axes=(0, 2)),
         case((3, 4), (3, 4), (4,), centre=False), case((4, 3), (4, 3), centre=False, axes=(0,))],
        integers=False, public=False),
]  # fmt: skip
