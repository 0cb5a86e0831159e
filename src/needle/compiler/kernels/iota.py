"""The kernel that counts: out[i] = i."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.prepared import Operand, Prepared, tasks_for
from needle.compiler.target import Target
from needle.compiler.types import F64, I64, TYPES, itemsize

__all__ = ["prepare", "writer"]

_CACHE_LINE = 64
_NANOSECONDS_PER_BYTE = 0.03


def prepare(out: Operand) -> Prepared:
    """out[i] = i, flat and row by row, in out's dtype.

    out: row-major. Floats hold the nearest value, integers wrap, bools say whether i is not 0.
    Pointer 1 is out.
    """
    dtype, count = str(out.dtype), prod(out.shape)
    address = build.address_of(f"iota {dtype}", writer(dtype))
    nanoseconds = 2 + count * itemsize(dtype) * _NANOSECONDS_PER_BYTE
    return Prepared(address, (count,), nanoseconds, tasks_for(nanoseconds))


def writer(dtype: str) -> build.Writer:
    """What writes the kernel for that dtype."""
    return partial(_write, dtype=dtype)


def _write(module: Any, target: Target, dtype: str) -> None:
    code = Code(module, build.ENTRY, target)
    context, task, tasks = code.arguments
    count = code.word(code.pointer_at(context, 0), 0)
    out = code.pointer_at(context, 1)

    def body(i: Value, lanes: int, mask: Value | None) -> None:
        code.store(_counted(code, i, lanes, dtype), out, dtype, i, mask)

    begin, end = code.share(count, task, tasks, _CACHE_LINE)
    code.strip(begin, end, target.lanes(itemsize(dtype)), body)
    code.finish()


def _counted(code: Code, i: Value, lanes: int, dtype: str) -> Value:
    """i, i + 1, ... in the type that the dtype has in registers."""
    type = TYPES[dtype]
    if type.is_float:  # by way of float64, which holds every i: the only rounding is the last
        steps = code.row(range(lanes), F64) if lanes > 1 else 0.0
        return code.convert(i.cast(F64) + steps, dtype)
    wide = I64 if dtype == "bool" else type
    steps = code.row([n % (1 << wide.bits) for n in range(lanes)], wide) if lanes > 1 else 0
    return (i.cast(wide) + steps).cast(type)
