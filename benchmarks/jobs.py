"""Networks to train, the same for every contender: sizes, batches, initial weights, update rule.

A job says what is computed and nothing about who does it: `needle_contenders`, `torch_contenders`
and `jax_contenders` each build the network of that kind, put the job's initial weights in it, and
make a step of it. Batches are made up: what a step costs does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import network_flops
import numpy as np

from needle import nn
from needle.models import GPT, LanguageModel, MLPResNet, ResNet9, ResNet18, TwoLayerNet

__all__ = ["JOBS", "Job", "Step", "Update"]

Step = Callable[[], float]  # one training step; returns its loss
Batches = list[tuple[np.ndarray, np.ndarray]]

# Losses of batch-normalised networks drift apart quickly: rounding decides the sign of what Adam
# divides by nearly nothing. So does a bias in front of a batch norm, whose gradient is 0.
_ADAM_EPS = 1e-3


@dataclass(frozen=True)
class Update:
    """How parameters change: the optimiser's name, its options as Needle and PyTorch spell them.

    clip  the largest norm of all gradients together; None for any
    """

    rule: str
    options: Mapping[str, float]
    clip: float | None = None


@dataclass(frozen=True)
class Job:
    """One network and how it is trained.

    kind      which network; `sizes` are what it is built with
    batches   inputs and class ids, taken in turn
    flops     additions and multiplications of one step's contractions
    dropout   share of the numbers zeroed while steps are timed; none while losses are compared
    pictures  whether inputs are pictures (B, C, H, W)
    state     shape of each of two states that are carried from step to step; None: there are none
    """

    title: str
    kind: str
    sizes: Mapping[str, int]
    batches: Batches
    update: Update
    flops: float
    dropout: float = 0.0
    pictures: bool = False
    state: tuple[int, ...] | None = field(default=None)

    def network(self, dropout: float = 0.0) -> nn.Module:
        """Needle's network, with the initial weights that every contender starts from."""
        np.random.seed(0)
        return _NETWORKS[self.kind](**self.sizes, dropout=dropout)


def _mlp_resnet(features: int, hidden: int, dropout: float) -> nn.Module:
    return MLPResNet(features, hidden, drop_prob=dropout)


def _gpt(
    vocabulary: int, tokens: int, layers: int, heads: int, width: int, dropout: float
) -> nn.Module:
    return GPT(vocabulary, tokens, layers, heads, width, dropout)


def _lstm(vocabulary: int, width: int, layers: int, dropout: float) -> nn.Module:
    return LanguageModel(width, vocabulary, width, layers, "lstm", dropout=dropout)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda features, hidden, dropout: TwoLayerNet(features, hidden),
    "mlp_resnet": _mlp_resnet,
    "gpt": _gpt,
    "resnet9": lambda dropout: ResNet9(),
    "resnet18": lambda dropout: ResNet18(),
    "lstm": _lstm,
}


# -- the jobs --------------------------------------------------------------------------------------


def mlp(batch: int = 100, features: int = 784, hidden: int = 100) -> Job:
    """Linear-ReLU-Linear and SGD."""
    return Job(
        f"MLP {features}-{hidden}-10, batch {batch}",
        "mlp",
        {"features": features, "hidden": hidden},
        _vectors(batch, features),
        Update("SGD", {"lr": 0.1}),
        network_flops.mlp(batch, features, hidden),
    )


def mlp_resnet(batch: int = 100, features: int = 784, hidden: int = 100) -> Job:
    """Three residual blocks with batch norm and dropout, and Adam."""
    return Job(
        f"MLP-ResNet {features}-{hidden}, batch {batch}",
        "mlp_resnet",
        {"features": features, "hidden": hidden},
        _vectors(batch, features),
        Update("Adam", {"lr": 1e-3, "eps": _ADAM_EPS}),
        network_flops.mlp_resnet(batch, features, hidden),
        dropout=0.1,
    )


def gpt(
    layers: int, width: int, heads: int, tokens: int, batch: int, vocabulary: int = 65
) -> Job:  # fmt: skip
    """GPT-2's decoder, and AdamW."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, vocabulary, (8, batch, tokens + 1))
    return Job(
        f"GPT {layers}x{width}, {tokens} tokens, batch {batch}",
        "gpt",
        {
            "vocabulary": vocabulary,
            "tokens": tokens,
            "layers": layers,
            "heads": heads,
            "width": width,
        },
        [(np.array(rows[:, :-1]), np.array(rows[:, 1:])) for rows in text],
        Update("AdamW", {"lr": 1e-3, "weight_decay": 0.01}),
        network_flops.gpt(batch, tokens, layers, width, vocabulary),
    )


def resnet9(batch: int = 128) -> Job:
    """The course's ResNet-9 and Adam."""
    return Job(
        f"ResNet-9, CIFAR pictures, batch {batch}",
        "resnet9",
        {},
        _pictures(batch, 32),
        Update("Adam", {"lr": 1e-3, "eps": _ADAM_EPS}),
        network_flops.resnet9(batch),
        pictures=True,
    )


def resnet18(batch: int = 32, side: int = 32, lr: float = 1e-3) -> Job:
    """ResNet-18 with a stem for small pictures, and SGD with weight decay."""
    return Job(
        f"ResNet-18, CIFAR pictures, batch {batch}",
        "resnet18",
        {},
        _pictures(batch, side),
        Update("SGD", {"lr": lr, "weight_decay": 5e-4}),
        network_flops.resnet18(batch, side),
        pictures=True,
    )


def lstm(
    width: int = 256, vocabulary: int = 10_000, steps: int = 35, batch: int = 20, layers: int = 2
) -> Job:
    """A language model whose state is carried on, and SGD with clipped gradients."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, vocabulary, (20 * steps + 1, batch))
    starts = range(0, 20 * steps, steps)
    return Job(
        f"LSTM {layers}x{width}, {vocabulary:,} words, {steps} steps, batch {batch}",
        "lstm",
        {"vocabulary": vocabulary, "width": width, "layers": layers},
        [(words[s : s + steps], words[s + 1 : s + steps + 1]) for s in starts],
        Update("SGD", {"lr": 1.0}, clip=0.25),
        network_flops.lstm(batch, steps, layers, width, vocabulary),
        state=(layers, batch, width),
    )


JOBS: dict[str, Callable[[], Job]] = {
    "mlp": mlp,
    "mlp-resnet": mlp_resnet,
    "gpt4x128": partial(gpt, layers=4, width=128, heads=4, tokens=64, batch=12),
    "gpt6x384": partial(gpt, layers=6, width=384, heads=6, tokens=256, batch=4),
    "resnet9": resnet9,
    "resnet18": resnet18,
    "lstm": lstm,
}


# -- batches ---------------------------------------------------------------------------------------


def _vectors(batch: int, features: int) -> Batches:
    rng = np.random.default_rng(0)
    x = rng.random((20, batch, features)).astype(np.float32)
    return list(zip(x, rng.integers(0, 10, (20, batch)), strict=True))


def _pictures(batch: int, side: int) -> Batches:
    rng = np.random.default_rng(0)
    x: Any = rng.standard_normal((8, batch, 3, side, side)).astype(np.float32)
    return list(zip(x, rng.integers(0, 10, (8, batch)), strict=True))
