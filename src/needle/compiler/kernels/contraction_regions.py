"""Windows that reach over the edges of a picture: which rows see how much of it.

Around the picture there is nothing but zeros, which add nothing to a sum. So rows are told apart by
the part of k that lies on the picture: a *region* has those that see the same part, and its sums go
over that. Of a 3 x 3 kernel there are nine: corners, edges, and the inside. A picture of 4 x 4 has
no more than 69 % of the products that it would have with its zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import prod
from operator import mul
from typing import Any

from needle.compiler.kernels.contraction_groups import Group
from needle.errors import describe

__all__ = ["Clip", "Padded", "Region", "regions_of"]

Range = tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """An axis of a picture: index i of an axis of m and j of one of k are at a place of it,
    first + m_step · i + k_step · j, which is on the picture if it is in range(extent).

    m, k  which axes; None: none
    """

    m: int | None
    k: int | None
    first: int
    m_step: int
    k_step: int
    extent: int

    def classes(self, m: int, k: int) -> list[tuple[Range, Range]]:
        """Ranges of i along an axis of m places, each with the range of j that it sees of k."""
        seen = [self._seen(self.first + self.m_step * i, k) for i in range(m)]
        found, start = [], 0
        for range_of_k, same in groupby(seen):
            stop = start + len(list(same))
            found.append(((start, stop), range_of_k))
            start = stop
        return found

    def _seen(self, place: int, k: int) -> Range:
        low = max(-(place // self.k_step), 0)
        high = min(-((place - self.extent) // self.k_step), k)
        return (low, high) if low < high else (0, 0)


@dataclass(frozen=True)
class Padded:
    """An operand: windows on a picture and on the zeros around it.

    dtype, shape, strides  as of a view, whose elements off the picture are not there
    begin  elements from the picture's first to the first of the windows; below 0 if that is off it
    clips  of each axis of the picture that has zeros around it
    """

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    begin: int
    clips: tuple[Clip, ...]

    def __str__(self) -> str:
        """As of an array: `float32[8,4,4,32,3,3]`."""
        return describe(self)


@dataclass(frozen=True)
class Region:
    """Rows whose sums go over the same part of k.

    rows   strides of a, and from one row's number to the next
    begin  elements of a from its first to that of the first row
    first  the number of the first row
    seen   the range along each axis of k that is walked
    """

    rows: Group
    begin: int
    first: int
    seen: tuple[Range, ...]

    @property
    def deep(self) -> int:
        """Steps of k."""
        return prod(high - low for low, high in self.seen)


def regions_of(
    a: Padded,
    m: Sequence[int],
    in_a: Sequence[int],
    numbers: Sequence[int],
    k: Sequence[int],
    order: Sequence[int],
) -> list[Region]:
    """All regions.

    m, k   extents
    in_a   strides of a along m; numbers: of the rows' numbers
    order  the axes of k that are walked, outermost first
    """
    classes = [
        clip.classes(1 if clip.m is None else m[clip.m], 1 if clip.k is None else k[clip.k])
        for clip in a.clips
    ]
    found = []
    for chosen in product(*classes):
        rows, seen = [(0, n) for n in m], [(0, n) for n in k]
        for clip, (range_of_m, range_of_k) in zip(a.clips, chosen, strict=True):
            if clip.m is not None:
                rows[clip.m] = range_of_m
            if clip.k is not None:
                seen[clip.k] = range_of_k
        walked = [seen[axis] for axis in order] or [(0, 1)]
        if any(range_of_k == (0, 0) for _, range_of_k in chosen):  # all of them are off it
            walked = [(0, 0)] * len(walked)
        low = [first for first, _ in rows]
        found.append(
            Region(
                Group.of([stop - first for first, stop in rows], in_a, numbers),
                a.begin + sum(map(mul, low, in_a)),
                sum(map(mul, low, numbers)),
                tuple(walked),
            )
        )
    return found
