"""Data: what is learnt from, and how it comes in batches.

data_basic       Dataset; DataLoader
loader           DataLoader: order, batches, position
epoch            one pass over the data, saved and restored
fetch            one batch from a dataset
workers          threads that load ahead
random_stream    where transforms draw from
data_transforms  RandomCrop, RandomFlipHorizontal
datasets/        arrays, MNIST, CIFAR-10, the digits; text by words (Penn Treebank) or characters
safe_pickle      CIFAR-10's pickles, read without executing them
download         MNIST and CIFAR-10 for machines that are online
"""

from __future__ import annotations

from needle.data import random_stream
from needle.data.data_basic import DataLoader, Dataset
from needle.data.data_transforms import RandomCrop, RandomFlipHorizontal, Transform
from needle.data.datasets import (
    Characters,
    CharacterText,
    CIFAR10Dataset,
    Corpus,
    Dictionary,
    DigitsDataset,
    MNISTDataset,
    NDArrayDataset,
    batchify,
    digits,
    get_batch,
    random_windows,
    windows,
    write_ptb_folder,
)
from needle.data.download import download_cifar10, download_mnist

__all__ = [
    "CIFAR10Dataset",
    "CharacterText",
    "Characters",
    "Corpus",
    "DataLoader",
    "Dataset",
    "Dictionary",
    "DigitsDataset",
    "MNISTDataset",
    "NDArrayDataset",
    "RandomCrop",
    "RandomFlipHorizontal",
    "Transform",
    "batchify",
    "digits",
    "download_cifar10",
    "download_mnist",
    "get_batch",
    "random_stream",
    "random_windows",
    "windows",
    "write_ptb_folder",
]
