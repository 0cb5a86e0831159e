"""MNIST: 70,000 handwritten digits in IDX files (LeCun, Cortes and Burges, 1998).

An IDX file is a big-endian header, magic number 2048 + number of axes and the extent of each axis,
followed by the bytes; mostly gzipped.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from needle.data.datasets.image_dataset import ImageDataset, check_labels
from needle.errors import FileFormatError

__all__ = ["MNISTDataset", "read_mnist"]

Array = np.ndarray[Any, Any]
File = gzip.GzipFile | BufferedReader
_CHUNK = 1 << 20


class MNISTDataset(ImageDataset):
    """Pixels as float32 in 0..1, (28, 28, 1) each, and labels as uint8.

    image_filename, label_filename  IDX files, gzipped or plain
    transforms                      applied to each image

    Raises FileNotFoundError, and FileFormatError for a file that is truncated or not IDX, labels
    outside 0..9, and images and labels that differ in number.
    """

    def __init__(
        self,
        image_filename: str | PathLike[str],
        label_filename: str | PathLike[str],
        transforms: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        images, labels = read_mnist(image_filename, label_filename)
        pixels = images[..., None].astype(np.float32)
        pixels /= 255
        super().__init__(pixels, labels, transforms)


def read_mnist(
    image_filename: str | PathLike[str], label_filename: str | PathLike[str]
) -> tuple[Array, Array]:
    """Images (n, rows, columns) and labels (n,), both uint8 as in the files."""
    images = _read_idx(Path(image_filename), 3)
    labels = _read_idx(Path(label_filename), 1)
    if len(images) != len(labels):
        raise FileFormatError(
            f"MNIST: expected a label for each of the {len(images)} images in {image_filename}, "
            f"got {len(labels)} in {label_filename}."
        )
    check_labels(labels, 10, label_filename)
    return images, labels


def _read_idx(path: Path, axes: int) -> Array:
    """The uint8 array in an IDX file that has to have so many axes."""
    try:
        with _open(path) as file:
            shape = _read_header(file, axes, path)
            # one byte more than needed: finds what is too long, and makes gzip check its sum
            data = _read_bytes(file, math.prod(shape) + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(
            f"MNIST: expected a whole gzip file, got {path}: {error}. Was its download cut off?"
        ) from error
    if len(data) != math.prod(shape):
        got = "more" if len(data) > math.prod(shape) else f"{len(data)}, the file is truncated"
        raise FileFormatError(
            f"MNIST: expected {math.prod(shape)} bytes for uint8{list(shape)} in {path}, got {got}."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _open(path: Path) -> File:
    if not path.exists():
        raise FileNotFoundError(
            f"MNIST: expected a file at {path}, got none. "
            "ndl.data.download_mnist(folder) fetches the four files."
        )
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if gzipped else path.open("rb")


def _read_header(file: File, axes: int, path: Path) -> tuple[int, ...]:
    header = file.read(4 + 4 * axes)
    magic = int.from_bytes(header[:4], "big")
    if magic == 2048 + axes and len(header) < 4 + 4 * axes:
        raise FileFormatError(
            f"MNIST: expected a header of {4 + 4 * axes} bytes, got {len(header)} in {path}. "
            "Was its download cut off?"
        )
    if magic != 2048 + axes:
        kind = {1: "labels", 3: "images"}
        hint = f" That is a file of {kind[4 - axes]}." if magic == 2048 + 4 - axes else ""
        raise FileFormatError(
            f"MNIST: expected an IDX file of {kind[axes]}, magic number {2048 + axes}, got {magic} "
            f"in {path}.{hint}"
        )
    return struct.unpack(f">{axes}I", header[4:])


def _read_bytes(file: File, limit: int) -> bytearray:
    """Up to `limit` bytes, a piece at a time: a header that lies reserves no memory."""
    data = bytearray()
    while len(data) < limit and (piece := file.read(min(_CHUNK, limit - len(data)))):
        data += piece
    return data
