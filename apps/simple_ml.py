"""Softmax regression's loss and a two-layer network, written out: the course's first exercises."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import needle as ndl
from needle.data.datasets.mnist_dataset import read_mnist
from needle.nn.checks import require_positive, require_tensors

__all__ = ["loss_err", "nn_epoch", "parse_mnist", "softmax_loss"]


def parse_mnist(
    image_filename: str | os.PathLike[str], label_filename: str | os.PathLike[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """MNIST's IDX files: X (n, rows · columns) float32 in 0..1, y (n,) uint8.

    Raises FileNotFoundError and FileFormatError.
    """
    images, labels = read_mnist(image_filename, label_filename)
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    return pixels, labels


def softmax_loss(Z: ndl.Tensor, y_one_hot: ndl.Tensor) -> ndl.Tensor:
    """Mean over the rows of log Σ exp(Z) - Σ Z · y: cross-entropy. Z, y_one_hot: (N, C) -> 0-d."""
    if Z.ndim != 2 or Z.shape != y_one_hot.shape:
        raise ndl.errors.ShapeError(
            "softmax_loss: expected Z [N, C] and y_one_hot of its shape, got "
            f"{ndl.errors.describe(Z, y_one_hot)}."
        )
    if Z.shape[0] == 0:
        raise ndl.errors.ShapeError(
            f"softmax_loss: expected one row or more, got {ndl.errors.describe(Z)}."
        )
    return (ndl.logsumexp(Z, axes=1).sum() - (Z * y_one_hot).sum()) / Z.shape[0]


def nn_epoch(
    X: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    W1: ndl.Tensor,
    W2: ndl.Tensor,
    lr: float = 0.1,
    batch: int = 100,
) -> tuple[ndl.Tensor, ndl.Tensor]:
    """One pass of gradient descent over X, in order, for logits = relu(X W1) W2.

    X: (n, d); y: (n,) class ids; W1: (d, hidden); W2: (hidden, C). The last batch may be short.
    Returns W1 and W2, which have been given their new values, in the dtype that they came with.

    Raises OptionError for a batch below 1, GradientError for weights that require no gradient.
    """
    require_positive("nn_epoch", batch=batch)
    _require_trainable(W1=W1, W2=W2)
    loss_function = ndl.nn.SoftmaxLoss()  # softmax_loss for class ids, as one op
    for start in range(0, len(y), batch):
        x = ndl.Tensor(X[start : start + batch], device=W1.device, requires_grad=False)
        classes = ndl.Tensor(y[start : start + batch], device=W1.device, requires_grad=False)
        loss = loss_function(ndl.relu(x @ W1) @ W2, classes)
        loss.backward(create_graph=False)
        for W in (W1, W2):
            W.data = W.detach() + W.grad * -lr
    return W1, W2


def _require_trainable(**weights: ndl.Tensor) -> None:
    require_tensors("nn_epoch", *weights.values())
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ndl.errors.GradientError(
            f"nn_epoch: expected {' and '.join(weights)} that require gradients, got "
            f"requires_grad=False in {' and '.join(frozen)}."
        )


def loss_err(h: ndl.Tensor, y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """The softmax loss of logits h (N, C) for class ids y (N,), and the share that is wrong."""
    y_one_hot = ndl.init.one_hot(h.shape[1], y, dtype=h.dtype, device=h.device)
    loss = softmax_loss(h, y_one_hot).numpy()
    return loss, float(np.mean(h.numpy().argmax(axis=1) != y))
