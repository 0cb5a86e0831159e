"""Axes of strided views: walked upwards, merged, and, at run time, from a number to a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I64, POINTER

__all__ = ["Axis", "Walker", "merge", "round_up", "row_major", "take", "upwards"]


class Axis(NamedTuple):
    """An axis: extent, stride in the input, stride in the output (0 where it is reduced)."""

    extent: int
    stride: int
    out_stride: int = 0


def row_major(shape: Sequence[int]) -> list[int]:
    """The strides of a compact array, in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return strides[::-1]


def upwards(axes: Iterable[Axis]) -> tuple[list[Axis], int, int]:
    """The same axes with no negative stride in the input, and where both sides begin then."""
    turned, begin, out_begin = [], 0, 0
    for axis in axes:
        extent, stride, out_stride = axis
        if stride < 0:
            begin += (extent - 1) * stride
            out_begin += (extent - 1) * out_stride
            axis = Axis(extent, -stride, -out_stride)
        turned.append(axis)
    return turned, begin, out_begin


def merge(axes: Iterable[Axis]) -> list[Axis]:
    """The same walk along as few axes as can be; those of extent 1 are dropped."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        last = merged[-1] if merged else None
        if last and last[1:] == (axis.stride * axis.extent, axis.out_stride * axis.extent):
            merged[-1] = axis._replace(extent=last.extent * axis.extent)
        else:
            merged.append(axis)
    return merged


def take(axes: list[Axis], key: Callable[[Axis], Any]) -> Axis:
    """The axis with the largest key, taken out of the list; of none, one of extent 1."""
    if not axes:
        return Axis(1, 0, 0)
    chosen = max(axes, key=key)
    axes.remove(chosen)
    return chosen


def round_up(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step


class Walker:
    """A function of a module that takes a position in a row of axes apart."""

    def __init__(self, module: Any, target: Target) -> None:
        code = Code(module, "walk", target, (POINTER, I64, I64, POINTER, I64))
        code.function.attributes.add("noinline")
        code.function.linkage = "internal"
        table, axes, index, sums, steps = code.arguments
        rest = code.variable(index)
        with code.loop(0, axes) as axis:
            row = code.offset(table, (axes - 1 - axis) * (steps + 1) * 8)
            extent = code.word(row, 0)
            place = rest.get() % extent
            rest.set(rest.get() // extent)
            with code.loop(0, steps) as i:
                code.set_word(sums, i, code.word(sums, i) + place * code.word(row, i + 1))
        code.finish()
        self._function = code.function

    def sums(self, code: Code, table: Value, axes: Value, index: Value, steps: int) -> list[Value]:
        """What a position steps over.

        table: for each axis, outermost first, its extent and what a step along it adds to each of
        the `steps` sums
        """
        memory = code.stack(8 * steps)
        for i in range(steps):
            code.set_word(memory, i, 0)
        operands = [x.ir for x in (table, axes, index, memory)]
        code.builder.call(self._function, [*operands, I64.ir(steps)])
        return [code.word(memory, i) for i in range(steps)]
