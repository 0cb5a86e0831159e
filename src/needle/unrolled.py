"""A recurrence as a loop of Python: step after step, whatever the steps compute on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["unrolled"]


def unrolled(
    step: Callable[..., Any],
    states: Sequence[Any],
    inputs: Sequence[Any],
    reverse: bool = False,
    *,
    at: Callable[[Any, int], Any],
    stack: Callable[[Sequence[Any]], Any],
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """`recur` of both backends, and of Tensors, with their own `x[t]` and `stack`."""
    places, rows = range(inputs[0].shape[0]), []
    for t in reversed(places) if reverse else places:
        states, row = step(tuple(states), tuple([at(x, t) for x in inputs]))
        rows.append(row)
    columns = zip(*(reversed(rows) if reverse else rows), strict=True)
    return tuple(states), tuple([stack(column) for column in columns])
