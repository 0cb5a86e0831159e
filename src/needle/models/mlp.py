"""Networks of linear layers: two of them, and residual blocks of them."""

from __future__ import annotations

from collections.abc import Callable

from needle import nn
from needle.autograd import Tensor

__all__ = ["MLPResNet", "ResidualBlock", "TwoLayerNet"]


class TwoLayerNet(nn.Module):
    """logits = relu(x W1 + b1) W2 + b2.

    x: (B, ...) with `in_features` numbers per row, flattened here -> (B, classes)
    """

    def __init__(self, in_features: int, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(in_features, hidden)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(x)  # (B, in_features)
        x = self.relu(self.linear1(x))  # (B, hidden)
        logits: Tensor = self.linear2(x)  # (B, classes)
        return logits


def ResidualBlock(
    dim: int,
    hidden_dim: int,
    norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
    drop_prob: float = 0.1,
) -> nn.Sequential:
    """y = relu(f(x) + x), f = norm(linear(dropout(relu(norm(linear(x)))))), through `hidden_dim`.

    x: (B, dim) -> y: (B, dim)
    """
    return nn.Sequential(
        nn.Residual(
            nn.Sequential(
                nn.Linear(dim, hidden_dim),
                norm(hidden_dim),
                nn.ReLU(),
                nn.Dropout(drop_prob),
                nn.Linear(hidden_dim, dim),
                norm(dim),
            )
        ),
        nn.ReLU(),
    )


def MLPResNet(
    dim: int,
    hidden_dim: int = 100,
    num_blocks: int = 3,
    num_classes: int = 10,
    norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
    drop_prob: float = 0.1,
) -> nn.Sequential:
    """A linear layer, `num_blocks` residual blocks of half the width inside, and a classifier.

    x: (B, ...) with `dim` numbers per row, flattened here -> logits (B, num_classes)
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(dim, hidden_dim),
        nn.ReLU(),
        *[
            ResidualBlock(hidden_dim, hidden_dim // 2, norm=norm, drop_prob=drop_prob)
            for _ in range(num_blocks)
        ],
        nn.Linear(hidden_dim, num_classes),
    )
