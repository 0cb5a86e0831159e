"""A residual network of linear layers on MNIST: the course's second exercise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import needle as ndl
from needle import nn
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
    loss_function = nn.SoftmaxLoss()
    device = model.parameters()[0].device
    wrong, total, examples = 0, 0.0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        with ndl.enable_grad() if opt else ndl.no_grad():
            logits = model(x)
            loss = loss_function(logits, y)
        if opt:
            opt.reset_grad()
            loss.backward(create_graph=False)
            opt.step()
        size = y.shape[0]
        wrong += int((logits.numpy().argmax(axis=1) != y.numpy()).sum())
        total += loss.item() * size
        examples += size
    return wrong / examples, total / examples


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
