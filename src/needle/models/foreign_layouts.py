"""How a model's weights lie in PyTorch's files, one in an array, several, or a part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.errors import DTypeError, StateDictError, describe

__all__ = ["Entry", "Weights"]


@dataclass(frozen=True)
class Entry:
    """An array in a file.

    names       those that it may have there; the first is written
    shape       the one that it has here
    dtype       of the weight here
    layout      how it lies there: "turned", with the outputs first; "row", (n,) for our (1, n);
                "same"
    either_way  whether it is the weight of a Linear that some files have as (in, out)
    columns     which of our weights' columns it holds
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    layout: str
    either_way: bool
    columns: slice

    @property
    def name(self) -> str:
        """The name there that is written."""
        return self.names[0]

    def shape_there(self, inputs_first: bool) -> tuple[int, ...]:
        """The shape there."""
        if self._is_turned(inputs_first):
            return (self.shape[-1], self.shape[-2], *self.shape[:-2])
        return self.shape[1:] if self.layout == "row" else self.shape

    def as_ours(self, given: Tensor, inputs_first: bool) -> Tensor:
        """Their array in our layout. Raises StateDictError for another shape, and for numbers
        beyond the range of our dtype; DTypeError for complex ones.
        """
        expected = self.shape_there(inputs_first)
        if given.shape != expected:
            raise StateDictError(f"expected shape {expected}, got {given.shape}")
        self._require_range(given)
        if self._is_turned(inputs_first):  # (out, in, k1, k2) -> (k1, k2, in, out)
            return given.permute((*range(2, given.ndim), 1, 0))
        return given.reshape(self.shape)

    def _require_range(self, given: Tensor) -> None:
        if given.dtype.kind == "c":
            raise DTypeError(f"expected real numbers, got {describe(given)}")
        if given.dtype == self.dtype:
            return
        values = given.numpy()
        with np.errstate(over="ignore"):
            lost = np.isfinite(values) & ~np.isfinite(values.astype(self.dtype))
        if lost.any():
            raise StateDictError(f"expected numbers that {self.dtype} holds, got {values[lost][0]}")

    def as_theirs(self, array: np.ndarray[Any, Any], inputs_first: bool) -> np.ndarray[Any, Any]:
        """Our array in their layout."""
        if self._is_turned(inputs_first):
            array = np.moveaxis(array, (-1, -2), (0, 1))
        return np.array(array.reshape(self.shape_there(inputs_first)), order="C")

    def _is_turned(self, inputs_first: bool) -> bool:
        return self.layout == "turned" and not (self.either_way and inputs_first)


@dataclass(frozen=True)
class Weights:
    """One of a model's weights, or some that lie side by side in an array of a file.

    own    our names and values, in the order of their columns
    forms  ways that files have them: the arrays that hold all columns. The first is written
    """

    own: Mapping[str, Tensor]
    forms: tuple[tuple[Entry, ...], ...]

    def as_theirs(self, inputs_first: bool) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays by their names."""
        form, whole = self.forms[0], self._whole()
        return {
            entry.name: entry.as_theirs(
                whole if len(form) == 1 else whole[..., entry.columns], inputs_first
            )
            for entry in form
        }

    def as_ours(self, form: Sequence[Entry], arrays: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values by our names, from arrays in our layout by theirs.

        form  the one that the arrays are of; columns of those that are missing stay as they are
        """
        given = [(entry, arrays[entry.name]) for entry in form if entry.name in arrays]
        if not given:
            return {}
        if len(form) == len(self.own) == 1:
            return dict.fromkeys(self.own, given[0][1])
        whole = self._whole().copy()
        for entry, array in given:
            whole[..., entry.columns] = array.numpy()
        ends = np.cumsum([tensor.shape[-1] for tensor in self.own.values()])
        return dict(zip(self.own, np.split(whole, ends[:-1], axis=-1), strict=True))

    def _whole(self) -> np.ndarray[Any, Any]:
        arrays = [tensor.numpy() for tensor in self.own.values()]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
