"""1,797 handwritten digits of 8 x 8, which come with scikit-learn: no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from needle.data.datasets.image_dataset import ImageDataset
from needle.errors import MissingDependencyError

__all__ = ["DigitsDataset", "digits"]

Array = np.ndarray[Any, Any]

_SPLIT_SEED = 0
_TEST_SHARE = 0.2


class DigitsDataset(ImageDataset):
    """Pixels as float32 in 0..1 (0..16 counts, divided by 16), (8, 8, 1) each; labels as uint8.

    train       80 % of each digit (1,438 images), else the other 20 % (359)
    transforms  applied to each image

    The split is drawn once and for all from a generator of its own, digit by digit: it is the same
    everywhere, and NumPy's global stream is left as it is. Source: Alpaydin and Kaynak, "Optical
    Recognition of Handwritten Digits", UCI, 1998, the test part, by 13 people; each of them wrote
    digits on both sides of this split.

    Raises MissingDependencyError where scikit-learn is not installed.
    """

    def __init__(
        self, train: bool = True, transforms: Sequence[Callable[[Any], Any]] | None = None
    ) -> None:
        images, labels = _load()
        chosen = _is_test(labels) != bool(train)
        super().__init__(images[chosen], labels[chosen], transforms)


def digits(
    transforms: Sequence[Callable[[Any], Any]] | None = None,
) -> tuple[DigitsDataset, DigitsDataset]:
    """The training and the test part of the digits; `transforms` apply to the first.

    >>> import needle as ndl
    >>> train, test = ndl.data.digits()
    >>> len(train), len(test)
    (1438, 359)
    """
    return DigitsDataset(True, transforms), DigitsDataset(False)


@cache
def _load() -> tuple[Array, Array]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "digits: expected scikit-learn, which holds them, got no such package. "
            'pip install "needle-dl[demo]"'
        ) from error
    bunch = load_digits()
    return (bunch.images[..., None] / 16).astype(np.float32), bunch.target.astype(np.uint8)


def _is_test(labels: Array) -> Array:
    """Which of the images are held out: the same share of each digit, drawn."""
    draw = np.random.RandomState(_SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        places = np.flatnonzero(labels == digit)
        held_out[draw.permutation(places)[: round(_TEST_SHARE * len(places))]] = True
    return held_out
