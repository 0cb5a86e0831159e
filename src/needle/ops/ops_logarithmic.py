"""log-sum-exp and its kin, without overflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating
from needle.ops.broadcasting import Axes, expand_reduced, normalize_axes
from needle.ops.elementwise import exp
from needle.ops.indexing import ScatterAlong

__all__ = [
    "CrossEntropy",
    "LogSoftmax",
    "LogSumExp",
    "Softmax",
    "cross_entropy",
    "logsoftmax",
    "logsumexp",
    "softmax",
]


def _shift(x: Array, axes: tuple[int, ...]) -> Array:
    """What to subtract before exp: the largest element, or 0 where that is not finite."""
    if not is_floating(x.dtype):
        x = x.astype(array_api.float64)
    largest = array_api.max(x, axis=axes, keepdims=True, initial=-array_api.inf)
    return array_api.where(array_api.isfinite(largest), largest, 0).astype(x.dtype, copy=False)


def _log_sum(shifted: Array, axes: tuple[int, ...]) -> Array:
    """log Σ exp, with the axes at length 1; -inf of nothing, and of nothing but -inf."""
    with np.errstate(divide="ignore"):
        powers = array_api.exp(shifted)
        return array_api.log(primitives.in_float32(array_api.sum, powers, axis=axes, keepdims=True))


class LogSumExp(TensorOp):
    """y = log Σ exp(x) over `axes` (None: all), with the largest element taken out before exp.

    x: any shape, float -> y: without `axes`, or with them at length 1 if `keepdims`; x's dtype.
    Gradient: dx = dy · exp(x - y).
    """

    def __init__(self, axes: Axes = None, keepdims: bool = False) -> None:
        self.axes, self.keepdims = axes, keepdims

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        shift = _shift(x, axes)
        result = _log_sum(x - shift, axes) + shift
        return result if self.keepdims else array_api.squeeze(result, axis=axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        return expand_reduced(out_grad, axes, x) * exp(x - expand_reduced(node, axes, x))


def logsumexp(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) over `axes`."""
    return LogSumExp(axes, keepdims)(a)


class CrossEntropy(TensorOp):
    """y[n] = log Σ_c exp(z[n, c]) - z[n, k[n]]: what -log softmax gives the class k[n].

    z: (N, C), float; class ids k: (N, 1), integer -> y: (N, 1), z's dtype.
    Gradient: dz = dy · (softmax(z) - 1 at the class).
    """

    name = "cross_entropy"
    expects = "logits [n, c] and class ids [n, 1] in 0..c-1"

    def compute(self, z: Array, classes: Array) -> Array:
        shifted = z - _shift(z, (1,))
        return _log_sum(shifted, (1,)) - array_api.take_along_axis(shifted, classes, axis=1)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        z, classes = node.inputs
        at_class = ScatterAlong(z.shape, 1)(out_grad, classes)
        return softmax(z, 1) * out_grad - at_class, None


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """-log softmax(logits) at the class ids: (N, C), (N, 1) -> (N, 1)."""
    return CrossEntropy()(logits, classes)


class LogSoftmax(TensorOp):
    """y = x - log Σ exp(x), along `axis`.

    x: any shape, float -> y: same shape and dtype.
    Gradient: dx = dy - exp(y) · Σ dy.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("logsoftmax", self.axis, x.ndim)
        shifted = x - _shift(x, axes)
        return shifted - _log_sum(shifted, axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad - exp(node) * out_grad.sum(self.axis, keepdims=True)


def logsoftmax(a: Tensor, axis: int = -1) -> Tensor:
    """log of softmax, along `axis`."""
    return LogSoftmax(axis)(a)


class Softmax(TensorOp):
    """y = exp(x) / Σ exp(x), along `axis`.

    x: any shape, float -> y: same shape and dtype; a slice of nothing but -inf gives NaN.
    Gradient: dx = y · (dy - Σ dy · y).
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("softmax", self.axis, x.ndim)
        powers = array_api.exp(x - _shift(x, axes))
        return powers / primitives.in_float32(array_api.sum, powers, axis=axes, keepdims=True)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return node * (out_grad - (out_grad * node).sum(self.axis, keepdims=True))


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x), along `axis`."""
    return Softmax(axis)(a)
