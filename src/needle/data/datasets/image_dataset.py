"""What the image datasets share: images, labels, and transforms applied to each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.data.data_basic import Dataset
from needle.errors import DTypeError, FileFormatError, OutOfRangeError, describe

__all__ = ["ImageDataset", "check_labels"]

Array = np.ndarray[Any, Any]


class ImageDataset(Dataset):
    """Images `X` (float32, items along the first axis) and their labels `y`.

    Item i is (image, label) for an int; (images, labels) for a slice or an index array. Images are
    copies: a transform may work in place.
    """

    takes_index_arrays = True

    def __init__(
        self, images: Array, labels: Array, transforms: Sequence[Callable[[Any], Any]] | None
    ) -> None:
        super().__init__(transforms)
        self.X, self.y = images, labels

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        try:
            images, labels = self.X[index], self.y[index]
        except (IndexError, TypeError, ValueError) as error:
            raise self._no_items(index) from error
        if images.base is not None:
            images = images.copy()
        if not self.transforms:
            return images, labels
        if np.ndim(labels) == 0:
            return self._transform(images), labels
        transformed = [self._transform(image) for image in images]
        return (np.stack(transformed) if transformed else images), labels

    def _no_items(self, index: Any) -> Exception:
        """What to raise where NumPy has nothing at an index."""
        numbers = isinstance(index, np.ndarray) or hasattr(index, "__index__")
        kind: type[Exception] = OutOfRangeError if numbers else DTypeError
        n = len(self)
        return kind(
            f"{type(self).__name__}: expected an index in [-{n}, {n}), a slice or an array of "
            f"such, got {describe(index)}."
        )

    def _transform(self, image: Array) -> Any:
        return self.apply_transforms(image)

    def __len__(self) -> int:
        return len(self.X)


def check_labels(labels: Array, classes: int, source: Any) -> None:
    """Raise FileFormatError unless all labels read from `source` are in 0..classes-1."""
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise FileFormatError(
            f"labels: expected 0..{classes - 1}, got {labels.min()}..{labels.max()} in {source}."
        )
