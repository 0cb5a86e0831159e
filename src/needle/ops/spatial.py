"""Options of convolutions and pooling: a number for each spatial axis, or one for all."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from needle.errors import OptionError

__all__ = ["pairs_of_widths", "require_half_padding", "whole_numbers"]


def whole_numbers(name: str, option: str, given: Any, count: int, least: int) -> list[int]:
    """An option as `count` ints of at least `least`; one int stands for all."""
    numbers = _ints(given, count)
    if len(numbers) != count or any(number < least for number in numbers):
        several = "" if count == 1 else f" or {count} of them"
        raise OptionError(
            f"{name}: expected {option} of {least} or more, an int{several}, got {given!r}."
        )
    return numbers


def _ints(given: Any, count: int) -> list[int]:
    """One int `count` times, several as they are, and none of what is neither."""
    try:
        return [operator.index(given)] * count
    except TypeError:
        pass
    try:
        return [operator.index(number) for number in given]
    except TypeError:
        return []


def pairs_of_widths(name: str, padding: Any, count: int) -> list[tuple[int, int]]:
    """Padding as a pair (before, behind) per axis: given so, or as one number for both."""
    rows = list(padding) if isinstance(padding, (list, tuple, np.ndarray)) else []
    if len(rows) == count and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows):
        pairs = [_ints(row, 2) for row in rows]
    else:
        pairs = [[width, width] for width in _ints(padding, count)]
    if len(pairs) != count or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        wanted = "an int or [(before, behind)]"
        if count > 1:
            wanted = f"an int, {count} of them or {count} pairs [(before, behind), ...]"
        raise OptionError(f"{name}: expected padding of 0 or more, {wanted}, got {padding!r}.")
    return [(before, behind) for before, behind in pairs]


def require_half_padding(name: str, kernel: int, padding: int) -> None:
    """Raise OptionError for padding that a window of pooling could lie in as a whole."""
    if 2 * padding > kernel:
        raise OptionError(
            f"{name}: expected padding of at most half the kernel, got padding {padding} for a "
            f"kernel of {kernel}."
        )
