"""An .npz file of the user's, checked: X (N, ...) and y (N,), or a training and a test pair."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from needle.errors import (
    DTypeError,
    FileFormatError,
    OutOfRangeError,
    ShapeError,
    describe,
)

__all__ = ["Arrays", "read_npz"]

Array = np.ndarray[Any, Any]

# What NumPy, zipfile and zlib raise for damaged, encrypted and oddly compressed archives.
_UNREADABLE = (
    ValueError, TypeError, OSError, EOFError, AttributeError, LookupError, SyntaxError,
    MemoryError, OverflowError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Arrays:
    """What the file holds: x float32, y int64; a test pair if it has one.

    scale  what pixels of 0..255 must be multiplied with to look like x; None for no images
    """

    x: Array
    y: Array
    test_x: Array | None
    test_y: Array | None
    class_names: tuple[str, ...]
    scale: float | None


def read_npz(path: Path) -> Arrays:
    """Read `X` and `y`, or `x_train`, `y_train`, `x_test`, `y_test`; and `class_names` if there.

    X: (N, ...) of any real dtype; uint8 is taken for pixels and divided by 255. y: (N,) class ids
    0..C-1, integers or floats that are whole.
    """
    content = _read(path)
    if "X" in content and "y" in content:
        pairs = [("X", "y")]
    elif "x_train" in content and "y_train" in content:
        pairs = [("x_train", "y_train")]
        if "x_test" in content or "y_test" in content:
            pairs.append(("x_test", "y_test"))
    else:
        raise FileFormatError(
            f"{path}: expected arrays X and y, or x_train, y_train, x_test and y_test; got "
            f"{', '.join(content) or 'none'}."
        )
    checked = [_pair(path, content, *names) for names in pairs]
    (x, y), (test_x, test_y) = checked[0], checked[-1] if len(checked) == 2 else (None, None)
    if test_x is not None and test_x.shape[1:] != x.shape[1:]:
        raise ShapeError(
            f"{path}: expected x_train and x_test of one shape but for their length, got "
            f"{describe(x, test_x)}."
        )
    names = _class_names(path, content, y)
    if test_y is not None and test_y.max() >= len(names):
        raise OutOfRangeError(
            f"{path}: expected labels 0..{len(names) - 1} in y_test as in y_train, got "
            f"{test_y.max()}."
        )
    scale = _scale(content[pairs[0][0]])
    return Arrays(x, y, test_x, test_y, names, scale)


def _read(path: Path) -> Mapping[str, Array]:
    if not path.is_file():
        raise FileNotFoundError(f"--data: expected an .npz file, got no file at {path}.")
    wanted = f"--data: expected an .npz file of plain arrays, got {path}"
    if not zipfile.is_zipfile(path):
        raise FileFormatError(f"{wanted}, no zip archive, as np.savez writes it.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except _UNREADABLE as error:
        raise FileFormatError(f"{wanted}. ({_reason(error)})") from error
    for name, array in content.items():
        if not isinstance(array, np.ndarray):
            raise FileFormatError(f"{wanted}, in which {name} is none.")
    return content


def _reason(error: Exception) -> str:
    """NumPy's or zipfile's words, but never NumPy's advice to unpickle."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "Python objects are not read" if "pickle" in text else text


def _pair(path: Path, content: Mapping[str, Array], x_name: str, y_name: str) -> Any:
    for name in (x_name, y_name):
        if name not in content:
            raise FileFormatError(f"{path}: expected {x_name} and {y_name}, got no {name}.")
    x, y = content[x_name], content[y_name]
    if y.ndim != 1:
        raise ShapeError(
            f"{path}: expected {y_name} of shape (N,), a class id per example, got "
            f"{describe(y)}. For one-hot rows: y.argmax(1)."
        )
    if x.ndim < 2 or len(x) != len(y):
        raise ShapeError(
            f"{path}: expected {x_name} (N, ...) and {y_name} (N,) of one length, got "
            f"{describe(x, y)}."
        )
    if x.size == 0:
        raise ShapeError(f"{path}: expected examples in {x_name}, got {describe(x)}.")
    return _inputs(path, x_name, x), _labels(path, y_name, y)


def _inputs(path: Path, name: str, x: Array) -> Array:
    if x.dtype.kind not in "biuf":
        raise DTypeError(f"{path}: expected real numbers in {name}, got {describe(x)}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf and is found below
        scaled = x.astype(np.float32)
    if x.dtype == np.uint8:
        scaled /= 255
    finite = np.isfinite(scaled)
    if not finite.all():
        place = tuple(map(int, np.unravel_index(int(np.argmin(finite)), x.shape)))
        raise OutOfRangeError(
            f"{path}: expected finite float32 numbers in {name}, got {x[place]} at "
            f"{name}{list(place)} ({int((~finite).sum())} such in all)."
        )
    return scaled


def _labels(path: Path, name: str, y: Array) -> Array:
    if y.dtype.kind not in "biuf":
        raise DTypeError(f"{path}: expected class ids in {name}, got {describe(y)}.")
    whole = np.where(np.isfinite(y), y, -1.0) if y.dtype.kind == "f" else y
    with np.errstate(invalid="ignore"):  # floats beyond int64 are found to differ below
        ids = whole.astype(np.int64)
    if not (ids == y).all():
        wrong = int(np.argmax(ids != y))
        raise DTypeError(
            f"{path}: expected whole class ids in {name}, got {y[wrong]} at {name}[{wrong}]."
        )
    if ids.min() < 0:
        raise OutOfRangeError(f"{path}: expected labels 0..C-1 in {name}, got {ids.min()}.")
    return ids


def _class_names(path: Path, content: Mapping[str, Array], y: Array) -> tuple[str, ...]:
    classes = int(y.max()) + 1
    if classes > max(len(y), 2):
        raise OutOfRangeError(
            f"{path}: expected labels 0..C-1, of no more classes than the {len(y)} examples, "
            f"got label {classes - 1}."
        )
    names = content.get("class_names")
    if names is None:
        return tuple(str(number) for number in range(max(classes, 2)))
    if names.ndim != 1 or len(names) < classes:
        raise ShapeError(
            f"{path}: expected {classes} class_names, one per class, got {describe(names)}."
        )
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}: expected class_names in UTF-8, got {error.object!r}."
        ) from error


def _scale(x: Array) -> float | None:
    """Pixels look like x if x is uint8, or floats or bools in 0..1."""
    in_unit_range = x.dtype.kind in "bf" and x.min() >= 0 and x.max() <= 1
    return 1 / 255 if x.dtype == np.uint8 or in_unit_range else None
