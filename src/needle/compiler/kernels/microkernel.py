"""c (+)= a · b for a small tile of c that stays in registers, whatever the length of the sums.

The tile is `rows` by `vectors` vectors. Each step along k loads a row of b, spreads one element
of a after the other and multiplies and adds: outer products, as in Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication" (2008). Only rows of b need to lie
contiguously; a is read with any strides, so a packed panel and an operand in place are one code.

Windows of a picture have no such strides: tiles whose rows are *scattered* read where each row
begins, and go through k in the stretches that one step leads through, in all rows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER, TYPES, itemsize
from needle.compiler.value import Variable

__all__ = ["Tile", "heights", "multiply_add", "register_tile", "write_tile"]

# pointers a, b, c; length of the sum; bytes between rows of a, steps of a, steps of b, rows of c;
# whether to add to c; columns there are
_ARGUMENTS = (POINTER, POINTER, POINTER, I64, I64, I64, I64, I64, I64, I64)
# how many stretches instead of the length, no rows of a and c; behind the others: where each row
# begins, in bytes from a; of each stretch the bytes from there, those from b, and how many steps
# there are; where each row begins in bytes from c
_ARGUMENTS_IF_SCATTERED = (*_ARGUMENTS, POINTER, POINTER, POINTER)


@dataclass(frozen=True)
class Tile:
    """What a register tile depends on.

    dtype    of a, b and c as the tile sees them; a bool is a uint8 of 0 or 1
    rows     of c
    vectors  side by side in a row of c
    lanes    of a vector
    edge     whether columns may be missing: those are neither read nor written
    logical  whether sums are "any" and products "all"
    scattered  whether rows of a begin anywhere
    """

    dtype: str
    rows: int
    vectors: int
    lanes: int
    edge: bool
    logical: bool = False
    scattered: bool = False

    @property
    def name(self) -> str:
        """Its symbol."""
        return f"tile_{self.rows}x{self.vectors}x{self.lanes}{'_edge' if self.edge else ''}"


def register_tile(target: Target) -> tuple[int, int]:
    """Rows and vectors of a tile that leaves registers for a row of b and elements of a.

    Each vector of the result is a chain of additions; with more chains than the latency of one (4
    to 5) times the units that add (1 to 2), none waits.
    """
    return (12, 2) if target.vector_registers >= 32 else (6, 2)


def heights(rows: int) -> list[int]:
    """Heights of tiles that together make up any number of rows."""
    return [rows, 4, 2, 1] if rows > 4 else [rows, 2, 1]


def multiply_add(code: Code, a: Value, b: Value, c: Value, logical: bool) -> Value:
    """a · b + c; where `logical`, c or else both a and b."""
    if logical:
        return (a & b) | c
    return code.fma(a, b, c) if c.type.is_float else a * b + c


def _add(tile: Tile, a: Value, b: Value) -> Value:
    return a | b if tile.logical else a + b


def write_tile(module: Any, target: Target, tile: Tile) -> Code:
    """The function of `_ARGUMENTS` that computes one tile."""
    arguments = _ARGUMENTS_IF_SCATTERED if tile.scattered else _ARGUMENTS
    code = Code(module, tile.name, target, arguments)
    code.function.linkage = "internal"
    code.function.attributes.add("noinline")
    if tile.edge and not target.has_masks:
        _write_edge_by_copy(code, tile)
        return code
    masks: list[Value | None] = [None] * tile.vectors
    if tile.edge:
        numbers = range(tile.vectors * tile.lanes)
        columns = code.arguments[9]
        masks = [
            code.row(numbers[v * tile.lanes :][: tile.lanes], I64) < columns
            for v in range(tile.vectors)
        ]
    _prefetch(code, tile)
    sums = _zeros(code, tile)
    _accumulate(code, tile, sums, masks)
    _store(code, tile, sums, masks)
    code.finish()
    return code


def _prefetch(code: Code, tile: Tile) -> None:
    """Ask for the rows of c, so that they are there when the sums are."""
    last = tile.vectors * tile.lanes * itemsize(tile.dtype) - 1
    for i in range(tile.rows):
        for byte in range(0, last + 1, 64):
            code.prefetch(_row_of_c(code, tile, i) + byte, to_write=True)


def _row_of_c(code: Code, tile: Tile, i: Any) -> Value:
    """Where a row of c begins."""
    c, c_row = code.arguments[2], code.arguments[7]
    return c + (code.word(code.arguments[12], i) if tile.scattered else c_row * i)


def _store(code: Code, tile: Tile, sums: list[list[Variable]], masks: list[Value | None]) -> None:
    """c = sums, or c + sums."""
    adding = code.arguments[8]
    places = [
        (total, _row_of_c(code, tile, i), v * tile.lanes, masks[v])
        for i, row in enumerate(sums)
        for v, total in enumerate(row)
    ]
    with code.when(adding.differs(0)):
        for total, line, j, mask in places:
            before = code.load(line, tile.dtype, j, tile.lanes, mask)
            total.set(_add(tile, before, total.get()))
    for total, line, j, mask in places:
        code.store(total.get(), line, tile.dtype, j, mask)


def _zeros(code: Code, tile: Tile) -> list[list[Variable]]:
    zero = code.constant(0, TYPES[tile.dtype], tile.lanes)
    return [[code.variable(zero) for _ in range(tile.vectors)] for _ in range(tile.rows)]


def _accumulate(
    code: Code, tile: Tile, sums: list[list[Variable]], masks: list[Value | None]
) -> None:
    """Add a · b to the sums, one step along k after the other."""
    a, b, _, length, a_row, a_step, b_step = code.arguments[:7]
    if tile.scattered:
        _accumulate_scattered(code, tile, sums, masks)
        return
    b_at = code.variable(b)
    # addresses of every fourth row: the rows between are a base and an index to the processor
    quads = [code.variable(a + a_row * i) for i in range(0, tile.rows, 4)]
    with code.loop(0, length):
        rows = [quads[i // 4].get() + a_row * (i % 4) for i in range(tile.rows)]
        _add_step(code, tile, sums, masks, rows, b_at.get())
        b_at.set(b_at.get() + b_step)
        for quad in quads:
            quad.set(quad.get() + a_step)


def _accumulate_scattered(
    code: Code, tile: Tile, sums: list[list[Variable]], masks: list[Value | None]
) -> None:
    """The same, one stretch of k after the other."""
    a, b, _, count, _, a_step, b_step, *_, begins, along, _ = code.arguments
    rows = [a + code.word(begins, i) for i in range(tile.rows)]
    with code.loop(0, count) as number:
        first, skipped, length = [code.word(along, number * 3 + i) for i in range(3)]
        at, b_at = code.variable(first), code.variable(b + skipped)
        with code.loop(0, length):
            _add_step(code, tile, sums, masks, [row + at.get() for row in rows], b_at.get())
            b_at.set(b_at.get() + b_step)
            at.set(at.get() + a_step)


def _add_step(
    code: Code,
    tile: Tile,
    sums: list[list[Variable]],
    masks: list[Value | None],
    rows: list[Value],
    b: Value,
) -> None:
    """An outer product: the elements at `rows` with the row at b."""
    row_of_b = [
        code.load(b, tile.dtype, v * tile.lanes, tile.lanes, masks[v]) for v in range(tile.vectors)
    ]
    for place, row in zip(rows, sums, strict=True):
        x = code.load(place, tile.dtype).spread(tile.lanes)
        for y, total in zip(row_of_b, row, strict=True):
            total.set(multiply_add(code, x, y, total.get(), tile.logical))


def _write_edge_by_copy(code: Code, tile: Tile) -> None:
    """Without masks: all columns into a buffer (rows of b are padded), then those there are."""
    adding, columns = code.arguments[8:10]
    sums = _zeros(code, tile)
    _accumulate(code, tile, sums, [None] * tile.vectors)
    wide = tile.vectors * tile.lanes
    buffer = code.stack(tile.rows * wide * itemsize(tile.dtype))
    for i, totals in enumerate(sums):
        for v, total in enumerate(totals):
            code.store(total.get(), buffer, tile.dtype, i * wide + v * tile.lanes)
    with code.loop(0, tile.rows) as row, code.loop(0, columns) as j:
        new = code.load(buffer, tile.dtype, row * wide + j)
        line = _row_of_c(code, tile, row)

        def add() -> None:
            before = code.load(line, tile.dtype, j)
            code.store(_add(tile, before, new), line, tile.dtype, j)

        code.either(adding.differs(0), add, lambda: code.store(new, line, tile.dtype, j))
    code.finish()
