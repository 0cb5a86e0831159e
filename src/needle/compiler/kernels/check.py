"""The kernel that looks whether all elements of a view of bools are true."""

from __future__ import annotations

from math import prod
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code
from needle.compiler.kernels.axes import Axis, merge, upwards
from needle.compiler.prepared import Operand, Prepared
from needle.compiler.target import Target

__all__ = ["prepare"]


def prepare(x: Operand) -> Prepared:
    """Sets word 14 of the context to 1 unless all elements of x are true. Pointer 1 is x.

    x: bools, in one piece: elements row by row, or one that repeats
    """
    assert str(x.dtype) == "bool"
    axes, begin, _ = upwards([Axis(n, step) for n, step in zip(x.shape, x.strides, strict=True)])
    merged = merge(sorted(axes, key=lambda axis: -axis.stride)) or [Axis(1, 1)]
    assert len(merged) == 1 and merged[0].stride == 1 and not begin, "a compact view"
    address = build.address_of("check", _write)
    return Prepared(address, (prod(x.shape),), 2.0 + prod(x.shape) * 0.3)


def _write(module: Any, target: Target) -> None:
    code = Code(module, build.ENTRY, target)
    context = code.arguments[0]
    count = code.word(code.pointer_at(context, 0), 0)
    x = code.pointer_at(context, 1)
    with code.loop(0, count) as i, code.when(~code.load(x, "bool", i)):
        code.set_word(context, 14, 1)
    code.finish()
