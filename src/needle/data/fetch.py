"""One batch from a dataset: its items picked, and their fields stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

from needle.autograd import Tensor
from needle.data import random_stream
from needle.errors import DTypeError, ShapeError, describe

__all__ = ["fetch_batch"]

Stream: TypeAlias = "Callable[[int], np.random.RandomState]"  # quoted: numpy.random loads when used


def fetch_batch(
    dataset: Any,
    indices: np.ndarray[Any, Any],
    collate_fn: Callable[[list[Any]], Any] | None,
    stream: Stream | None,
) -> Any:
    """The fields of the items at `indices`, each an array with the items along its first axis.

    collate_fn  makes the batch from the list of items, in place of stacking
    stream      of an item's index: what its transforms draw from; None: NumPy's global stream
    """
    if collate_fn is not None:
        return collate_fn(_items(dataset, indices, stream))
    each_draws = stream is not None and bool(getattr(dataset, "transforms", None))
    if _takes_index_arrays(dataset) and not each_draws:
        return _index_array(dataset, indices, stream)
    try:
        first = _items(dataset, indices[:1], stream)
    except (TypeError, AttributeError):
        with suppress(Exception):  # perhaps it knows index arrays only; if not, the item's error
            return _index_array(dataset, indices, stream)
        raise
    return _stack(first + _items(dataset, indices[1:], stream))


def _takes_index_arrays(dataset: Any) -> bool:
    """Whether the class that wrote the dataset's `__getitem__` says that it takes index arrays."""
    for cls in type(dataset).__mro__:
        if "__getitem__" in vars(cls):
            return bool(vars(cls).get("takes_index_arrays", False))
    return False


def _pick(dataset: Any, index: Any, stream: np.random.RandomState | None) -> Any:
    if stream is None:
        return dataset[index]
    with random_stream.use(stream):
        return dataset[index]


def _items(dataset: Any, indices: np.ndarray[Any, Any], stream: Stream | None) -> list[Any]:
    return [_pick(dataset, index, stream and stream(index)) for index in indices.tolist()]


def _index_array(
    dataset: Any, indices: np.ndarray[Any, Any], stream: Stream | None
) -> tuple[Any, ...]:
    batch = _pick(dataset, indices, stream and stream(int(indices[0])))
    return _split_fields(batch, len(indices))


def _fields(item: Any) -> Sequence[Any]:
    return item if isinstance(item, (tuple, list)) else (item,)


def _array(value: Any, field: int) -> np.ndarray[Any, Any]:
    array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "biufcV":
        raise DTypeError(f"DataLoader: expected numbers in field {field}, got {describe(value)}.")
    return array


def _split_fields(batch: Any, length: int) -> tuple[Any, ...]:
    fields = tuple([_array(field, i) for i, field in enumerate(_fields(batch))])
    if any(field.ndim == 0 or len(field) != length for field in fields):
        raise ShapeError(
            f"DataLoader: expected fields of {length} items from dataset[{length} indices], got "
            f"{describe(*fields)}."
        )
    return fields


def _stack(items: list[Any]) -> tuple[np.ndarray[Any, Any], ...]:
    rows = [_fields(item) for item in items]
    counts = sorted({len(row) for row in rows})
    if len(counts) > 1:
        raise ShapeError(f"DataLoader: expected items with as many fields each, got {counts}.")
    columns = zip(*rows, strict=True)
    return tuple([_stack_field(field, values) for field, values in enumerate(columns)])


def _stack_field(field: int, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    arrays = [_array(value, field) for value in values]
    for array in arrays:
        if array.shape != arrays[0].shape:
            raise ShapeError(
                f"DataLoader: expected items of one shape in field {field}, got "
                f"{describe(arrays[0], array)}. Pad them, or give a collate_fn."
            )
    return np.stack(arrays)
