"""The course's training loops: a two-layer network, CIFAR-10 and Penn Treebank.

Their steps are compiled, once for all epochs of a model and an optimiser; not within
`with ndl.disable_jit():`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import needle as ndl
from needle import nn
from needle.data.datasets.mnist_dataset import read_mnist
from needle.errors import OptionError
from needle.jit import jit
from needle.jit.steps import lasting_step
from needle.nn.checks import require_positive, require_tensors

__all__ = [
    "epoch_general_cifar10",
    "epoch_general_ptb",
    "evaluate_cifar10",
    "evaluate_ptb",
    "loss_err",
    "nn_epoch",
    "parse_mnist",
    "softmax_loss",
    "train_cifar10",
    "train_ptb",
]

_SOFTMAX_LOSS = nn.SoftmaxLoss()

# -- MNIST ---------------------------------------------------------------------------------------


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
    rates = [ndl.Tensor(lr, device=W.device, dtype=W.dtype, requires_grad=False) for W in (W1, W2)]
    for start in range(0, len(y), batch):
        x = ndl.Tensor(X[start : start + batch], device=W1.device, requires_grad=False)
        classes = ndl.Tensor(y[start : start + batch], device=W1.device, requires_grad=False)
        _descend(x, classes, W1, W2, *rates)
    return W1, W2


@jit
def _descend(
    x: ndl.Tensor,
    y: ndl.Tensor,
    W1: ndl.Tensor,
    W2: ndl.Tensor,
    rate1: ndl.Tensor,
    rate2: ndl.Tensor,
) -> None:
    """One step of gradient descent. The rates are Tensors so that no other one compiles anew."""
    loss = _SOFTMAX_LOSS(ndl.relu(x @ W1) @ W2, y)  # softmax_loss for class ids, as one op
    loss.backward(create_graph=False)
    for W, rate in ((W1, rate1), (W2, rate2)):
        W.data = W.detach() - W.grad * rate


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


# -- CIFAR-10 ------------------------------------------------------------------------------------


def epoch_general_cifar10(
    dataloader: Any,
    model: nn.Module,
    loss_fn: Any = _SOFTMAX_LOSS,
    opt: ndl.optim.Optimizer | None = None,
) -> tuple[float, float]:
    """One pass over the data, training if there is an optimiser: (accuracy, mean loss).

    Both are means over examples. Batches (x, y), y (B,) class ids, go to the device of the model.
    """
    np.random.seed(4)
    model.train(opt is not None)
    step, device = lasting_step(_classifier, model, loss_fn, opt), _device(model)
    right, total, examples = 0, 0.0, 0
    for x, y in dataloader:
        loss, right_here = step(x.to(device), y.to(device))
        right += int(right_here.item())
        total += loss.item() * y.size
        examples += y.size
    if examples == 0:
        raise OptionError("epoch_general_cifar10: expected one batch or more, got none.")
    return right / examples, total / examples


def train_cifar10(
    model: nn.Module,
    dataloader: Any,
    n_epochs: int = 1,
    optimizer: Any = ndl.optim.Adam,
    lr: float = 0.001,
    weight_decay: float = 0.001,
    loss_fn: Any = nn.SoftmaxLoss,
) -> tuple[float, float]:
    """Train for `n_epochs` passes over the data: (accuracy, mean loss) of the last.

    optimizer  a class of `ndl.optim`; loss_fn  a loss's class, or an instance
    """
    np.random.seed(4)
    require_positive("train_cifar10", n_epochs=n_epochs)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(n_epochs):
        result = epoch_general_cifar10(dataloader, model, loss_fn, opt)
    return result


def evaluate_cifar10(
    model: nn.Module, dataloader: Any, loss_fn: Any = nn.SoftmaxLoss
) -> tuple[float, float]:
    """(accuracy, mean loss) of the model, as it is, on the data."""
    np.random.seed(4)
    return epoch_general_cifar10(dataloader, model, loss_fn)


# -- Penn Treebank -------------------------------------------------------------------------------


def epoch_general_ptb(
    data: np.ndarray[Any, Any],
    model: nn.Module,
    seq_len: int = 40,
    loss_fn: Any = _SOFTMAX_LOSS,
    opt: ndl.optim.Optimizer | None = None,
    clip: float | None = None,
    device: Any = None,
    dtype: Any = "float32",
) -> tuple[float, float]:
    """One pass over columns of text, training if there is an optimiser: (accuracy, mean loss).

    Both are means over the words to be guessed. Chunks of `seq_len` rows in order, the last of
    which may be short; each starts with the state that the one before ended with, without its
    graph: truncated back-propagation through time.

    data    (n, B), as `ndl.data.batchify` gives
    model   (x (T, B), h or None) -> (logits (T · B, C), h)
    clip    bound for the norm of all gradients together; None: none. 0 leaves nothing of them
    device  where the chunks go; None: where the model is
    """
    np.random.seed(4)
    require_positive("epoch_general_ptb", seq_len=seq_len)
    model.train(opt is not None)
    step = lasting_step(_predictor, model, loss_fn, opt, clip)
    device = device or _device(model)
    right, total, words, h = 0, 0.0, 0, None
    for i in range(0, _last_row(data), seq_len):
        x, y = ndl.data.get_batch(data, i, seq_len, device=device, dtype=dtype)
        loss, right_here, h = step(x, y, h)
        right += int(right_here.item())
        total += loss.item() * y.size
        words += y.size
    return right / words, total / words


def train_ptb(
    model: nn.Module,
    data: np.ndarray[Any, Any],
    seq_len: int = 40,
    n_epochs: int = 1,
    optimizer: Any = ndl.optim.SGD,
    lr: float = 4.0,
    weight_decay: float = 0.0,
    loss_fn: Any = nn.SoftmaxLoss,
    clip: float | None = None,
    device: Any = None,
    dtype: Any = "float32",
) -> tuple[float, float]:
    """Train for `n_epochs` passes over columns of text: (accuracy, mean loss) of the last.

    optimizer  a class of `ndl.optim`; loss_fn  a loss's class, or an instance; the rest as in
    `epoch_general_ptb`
    """
    np.random.seed(4)
    require_positive("train_ptb", n_epochs=n_epochs)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(n_epochs):
        result = epoch_general_ptb(data, model, seq_len, loss_fn, opt, clip, device, dtype)
    return result


def evaluate_ptb(
    model: nn.Module,
    data: np.ndarray[Any, Any],
    seq_len: int = 40,
    loss_fn: Any = nn.SoftmaxLoss,
    device: Any = None,
    dtype: Any = "float32",
) -> tuple[float, float]:
    """(accuracy, mean loss) of the model, as it is, on columns of text."""
    np.random.seed(4)
    return epoch_general_ptb(data, model, seq_len, loss_fn, device=device, dtype=dtype)


# -- what the two share --------------------------------------------------------------------------


def _classifier(model: nn.Module, loss_function: Any) -> Any:
    """From a batch x (B, ...), y (B,) to its mean loss and how many of it are right."""

    def classify(x: ndl.Tensor, y: ndl.Tensor) -> tuple[ndl.Tensor, ndl.Tensor]:
        logits = model(x)
        return loss_function(logits, y), _right(logits, y)

    return classify


def _predictor(model: nn.Module, loss_function: Any) -> Any:
    """From words x (T, B), those after them y (T · B,) and the state to loss, right ones, state."""

    def predict(x: ndl.Tensor, y: ndl.Tensor, h: Any) -> tuple[ndl.Tensor, ndl.Tensor, Any]:
        logits, h = model(x, h)
        return loss_function(logits, y), _right(logits, y), _detached(h)

    return predict


def _device(model: nn.Module) -> Any:
    return next((p.device for p in model.parameters()), ndl.default_device())


def _right(logits: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
    return ndl.equal(ndl.argmax(logits, 1), y).sum()


def _detached(h: Any) -> Any:
    if isinstance(h, tuple):
        return tuple(_detached(part) for part in h)
    return None if h is None else h.detach()


def _last_row(data: Any) -> int:
    """The row that nothing follows."""
    if np.ndim(data) != 2 or len(data) < 2:
        raise ndl.errors.ShapeError(
            "epoch_general_ptb: expected columns of text [n, B], n of 2 or more, as "
            f"ndl.data.batchify gives, got {ndl.errors.describe(data)}."
        )
    return len(data) - 1
