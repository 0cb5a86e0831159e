"""A contraction, reduced to what its kernels need: four groups of axes, merged where they can be.

out[batch, m, n] = sum over k of a[batch, m, k] · b[batch, k, n]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from needle.compiler.prepared import Operand
from needle.compiler.types import itemsize
from needle.compiler.walk import coalesce
from needle.dtypes import name_of

__all__ = ["Group", "Problem", "words_of"]


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

    def words(self, operand: int, dtype: str) -> list[int]:
        """As kernels read it (see `packing`)."""
        pairs = zip(reversed(self.extents), reversed(self.strides[operand]), strict=True)
        flat = [word for n, step in pairs for word in (max(n, 1), step * itemsize(dtype))]
        return [len(self.extents), *flat]

    def swapped(self) -> Group:
        """With the first two operands in each other's place."""
        first, second, *rest = self.strides
        return Group(self.extents, (second, first, *rest))


@dataclass(frozen=True)
class Problem:
    """A contraction of two operands.

    a, b, out   dtypes
    a_at, b_at  which pointer of the call is a's, and which b's: 1 or 2
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

    @classmethod
    def of(
        cls, a: Operand, b: Operand, out: Operand, batch: int, m: int, n: int, k: int
    ) -> Problem:
        """From operands with so many axes in each group."""
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

    @property
    def transposed(self) -> Problem:
        """outᵀ = bᵀ · aᵀ: the same sums with a and b, m and n in each other's place."""
        return Problem(
            self.b, self.a, self.out,
            self.batch.swapped(), self.n, self.m, self.k.swapped(), self.b_at, self.a_at,
        )  # fmt: skip

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
