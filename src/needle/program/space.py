"""The index space of a fused loop, and how each node's axes lie in it.

A space consists of *digits*, as a number does: extents whose product is the number of places. An
axis of a node is a row of digits, the last of which changes fastest. Reshaping splits digits,
transposing changes the order in which a node has them; two nodes belong into one loop if a digit
means the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import prod

from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import Node

__all__ = ["Axes", "Space", "align"]

_numbers = count()  # digits of two spaces are never the same

Row = list[int]  # digits, the last changes fastest
Axes = list[Row | None]  # of each axis; None: not known


class Space:
    """Digits by number, each with its extent; and of each node in it, the digits of its axes.

    columns  the digits that are reduced over, if any are
    """

    def __init__(self) -> None:
        self.extents: dict[int, int] = {}
        self.axes: dict[Node, Axes] = {}
        self.axes_reduced: dict[Node, Axes] = {}  # of reductions: of what they read
        self.columns: Row | None = None

    def new_digit(self, extent: int) -> int:
        """Another digit."""
        number = next(_numbers)
        self.extents[number] = extent
        return number

    def new_axes(self, shape: Sequence[int]) -> Axes:
        """A digit for each axis; none for those of length 1."""
        return [[] if n == 1 else [self.new_digit(n)] for n in shape]

    def split(self, digit: int, inner: int, *others: Axes) -> tuple[int, int]:
        """Put two digits in the place of one, the inner one with that extent, everywhere."""
        pair = self.new_digit(self.extents.pop(digit) // inner), self.new_digit(inner)
        held = (*self.axes.values(), *self.axes_reduced.values(), [self.columns], *others)
        for axes in held:
            for row in axes:
                if row and digit in row:
                    at = row.index(digit)
                    row[at : at + 1] = pair
        return pair

    def of(self, node: Node) -> set[int]:
        """All digits that a node has."""
        return {digit for row in self.axes[node] for digit in row or ()}

    def axes_read(self, node: Node) -> Axes:
        """The digits of what a node reads: its own, but for a reduction."""
        return self.axes_reduced.get(node) or self.axes[node]

    @property
    def rows(self) -> set[int]:
        """The digits that are not reduced over."""
        return self.extents.keys() - set(self.columns or ())

    @property
    def size(self) -> int:
        """How many places there are."""
        return prod(self.extents.values())

    def strides(self, axes: Axes, steps: Sequence[int]) -> dict[int, int]:
        """What a step along each digit is, for an operand with these strides along the axes."""
        found: dict[int, int] = {}
        for row, step in zip(axes, steps, strict=True):
            for digit in reversed(row or ()):
                found[digit] = step
                step *= self.extents[digit]
        return found

    def read(
        self, node: Node, view: Layout, offset: int, others: Sequence[Axes] = ()
    ) -> Axes | None:
        """The digits of each axis of a view of a node's memory; None for axes that repeat.

        None if the view is not of all elements, each once (but for repeats), in whole digits.
        `others` are kept right where digits are split.
        """
        if offset or view.dtype != node.layout.dtype:
            return None
        return self.walked(self.strides(self.axes[node], node.layout.strides), view, others)

    def walked(
        self, steps: dict[int, int], view: Layout, others: Sequence[Axes] = ()
    ) -> Axes | None:
        """`read`, of memory that each digit leads through by a step."""
        found: Axes = [
            None if n > 1 and step == 0 else []
            for n, step in zip(view.shape, view.strides, strict=True)
        ]
        left = {step: digit for digit, step in steps.items()}  # those not taken
        for row, n, step in sorted(
            (
                (row, n, step)
                for row, n, step in zip(found, view.shape, view.strides, strict=True)
                if row is not None and n > 1
            ),
            key=lambda axis: axis[2],
        ):
            while n > 1:
                digit = left.pop(step, None)
                if digit is None:
                    return None
                extent = self.extents[digit]
                if extent > n:
                    if extent % n:
                        return None
                    outer, digit = self.split(digit, n, found, *others)
                    left[step * n], extent = outer, n
                elif n % extent:
                    return None
                row.insert(0, digit)
                step, n = step * extent, n // extent
        return None if left else found

    def take(self, shape: Sequence[int], digits: Row, others: Sequence[Axes] = ()) -> Axes | None:
        """Digits for axes of that shape from a row of digits with as many places, in its order."""
        extents = [n for n in shape if n > 1]
        if prod(extents) != prod(self.extents[d] for d in digits):
            return None
        left = list(digits)
        found: Axes = []
        for n in reversed(shape):
            row: Row = []
            while n > 1:
                digit = left.pop()
                extent = self.extents[digit]
                if extent > n:
                    if extent % n:
                        return None
                    outer, digit = self.split(digit, n, [*found], *others)
                    left.append(outer)
                    extent = n
                elif n % extent:
                    return None
                row.insert(0, digit)
                n //= extent
            found.insert(0, row)
        return found


def align(a: Space, row_a: Row, b: Space, row_b: Row, *others: Axes) -> dict[int, int] | None:
    """Which digit of `row_b` is which of `row_a`, both walking the same places in order.

    Digits are split where need be; `others` are axes in b, or in a, that are kept right.
    """
    holder_a: Axes = [list(row_a)]
    holder_b: Axes = [list(row_b)]
    found: dict[int, int] = {}
    i, j = len(row_a), len(row_b)
    while i and j:
        p, q = holder_a[0][i - 1], holder_b[0][j - 1]  # type: ignore[index]
        m, n = a.extents[p], b.extents[q]
        if m > n:
            if m % n:
                return None
            a.split(p, n, holder_a, *others)
            i += 1
            continue
        if n > m:
            if n % m:
                return None
            b.split(q, m, holder_b, *others)
            j += 1
            continue
        found[q] = p
        i, j = i - 1, j - 1
    return None if i or j else found
