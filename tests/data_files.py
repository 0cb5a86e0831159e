"""Writes tiny MNIST, CIFAR-10 and Penn Treebank files, as the real ones are laid out."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file of bytes: magic number, extents, data."""
    header = struct.pack(f">I{array.ndim}I", 2048 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(path: Path, array: np.ndarray, *, gzipped: bool = True) -> Path:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


def write_mnist(folder: Path, count: int = 12, *, gzipped: bool = True) -> tuple[Path, Path]:
    """Image and label file of `count` random images of 28 x 28."""
    draw = np.random.RandomState(1)
    images = draw.randint(0, 256, size=(count, 28, 28))
    return (
        write_idx(folder / "images.gz", images, gzipped=gzipped),
        write_idx(folder / "labels.gz", np.arange(count) % 10, gzipped=gzipped),
    )


def python2_string(text: bytes) -> bytes:
    """SHORT_BINSTRING or BINSTRING: how Python 2 pickled its strings."""
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def python2_array(data: np.ndarray) -> bytes:
    """A uint8 array as NumPy pickled it under Python 2: announced, then built."""
    rows, columns = data.shape
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\nq\x06"
    announced = reconstruct + b"cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
    dtype = b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a"
    dtype_state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"J" + struct.pack("<i", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
    return (
        announced
        + b"(K\x01"
        + (shape + dtype + dtype_state + b"\x89" + python2_string(data.tobytes()))
        + b"tb"
    )


def python2_cifar(data: np.ndarray, labels: list[int]) -> bytes:
    """A CIFAR-10 batch in protocol 2, instruction by instruction as Python 2's cPickle wrote it."""
    names = b"".join(python2_string(f"leptodactylus_s_{i:06d}.png".encode()) for i in labels)
    return (
        b"\x80\x02}q\x01("
        + (python2_string(b"batch_label") + b"q\x02" + python2_string(b"training batch 1 of 5"))
        + (python2_string(b"labels") + b"q\x03]q\x04(")
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"e"
        + (python2_string(b"data") + b"q\x05" + python2_array(data))
        + (python2_string(b"filenames") + b"]q\x0b(" + names + b"eu.")
    )


def python3_cifar(protocol: int) -> Callable[[np.ndarray, list[int]], bytes]:
    """A writer of CIFAR-10 batches as Python 3's pickle would, with byte-string keys."""
    return lambda data, labels: pickle.dumps({b"data": data, b"labels": labels}, protocol)


def cifar_arrays(number: int, count: int = 4) -> tuple[np.ndarray, list[int]]:
    """Random pixels (count, 3072) and labels of one batch."""
    draw = np.random.RandomState(number)
    pixels = draw.randint(0, 256, size=(count, 3072)).astype(np.uint8)
    return pixels, [int(label) for label in draw.randint(0, 10, size=count)]


CIFAR_NAMES = (*[f"data_batch_{number}" for number in range(1, 6)], "test_batch")


def write_cifar(
    folder: Path, write: Callable[[np.ndarray, list[int]], bytes] = python2_cifar
) -> Path:
    """The folder `cifar-10-batches-py` with its six batches, of 4 images each."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    for number, name in enumerate(CIFAR_NAMES):
        (base / name).write_bytes(write(*cifar_arrays(number)))
    return base


def write_ptb(folder: Path) -> Path:
    (folder / "train.txt").write_text(
        " the cat sat \n the dog\n\n ran far away\n", encoding="utf-8"
    )
    (folder / "test.txt").write_text(" the bird sat\n", encoding="utf-8")
    return folder
