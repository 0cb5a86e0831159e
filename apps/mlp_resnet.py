"""A residual network of linear layers on MNIST: the course's second exercise.

Its steps are compiled, once for all epochs of a model and an optimiser; not within
`with ndl.disable_jit():`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import needle as ndl
from needle import nn
from needle.jit.steps import lasting_step
from needle.models import MLPResNet, ResidualBlock

__all__ = ["MLPResNet", "ResidualBlock", "epoch", "train_mnist"]

np.random.seed(0)


def epoch(
    dataloader: Any, model: nn.Module, opt: ndl.optim.Optimizer | None = None
) -> tuple[float, float]:
    """One pass over the data, training if there is an optimiser: (error rate, mean loss).

    Both are means over examples. Seeds NumPy's global stream first, so that every epoch repeats
    the same order and the same dropout, as the course's numbers expect. Batches go to the
    device of the model.
    """
    np.random.seed(4)
    model.train(opt is not None)
    step = lasting_step(_classifier, model, nn.SoftmaxLoss, opt)
    device = model.parameters()[0].device
    wrong, total, examples = 0, 0.0, 0
    for x, y in dataloader:
        loss, wrong_here = step(x.to(device), y.to(device))
        size = y.shape[0]
        wrong += int(wrong_here.item())
        total += loss.item() * size
        examples += size
    return wrong / examples, total / examples


def _classifier(model: nn.Module, loss_function: nn.Module) -> Any:
    """From a batch x (B, ...), y (B,) to its mean loss and how many are taken for another class."""

    def classify(x: ndl.Tensor, y: ndl.Tensor) -> tuple[ndl.Tensor, ndl.Tensor]:
        logits = model(x)
        return loss_function(logits, y), ndl.not_equal(ndl.argmax(logits, 1), y).sum()

    return classify


def train_mnist(
    batch_size: int = 100,
    epochs: int = 10,
    optimizer: Any = ndl.optim.Adam,
    lr: float = 0.001,
    weight_decay: float = 0.001,
    hidden_dim: int = 100,
    data_dir: str = "data",
) -> tuple[float, float, float, float]:
    """Train an MLPResNet on the four MNIST files in `data_dir`.

    Returns the training error rate and loss, and the test error rate and loss, of the last epoch.
    """
    np.random.seed(4)
    if epochs < 1:
        raise ndl.errors.OptionError(f"train_mnist: expected epochs of 1 or more, got {epochs}.")
    train, test = (_mnist(Path(data_dir), part) for part in ("train", "t10k"))
    train_loader = ndl.data.DataLoader(train, batch_size, shuffle=True)
    test_loader = ndl.data.DataLoader(test, batch_size)
    model = MLPResNet(784, hidden_dim)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(epochs):
        train_error, train_loss = epoch(train_loader, model, opt)
    test_error, test_loss = epoch(test_loader, model)
    return train_error, train_loss, test_error, test_loss


def _mnist(folder: Path, part: str) -> ndl.data.MNISTDataset:
    return ndl.data.MNISTDataset(
        folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"
    )
