"""A contraction, reduced to what its kernels need: four groups of axes, merged where they can be.

out[batch, m, n] = sum over k of a[batch, m, k] · b[batch, k, n]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from needle.compiler.kernels.contraction_groups import Group
from needle.compiler.kernels.contraction_regions import Padded, Region, regions_of
from needle.compiler.prepared import Operand
from needle.compiler.types import itemsize
from needle.dtypes import name_of

__all__ = ["Problem", "words_of"]


@dataclass(frozen=True)
class Problem:
    """A contraction of two operands.

    a, b, out   dtypes
    a_at, b_at  which pointer of the call is a's, and which b's: 1 or 2
    regions     of rows that see the same part of k; none: all rows see all of it
    """

    a: str
    b: str
    out: str
    batch: Group  # strides of a, b, out
    m: Group  # of a, out
    n: Group  # of b, out
    k: Group  # of a, b
    a_at: int = 1
    b_at: int = 2
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(
        cls, a: Operand, b: Operand, out: Operand, batch: int, m: int, n: int, k: int
    ) -> Problem:
        """From operands with so many axes in each group."""
        if isinstance(a, Padded):
            return cls._padded(a, b, out, batch, m, k)
        b_steps = b.strides[:batch]
        if batch and all(s == 0 or e == 1 for s, e in zip(b_steps, out.shape, strict=False)):
            # one b for all batches: they are as many more rows, if out can take them so
            rows = Group.of(out.shape[: batch + m], out.strides[: batch + m])
            if rows.is_one_axis:
                reach = (*b.shape[batch:], *b.strides[batch:])
                b = _View(b.dtype, reach[: k + n], reach[k + n :])
                batch, m = 0, batch + m
        deep, wide = slice(batch, batch + k), slice(batch + m, None)
        rows_at, inner = slice(batch, batch + m), slice(batch + m, None)
        return cls(
            name_of(a.dtype),
            name_of(b.dtype),
            name_of(out.dtype),
            Group.of(out.shape[:batch], a.strides[:batch], b.strides[:batch], out.strides[:batch]),
            Group.of(out.shape[rows_at], a.strides[rows_at], out.strides[rows_at]),
            Group.of(out.shape[wide], b.strides[batch + k :], out.strides[wide]),
            Group.of(a.shape[inner], a.strides[inner], b.strides[deep]),
        )

    @classmethod
    def _padded(cls, a: Padded, b: Operand, out: Operand, batch: int, m: int, k: int) -> Problem:
        """The same of windows over the edges; axes of k are not merged, each has its range."""
        rows_at, deep = slice(batch, batch + m), slice(batch, batch + k)
        wide, inner = slice(batch + m, None), slice(batch + m, None)
        rows = Group.of(out.shape[rows_at], a.strides[rows_at], out.strides[rows_at])
        numbers = [step // rows.step(1) for step in out.strides[rows_at]]
        extents, in_a, in_b = a.shape[inner], a.strides[inner], b.strides[deep]
        order = [axis for axis, n in enumerate(extents) if n != 1]
        order.sort(key=lambda axis: (-abs(in_b[axis]), -abs(in_a[axis])))
        regions = regions_of(a, out.shape[rows_at], a.strides[rows_at], numbers, extents, order)
        walked = [tuple([row[axis] for axis in order]) or (1,) for row in (extents, in_a, in_b)]
        return cls(
            name_of(a.dtype),
            name_of(b.dtype),
            name_of(out.dtype),
            Group.of(out.shape[:batch], a.strides[:batch], b.strides[:batch], out.strides[:batch]),
            rows,
            Group.of(out.shape[wide], b.strides[batch + k :], out.strides[wide]),
            Group(walked[0], (walked[1], walked[2])),
            regions=tuple(regions),
        )

    @property
    def transposed(self) -> Problem:
        """outᵀ = bᵀ · aᵀ: the same sums with a and b, m and n in each other's place."""
        return Problem(
            self.b, self.a, self.out,
            self.batch.swapped(), self.n, self.m, self.k.swapped(), self.b_at, self.a_at,
        )  # fmt: skip

    @property
    def as_region(self) -> tuple[Region]:
        """All rows as one region that sees all of k."""
        extents = self.m.extents
        numbers = [prod(extents[axis + 1 :]) for axis in range(len(extents))]
        rows = Group.of(extents, self.m.strides[0], numbers)
        return (Region(rows, 0, 0, tuple([(0, n) for n in self.k.extents])),)

    @property
    def heights(self) -> list[int]:
        """How many rows see the same part of k."""
        return [region.rows.size for region in self.regions] or [self.m.size]

    @property
    def steps(self) -> int:
        """How many elements of a are multiplied, each with a row of b."""
        found = [region.rows.size * region.deep for region in self.regions]
        return sum(found) if found else self.m.size * self.k.size

    @property
    def has_lanes(self) -> bool:
        """Whether the innermost axis of the batch is contiguous in all three."""
        return self.batch.extents[-1] > 1 and all(steps[-1] == 1 for steps in self.batch.strides)

    @property
    def outer(self) -> Group:
        """The other axes of the batch, and n's, with strides of a, b and out."""
        (in_a, in_b, in_out), (n_in_b, n_in_out) = self.batch.strides, self.n.strides
        return Group(
            self.batch.extents[:-1] + self.n.extents,
            (in_a[:-1] + (0,) * len(n_in_b), in_b[:-1] + n_in_b, in_out[:-1] + n_in_out),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the three operands, as if they were compact."""
        m, n, k = self.m.size, self.n.size, self.k.size
        sizes = m * k * itemsize(self.a), k * n * itemsize(self.b), m * n * itemsize(self.out)
        return self.batch.size * sum(sizes)


@dataclass(frozen=True)
class _View:
    """An operand with other axes."""

    dtype: object
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def words_of(
    places: int, values: Iterable[tuple[int, int]], groups: Iterable[tuple[int, Sequence[int]]]
) -> tuple[int, ...]:
    """A kernel's numbers: single ones in their places; groups behind, with their places noted."""
    numbers = [0] * places
    for place, value in values:
        numbers[place] = value
    for place, words in groups:
        numbers[place] = len(numbers)
        numbers += words
    return tuple(numbers)
