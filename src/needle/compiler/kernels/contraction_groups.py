"""Axes of a contraction that are walked as one, merged where they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from needle.compiler.types import itemsize
from needle.compiler.walk import coalesce

__all__ = ["Group"]


@dataclass(frozen=True)
class Group:
    """Axes walked as one: extents, and strides in elements of each operand that has them."""

    extents: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, extents: Sequence[int], *strides: Sequence[int]) -> Group:
        """Merged where all operands allow it; innermost is what the last operand has innermost."""
        merged, rows = coalesce(tuple(extents), [tuple(row) for row in strides])
        return cls(tuple(merged), tuple(tuple(row) for row in rows))

    @property
    def size(self) -> int:
        """How many positions it has."""
        return prod(self.extents)

    @property
    def is_one_axis(self) -> bool:
        """Whether one stride for each operand leads through all of it."""
        return len(self.extents) == 1

    def step(self, operand: int) -> int:
        """The innermost stride of an operand."""
        return self.strides[operand][-1]

    def is_affine(self, operand: int) -> bool:
        """Whether that stride leads through all of the operand, whatever the others need."""
        steps = self.strides[operand]
        return all(
            outer == inner * n
            for outer, inner, n in zip(steps, steps[1:], self.extents[1:], strict=False)
        )

    def words(self, operand: int, unit: str | int) -> list[int]:
        """As kernels read it (see `packing`), steps in bytes: of a dtype's elements, or as many."""
        size = itemsize(unit) if isinstance(unit, str) else unit
        pairs = zip(reversed(self.extents), reversed(self.strides[operand]), strict=True)
        flat = [word for n, step in pairs for word in (max(n, 1), step * size)]
        return [len(self.extents), *flat]

    def swapped(self) -> Group:
        """With the first two operands in each other's place."""
        first, second, *rest = self.strides
        return Group(self.extents, (second, first, *rest))
