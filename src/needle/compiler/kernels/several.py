"""The kernel that runs several others, each cut into pieces, as one row of pieces to share.

A thread's share may begin within one call and end within another. The kernel does not know what it
calls: that is in a table (`runtime.program.Call.several`).
"""

from __future__ import annotations

from typing import Any

from needle.compiler import build
from needle.compiler.code import Code
from needle.compiler.target import Target
from needle.compiler.types import I64

__all__ = ["CALL_WORDS", "TABLE", "address"]

TABLE = 1  # word of the context: where the table of calls is
CALL_WORDS = 3  # kernel, context, into how many pieces it is cut


def address() -> Any:
    """Of the machine code. Its numbers: how many calls, and how many pieces in all."""
    return build.address_of("several", _write)


def _write(module: Any, target: Target) -> None:
    code = Code(module, build.ENTRY, target)
    context, task, tasks = code.arguments
    numbers, table = code.pointer_at(context, 0), code.pointer_at(context, TABLE)
    begin, end = code.share(code.word(numbers, 1), task, tasks)
    done = code.variable(code.constant(0, I64))  # pieces of the calls before
    with code.loop(0, code.word(numbers, 0)) as number:
        call = table + number * (8 * CALL_WORDS)
        kernel, place, pieces = (
            code.pointer_at(call, 0),
            code.pointer_at(call, 1),
            code.word(call, 2),
        )
        first = code.maximum(begin - done.get(), 0)
        last = code.minimum(end - done.get(), pieces)
        with code.loop(first, last) as piece:
            code.call_pointer(kernel, place, piece, pieces)
        done.set(done.get() + pieces)
    code.finish()
