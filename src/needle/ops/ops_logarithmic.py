"""log-sum-exp and its kin, without overflow."""

from __future__ import annotations

from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_integer
from needle.ops.broadcasting import Axes, expand_reduced, named_axes, normalize_axes
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


# What follows runs under `primitives.quietly`: inf - inf and log 0 are meant.


def _as_floats(x: Array) -> Array:
    return x if is_floating(x.dtype) else x.astype("float64")


def _less_largest(x: Array, axes: tuple[int, ...]) -> Array:
    """x less its largest element along `axes`; NaN in a slice where that is infinite."""
    x = _as_floats(x)
    return x - array_api.max(x, axis=axes, keepdims=True) if x.size else x


def _log_sum(shifted: Array, axes: tuple[int, ...]) -> Array:
    """log Σ exp, with the axes at length 1; -inf of nothing, and of nothing but -inf."""
    return array_api.log(primitives.total(array_api.exp(shifted), axes, True))


def _log_sum_exp(x: Array, axes: tuple[int, ...]) -> Array:
    x = _as_floats(x)
    if x.size == 0:
        return _log_sum(x, axes)
    largest = array_api.max(x, axis=axes, keepdims=True)
    shift = array_api.where(array_api.isfinite(largest), largest, primitives.scalar_for(x, 0))
    return _log_sum(x - shift, axes) + shift


def _log_softmax(x: Array, axes: tuple[int, ...]) -> Array:
    shifted = _less_largest(x, axes)
    return shifted - _log_sum(shifted, axes)


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    powers = array_api.exp(_less_largest(x, axes))
    return powers / primitives.total(powers, axes, True)


class LogSumExp(TensorOp):
    """y = log Σ exp(x) over `axes` (None: all), with the largest element taken out before exp.

    x: any shape, float -> y: without `axes`, or with them at length 1 if `keepdims`; x's dtype.
    Gradient: dx = dy · exp(x - y).
    """

    def __init__(self, axes: Axes = None, keepdims: bool = False) -> None:
        self.axes, self.keepdims = axes, keepdims

    def compute(self, x: Array) -> Array:
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        result = primitives.quietly(_log_sum_exp, x, axes)
        return result if self.keepdims else array_api.squeeze(result, axis=axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        axes = normalize_axes("logsumexp", self.axes, x.ndim)
        return expand_reduced(out_grad, axes, x) * exp(x - expand_reduced(node, axes, x))


def logsumexp(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """log Σ exp(x) over `axes`."""
    return LogSumExp(named_axes("logsumexp", axes, named), keepdims)(a)


def _require_class_ids(z: Array, classes: Array) -> None:
    """Ids that are too large are refused where they index."""
    if z.ndim != 2 or classes.shape != (z.shape[0], 1):
        raise ValueError(f"class ids of shape {classes.shape}")
    if not is_integer(classes.dtype):
        raise TypeError(f"class ids of dtype {classes.dtype}")
    primitives.require(classes >= 0, lambda: IndexError("a class id below 0"))


def _cross_entropy(z: Array, classes: Array) -> Array:
    shifted = _less_largest(z, (1,))
    return _log_sum(shifted, (1,)) - primitives.take_along(shifted, classes, 1)


def _average(x: Array) -> Array:
    return primitives.total(x) / x.size


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
        _require_class_ids(z, classes)
        rows = primitives.quietly(_cross_entropy, z, classes)
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
        _require_class_ids(z, classes)
        return primitives.add_along(primitives.quietly(_softmax, z, (1,)), classes, 1, -1)

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
        return primitives.quietly(_log_softmax, x, axes)

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
        return primitives.quietly(_softmax, x, axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return node * (out_grad - (out_grad * node).sum(self.axis, keepdims=True))


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x), along `axis`."""
    return Softmax(axis)(a)
