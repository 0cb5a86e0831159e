"""Networks of linear layers on digits, MNIST, or a file of the user's: `needle train`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from needle import nn, optim
from needle.cli.datasets import USUAL_HOLDOUT, load_examples
from needle.cli.grammar import Parser, adder, number, one_of, path, share, whole
from needle.cli.recipes.images import KIND, ImageTask, ModelSpec, models, restore
from needle.cli.settings import Common
from needle.data import DataLoader, NDArrayDataset

__all__ = [
    "KIND", "OPTIONS", "ExamplesOptions", "add_options", "options", "prepare", "restore",
]  # fmt: skip


class _Optimizer(NamedTuple):
    """Its class, and what it is told unless numbers are given; momentum None: it has none.

    All end near the same accuracy with these.
    """

    kind: Any
    lr: float
    momentum: float | None = None


_OPTIMIZERS = {
    "sgd": _Optimizer(optim.SGD, 0.4, 0.9),
    "adam": _Optimizer(optim.Adam, 0.002),
    "adamw": _Optimizer(optim.AdamW, 0.002),
    "rmsprop": _Optimizer(optim.RMSprop, 0.001, 0.0),
    "adagrad": _Optimizer(optim.Adagrad, 0.02),
    "lion": _Optimizer(optim.Lion, 0.0003),
}


class _Usual(NamedTuple):
    """What depends on the data unless it is given."""

    batch_size: int
    epochs: int
    hidden: int


_USUAL = {
    "digits": _Usual(batch_size=32, epochs=20, hidden=256),
    "mnist": _Usual(batch_size=100, epochs=15, hidden=256),
    "npz": _Usual(batch_size=32, epochs=30, hidden=128),
}


@dataclass(frozen=True, kw_only=True)
class ExamplesOptions(Common):
    """`needle train`, with the defaults filled in.

    batch_size  None: the usual one, but no more than there are examples
    momentum    None: the optimiser has none
    holdout     None: a fifth, where the data has no test set of its own
    """

    model: str = "two-layer"
    data: str = "digits"
    data_dir: str = "data"
    batch_size: int | None = None
    usual_batch_size: int
    lr: float
    epochs: int
    optimizer: str = "adam"
    weight_decay: float = 1e-4
    momentum: float | None
    hidden: int
    holdout: float | None = None
    workers: int = 0


OPTIONS = ExamplesOptions


def add_options(parser: Parser) -> None:
    """The options of `needle train` without a recipe."""
    parser.description = (
        "Train a network and keep all about it. Without a recipe: a network of linear layers on "
        "digits or other examples. cifar10: a convolutional network on images. lm: a language "
        "model of words. gpt: a GPT on the characters of a text."
    )
    parser.usage = "needle train [cifar10 | lm | gpt] [options]"
    parser.epilog = (
        "Without a number, options take what suits the data and the optimiser. The recipes have "
        "options of their own: needle train gpt --help."
    )
    add = adder(
        parser, ExamplesOptions(lr=0, epochs=0, hidden=0, momentum=None, usual_batch_size=0)
    )
    names, wide = models(convolving=False), whole(2, 2**31 - 1)
    with_momentum = [
        f"{name} ({o.momentum:g})" for name, o in _OPTIMIZERS.items() if o.momentum is not None
    ]
    add("--model", one_of(names), ", ".join(names), "MODEL")
    add("--data", path("data set"), "digits, mnist, or an .npz file with X and y", "DATA")
    add("--data-dir", path("folder"), "where MNIST's files are", "DIR")
    add("--batch-size", whole(1), "examples per step")
    parser.add_argument("--lr", type=number(), metavar="X", help="learning rate")
    parser.add_argument("--epochs", type=whole(1), metavar="N", help="passes over the data")
    add("--optimizer", one_of(_OPTIMIZERS), ", ".join(_OPTIMIZERS), "NAME")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    add("--momentum", number(below=1), f"of {' or '.join(with_momentum)}", "X")
    parser.add_argument("--hidden", type=wide, metavar="N", help="width of the hidden layer")
    add("--holdout", share, f"share kept for testing ({USUAL_HOLDOUT})", "X")
    add("--workers", whole(0), "threads that load data")


def options(parser: Parser, said: Mapping[str, Any]) -> ExamplesOptions:
    """What was said, and for the rest what suits the data and the optimiser."""
    usual = _USUAL.get(said.get("data", "digits"), _USUAL["npz"])
    name = said.get("optimizer", "adam")
    optimizer = _OPTIMIZERS[name]
    if "momentum" in said and optimizer.momentum is None:
        having = [name for name, other in _OPTIMIZERS.items() if other.momentum is not None]
        parser.error(f"--momentum: expected with --optimizer {' or '.join(having)}, got {name}.")
    defaults = {
        "usual_batch_size": usual.batch_size,
        "epochs": usual.epochs,
        "hidden": usual.hidden,
        "lr": optimizer.lr,
        "momentum": optimizer.momentum,
    }
    return ExamplesOptions(**(defaults | dict(said)))


class ExamplesTask(ImageTask):
    """Training of seconds: a checkpoint is written only when it is interrupted."""

    keeps_checkpoints = False

    def options_found(self) -> dict[str, Any]:
        return {"batch_size": self.loader.batch_size}


def prepare(options: ExamplesOptions) -> ExamplesTask:
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


def _optimizer(options: ExamplesOptions, model: nn.Module) -> optim.Optimizer:
    numbers = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.momentum is not None:
        numbers["momentum"] = options.momentum
    optimizer: optim.Optimizer = _OPTIMIZERS[options.optimizer].kind(
        model.named_parameters(), **numbers
    )
    return optimizer
