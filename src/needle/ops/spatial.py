"""Options of convolutions and pooling: a number for each spatial axis, or one for all."""

from __future__ import annotations

import operator
from typing import Any

from needle.errors import OptionError

__all__ = ["pairs_of_widths", "whole_numbers"]


def whole_numbers(name: str, option: str, given: Any, count: int, least: int) -> list[int]:
    """An option as `count` ints of at least `least`; one int stands for all."""
    try:
        numbers = [operator.index(given)] * count
    except TypeError:
        try:
            numbers = [operator.index(number) for number in given]
        except TypeError:
            numbers = []
    if len(numbers) != count or any(number < least for number in numbers):
        raise OptionError(
            f"{name}: expected {option} of {least} or more, an int or {count} of them, "
            f"got {given!r}."
        )
    return numbers


def pairs_of_widths(name: str, padding: Any, count: int) -> list[tuple[int, int]]:
    """Padding as a pair (before, behind) per axis."""
    rows = padding if isinstance(padding, (list, tuple)) else []
    if len(rows) == count and all(isinstance(row, (list, tuple)) for row in rows):
        found = [whole_numbers(name, "padding", row, 2, 0) for row in rows]
        return [(before, behind) for before, behind in found]
    return [(width, width) for width in whole_numbers(name, "padding", padding, count, 0)]
