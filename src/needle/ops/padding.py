"""A border around an array: of one value, or of the array's own elements."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_integer
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import require_tensors
from needle.ops.indexing import take

__all__ = ["Pad", "extended", "pad"]

# modes by PyTorch's names, and what NumPy calls them
_OF_ITSELF: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Pad(TensorOp):
    """y = x with `value` around it: `widths` gives (before, after) for each axis; below 0 it crops.

    Gradient: dy without the border, and with zeros for what was cropped.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], value: float = 0.0) -> None:
        self.widths, self.value = _as_pairs(widths), value
        self.expects = f"{len(self.widths)} axes, one for each pair of widths"

    def compute(self, x: Array) -> Array:
        _require_axes(x, self.widths)
        if is_integer(x.dtype):
            self._require_fit(x)
        if any(min(pair) < 0 for pair in self.widths):
            x = primitives.index(x, self._kept(x))
        border = [(max(before, 0), max(after, 0)) for before, after in self.widths]
        return array_api.pad(x, border, constant_values=self.value) if any(map(any, border)) else x

    def _kept(self, x: Array) -> tuple[slice, ...]:
        rows = [(n, max(-b, 0), max(-a, 0)) for n, (b, a) in zip(x.shape, self.widths, strict=True)]
        if any(before + after > n for n, before, after in rows):
            raise ShapeError(
                f"pad: expected widths that crop no more than there is, got {self.widths} for "
                f"{describe(x)}."
            )
        return tuple([slice(before, n - after) for n, before, after in rows])

    def _require_fit(self, x: Array) -> None:
        """Raise DTypeError for a value that x's integers cannot hold."""
        if not isinstance(self.value, (int, float, np.generic)):
            return
        if self.value != self.value or self.value % 1 != 0:
            raise DTypeError(
                f"pad: expected a whole number beside {describe(x)}, got {self.value}."
            )
        limits = np.iinfo(x.dtype)
        low, high = int(limits.min), int(limits.max)
        if not low <= self.value <= high:
            raise DTypeError(
                f"pad: expected a number in {low}..{high}, got {self.value} beside {describe(x)}."
            )

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return Pad([(-before, -after) for before, after in self.widths])(out_grad)


def pad(
    a: Tensor, widths: Sequence[tuple[int, int]], value: float = 0.0, mode: str = "constant"
) -> Tensor:
    """x with a border; one (before, after) pair per axis, of which negative widths crop.

    mode  what the border is made of: "constant", of `value`; "reflect", of x mirrored at its first
          and last elements; "replicate", of these; "circular", of x as if it went round

    Raises OptionError, and ShapeError for an axis that is too short for its widths.
    """
    if mode == "constant":
        return Pad(widths, value)(a)
    if not isinstance(mode, str) or mode not in _OF_ITSELF:
        known = ", ".join(["constant", *_OF_ITSELF])
        raise OptionError(f"pad: expected mode of {known}, got {mode!r}.")
    require_tensors("pad", a)
    pairs = _as_pairs(widths)
    _require_axes(a, pairs)
    return extended("pad", a, pairs, mode)


def extended(name: str, x: Tensor, pairs: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """x continued beyond its ends, along each axis, by its own elements."""
    for axis, pair in enumerate(pairs):
        if any(pair):
            x = take(x, _places(name, x.shape[axis], pair, mode), axis)
    return x


def _places(name: str, n: int, pair: tuple[int, int], mode: str) -> Any:
    """Which of n elements stands where."""
    before, after = [max(width, 0) for width in pair]
    cropped, left_out = [max(-width, 0) for width in pair]
    widest = {"reflect": n - 1, "circular": n}.get(mode, before + after)
    if max(before, after) > widest or cropped + left_out > n or n == 0:
        raise ShapeError(
            f"{name}: expected axes long enough for {mode} padding by {pair}, got a length of {n}."
        )
    places = np.pad(np.arange(n), (before, after), mode=_OF_ITSELF[mode])
    return fixed(places[cropped : len(places) - left_out])


def _as_pairs(widths: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple([(operator.index(before), operator.index(after)) for before, after in widths])
    except (TypeError, ValueError):
        raise OptionError(
            f"pad: expected widths of ints, one (before, after) per axis, got {widths!r}."
        ) from None


def _require_axes(x: Any, pairs: Sequence[Any]) -> None:
    if len(x.shape) != len(pairs):
        raise ShapeError(
            f"pad: expected {len(pairs)} axes, one for each pair of widths, got {describe(x)}."
        )
