"""How a reduction walks its input: from shape and strides to a class of layout and numbers.

Axes that lie one behind the other in memory merge, and all are walked upwards. What is left is

    kept axes      `inner`, which a kernel walks in vectors, and outer ones
    reduced axes   `run`, the innermost loop, and outer ones

and the class says which of them has neighbouring elements:

    columns    inner: vectors along it, down the reduced axes
    narrow     inner, but a vector is longer: vectors of whole runs, whose steps leave no gap
    rows       run: one output at a time, vectors along the run
    short      run, but it is short: as many outputs at a time as a vector has lanes
    strided    neither; as columns, or (`strided_rows`) as rows where nothing is kept

An output that takes long is cut into chunks, whose results meet in a second step; where the cuts
lie follows from the shape alone, and so does every bit of the result.
"""

from __future__ import annotations

import math

from needle.compiler.kernels.axes import Axis, merge, round_up, row_major, take, upwards
from needle.compiler.prepared import Operand

__all__ = ["CHAIN", "FEW", "MOST_LEAVES", "ROWS", "STEPS", "UNROLL", "WIDE", "WORDS", "Walk"]

# The run-time numbers of a kernel. The axes follow that units are counted along, each with its
# extent and what a step changes, as STEPS says; then the outer reduced axes: extents and strides.
WORDS = (
    "outputs", "row", "units", "chunks", "inner", "inner_stride", "inner_out", "grain", "runs",
    "length", "run_stride", "chunk_runs", "chunk_length", "leaf_runs", "leaf", "begin", "out_begin",
    "axes", "reduced",
)  # fmt: skip
STEPS = ("x", "place", "first", "run", "element", "chunk")


# Elements summed one after the other into a lane before a partial result joins the cascade. Its
# rounding errors stay below those of a pairwise sum's last steps.
CHAIN = 64
# The cascade has levels for so many leaves; longer leaves where they were not enough.
MOST_LEAVES = 1 << 24
# Vectors of columns, rows of them, and vectors of a row, that are walked together.
WIDE, ROWS, UNROLL = 16, 4, 8
# Lanes at most where each is a vector, or a load, of its own.
FEW = 16
# Elements worth a unit of work of their own; and a chunk of one output.
_UNIT, _CHUNK, _MOST_CHUNKS = 16_384, 32_768, 64


