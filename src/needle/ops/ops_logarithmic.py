"""log-sum-exp and its kin, without overflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating
from needle.ops.broadcasting import Axes, expand_reduced, normalize_axes
from needle.ops.elementwise import exp

__all__ = [
    "CrossEntropy",
    "LogSoftmax",
    "LogSumExp",
    "Softmax",
    "SoftmaxMinusOneHot",
    "cross_entropy",
    "logsoftmax",
    "logsumexp",
    "softmax",
    "softmax_minus_one_hot",
]


def _largest(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest element along `axes`, which stay at length 1: what to take out before exp."""
    if not is_floating(x.dtype):
        x = x.astype(array_api.float64)
    nothing = {"initial": -array_api.inf} if x.size == 0 else {}
    return x.max(axis=axes, keepdims=True, **nothing)


def _less_largest(x: Array, axes: tuple[int, ...]) -> Array:
    """x less its largest element; NaN in a slice where that is infinite."""
    with np.errstate(invalid="ignore"):
        return x - _largest(x, axes)


def _log_sum(shifted: Array, axes: tuple[int, ...]) -> Array:
    """log Σ exp, with the axes at length 1; -inf of nothing, and of nothing but -inf."""
    with np.errstate(divide="ignore"):
        return array_api.log(_sum(array_api.exp(shifted), axes))


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    powers = array_api.exp(_less_largest(x, axes))
    return powers / _sum(powers, axes)


def _sum(x: Array, axes: tuple[int, ...]) -> Array:
    return primitives.in_float32(array_api.sum, x, axis=axes, keepdims=True)


class LogSumExp(TensorOp):
    """y = log Σ exp(x) over `axes` (None: all), with the largest element taken out before exp.

    x: any shape, float -> y: without `axes`, or with them at length 1 if `keepdims`; x's dtype.
    Gradient: dx = dy · exp(x - y).
    """

    def __init__(self, axes: Axes = None, keepdims: bool = False) -> None:
        self.axes, self.keepdims = axes, keepdims

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        largest = _largest(x, axes)
        shift = array_api.where(array_api.isfinite(largest), largest, 0).astype(largest.dtype)
        result = _log_sum(x - shift, axes) + shift
        return result if self.keepdims else array_api.squeeze(result, axis=axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        return expand_reduced(out_grad, axes, x) * exp(x - expand_reduced(node, axes, x))


def logsumexp(a: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) over `axes`."""
    return LogSumExp(axes, keepdims)(a)


def _at_class(shape: tuple[int, ...], classes: Array) -> tuple[Array, ...]:
    """The index of each row's class. NumPy itself refuses ids that are too large."""
    if classes.shape != (shape[0], 1):
        raise ValueError(f"expected class ids of shape {(shape[0], 1)}, got {classes.shape}")
    if shape[0] and classes.min() < 0:
        raise IndexError(f"class id {classes.min()}")
    return array_api.arange(shape[0])[:, None], classes


def _average(x: Array) -> Array:
    return x.sum() / x.size


class CrossEntropy(TensorOp):
    """y[n] = log Σ_c exp(z[n, c]) - z[n, k[n]]: what -log softmax gives the class k[n].

    z: (N, C), float; class ids k: (N, 1), integer -> y: (N, 1), or its mean (0-d); z's dtype.
    Gradient: dz = (softmax(z) - 1 at the class) · dy, divided by N for the mean.
    """

    name = "cross_entropy"
    expects = "logits [n, c] and class ids [n, 1] in 0..c-1"

    def __init__(self, mean: bool = False) -> None:
        self.mean = mean

    def compute(self, z: Array, classes: Array) -> Array:
        shifted = _less_largest(z, (1,))
        rows = _log_sum(shifted, (1,)) - shifted[_at_class(shifted.shape, classes)]
        return primitives.in_float32(_average, rows) if self.mean else rows

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        z, classes = node.inputs
        share = out_grad / z.shape[0] if self.mean else out_grad
        return SoftmaxMinusOneHot()(z, classes) * share, None


class SoftmaxMinusOneHot(TensorOp):
    """y[n] = softmax(z[n]), less 1 at the class k[n]: the slope of cross-entropy.

    z: (N, C), float; class ids k: (N, 1), integer -> y: (N, C), z's dtype.
    Gradient: that of softmax, dz = p · (dy - Σ dy · p).
    """

    name = "softmax_minus_one_hot"
    expects = CrossEntropy.expects

    def compute(self, z: Array, classes: Array) -> Array:
        y = _softmax(z, (1,))
        y[_at_class(y.shape, classes)] -= 1
        return y

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        p = softmax(node.inputs[0], 1)
        return p * (out_grad - (out_grad * p).sum(1, keepdims=True)), None


def softmax_minus_one_hot(logits: Tensor, classes: Tensor) -> Tensor:
    """softmax(logits), less 1 at the class ids: (N, C), (N, 1) -> (N, C)."""
    return SoftmaxMinusOneHot()(logits, classes)


def cross_entropy(logits: Tensor, classes: Tensor, mean: bool = False) -> Tensor:
    """-log softmax(logits) at the class ids: (N, C), (N, 1) -> (N, 1), or the mean of that."""
    return CrossEntropy(mean)(logits, classes)


class LogSoftmax(TensorOp):
    """y = x - log Σ exp(x), along `axis`.

    x: any shape, float -> y: same shape and dtype.
    Gradient: dx = dy - exp(y) · Σ dy.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("logsoftmax", self.axis, x.ndim)
        shifted = _less_largest(x, axes)
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
        return _softmax(x, normalize_axes("softmax", self.axis, x.ndim))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return node * (out_grad - (out_grad * node).sum(self.axis, keepdims=True))


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x), along `axis`."""
    return Softmax(axis)(a)
