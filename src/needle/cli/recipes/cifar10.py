"""Convolutional networks on the images of CIFAR-10: `needle train cifar10`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from needle import optim
from needle.cli.datasets import Description, Examples
from needle.cli.grammar import Parser, adder, number, one_of, path, whole
from needle.cli.recipes.images import KIND, ImageTask, ModelSpec, models, restore
from needle.cli.settings import Common
from needle.data import CIFAR10Dataset, DataLoader, RandomCrop, RandomFlipHorizontal, Transform
from needle.errors import OptionError

__all__ = ["KIND", "OPTIONS", "Cifar10Options", "add_options", "options", "prepare", "restore"]

_FOLDER = "cifar-10-batches-py"
_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_ABOUT = Description("cifar10", (32, 32, 3), _CLASSES, 1 / 255, None, channels_first=True)
_WARM_UP = 0.2  # of all steps


@dataclass(frozen=True, kw_only=True)
class Cifar10Options(Common):
    """`needle train cifar10`."""

    model: str = "resnet9"
    data_dir: str = "data"
    batch_size: int = 64
    lr: float = 0.002
    epochs: int = 12
    weight_decay: float = 0.01
    no_augment: bool = False
    workers: int = 0


OPTIONS = Cifar10Options


def add_options(parser: Parser) -> None:
    """The options of `needle train cifar10`."""
    parser.description = "Train a convolutional network on the images of CIFAR-10."
    add, names = adder(parser, Cifar10Options()), models(convolving=True)
    add("--model", one_of(names), ", ".join(names), "MODEL")
    add("--data-dir", path("folder"), "cifar-10-batches-py, or the folder that it is in", "DIR")
    add("--batch-size", whole(1), "images per step")
    add("--lr", number(), "highest learning rate, of AdamW", "X")
    add("--epochs", whole(1), "passes over the training images")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    parser.add_argument(
        "--no-augment", action="store_true", help="train on the images as they are, not shifted "
        "and mirrored at random",
    )  # fmt: skip
    add("--workers", whole(0), "threads that load data")


def options(parser: Parser, said: Mapping[str, Any]) -> Cifar10Options:
    """As they were said."""
    return Cifar10Options(**said)


def prepare(options: Cifar10Options) -> ImageTask:
    """Read the six files, build the network."""
    train, test = _datasets(options)
    if options.batch_size > len(train):
        raise OptionError(
            f"--batch-size: expected at most the {len(train):,} training images, got "
            f"{options.batch_size}."
        )
    spec = ModelSpec(options.model, 3 * 32 * 32, None, len(_CLASSES))
    np.random.seed(options.seed)
    model = spec.build()
    loader = DataLoader(
        train, options.batch_size, shuffle=True, num_workers=options.workers, seed=options.seed
    )
    optimizer = optim.AdamW(
        model.named_parameters(), lr=options.lr, weight_decay=options.weight_decay
    )
    steps = options.epochs * len(loader)
    schedule = optim.WarmupCosine(optimizer, round(_WARM_UP * steps), steps)
    examples = Examples(_ABOUT, train.X, train.y, test.X, test.y)
    return ImageTask(options, examples, spec, model, optimizer, loader, schedule)


def _datasets(options: Cifar10Options) -> tuple[CIFAR10Dataset, CIFAR10Dataset]:
    folder = Path(options.data_dir)
    if (folder / _FOLDER).is_dir():
        folder = folder / _FOLDER
    elif not any(folder.glob("*_batch*")):
        raise FileNotFoundError(
            f"--data-dir: expected a folder with {_FOLDER}, got {folder}, which has none. Where "
            f"there is a network, ndl.data.download_cifar10({str(folder)!r}) fetches it."
        )
    changes: list[Transform] = [RandomFlipHorizontal(), RandomCrop(4)]
    augmented = None if options.no_augment else changes
    return CIFAR10Dataset(folder, True, transforms=augmented), CIFAR10Dataset(folder, False)
