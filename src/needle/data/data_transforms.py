"""Random changes to an image, so that a network sees each of them in many forms.

Images are NumPy arrays, height × width × channels; the dtype stays. Random numbers come from
`random_stream.current()`: NumPy's global stream, or the item's own where a loader seeds its items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.data import random_stream
from needle.errors import OptionError, ShapeError, describe

__all__ = ["RandomCrop", "RandomFlipHorizontal", "Transform"]

Image = np.ndarray[Any, Any]


class Transform:
    """A function of an item, with settings. Write `__call__`."""

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: __call__(self, x) is not written.")


class RandomFlipHorizontal(Transform):
    """y[i, j] = x[i, W-1-j] with probability p, else x.

    x: (H, W, C) or (H, W) -> y: same shape and dtype. Draws: one `rand()` per image, always.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not isinstance(p, (int, float, np.integer, np.floating)) or not 0 <= p <= 1:
            raise OptionError(f"RandomFlipHorizontal: expected p in 0..1, got {p!r}.")
        self.p = p

    def __call__(self, img: Image) -> Image:
        _check_image("RandomFlipHorizontal", img)
        return img[:, ::-1] if random_stream.current().rand() < self.p else img


class RandomCrop(Transform):
    """y[i, j] = x[i + sx, j + sy], zero outside x; sx (rows) and sy (columns) in -padding..padding.

    x: (H, W, C) or (H, W) -> y: same shape and dtype. Draws: one
    `randint(low=-padding, high=padding + 1, size=2)` per image.
    """

    def __init__(self, padding: int = 3) -> None:
        if not isinstance(padding, (int, np.integer)) or padding < 0:
            raise OptionError(f"RandomCrop: expected padding from 0 on, got {padding!r}.")
        self.padding = int(padding)

    def __call__(self, img: Image) -> Image:
        _check_image("RandomCrop", img)
        p = self.padding
        row, column = p + random_stream.current().randint(low=-p, high=p + 1, size=2)
        height, width = img.shape[:2]
        padded = np.zeros((height + 2 * p, width + 2 * p, *img.shape[2:]), dtype=img.dtype)
        padded[p : p + height, p : p + width] = img
        return padded[row : row + height, column : column + width]


def _check_image(transform: str, img: Any) -> None:
    if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
        raise ShapeError(f"{transform}: expected an image [H,W,C] or [H,W], got {describe(img)}.")
