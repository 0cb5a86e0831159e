"""Convolutional networks on the images of CIFAR-10: `needle train cifar10`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from needle import optim
from needle.cli.datasets import Description, Examples
from needle.cli.recipes.images import KIND, ImageTask, ModelSpec, restore
from needle.cli.settings import Cifar10Options
from needle.data import CIFAR10Dataset, DataLoader, RandomCrop, RandomFlipHorizontal, Transform
from needle.errors import OptionError

__all__ = ["KIND", "prepare", "restore"]

_FOLDER = "cifar-10-batches-py"
_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_ABOUT = Description("cifar10", (32, 32, 3), _CLASSES, 1 / 255, None, channels_first=True)
_WARM_UP = 0.2  # of all steps


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
