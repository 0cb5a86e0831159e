"""Datasets: arrays at hand, and the files that well-known ones come in."""

from __future__ import annotations

from needle.data.datasets.cifar10_dataset import CIFAR10Dataset
from needle.data.datasets.digits_dataset import DigitsDataset, digits
from needle.data.datasets.mnist_dataset import MNISTDataset
from needle.data.datasets.ndarray_dataset import NDArrayDataset
from needle.data.datasets.ptb_dataset import (
    Corpus,
    Dictionary,
    batchify,
    get_batch,
    write_ptb_folder,
)
from needle.data.datasets.text_dataset import (
    Characters,
    CharacterText,
    random_windows,
    windows,
)

__all__ = [
    "CIFAR10Dataset",
    "CharacterText",
    "Characters",
    "Corpus",
    "Dictionary",
    "DigitsDataset",
    "MNISTDataset",
    "NDArrayDataset",
    "batchify",
    "digits",
    "get_batch",
    "random_windows",
    "windows",
    "write_ptb_folder",
]
