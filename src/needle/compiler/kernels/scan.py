"""Running sums along one axis, in its order, as NumPy adds them.

Each sum depends on the one before: what is left for vectors is the other axes, where they have
neighbouring elements on both sides. Otherwise one sum runs after the other.
"""

from __future__ import annotations

import math
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.kernels.axes import Axis, Walker, merge, round_up, row_major, take, upwards
from needle.compiler.kernels.monoid import Monoid
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import itemsize

__all__ = ["prepare", "writer"]

_WORDS = (
    "units", "length", "stride", "out_stride", "inner", "inner_stride", "inner_out", "grain",
    "axes", "begin", "out_begin",
)  # fmt: skip
_STEPS = ("x", "place", "first")
_OPERATIONS = {"cumsum": "sum"}
_UNIT = 16_384  # elements worth a unit of work of their own


def prepare(name: str, x: Operand, axis: int, out: Operand) -> Prepared:
    """out[i] = x[0] + ... + x[i] along `axis`; `name` is cumsum.

    x    any strides; converted to what `out` is computed in: float16 is summed in float32
    out  x's shape, row-major
    """
    source, result = str(x.dtype), str(out.dtype)
    axes = [Axis(*a) for a in zip(x.shape, x.strides, row_major(x.shape), strict=True)]
    run = axes.pop(axis)
    axes, begin, out_begin = upwards(axes)
    kept = merge(axes)
    columns = any(a.stride == a.out_stride == 1 for a in kept)
    inner = take(kept, lambda a: (columns and a.stride == a.out_stride == 1, a.extent))
    grain = round_up(max(1, _UNIT // max(1, run.extent)), 64)
    blocks = -(-inner.extent // grain)
    units = math.prod(a.extent for a in kept) * blocks
    table = [n for a in kept for n in (*a, 0)] + [blocks, 0, 0, grain]
    words = (units, *run, *inner, grain, len(kept) + 1, begin, out_begin, *table)

    key = f"{name} {'columns' if columns else 'rows'} {source} to {result}"
    nanoseconds = 100.0 + math.prod(x.shape) * (0.3 if columns else 1.2)
    return Prepared(
        build.address_of(key, writer(name, columns, source, result)),
        words,
        nanoseconds,
        tasks_for(nanoseconds, at_most=max(1, units)),
    )


def writer(name: str, columns: bool, source: str, result: str) -> build.Writer:
    """What writes the kernel: with vectors across columns, or for one sum after the other."""
    monoid = Monoid(_OPERATIONS[name], source, result)
    return lambda module, target: _Kernel(module, target, monoid, source, columns).write()


class _Kernel:
    """The kernel of one class of layout, being written."""

    def __init__(
        self, module: Any, target: Target, monoid: Monoid, source: str, columns: bool
    ) -> None:
        self.walker = Walker(module, target)
        self.code = code = Code(module, build.ENTRY, target)
        self.monoid, self.source, self.columns = monoid, source, columns
        self.size, self.out_size = itemsize(source), itemsize(monoid.result)
        context, self.task, self.tasks = code.arguments
        self.numbers = code.pointer_at(context, 0)
        self.x, self.out = code.pointer_at(context, 1), code.pointer_at(context, 2)
        self.word = {word: code.word(self.numbers, i) for i, word in enumerate(_WORDS)}

    def write(self) -> None:
        """The whole function."""
        code, word = self.code, self.word
        table = code.offset(self.numbers, 8 * len(word))
        begin, end = code.share(word["units"], self.task, self.tasks)
        lanes = code.target.lanes(self.monoid.type.itemsize) if self.columns else 1
        with code.loop(begin, end) as unit:
            x, place, first = self.walker.sums(code, table, word["axes"], unit, len(_STEPS))
            source = code.offset(self.x, (word["begin"] + x) * self.size)
            target = code.offset(self.out, (word["out_begin"] + place) * self.out_size)
            last = code.minimum(first + word["grain"], word["inner"])

            def run(i: Value, n: int, mask: Value | None) -> None:
                begin = code.offset(source, i * word["inner_stride"] * self.size)
                end = code.offset(target, i * word["inner_out"] * self.out_size)
                self._run(begin, end, n, mask)

            code.strip(first, last, lanes, run)
        code.finish()

    def _run(self, source: Value, target: Value, lanes: int, mask: Value | None) -> None:
        """The running sums of as many neighbours as there are lanes."""
        code, word = self.code, self.word
        step, out_step = word["stride"] * self.size, word["out_stride"] * self.out_size
        zero = -0.0 if self.monoid.type.is_float else 0  # to which -0.0 adds up to -0.0
        total = code.variable(code.constant(zero, self.monoid.type, lanes))
        with code.loop(0, word["length"]) as i:
            x = code.load(code.offset(source, i * step), self.source, 0, lanes, mask)
            x = self.monoid.take(code, x)
            total.set(self.monoid.combine(code, total.get(), x))
            place = code.offset(target, i * out_step)
            code.store(self.monoid.give(total.get()), place, self.monoid.result, 0, mask)
