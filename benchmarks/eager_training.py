"""Eager training steps against PyTorch eager: the two-layer network and the MLP-ResNet.

    python benchmarks/eager_training.py [--batch 100] [--rounds 31] [--threads N] [--json FILE]

Same initial weights and batches; the first ten losses must agree (dropout off for that). PyTorch
runs at its best: fused optimisers, gradients set to None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import compare, parser_for, write_json

import needle as ndl
from needle import nn, optim

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "apps"))
from mlp_resnet import MLPResNet

Step = Callable[[], float]
FEATURES, HIDDEN, CLASSES = 784, 100, 10

# Biases in front of batch norm have gradients of 0 but for rounding, which a smaller eps would blow
# up to steps of full size, different in every framework.
ADAM_EPS = 1e-3


def batches(batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Made-up images and classes."""
    rng = np.random.default_rng(0)
    x = rng.random((20, batch, FEATURES)).astype(np.float32)
    y = rng.integers(0, CLASSES, (20, batch))
    return list(zip(x, y, strict=True))


def two_layer() -> tuple[Any, Any, Any, Any]:
    """Linear-ReLU-Linear and SGD."""
    ours = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
    )
    copy_weights(ours, theirs)
    return (
        ours,
        optim.SGD(ours.parameters(), lr=0.1),
        theirs,
        torch.optim.SGD(theirs.parameters(), lr=0.1, fused=True),
    )


def mlp_resnet(drop_prob: float) -> tuple[Any, Any, Any, Any]:
    """Three residual blocks with batch norm, and Adam."""
    ours = MLPResNet(FEATURES, hidden_dim=HIDDEN, drop_prob=drop_prob)
    theirs = TorchMLPResNet(drop_prob)
    copy_weights(ours, theirs)
    return (
        ours,
        optim.Adam(ours.parameters(), lr=0.001, eps=ADAM_EPS),
        theirs,
        torch.optim.Adam(theirs.parameters(), lr=0.001, eps=ADAM_EPS, fused=True),
    )


class TorchMLPResNet(torch.nn.Module):
    """The same network as `apps/mlp_resnet.py`."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        layers = torch.nn
        self.first = layers.Linear(FEATURES, HIDDEN)
        self.blocks = layers.ModuleList(
            layers.Sequential(
                layers.Linear(HIDDEN, HIDDEN // 2),
                layers.BatchNorm1d(HIDDEN // 2),
                layers.ReLU(),
                layers.Dropout(drop_prob),
                layers.Linear(HIDDEN // 2, HIDDEN),
                layers.BatchNorm1d(HIDDEN),
            )
            for _ in range(3)
        )
        self.last = layers.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.last(x)


def copy_weights(ours: Any, theirs: torch.nn.Module) -> None:
    """Needle's initial weights into PyTorch's parameters, whose matrices are transposed."""
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            values = p.numpy()
            if values.ndim == 2:
                values = values.T if values.shape[0] != 1 else values[0]
            q.copy_(torch.tensor(np.ascontiguousarray(values)))


def our_step(model: Any, optimizer: Any, data: list[Any]) -> Step:
    """One eager step."""
    turns = cycle(
        [(ndl.Tensor(x, requires_grad=False), ndl.Tensor(y, requires_grad=False)) for x, y in data]
    )
    loss_of = nn.SoftmaxLoss()

    def step() -> float:
        x, y = next(turns)
        optimizer.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward(create_graph=False)
        optimizer.step()
        return loss.item()

    return step


def torch_step(model: Any, optimizer: Any, data: list[Any]) -> Step:
    """The same in PyTorch."""
    turns = cycle([(torch.tensor(x), torch.tensor(y)) for x, y in data])

    def step() -> float:
        x, y = next(turns)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def require_same_losses(ours: Step, theirs: Step) -> None:
    """Raise unless the first ten losses agree to 1e-3."""
    a, b = [[step() for _ in range(10)] for step in (ours, theirs)]
    np.testing.assert_allclose(a, b, rtol=1e-3)


def main() -> None:
    """Check the losses, then print one line per network."""
    parser = parser_for(__doc__, rounds=31)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    options = parser.parse_args()
    ndl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    data = batches(options.batch)
    makers: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "two-layer network, SGD": (two_layer, two_layer),
        "MLP-ResNet, batch norm, Adam": (lambda: mlp_resnet(0.0), lambda: mlp_resnet(0.1)),
    }
    results = {}
    for label, (to_check, to_time) in makers.items():
        ours, our_optimizer, theirs, their_optimizer = to_check()
        require_same_losses(
            our_step(ours, our_optimizer, data), torch_step(theirs, their_optimizer, data)
        )
        ours, our_optimizer, theirs, their_optimizer = to_time()
        steps = {
            "needle": our_step(ours, our_optimizer, data),
            "torch": torch_step(theirs, their_optimizer, data),
        }
        found = compare(steps, options.rounds, 2e-2)
        results[label] = found.as_dict()
        print(found.line(label))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
