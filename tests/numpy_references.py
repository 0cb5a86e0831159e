"""The operators that NumPy has no function for, written in NumPy the plain way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]


def reducing(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's `axis` under Needle's name `axes`."""

    def reference(x: np.ndarray, axes: Any = None, **params: Any) -> Any:
        axes = tuple(axes) if isinstance(axes, list) else axes
        return function(x, axis=axes, **params)

    return reference


def logsumexp(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def softmax(x: np.ndarray, axis: int = -1) -> Any:
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


def gelu(x: np.ndarray, approximate: str = "none") -> Any:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def erf(x: np.ndarray) -> Any:
    wide = np.asarray(x, dtype=np.float64)
    return np.vectorize(math.erf, otypes=[float])(wide)


def sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


def scattered(x: np.ndarray, *arrays: np.ndarray, shape: Shape, index: Any) -> np.ndarray:
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


def scattered_along(x: np.ndarray, indices: np.ndarray, shape: Shape, axis: int) -> np.ndarray:
    out = np.zeros(shape, x.dtype)
    for place in np.ndindex(*indices.shape):
        target = list(place)
        target[axis] = indices[place]
        out[tuple(target)] += x[place]
    return out


def cross_entropy(z: np.ndarray, classes: np.ndarray, mean: bool = False) -> Any:
    rows = -np.take_along_axis(np.log(softmax(z, 1)), classes, axis=1)
    return rows.mean() if mean else rows


def softmax_minus_one_hot(z: np.ndarray, classes: np.ndarray) -> Any:
    return softmax(z, 1) - np.eye(z.shape[1])[classes[:, 0]]


def matmul(
    a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False
) -> Any:
    a = np.swapaxes(a, -1, -2) if transpose_a else a
    return a @ (np.swapaxes(b, -1, -2) if transpose_b else b)


def einsum(*arrays: np.ndarray, subscripts: str) -> Any:
    return np.einsum(subscripts, *arrays)


def slices(x: np.ndarray, axis: int) -> list[np.ndarray]:
    return list(np.moveaxis(x, axis, 0))
