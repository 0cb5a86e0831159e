"""Fused kernels: chains of elementwise primitives, with reductions along rows, in one loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod

from needle.compiler.build import address_of
from needle.compiler.kernels import fused_loops
from needle.compiler.kernels.fused_body import (
    Apply,
    Body,
    Index,
    Load,
    Number,
    Reduce,
    Scalar,
    Store,
)
from needle.compiler.kernels.fused_loops import FIRST_POINTER, Word
from needle.compiler.prepared import Prepared, tasks_for
from needle.compiler.types import itemsize

__all__ = [
    "FIRST_POINTER",
    "Apply",
    "Body",
    "Index",
    "Load",
    "Number",
    "Reduce",
    "Scalar",
    "Store",
    "prepare",
]

_STREAMED = 16 << 20  # bytes of a result from which on caches do not keep it for its readers
_BLOCK = 8192  # columns of a unit of work, where rows need not be taken as wholes
_WORK = {
    "exp": 12, "log": 14, "log1p": 16, "expm1": 16, "log2": 14, "tanh": 18, "sigmoid": 18,
    "erf": 18, "power": 40, "sin": 30, "cos": 30, "divide": 4, "sqrt": 4, "remainder": 10,
    "floor_divide": 10,
}  # fmt: skip

Strides = tuple[tuple[int, ...], int]


def prepare(
    body: Body,
    rows: Sequence[int],
    columns: int,
    strides: Sequence[Strides],
    chunk: int = 1,
) -> Prepared:
    """The kernel of a body, and its numbers.

    rows     extents of the axes that rows are counted along, outermost first
    columns  how many columns there are
    strides  for each operand and then each store, in elements: along the axes of the rows, and
             along the columns

    Pointers from word FIRST_POINTER of the context on: operands (of an index, the number it
    begins with), stores, then scalars; word 1 is scratch memory. Of sums there is a row of partial
    results for every `chunk` rows, which one task takes in turn.
    """
    dtypes = [
        body.values[i].dtype if isinstance(body.values[i], Load) else None for i in body.operands
    ]
    dtypes += [store.dtype for store in body.stores]
    sizes = [1 if dtype is None else itemsize(dtype) for dtype in dtypes]
    axes = _merged(rows, [row for row, _ in strides])
    inner = axes[-1]
    total = prod(rows)
    whole = body.reduces or body.kept or chunk > 1
    block = columns if whole else min(columns, _BLOCK)
    kept = -(-(columns * 8 if body.itemsize == 8 else columns * 4) // 64) * 64 + 64
    numbers = [0] * Word.STEPS
    for word, number in {
        Word.ROWS: total if columns else 0,
        Word.INNER_ROWS: max(inner[0], 1),
        Word.COLUMNS: columns,
        Word.BLOCK: max(block, 1),
        Word.CHUNK: chunk,
        Word.AXES: len(axes) - 1,
        Word.SCRATCH: kept * len(body.kept),
        Word.SCRATCH_ROW: kept,
        Word.STREAMED: int(_is_streamed(body, total * columns)),
    }.items():
        numbers[word] = number
    for k, (_, column) in enumerate(strides):
        numbers += [column * sizes[k], inner[1][k] * sizes[k]]
    outer = axes[-2::-1]
    numbers += [max(extent, 1) for extent, _ in outer]
    for _, steps in outer:
        numbers += [step * size for step, size in zip(steps, sizes, strict=True)]
    nanoseconds = 20 + total * (5 + columns * _nanoseconds(body))
    units = total if block == columns else total * -(-columns // block)
    shares = -(-units // chunk)
    return Prepared(
        address_of(body.key, partial(fused_loops.write, body=body)),
        tuple(numbers),
        nanoseconds,
        tasks_for(nanoseconds, max(1, shares)),
        kept * len(body.kept),
    )


def _is_streamed(body: Body, elements: int) -> bool:
    """Whether results that may go past the caches are so large that they should."""
    sizes = [itemsize(store.dtype) for store in body.stores if store.streamed]
    return bool(sizes) and elements * min(sizes) >= _STREAMED


def _merged(
    rows: Sequence[int], strides: Sequence[Sequence[int]]
) -> list[tuple[int, tuple[int, ...]]]:
    """The fewest axes with the same walk: extent, and the step of each operand."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis, extent in enumerate(rows):
        steps = tuple(row[axis] for row in strides)
        if extent == 1:
            continue
        if merged and merged[-1][1] == tuple(step * extent for step in steps):
            extent *= merged.pop()[0]
        merged.append((extent, steps))
    return merged or [(1, (0,) * len(strides))]


@lru_cache(maxsize=1024)
def _nanoseconds(body: Body) -> float:
    """Of an element, about."""
    bytes = sum(itemsize(body.values[i].dtype) for i in body.loads if body.wide[i])
    bytes += sum(itemsize(store.dtype) for store in body.stores if store.kind != "same")
    work = sum(
        _WORK.get(v.name, 1)
        for i, v in enumerate(body.values)
        if isinstance(v, (Apply, Reduce)) and (isinstance(v, Reduce) or body.wide[i])
    )
    return max(bytes * 0.02, work * 0.03)
