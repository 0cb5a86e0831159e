"""CIFAR-10: 60,000 colour images of 32 x 32 in 10 classes (Krizhevsky, 2009)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from needle.data.datasets.image_dataset import ImageDataset, check_labels
from needle.data.safe_pickle import read_pickled_dict
from needle.errors import DTypeError, FileFormatError, describe

__all__ = ["CIFAR10Dataset"]

Array = np.ndarray[Any, Any]

_TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST_FILES = ("test_batch",)


class CIFAR10Dataset(ImageDataset):
    """Pixels `X` as float32 in 0..1, (3, 32, 32) each, and labels `y` as int64 in 0..9.

    base_folder  the folder `cifar-10-batches-py` with its pickles, which are read without
                 executing anything from them
    train        the 50,000 training images, else the 10,000 test images
    p            part of the course's signature and of no effect: the transforms have their own
    transforms   applied to each image, which they get as (32, 32, 3), as all transforms do

    Raises FileNotFoundError that names the first missing file, NotADirectoryError or
    IsADirectoryError where a file stands for the folder or the other way round, FileFormatError.
    """

    def __init__(
        self,
        base_folder: str | PathLike[str],
        train: bool,
        p: float = 0.5,
        transforms: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        if not isinstance(base_folder, (str, PathLike)):
            raise DTypeError(
                f"CIFAR10Dataset: expected base_folder to be a path, got {base_folder!r}."
            )
        paths = [Path(base_folder) / name for name in (_TRAIN_FILES if train else _TEST_FILES)]
        _check_present(Path(base_folder), paths)
        parts = [_read_batch(path) for path in paths]
        pixels = np.concatenate([data for data, _ in parts]).reshape(-1, 3, 32, 32)
        scaled = pixels.astype(np.float32)
        scaled /= 255
        super().__init__(scaled, np.concatenate([labels for _, labels in parts]), transforms)

    def _transform(self, image: Array) -> Array:
        changed: Array = self.apply_transforms(np.moveaxis(image, 0, -1))
        return np.moveaxis(changed, -1, 0)


def _check_present(folder: Path, paths: list[Path]) -> None:
    for path in [folder, *paths]:
        if not path.exists():
            kind = "folder" if path == folder else "file"
            raise FileNotFoundError(
                f"CIFAR10Dataset: expected the {kind} {path}, got none. "
                "ndl.data.download_cifar10(folder) fetches the data set."
            )
        if path == folder and not path.is_dir():
            raise NotADirectoryError(f"CIFAR10Dataset: expected the folder {path}, got a file.")
        if path != folder and path.is_dir():
            raise IsADirectoryError(f"CIFAR10Dataset: expected the file {path}, got a folder.")


def _read_batch(path: Path) -> tuple[Array, Array]:
    """Pixels uint8 (n, 3072), channel after channel, and labels int64 (n,)."""
    batch = read_pickled_dict(path)
    data, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (3072,) or len(data) == 0:
        raise FileFormatError(
            f"CIFAR10Dataset: expected 'data' to be uint8[n,3072], got {_kind(data)} in {path}."
        )
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise FileFormatError(
            f"CIFAR10Dataset: expected 'labels' to be a list of ints, got {_kind(labels)} in "
            f"{path}."
        )
    if len(labels) != len(data):
        raise FileFormatError(
            f"CIFAR10Dataset: expected {len(data)} labels for {describe(data)}, got {len(labels)} "
            f"in {path}."
        )
    ids = np.array(labels, dtype=object)  # of any size, until their range is known
    check_labels(ids, 10, path)
    return data, ids.astype(np.int64)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list of " + ", ".join(sorted({type(item).__name__ for item in value}))
    return describe(value) if isinstance(value, np.ndarray) else type(value).__name__
