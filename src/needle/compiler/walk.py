"""The walk over strided operands that a kernel does, with as few axes as it can have."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["coalesce"]

Shape = tuple[int, ...]


def coalesce(shape: Shape, strides: Sequence[Shape]) -> tuple[Shape, list[Shape]]:
    """The same walk over the same elements with as few axes as possible, but at least one.

    `strides` has one row per operand, the result's last. Axes of length 1 go; the others are
    ordered as the result lies in memory; neighbours become one where every operand allows it.
    The stride of an axis that walks nowhere is 1: such a walk is contiguous to any kernel.

    >>> coalesce((2, 3, 4), [(12, 4, 1), (0, 0, 1), (12, 4, 1)])
    ((6, 4), [(4, 1), (0, 1), (4, 1)])
    """
    if 0 in shape:
        return (0,), [(1,)] * len(strides)
    axes = [(n, tuple([row[axis] for row in strides])) for axis, n in enumerate(shape) if n != 1]
    axes.sort(key=lambda axis: [-abs(step) for step in reversed(axis[1])])
    merged: list[tuple[int, Shape]] = []
    for n, steps in axes:
        if merged and merged[-1][1] == tuple([n * step for step in steps]):
            n *= merged.pop()[0]
        merged.append((n, steps))
    if not merged:
        return (1,), [(1,)] * len(strides)
    extents, columns = zip(*merged, strict=True)
    return extents, list(zip(*columns, strict=True))
