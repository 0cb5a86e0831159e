"""Applying one elementwise primitive to contiguous arrays, on this machine or as if on another."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from native_calls import call

from needle.compiler import build, functions
from needle.compiler.code import Code
from needle.compiler.prepared import Prepared
from needle.compiler.target import PLAIN, Target
from needle.compiler.types import TYPES, itemsize

HOST = Target.host()
# This machine, made to do without what not every machine has.
POORER = replace(HOST, has_fma=False, has_half=False)
RUNNABLE = {"host": HOST, "no fma": POORER}
if HOST.triple.split("-")[0] == PLAIN.triple.split("-")[0]:
    RUNNABLE["plain"] = replace(PLAIN, triple=HOST.triple)


def writer(name: str, inputs: tuple[str, ...], out: str, symbol: str = build.ENTRY) -> build.Writer:
    """Writes out[i] = name(inputs[i]...) for i in 0..n-1."""

    def write(module: Any, target: Target) -> None:
        code = Code(module, symbol, target)
        context, task, tasks = code.arguments
        pointers = [code.pointer_at(context, 1 + i) for i in range(len(inputs) + 1)]
        count = code.word(code.pointer_at(context, 0), 0)
        begin, end = code.share(count, task, tasks)

        def body(i: Any, lanes: int, mask: Any) -> None:
            x = [
                code.load(p, dtype, i, lanes, mask)
                for p, dtype in zip(pointers, inputs, strict=False)
            ]
            result = functions.apply(code, name, *x)
            code.store(code.convert(result, out), pointers[-1], out, i, mask)

        widest = max(max(itemsize(d), TYPES[d].itemsize) for d in (*inputs, out))
        code.strip(begin, end, target.lanes(widest), body)
        code.finish()

    return write


@cache
def address(name: str, inputs: tuple[str, ...], out: str, target: Target) -> int:
    """The kernel for a target that this machine can run."""
    machine = target.machine()
    module = build.optimized(writer(name, inputs, out), target, machine)
    return build.link(bytes(machine.emit_object(module)))[build.ENTRY]


def applied(name: str, *arrays: Any, out: Any = None, target: Target = HOST) -> np.ndarray:
    """The primitive's values; `out` is the result's dtype, by default the last array's."""
    rows = [np.ascontiguousarray(x) for x in arrays]
    result = np.empty(rows[0].shape, rows[-1].dtype if out is None else out)
    dtypes = tuple(x.dtype.name for x in rows)
    kernel = address(name, dtypes, result.dtype.name, target)
    call(Prepared(kernel, (result.size,), 0.0), *rows, result)
    return result
