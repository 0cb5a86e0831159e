"""Sums of products over strided views: products of matrices, of batches of them, of windows.

    out = sum over k of a · b      axes of a: batch, m, k;  of b: batch, k, n;  of out: batch, m, n

Each group may have any number of axes, none too: a product of two matrices has one each of m, n
and k. Here it is decided which kernel runs, which way round, in which blocks and on what: see
docs/design/matmul.md for what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from needle.compiler.build import address_of
from needle.compiler.kernels import contraction_lanes
from needle.compiler.kernels.contraction_lanes import Lanes, LanesWord, scratch_for
from needle.compiler.kernels.contraction_loops import Structure, Word, tile_of
from needle.compiler.kernels.contraction_problem import Problem, words_of
from needle.compiler.kernels.contraction_regions import Padded
from needle.compiler.kernels.contraction_rows import Rows, RowsWord
from needle.compiler.kernels.microkernel import heights
from needle.compiler.kernels.region_walk import DEEP, table_of
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import TYPES, itemsize

__all__ = [
    "Word",
    "panels_of",
    "prepare",
    "products",
    "takes_padding",
    "takes_parts",
    "takes_tail",
    "vectors_for",
]

# A panel of a, KC deep, takes 24 of the 32 KB of a first-level cache; a block of b, KC x NC, is
# 2 MB: it streams from the second or third level while a panel of a is used.
_KC, _NC = 512, 1024
_MC_APART = 768  # rows of sums kept apart, for 16-bit results
# Reading in place costs nothing while each element is used this often (or the next limit holds) ...
_USES_IN_PLACE, _USES_IN_PLACE_IF_SPREAD = 64, 512
# ... unless rows lie a multiple of this apart: they would crowd into few places of the caches.
_CROWDED = 4096
# b in place, if it stays in the second-level cache, or its rows follow each other closely, or a has
# few rows: then b is read once, front to back, in strips of so many rows.
_B_CACHED, _B_CLOSE, _FEW_ROWS, _STRIP, _STRIP_SUMS = 1 << 20, 1024, 48, 8, 1 << 16

# All of b is packed at a time for so many rows of overlapping windows, if it is not larger.
_ROWS_OF_WINDOWS, _B_KEPT = 96, 1 << 22

_SHORTEST = 4  # stretch of k for which rows are read in place that no stride leads along
_MOST_REGIONS = 81
# What beginning a panel costs, in vectors that are multiplied, and a tile, in steps of k.
_PANEL_VECTORS, _TILE_STEPS = 300, 12

_SHORT_ROW, _FAR = 1024, 1 << 20  # bytes of a row of a, and of all of them

_NANOSECONDS, _NANOSECONDS_PER_BYTE = 80, 0.03
_VECTORS_PER_NANOSECOND = 3  # multiplied and added
_LANES_PER_NANOSECOND = 1.5  # the same where both operands are vectors


def prepare(
    a: Operand,
    b: Operand,
    out: Operand,
    batch: int,
    m: int,
    n: int,
    k: int,
    whole_rows: bool = False,
) -> Prepared:
    """The kernel for out = sum over k of a · b, and its numbers.

    batch, m, n, k  how many axes each group has; see the module for their order
    a, b            any strides
    out             fresh; its groups m and n can each be walked with one stride, one of these 1;
                    or an axis of its batch has stride 1, as in a and b
    whole_rows      no two tasks share a row of the result: for `takes_tail` only

    16-bit floats are summed in float32 and rounded once; integers wrap; of bools it is the "any"
    of "both". The bits do not depend on the number of tasks.
    """
    problem = Problem.of(a, b, out, batch, m, n, k)
    if problem.has_lanes:
        return _by_lanes(max(problem, problem.transposed, key=lambda p: p.m.size))
    if _is_by_rows(problem):
        return _by_rows(problem)
    if _is_by_rows(problem.transposed):
        return _by_rows(problem.transposed)
    problem = problem if problem.regions else _with_contiguous_rows(problem)
    return _by_tiles(problem, whole_rows)


def takes_tail(
    a: Operand, b: Operand, out: Operand, groups: Sequence[int], whole_rows: bool
) -> bool:
    """Whether the kernel calls a tail on its panels (words TAIL of the context), row by row.

    A row is then n elements long, and its number is that of the batch, times m, plus that in m:
    `out` is row-major, and so are its groups. With `whole_rows` each panel has whole rows.
    """
    batch, m, n, k = groups
    problem = Problem.of(a, b, out, batch, m, n, k)
    if problem.has_lanes or _is_by_rows(problem) or _is_by_rows(problem.transposed):
        return False
    if problem.n.size < 2 or problem.n.step(1) != 1 or _structure(problem).sums_apart:
        return False
    rows, columns = tile_of(Target.host(), _structure(problem).compute)
    return not whole_rows or _blocking(problem, rows, columns).nc >= problem.n.size


def panels_of(
    a: Operand, b: Operand, out: Operand, groups: Sequence[int]
) -> tuple[int, int] | None:
    """How many panels a `takes_tail` kernel has, and rows in each at most; None with a batch."""
    problem = Problem.of(a, b, out, *groups)
    if problem.batch.size > 1:
        return None
    rows = tile_of(Target.host(), _structure(problem).compute)[0]
    return sum([-(-height // rows) for height in problem.heights]), rows


def takes_padding(a: Padded, b: Operand, out: Operand, groups: Sequence[int]) -> bool:
    """Whether the kernel can leave out what windows see off the picture."""
    problem = Problem.of(a, b, out, *groups)
    structure = _structure(problem)
    return (
        problem.n.size > 1
        and problem.n.step(1) == 1
        and problem.n.is_affine(1)
        and problem.m.is_affine(1)
        and not problem.has_lanes
        and problem.a == structure.compute
        and not structure.sums_apart
        and len(problem.regions) <= _MOST_REGIONS
    )


def products(a: Operand, b: Operand, out: Operand, groups: Sequence[int]) -> int:
    """How many products of two elements the sums have."""
    problem = Problem.of(a, b, out, *groups)
    return problem.batch.size * problem.steps * problem.n.size


def vectors_for(a: Operand, b: Operand, out: Operand, groups: Sequence[int]) -> int:
    """What the tiles of a contraction cost: vectors multiplied, with what low ones lose."""
    problem = Problem.of(a, b, out, *groups)
    compute = _structure(problem).compute
    low = heights(tile_of(Target.host(), compute)[0])
    across = -(-problem.n.size // Target.host().lanes(itemsize(compute)))
    depths = [region.deep for region in problem.regions] or [problem.k.size]
    total = 0
    for height, deep in zip(problem.heights, depths, strict=True):
        total += _PANEL_VECTORS * -(-height // low[0])
        for rows in low:
            total += across * (height // rows) * (max(rows, 2) + 1) * (deep + _TILE_STEPS)
            height %= rows
    return total * problem.batch.size


def takes_parts(a: Operand, b: Operand, out: Operand) -> bool:
    """Whether numbers M, N and K of the kernel may be less than prepared for, from call to call.

    For a product of two matrices, without a batch. With number ADDS it adds to what is there.
    """
    problem = Problem.of(a, b, out, 0, 1, 1, 1)
    by_rows = _is_by_rows(problem) or _is_by_rows(problem.transposed)
    return (
        not by_rows
        and problem.n.size > 1
        and problem.n.step(1) == 1
        and problem.m.step(1) != 1
        and not _structure(problem).sums_apart
    )


# -- matrix times vector ---------------------------------------------------------------------------


def _is_by_rows(p: Problem) -> bool:
    """Whether b is a vector and rows of a are contiguous."""
    return (
        p.n.size == 1
        and p.m.is_one_axis
        and p.k.is_one_axis
        and p.k.step(0) == 1
        and TYPES[p.out].is_float
        and p.k.size >= Target.host().lanes(itemsize(p.a))
    )


def _by_rows(p: Problem) -> Prepared:
    rows = Rows(p.a, p.b, p.out)
    copied = p.k.step(1) != 1
    scratch = _up(p.k.size * itemsize(p.b), 64) if copied else 0
    numbers = words_of(
        RowsWord.GROUPS,
        (
            (RowsWord.MATRIX_AT, p.a_at), (RowsWord.VECTOR_AT, p.b_at),
            (RowsWord.BATCH, p.batch.size), (RowsWord.ROWS, p.m.size),
            (RowsWord.LENGTH, p.k.size), (RowsWord.SCRATCH, scratch),
            (RowsWord.MATRIX_ROW, p.m.step(0) * itemsize(p.a)),
            (RowsWord.VECTOR_STEP, p.k.step(1) * itemsize(p.b)),
            (RowsWord.OUT_STEP, p.m.step(1) * itemsize(p.out)),
        ),
        (
            (RowsWord.BATCH_MATRIX, p.batch.words(0, p.a)),
            (RowsWord.BATCH_VECTOR, p.batch.words(1, p.b)),
            (RowsWord.BATCH_OUT, p.batch.words(2, p.out)),
        ),
    )  # fmt: skip
    nanoseconds = _NANOSECONDS + p.nbytes * _NANOSECONDS_PER_BYTE
    tasks = tasks_for(nanoseconds, max(1, p.batch.size * p.m.size // 4))
    return Prepared(address_of(rows.key, rows.write), numbers, nanoseconds, tasks, scratch)


# -- batch innermost -------------------------------------------------------------------------------


def _by_lanes(p: Problem) -> Prepared:
    lanes = Lanes(p.a, p.b, p.out)
    kc = max(p.k.size, 1) if lanes.sums_are_rounded else min(contraction_lanes.KC, max(p.k.size, 1))
    count, outer = p.batch.extents[-1], p.outer
    numbers = words_of(
        LanesWord.GROUPS,
        (
            (LanesWord.A_AT, p.a_at), (LanesWord.B_AT, p.b_at), (LanesWord.OUTER, outer.size),
            (LanesWord.LANES, count), (LanesWord.M, p.m.size), (LanesWord.K, p.k.size),
            (LanesWord.KC, kc), (LanesWord.SCRATCH, scratch_for(kc)),
        ),
        (
            (LanesWord.OUTER_A, outer.words(0, p.a)), (LanesWord.OUTER_B, outer.words(1, p.b)),
            (LanesWord.OUTER_C, outer.words(2, p.out)),
            (LanesWord.M_GROUP_A, p.m.words(0, p.a)), (LanesWord.M_GROUP_C, p.m.words(1, p.out)),
            (LanesWord.K_GROUP_A, p.k.words(0, p.a)), (LanesWord.K_GROUP_B, p.k.words(1, p.b)),
        ),
    )  # fmt: skip
    width = Target.host().lanes(itemsize(lanes.compute))
    vectors = outer.size * p.m.size * max(p.k.size, 1) * -(-count // width)
    nanoseconds = _NANOSECONDS + vectors / _LANES_PER_NANOSECOND + p.nbytes * _NANOSECONDS_PER_BYTE
    shares = max(1, outer.size * -(-p.m.size // 9), -(-count // width))
    return Prepared(
        address_of(lanes.key, lanes.write),
        numbers,
        nanoseconds,
        tasks_for(nanoseconds, shares),
        scratch_for(kc),
    )


# -- tiles -----------------------------------------------------------------------------------------


def _with_contiguous_rows(p: Problem) -> Problem:
    """The problem or its transpose: the one whose result has contiguous rows, if possible b too."""
    assert p.m.is_affine(1) and p.n.is_affine(1), (p.m, p.n)
    flipped = p.transposed
    choices = [q for q in (p, flipped) if q.n.step(1) == 1]
    assert choices, (p.m, p.n)
    # a single row has stride 1 either way: b is then better the matrix
    return max(choices, key=lambda q: (q.n.size > 1, q.n.step(0) == 1))


@dataclass(frozen=True)
class _Blocking:
    """Rows, columns, depth of a block; whether a and b are packed, and all of b before that."""

    mc: int
    nc: int
    kc: int
    pack_a: bool
    pack_b: bool
    keep_b: bool


def _blocking(p: Problem, rows: int, columns: int) -> _Blocking:
    in_place = _b_in_place(p, columns)
    pack_a = not _a_in_place(p)
    mc = _MC_APART if _structure(p).sums_apart else max(p.m.size, 1)
    nc = _up(min(p.n.size, _NC), columns)
    kc = _even(p.k.size, DEEP if not pack_a else _KC)
    if in_place and p.m.size <= _FEW_ROWS and kc * nc * itemsize(p.b) > _B_CACHED // 2:
        kc = _STRIP
        nc = min(_up(p.n.size, columns), _up(_STRIP_SUMS // p.m.size, columns))
    # rows that follow each other see much the same of a: they finish k before others begin
    overlap = _is_scattered(p) and not pack_a and p.k.step(0) == 1
    keep_b = overlap and not in_place and nc * p.k.size * itemsize(p.b) <= _B_KEPT
    mc = _ROWS_OF_WINDOWS if keep_b and p.k.size > kc else mc
    mc, nc = _up(min(p.m.size, mc), rows), max(nc, columns)
    return _Blocking(mc, nc, kc, pack_a, not in_place, keep_b)


def _a_in_place(p: Problem) -> bool:
    """Whether tiles read a where it lies. It is read once for each panel of b."""
    if p.regions:
        return True
    if p.a != _structure(p).compute or (_is_scattered(p) and p.k.extents[-1] < _SHORTEST):
        return False
    spread = all(abs(group.step(0)) * itemsize(p.a) % _CROWDED for group in (p.m, p.k))
    return p.n.size <= (_USES_IN_PLACE_IF_SPREAD if spread else _USES_IN_PLACE)


def _is_scattered(p: Problem) -> bool:
    """Whether rows or steps of a have more than one stride."""
    return bool(p.regions) or not (p.m.is_one_axis and p.k.is_one_axis)


def _is_prefetched(p: Problem) -> bool:
    """Whether a comes from beyond the second-level cache in rows of few cache lines."""
    row = p.k.extents[-1] * itemsize(p.a)
    is_far = p.m.size * abs(p.m.step(0)) * itemsize(p.a) >= _FAR
    return p.k.step(0) == 1 and row <= _SHORT_ROW and is_far


def _b_in_place(p: Problem, columns: int) -> bool:
    """Whether tiles read b where it lies. It is read once for each panel of a."""
    target, size = Target.host(), itemsize(p.b)
    readable = (
        p.b == _structure(p).compute
        and p.n.is_one_axis
        and p.k.is_one_axis
        and p.n.step(0) == 1
        and (target.has_masks or p.n.size % target.lanes(size) == 0)
    )
    close = abs(p.k.step(1)) * size <= _B_CLOSE
    return readable and (close or _nbytes_of_b(p) <= _B_CACHED or p.m.size <= _FEW_ROWS)


def _nbytes_of_b(p: Problem) -> int:
    return p.k.size * p.n.size * itemsize(p.b)


def _structure(p: Problem) -> Structure:
    return Structure(p.a, p.b, p.out)


def _even(count: int, most: int) -> int:
    """The length of the first of as many even parts as `most` needs."""
    parts = max(1, -(-count // most))
    return max(1, -(-count // parts))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _by_tiles(p: Problem, whole_rows: bool) -> Prepared:
    structure = _structure(p)
    size = itemsize(structure.compute)
    rows, columns = tile_of(Target.host(), structure.compute)
    blocks = _blocking(p, rows, columns)
    if _is_scattered(p) and not blocks.pack_a:
        structure = replace(structure, scattered=True)
    in_a = _up(rows * blocks.kc * size, 64) if blocks.pack_a else 0
    deep = p.k.size if blocks.keep_b else blocks.kc
    in_b = _up(blocks.nc * deep * size, 64) if blocks.pack_b else 0
    in_c = _up(blocks.mc * blocks.nc * size, 64) if structure.sums_apart else 0
    regions = p.regions or p.as_region if structure.scattered else ()
    numbers = words_of(
        Word.GROUPS,
        (
            (Word.A_AT, p.a_at), (Word.B_AT, p.b_at), (Word.BATCH, p.batch.size),
            (Word.M, p.m.size), (Word.N, p.n.size), (Word.K, p.k.size),
            (Word.MC, blocks.mc), (Word.NC, blocks.nc), (Word.KC, blocks.kc),
            (Word.PACK_A, blocks.pack_a), (Word.PACK_B, blocks.pack_b),
            (Word.AHEAD, not blocks.pack_a and _is_prefetched(p)),
            (Word.C_ROW, p.m.step(1) * itemsize(p.out)),
            (Word.B_KEPT, blocks.nc * size if blocks.keep_b else 0),
            (Word.WHOLE_ROWS, whole_rows), (Word.REGIONS, len(regions)),
            (Word.B_BLOCK, in_a), (Word.C_BLOCK, in_a + in_b), (Word.SCRATCH, in_a + in_b + in_c),
        ),
        (
            (Word.BATCH_A, p.batch.words(0, p.a)), (Word.BATCH_B, p.batch.words(1, p.b)),
            (Word.BATCH_C, p.batch.words(2, p.out)),
            (Word.M_GROUP, p.m.words(0, p.a)), (Word.N_GROUP, p.n.words(0, p.b)),
            (Word.K_GROUP_A, p.k.words(0, p.a)), (Word.K_GROUP_B, p.k.words(1, p.b)),
            (Word.REGION_TABLE, table_of(regions, rows, itemsize(p.a))),
        ),
    )  # fmt: skip
    lanes = Target.host().lanes(size)
    vectors = p.batch.size * p.steps * -(-p.n.size // lanes)
    nanoseconds = (
        _NANOSECONDS + vectors / _VECTORS_PER_NANOSECOND + p.nbytes * _NANOSECONDS_PER_BYTE
    )
    tiles = p.batch.size * -(-p.m.size // rows) * -(-p.n.size // columns)
    return Prepared(
        address_of(structure.key, structure.write),
        numbers,
        nanoseconds,
        tasks_for(nanoseconds, max(1, tiles)),
        in_a + in_b + in_c,
    )
