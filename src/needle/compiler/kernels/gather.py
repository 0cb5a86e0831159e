"""Picking slices of an array by arrays of positions, and adding them back.

Both kernels see two operands: the *table*, whose neighbouring axes `axis, axis + 1, ...` the
indices point into, and the *picked*, which has the axes of the indices in that place.

    gather        picked[p, i, q]  = table[p, indices[i], q]
    scatter_add   table[p, indices[i], q] += picked[p, i, q]
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from needle.compiler import build
from needle.compiler.kernels import gather_kernel
from needle.compiler.kernels.gather_kernel import Number, Variant
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.types import STORED_AS_HALF, TYPES, itemsize

__all__ = ["prepare_gather", "prepare_scatter_add"]

# An axis: its extent, then its stride in each operand.
Axis = tuple[int, ...]

# With this many blocks of positions tasks share them; with fewer, the columns.
_BLOCKS_TO_SHARE = 8
# So few single elements of each row are picked position by position, not row by row.
_FEW = 8
_NANOSECONDS_PER_BYTE = 0.02  # of a row read from or written to the second-level cache
_NANOSECONDS_PER_ELEMENT = 1.0  # moved by itself
_NANOSECONDS_PER_POSITION = 1.5  # checked, and turned into an offset


def prepare_gather(x: Operand, indices: Sequence[Operand], axis: int, out: Operand) -> Prepared:
    """out[p, i, q] = x[p, indices_0[i], indices_1[i], ..., q].

    x         any strides
    indices   1 to 6 int64 views of one shape I (strides may be 0): positions along the axes
              axis, axis + 1, ... of x; negative ones count from the end
    out       row-major, of shape x.shape[:axis] + I + x.shape[axis + len(indices):]

    A position outside [-extent, extent) sets word 14 of the context to 1 + its number in I; the
    result is of no use then. Pointers: x, the indices, out.
    """
    inner, numbers = _geometry(x, out, indices, axis, is_gather=True)
    # elements are moved as integers of their size, so that few kernels serve all dtypes
    bits = 8 * itemsize(str(x.dtype))
    address = _address(Variant("gather", f"int{bits}", inner))
    nanoseconds = _nanoseconds(inner, indices, out, passes=2)
    return Prepared(address, numbers, nanoseconds, tasks_for(nanoseconds))


def prepare_scatter_add(
    x: Operand, indices: Sequence[Operand], axis: int, out: Operand
) -> Prepared:
    """out = 0; out[p, indices_0[i], indices_1[i], ..., q] += x[p, i, q], in the order of i.

    x         shape out.shape[:axis] + I + out.shape[axis + len(indices):], any strides
    indices   as for `prepare_gather`
    out       row-major, of x's dtype

    float16 and bfloat16 are added up in float32 and rounded once; integers wrap; bools are
    or-ed. Pointers: x, the indices, out.
    """
    inner, numbers = _geometry(out, x, indices, axis, is_gather=False)
    dtype = str(out.dtype)
    if TYPES[dtype].kind == "u":
        dtype = dtype[1:]  # adding and wrapping are the same for both
    address = _address(Variant("scatter_add", dtype, inner))
    nanoseconds = _nanoseconds(inner, indices, x, passes=3)
    nanoseconds += _nbytes(out) * _NANOSECONDS_PER_BYTE
    if dtype in STORED_AS_HALF:  # the sums lie in scratch memory, of which there is one
        return Prepared(
            address, numbers, 3 * nanoseconds, tasks=1, scratch=max(64, 4 * prod(out.shape))
        )
    # threads share columns: each goes through all positions, so that the order of adding stays
    grains = _grains(inner, numbers[Number.COLUMNS])
    return Prepared(address, numbers, nanoseconds, tasks_for(nanoseconds, grains))


def _address(variant: Variant) -> int:
    return build.address_of(f"gather {variant}", gather_kernel.writer(variant))


def _geometry(
    table: Operand, picked: Operand, indices: Sequence[Operand], axis: int, is_gather: bool
) -> tuple[str, tuple[int, ...]]:
    """How the innermost loop runs, and the kernel's numbers in the order that it reads them."""
    behind, positions = axis + len(indices), indices[0].shape
    before = _axes(table.shape[:axis], table.strides, picked.strides)
    after = _axes(
        table.shape[behind:], table.strides[behind:], picked.strides[axis + len(positions) :]
    )
    outer = _coalesced(before + after[:-1]) + after[-1:]
    if is_gather and outer[-1][0] == 1 and prod(positions) <= _FEW:
        outer = before  # a column for each position
    picks = _axes(positions, picked.strides[axis:], *[index.strides for index in indices])
    inner = _class_of(outer[-1])
    # a table of nothing cannot be read or added to, whatever the positions are
    columns = prod([extent for extent, *_ in outer]) if prod(table.shape) else 0
    block = _block_of(picks[-1][0])
    blocks = prod([extent for extent, *_ in picks[:-1]]) * -(-picks[-1][0] // block)
    header = {
        Number.BLOCKS: blocks,
        Number.BLOCK: block,
        Number.COLUMNS: columns,
        Number.BLOCKS_ARE_SHARED: (
            is_gather and blocks >= min(_grains(inner, columns), _BLOCKS_TO_SHARE)
        ),
        Number.TABLE_ROWS: prod(table.shape[axis:behind]),
        Number.TABLE_ROW_STEP: prod(table.shape[behind:]),
        Number.INDICES: len(indices),
        Number.OUTER_RANK: len(outer),
        Number.PICKED_RANK: len(picks),
    }
    words = [int(header[name]) for name in Number]
    for i in range(axis, behind):
        words += [table.shape[i], table.strides[i]]
    return inner, (*words, *_by_operand(outer), *_by_operand(picks))


def _grains(inner: str, columns: int) -> int:
    """Into how many parts columns can be cut."""
    return -(-columns // gather_kernel.column_grain(inner))


def _block_of(positions: int) -> int:
    """How many positions make a block: enough blocks to share, none of them short."""
    return min(gather_kernel.LONGEST_BLOCK, max(64, -(-positions // 16)))


def _axes(shape: tuple[int, ...], *strides: tuple[int, ...]) -> list[Axis]:
    """The fewest axes that walk that shape; each operand's strides may be more than its axes."""
    axes = [(n, *(s[i] for s in strides)) for i, n in enumerate(shape)]
    return _coalesced(axes) or [(1, *[0] * len(strides))]


def _coalesced(axes: list[Axis]) -> list[Axis]:
    """Axes of length 1 dropped, neighbours merged where every operand walks them as one."""
    merged: list[Axis] = []
    for extent, *strides in axes:
        if extent == 1:
            continue
        if merged and merged[-1][1:] == tuple(s * extent for s in strides):
            extent *= merged.pop()[0]
        merged.append((extent, *strides))
    return merged


def _class_of(inner: Axis) -> str:
    """Of the innermost axis: one element, a row of neighbours in both operands, or strided."""
    if inner[0] == 1:
        return "one"
    return "row" if inner[1:] == (1, 1) else "strided"


def _by_operand(axes: list[Axis]) -> list[int]:
    """All extents, then all strides of the first operand, of the second, ...

    Nothing is walked along an axis of no length, but the kernel divides by lengths.
    """
    extents, *strides = zip(*axes, strict=True)
    return [max(extent, 1) for extent in extents] + [n for row in strides for n in row]


def _nbytes(x: Operand) -> int:
    return prod(x.shape) * itemsize(str(x.dtype))


def _nanoseconds(inner: str, indices: Sequence[Operand], picked: Operand, passes: int) -> float:
    positions = prod(indices[0].shape) * len(indices) * _NANOSECONDS_PER_POSITION
    if inner == "row":
        return 5 + positions + passes * _nbytes(picked) * _NANOSECONDS_PER_BYTE
    return 5 + positions + prod(picked.shape) * _NANOSECONDS_PER_ELEMENT
