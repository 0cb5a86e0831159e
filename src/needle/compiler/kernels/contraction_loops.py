"""The loops around the register tile: shares, blocks for the caches, panels, edges.

    for each share of the rows (of all batches) and columns             one task
      for each NC columns, MC rows, KC steps of k                       a block
        pack a and b, where that pays
        for each panel of a, for each panel of b                        a tile of c

The blocks of a, KC x MC, and of b, KC x NC, stay in the second-level cache, a panel of a in the
first. Each block of c is summed over all k before the next: k is cut in the same places
whatever the shares are, so that they do not show in the bits of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.kernels.fused_loops import Region
from needle.compiler.kernels.microkernel import Tile, heights, register_tile, write_tile
from needle.compiler.kernels.packing import (
    Pack,
    offset_of,
    write_list_offsets,
    write_offset_of,
    write_pack,
)
from needle.compiler.kernels.region_walk import STRETCH, RegionWalk, write_lists
from needle.compiler.target import Target
from needle.compiler.types import I64, STORED_AS_HALF, itemsize

__all__ = ["TAIL", "TAIL_CONTEXT", "Structure", "Word", "tile_of"]

# Words of the context: a kernel that is called on each panel of c as soon as its sums are complete,
# and its context; 0: none. It takes (context, address of a region, 0): see `fused_loops.Region`.
TAIL, TAIL_CONTEXT = 14, 15

# Copying an element into a panel costs about as much as this many multiply-adds in a tile.
_PACKING_COST = 8


class Word(IntEnum):
    """The kernel's numbers. Strides are in bytes; X_GROUP is where that group's words begin."""

    A_AT, B_AT = 0, 1  # which pointer of the call is a's, and which b's
    BATCH, M, N, K = 2, 3, 4, 5
    MC, NC, KC = 6, 7, 8
    PACK_A, PACK_B = 9, 10  # 1 or 0; a b that is not packed has one stride for each group
    C_ROW = 11
    SCRATCH, B_BLOCK, C_BLOCK = 12, 13, 14  # bytes per task; where blocks of b and c begin in them
    BATCH_A, BATCH_B, BATCH_C = 15, 16, 17
    M_GROUP, N_GROUP, K_GROUP_A, K_GROUP_B = 18, 19, 20, 21  # of scattered rows, regions have m's
    AHEAD = 22  # whether to ask for a's next panel while one is used: 1 or 0
    B_KEPT = 23  # bytes of a step of k, if packed blocks of b stay until all rows are done; else 0
    WHOLE_ROWS = 24  # whether no two tasks share a row: 1 or 0
    ADDS = 25  # whether to add to what is there: 1 or 0
    REGIONS, REGION_TABLE = 26, 27  # how many, and where their words begin; see `region_walk`
    GROUPS = 28  # from here on


def tile_of(target: Target, dtype: str) -> tuple[int, int]:
    """Rows and columns of the register tile for a computation in `dtype`."""
    rows, vectors = register_tile(target)
    return rows, vectors * target.lanes(itemsize(dtype))


@dataclass(frozen=True)
class Structure:
    """What the code depends on: the dtypes of both operands and of the result, and a's rows.

    scattered  whether tiles read rows of a where they lie, with a stride for no group; else a is
               packed, or read in place with one stride for each group
    """

    a: str
    b: str
    out: str
    scattered: bool = False

    @property
    def compute(self) -> str:
        """The dtype of panels and sums."""
        if self.out == "bool":
            return "uint8"
        return "float32" if self.out in STORED_AS_HALF else self.out

    @property
    def key(self) -> str:
        """Names the kernel."""
        return f"{'windows' if self.scattered else 'contraction'} {self.a} {self.b} {self.out}"

    @property
    def sums_apart(self) -> bool:
        """Whether sums need a place of their own until they are complete."""
        return self.out in STORED_AS_HALF

    def write(self, module: Any, target: Target) -> None:
        """The kernel and the functions it calls."""
        _Writer(module, target, self).write()


class _Writer:
    """One kernel being written."""

    def __init__(self, module: Any, target: Target, structure: Structure) -> None:
        self.module, self.target, self.structure = module, target, structure
        self.rows, self.columns = tile_of(target, structure.compute)
        self.size = itemsize(structure.compute)
        self.lanes = target.lanes(self.size)

    def write(self) -> None:
        write_offset_of(self.module, self.target)
        write_list_offsets(self.module, self.target)
        s = self.structure
        self.pack_a = Pack(s.a, s.compute, self.columns)
        self.pack_b = Pack(s.b, s.compute, self.columns)
        for pack in {self.pack_a, self.pack_b}:
            write_pack(self.module, self.target, pack)
        if s.scattered:
            write_lists(self.module, self.target)
        for height in heights(self.rows):
            for vectors, edge in self.variants(height):
                write_tile(self.module, self.target, self.tile(height, vectors, edge))
        self.code = Code(self.module, "kernel", self.target)
        self.read_context()
        code = self.code
        some = (self.batch * self.m * self.n) > 0
        with code.when(some):
            self.share_of_rows()
        code.finish()

    def variants(self, height: int) -> list[tuple[int, bool]]:
        """Vectors, and whether it is for edges: the tiles of that height.

        Where there are masks, low tiles have them always: less code.
        """
        whole = [] if self.target.has_masks and height < self.rows else [(2, False)]
        return [*whole, (2, True), (1, True)]

    def tile(self, height: int, vectors: int, edge: bool) -> Tile:
        s = self.structure
        return Tile(s.compute, height, vectors, self.lanes, edge, s.out == "bool", s.scattered)

    def word(self, number: int) -> Value:
        return self.code.word(self.numbers, number)

    def group(self, number: Word) -> Value:
        """The address of a group's words."""
        return self.numbers + self.word(number) * 8

    def read_context(self) -> None:
        code = self.code
        context, self.task, self.tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        places = self.word(Word.A_AT), self.word(Word.B_AT), 3
        self.a, self.b, self.c = [code.pointer_at(context, place) for place in places]
        self.scratch = code.pointer_at(context, 13) + self.task * self.word(Word.SCRATCH)
        self.block_b = self.scratch + self.word(Word.B_BLOCK)
        self.block_c = self.scratch + self.word(Word.C_BLOCK)
        self.batch, self.m, self.n, self.k = [
            self.word(i) for i in (Word.BATCH, Word.M, Word.N, Word.K)
        ]
        self.packs_a = self.word(Word.PACK_A).differs(0)
        self.packs_b = self.word(Word.PACK_B).differs(0)
        self.tail, self.tail_context = [code.pointer_at(context, i) for i in (TAIL, TAIL_CONTEXT)]
        self.region = code.stack(8 * len(Region))
        self.continued = code.constant(0, I64)
        if self.structure.scattered:
            table, count = self.group(Word.REGION_TABLE), self.word(Word.REGIONS)
            self.walk = RegionWalk(code, table, count, self.rows)

    # -- shares --------------------------------------------------------------------------------

    def share_of_rows(self) -> None:
        """Rows of all batches are one range of panels; each task has a part of it."""
        code, scattered = self.code, self.structure.scattered
        panels = self.walk.panels if scattered else (self.m + (self.rows - 1)) // self.rows
        work = self.walk.cost if scattered else panels
        across = self.tasks_across(self.batch * panels)
        begin, end = code.share(self.batch * work, self.task // across, self.tasks // across)
        start, stop = code.share(self.n, self.task % across, across, self.columns)
        with code.loop(begin // work, (end + work - 1) // work) as batch:
            first, last = (
                code.maximum(begin - batch * work, 0),
                code.minimum(end - batch * work, work),
            )
            if scattered:
                first, last = self.walk.panel_at(first), self.walk.panel_at(last)
            a, b, c = [
                pointer + offset_of(code, self.group(group), batch)
                for pointer, group in (
                    (self.a, Word.BATCH_A),
                    (self.b, Word.BATCH_B),
                    (self.c, Word.BATCH_C),
                )
            ]
            self.first_row, self.first_panel = batch * self.m, batch * panels
            stop_at = last * self.rows
            if not scattered:
                stop_at = code.minimum(stop_at, self.m)
            self.blocks(a, b, c, (first * self.rows, stop_at), (start, stop))

    def tasks_across(self, panels: Value) -> Value:
        """How many tasks share a row: the divisor of `tasks` with the smallest largest share."""
        code = self.code
        best = code.variable(code.constant(1, I64))
        least = code.variable(code.constant((1 << 63) - 1, I64))
        columns = (self.n + (self.columns - 1)) // self.columns
        shared = (self.tasks > 1) & self.word(Word.WHOLE_ROWS).equals(0)
        with code.when(shared), code.loop(1, self.tasks + 1) as across:
            down = self.tasks // across
            height = ((panels + down - 1) // down) * self.rows
            width = ((columns + across - 1) // across) * self.columns
            cost = height * width + (height + width) * _PACKING_COST
            with code.when((down * across).equals(self.tasks) & (cost < least.get())):
                least.set(cost)
                best.set(across)
        return best.get()

    # -- blocks --------------------------------------------------------------------------------

    def blocks(
        self, a: Value, b: Value, c: Value, rows: tuple[Value, Value], columns: tuple[Value, Value]
    ) -> None:
        """Walk a share of one batch block by block."""
        code, out = self.code, itemsize(self.structure.out)
        mc, nc, kc = [self.word(i) for i in (Word.MC, Word.NC, Word.KC)]
        steps = code.maximum((self.k + kc - 1) // kc, 1)
        with code.loop(*columns, nc) as j, code.loop(*rows, mc) as i:
            height, width = code.minimum(mc, rows[1] - i), code.minimum(nc, columns[1] - j)
            line = c + j * out
            place = line + i * self.word(Word.C_ROW)
            with code.loop(0, steps) as step:
                k = step * kc
                depth = code.minimum(kc, self.k - k)
                # if all of k is packed at a time, then once for all rows
                kept = self.word(Word.B_KEPT)
                self.packed_b = self.block_b + k * kept
                again = (steps > 1) & kept.equals(0)
                with code.when(self.packs_b & (again | i.equals(rows[0])) & (depth > 0)):
                    self.pack_block(b, (j, width), (k, depth))
                self.is_last = (step + 1).equals(steps)
                begin = line if self.structure.scattered else place  # a row knows its own place
                self.block(a, b, begin, (i, height), (j, width), (k, depth))
            if self.structure.sums_apart:
                self.store_sums(place, code.minimum(height, self.m - i), width)

    def pack_block(self, b: Value, across: tuple[Value, Value], along: tuple[Value, Value]) -> None:
        """All panels of a block of b."""
        code, wide = self.code, self.columns
        start, count = across
        groups = self.group(Word.N_GROUP), self.group(Word.K_GROUP_B)
        with code.loop(0, count, wide) as j:
            width = code.minimum(count - j, wide)
            to = self.packed_b + j * along[1] * self.size
            next_k = code.constant(wide * self.size, I64)
            code.call(self.pack_b.name, None, b, *groups, start + j, width, *along, to, next_k)

    def block(
        self,
        a: Value,
        b: Value,
        c: Value,
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
        along: tuple[Value, Value],
    ) -> None:
        """Multiply all rows of a by a block of b, wherever that lies, a panel of a at a time."""
        code, size = self.code, self.size
        k, depth = along
        b_step = self.stride(Word.K_GROUP_B)
        b_in_place = b + (columns[0] * size + k * b_step)
        self.b_from = code.select(self.packs_b, self.packed_b, b_in_place)
        self.b_next = code.select(self.packs_b, depth * size, size)  # from column to column
        self.b_step = code.select(self.packs_b, self.columns * size, b_step)
        self.c_row = self.word(Word.C_ROW)
        if self.structure.sums_apart:
            c, self.c_row = self.block_c, self.word(Word.NC) * size
        self.adding = code.select(k > 0, code.constant(1, I64), self.word(Word.ADDS))
        first, count = rows
        if self.structure.scattered:
            self.scattered_panels(a, c, (first, count), columns, along)
            return
        self.length = depth
        with code.loop(0, count, self.rows) as i:
            height = code.minimum(count - i, self.rows)
            panel = self.panel_of_a(a, (first + i, height), along)
            self.rows_of_tiles(panel, c + i * self.c_row, height, columns[1])
            with code.when(self.has_tail_now):
                self.slot = self.first_panel + (first + i) // self.rows
                self.finish(self.first_row + first + i, height, *columns)

    def scattered_panels(
        self,
        a: Value,
        c: Value,
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
        along: tuple[Value, Value],
    ) -> None:
        """The panels of a block, whose rows lie anywhere, in a and in c."""
        code, walk, (first, count) = self.code, self.walk, rows
        more = code.select(self.word(Word.AHEAD).differs(0), self.rows, code.constant(0, I64))
        self.a_row, self.a_step = code.constant(0, I64), self.stride(Word.K_GROUP_A)
        walk.begin()
        with code.loop(0, count, self.rows) as i:
            panel = (first + i) // self.rows
            walk.reach(panel, self.group(Word.K_GROUP_A), along, self.b_step)
            before, height = walk.rows_of(panel, more)
            walk.place_rows(i, height, self.c_row, self.structure.sums_apart)
            self.length = walk.length
            self.prefetch_rows(a + before, height)
            with code.when((self.length > 0) | self.adding.equals(0)):
                self.rows_of_tiles(a + before, c, height, columns[1])
            with code.when(self.has_tail_now):
                self.slot = self.first_panel + panel
                self.finish_rows(height, *columns)

    @property
    def has_tail_now(self) -> Value:
        """Whether there is a tail, and sums are complete."""
        return ~self.code.is_null(self.tail) & self.is_last

    def finish_rows(self, height: Value, column: Value, width: Value) -> None:
        """Have the tail go on with the rows of a panel, as many as follow each other at a time."""
        code, numbers = self.code, self.walk.numbers
        done = code.variable(code.constant(0, I64))
        with code.repeat_while(lambda: done.get() < height):
            row = code.word(numbers, done.get())
            stop = code.variable(done.get() + 1)

            def follows() -> Value:
                inside = stop.get() < height
                place = code.select(inside, stop.get(), 0)
                return inside & (code.word(numbers, place) - row).equals(stop.get() - done.get())

            with code.repeat_while(follows):
                stop.set(stop.get() + 1)
            self.continued = code.select(done.get() > 0, code.constant(1, I64), 0)
            self.finish(self.first_row + row, stop.get() - done.get(), column, width)
            done.set(stop.get())

    def finish(self, row: Value, height: Value, column: Value, width: Value) -> None:
        """Have the tail go on with rows of c, which lie in the first-level cache now."""
        code = self.code
        words = row, row + height, column, column + width, self.task, self.slot, self.continued
        for place, word in zip(Region, words, strict=True):
            code.set_word(self.region, place, word)
        region = code.wrap(code.builder.ptrtoint(self.region.ir, I64.ir), I64)
        code.call_pointer(self.tail, self.tail_context, region, code.constant(0, I64))

    def panel_of_a(
        self, a: Value, across: tuple[Value, Value], along: tuple[Value, Value]
    ) -> Value:
        """The address of a panel of a: packed just now, or in place."""
        code = self.code
        row, step = [self.stride(group) for group in (Word.M_GROUP, Word.K_GROUP_A)]
        with code.when(self.packs_a & (along[1] > 0)):
            groups = self.group(Word.M_GROUP), self.group(Word.K_GROUP_A)
            next_k = code.constant(self.rows * self.size, I64)
            code.call(self.pack_a.name, None, a, *groups, *across, *along, self.scratch, next_k)
        self.a_row = code.select(self.packs_a, self.size, row)
        self.a_step = code.select(self.packs_a, self.rows * self.size, step)
        in_place = a + (across[0] * row + along[0] * step)
        with code.when(self.word(Word.AHEAD).differs(0)):
            self.prefetch(in_place + row * self.rows, row, along[1] * self.size)
        return code.select(self.packs_a, self.scratch, in_place)

    def prefetch_rows(self, a: Value, height: Value) -> None:
        """Ask for the last stretch of the rows behind those of a panel."""
        code, walk = self.code, self.walk
        last = walk.stretches + (self.length - 1) * STRETCH
        ahead = self.word(Word.AHEAD).differs(0) & (self.length > 0)
        with code.when(ahead), code.loop(height, walk.noted) as i:
            first = a + (code.word(walk.begins, i) + code.word(last, 0))
            with code.loop(0, code.word(last, 2) * self.size, 64) as byte:
                code.prefetch(first + byte)

    def prefetch(self, panel: Value, row: Value, nbytes: Value) -> None:
        """Ask for a panel of a in place: what the processor foresees ends with each short row."""
        code = self.code
        with code.loop(0, self.rows) as i, code.loop(0, nbytes, 64) as byte:
            code.prefetch(panel + (row * i + byte))

    def stride(self, group: Word) -> Value:
        """Of a group's innermost axis."""
        return self.code.word(self.group(group), 2)

    # -- tiles ---------------------------------------------------------------------------------

    def rows_of_tiles(self, a: Value, c: Value, height: Value, width: Value) -> None:
        """All tiles that a panel of a has a part in; a lower panel is made up of lower tiles."""
        code, first = self.code, self.code.constant(0, I64)
        c_row = code.constant(0, I64) if self.structure.scattered else self.c_row

        def lower() -> None:
            done = first
            for rows in heights(self.rows)[1:]:
                stop = (height // rows) * rows
                with code.loop(done, stop, rows) as i:
                    self.row_of_tiles(rows, a, i, c + i * c_row, width)
                done = stop

        code.either(
            height.equals(self.rows),
            lambda: self.row_of_tiles(self.rows, a, first, c, width),
            lower,
        )

    def row_of_tiles(self, height: int, a: Value, first: Value, c: Value, width: Value) -> None:
        """Tiles next to each other, from row `first` of a panel on; the last may be narrower."""
        code = self.code
        full = (width // self.columns) * self.columns
        rest = width - full
        lists = []
        if self.structure.scattered:
            walk = self.walk
            lists = [walk.begins + first * 8, walk.stretches, walk.places + first * 8]
        else:
            a = a + first * self.a_row

        def call(vectors: int, edge: bool, j: Value, columns: Value) -> None:
            name = self.tile(height, vectors, edge).name
            b, place = self.b_from + j * self.b_next, c + j * self.size
            steps = self.a_row, self.a_step, self.b_step, self.c_row
            numbers = self.length, *steps, self.adding, columns
            code.call(name, None, a, b, place, *numbers, *lists)

        whole_is_edge = (2, False) not in self.variants(height)
        with code.loop(0, full, self.columns) as j:
            call(2, whole_is_edge, j, width - j)
        with code.when(rest > 0):
            code.either(
                rest <= self.lanes,
                lambda: call(1, True, full, rest),
                lambda: call(2, True, full, rest),
            )

    def store_sums(self, place: Value, height: Value, width: Value) -> None:
        """Round the sums of a block into the result."""
        code, s = self.code, self.structure
        row = self.word(Word.NC) * self.size
        with code.loop(0, height) as i:
            line, to = self.block_c + i * row, place + i * self.word(Word.C_ROW)

            def convert(j: Value, lanes: int, mask: Value | None) -> None:
                x = code.load(line, s.compute, j, lanes, mask)
                code.store(x, to, s.out, j, mask)

            code.strip(code.constant(0, I64), width, self.lanes, convert)