class Walk:
    """The walk of one reduction.

    x        dtype, shape and strides
    axes     those that are reduced
    lanes    how many elements a vector holds
    repeats  whether elements that repeat (stride 0) count; they do not in a maximum
    """

    kept: list[Axis]  # outer axes, once `inner` and `run` are taken out
    reduced: list[Axis]

    def __init__(self, x: Operand, axes: tuple[int, ...], lanes: int, repeats: bool) -> None:
        self.lanes = lanes
        self._split(x, axes, repeats)
        self.outputs = math.prod(a.extent for a in self.kept)
        self.kind = self._kind()
        self.inner = take(self.kept, self._is_inner)
        self.run = take(self.reduced, self._is_run)
        self.runs = math.prod(a.extent for a in self.reduced)
        if self.runs * self.run.extent == 0:
            # one empty run, which gives the identity
            self.run, self.reduced, self.runs = Axis(0, 0), [], 1
        self.elements = self.outputs * self.runs * self.run.extent
        self.row = round_up(self.outputs, lanes)
        self._cut_outputs()
        self._cut_leaves()
        self._cut_chunks()

    def _split(self, x: Operand, axes: tuple[int, ...], repeats: bool) -> None:
        """Kept and reduced axes, merged; where the input and the output begin."""
        numbers = [i for i in range(len(x.shape)) if i not in axes]
        outputs = row_major([x.shape[i] for i in numbers])
        kept = [Axis(x.shape[i], x.strides[i], s) for i, s in zip(numbers, outputs, strict=True)]
        reduced = [Axis(x.shape[i], x.strides[i]) for i in axes]
        if not repeats:
            reduced = [a if a.stride else Axis(min(a.extent, 1), 0) for a in reduced]
        kept, begin, self.out_begin = upwards(kept)
        reduced, more, _ = upwards(reduced)
        self.begin = begin + more
        self.kept = merge(kept)
        self.reduced = merge(sorted(reduced, key=lambda a: -a.stride))

    def _kind(self) -> str:
        most = max((a.extent for a in self.kept), default=1)
        lengths = [a.extent for a in self.reduced if a.stride == 1]
        if lengths:
            few = lengths[0] > CHAIN * self.row_lanes or 2 * most <= self.row_lanes
            return "rows" if few else "short"
        columns = [a.extent for a in self.kept if a.stride == 1]
        if columns:
            gapless = columns[0] in [a.stride for a in self.reduced]
            return "narrow" if gapless and columns[0] < self.row_lanes else "columns"
        return "strided" if most > 1 else "strided_rows"

    def _is_inner(self, axis: Axis) -> tuple[bool, int, int]:
        """Of the kept axes, the one where this is largest is walked in vectors."""
        of_columns = self.kind in ("columns", "narrow")
        return of_columns and axis.stride == 1, axis.extent, -axis.stride

    def _is_run(self, axis: Axis) -> tuple[bool, int, int]:
        """Of the reduced axes, the one where this is largest is the innermost loop."""
        if self.kind == "narrow":
            return axis.stride == self.inner.extent, axis.extent, 0
        return self.kind in ("rows", "short") and axis.stride == 1, axis.extent, -axis.stride

    @property
    def row_lanes(self) -> int:
        """Lanes of the classes narrow, short and strided."""
        return min(self.lanes, FEW)

    @property
    def tile(self) -> int:
        """Outputs that are computed together."""
        if self.kind == "columns":
            return self.lanes * WIDE
        return self.row_lanes if self.kind in ("narrow", "short", "strided") else 1

    def _cut_outputs(self) -> None:
        """Units of work: blocks of `grain` outputs along the inner axis."""
        each = max(1, self.runs * self.run.extent)
        self.grain = round_up(max(1, _UNIT // each), self.tile)
        self.blocks = -(-self.inner.extent // self.grain)
        self.units = math.prod(a.extent for a in self.kept) * self.blocks

    def _cut_leaves(self) -> None:
        """Leaves of `leaf_runs` runs by `leaf` elements: about CHAIN steps for an accumulator."""
        length = max(1, self.run.extent)
        if self.kind in ("columns", "strided"):
            whole = single = 1  # or ROWS at a time, which makes the chain shorter
        elif self.kind in ("narrow", "short"):
            whole = single = self.row_lanes
        else:
            whole, single = self.lanes * UNROLL, self.lanes
        self.leaf = CHAIN * whole
        steps = -(-length // (whole if length >= whole else single))
        self.leaf_runs = max(1, CHAIN // steps)
        while (self.runs // self.leaf_runs + 1) * (length // self.leaf + 1) >= MOST_LEAVES:
            self.leaf_runs, self.leaf = 2 * self.leaf_runs, 2 * self.leaf

    def _cut_chunks(self) -> None:
        """Chunks of runs, or of elements of a run, if few units are to do much."""
        self.chunk_runs, self.chunk_length = self.runs, max(1, self.run.extent)
        wanted = min(_MOST_CHUNKS, self.elements // _CHUNK) // max(1, self.units)
        if wanted > 1 and self.runs >= min(wanted, self.run.extent):
            self.chunk_runs = round_up(-(-self.runs // wanted), self.leaf_runs)
        elif wanted > 1:
            self.chunk_length = round_up(-(-self.run.extent // wanted), self.leaf)
        self.chunks_of_run = max(1, -(-self.run.extent // self.chunk_length))
        self.chunks_of_runs = -(-self.runs // self.chunk_runs)
        self.chunks = self.chunks_of_runs * self.chunks_of_run

    def _unit_axes(self) -> list[dict[str, int]]:
        """The axes that units are counted along: outer ones, blocks of the inner one, chunks."""
        outer = [{"extent": a.extent, "x": a.stride, "place": a.out_stride} for a in self.kept]
        return [
            *outer,
            {"extent": self.blocks, "first": self.grain},
            {"extent": self.chunks_of_runs, "run": self.chunk_runs, "chunk": self.chunks_of_run},
            {"extent": self.chunks_of_run, "element": self.chunk_length, "chunk": 1},
        ]

    def numbers(self) -> tuple[int, ...]:
        """The run-time words of a kernel, as WORDS and STEPS name them."""
        axes = [a for a in self._unit_axes() if a["extent"] != 1]
        words = {
            **self.__dict__, "units": self.units * self.chunks, "length": self.run.extent,
            "inner": self.inner.extent, "inner_stride": self.inner.stride,
            "inner_out": self.inner.out_stride, "run_stride": self.run.stride,
            "axes": len(axes), "reduced": len(self.reduced),
        }  # fmt: skip
        return (
            *(words[word] for word in WORDS),
            *(axis.get(word, 0) for axis in axes for word in ("extent", *STEPS)),
            *(number for axis in self.reduced for number in axis[:2]),
        )
