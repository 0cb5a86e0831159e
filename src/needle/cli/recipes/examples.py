"""Networks of linear layers on digits, MNIST, or a file of the user's: `needle train`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from needle import nn, optim
from needle.cli.datasets import load_examples
from needle.cli.recipes.images import KIND, ImageTask, ModelSpec, restore
from needle.cli.settings import TrainOptions
from needle.data import DataLoader, NDArrayDataset

__all__ = ["KIND", "prepare", "restore"]

_OPTIMIZERS = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "lion": optim.Lion,
}


class ExamplesTask(ImageTask):
    """Training of seconds: a checkpoint is written only when it is interrupted."""

    keeps_checkpoints = False

    def options_found(self) -> dict[str, Any]:
        return {"batch_size": self.loader.batch_size}


def prepare(options: TrainOptions) -> ExamplesTask:
    """Load the examples and build the network that the options ask for."""
    examples = load_examples(options)
    about = examples.about
    spec = ModelSpec(options.model, math.prod(about.shape), options.hidden, len(about.class_names))
    np.random.seed(options.seed)
    model = spec.build()
    loader = DataLoader(
        NDArrayDataset(examples.train_x, examples.train_y),
        batch_size=options.batch_size or min(options.usual_batch_size, len(examples.train_y)),
        shuffle=True,
        num_workers=options.workers,
        seed=options.seed,
    )
    return ExamplesTask(options, examples, spec, model, _optimizer(options, model), loader)


def _optimizer(options: TrainOptions, model: nn.Module) -> optim.Optimizer:
    numbers = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.momentum is not None:
        numbers["momentum"] = options.momentum
    kind: Any = _OPTIMIZERS[options.optimizer]
    optimizer: optim.Optimizer = kind(model.named_parameters(), **numbers)
    return optimizer
