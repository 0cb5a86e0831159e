"""The kernel that runs others on one part of their work after the other: the calls of a chain.

    for each item, for each block of it                    an item, or a single block, to each task
        work out what differs from part to part: addresses, extents
        call each kernel on the part

What one kernel writes and the next reads is small then, and stays in a cache. The kernel does not
know what it calls: all of that is in tables (`runtime.program.Chain`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code, Value
from needle.compiler.kernels.packing import offset_of, write_offset_of
from needle.compiler.target import Target
from needle.compiler.types import I64

__all__ = ["CALL_WORDS", "RECORD_WORDS", "TABLES", "Record", "When", "Word", "address"]

TABLES = 1  # word of the context: of each task, where its records and calls are, in two words
CALL_WORDS = 3  # kernel, context, `When`
RECORD_WORDS = 4


class Word(IntEnum):
    """The kernel's numbers."""

    ITEMS, BLOCKS = 0, 1  # and the blocks of each item
    SPAN = 2  # blocks that one task does before the next one's turn: all of an item, or one
    RECORDS, CALLS = 3, 4  # how many


class Record(IntEnum):
    """A word that is another one for each part: base + offset of the item + entry of the block."""

    TARGET, BASE = 0, 1  # where it is to be, and the number
    ITEM = 2  # the words of a group (see `packing`) that leads through the items; 0: none
    BLOCK = 3  # a table with a number for each block; 0: none


class When(IntEnum):
    """In which blocks of an item a kernel is called."""

    ALWAYS, FIRST, LAST = 0, 1, 2


def address() -> Any:
    """Of the machine code, which is the same for all chains."""
    return build.address_of("chain", _write)


def _write(module: Any, target: Target) -> None:
    write_offset_of(module, target)
    code = Code(module, build.ENTRY, target)
    context, task, tasks = code.arguments
    numbers = code.pointer_at(context, 0)
    mine = code.pointer_at(context, TABLES) + task * 16
    records, calls = code.pointer_at(mine, 0), code.pointer_at(mine, 1)
    items, blocks, span, count, callees = [code.word(numbers, word) for word in Word]
    with (
        code.loop(task * span, items * blocks, tasks * span) as first,
        code.loop(first, first + span) as part,
    ):
        item, block = part // blocks, part % blocks
        with code.loop(0, count) as i:
            _set(code, records + i * (8 * RECORD_WORDS), item, block)
        with code.loop(0, callees) as i:
            _call(code, calls + i * (8 * CALL_WORDS), block, blocks)
    code.finish()


def _set(code: Code, record: Value, item: Value, block: Value) -> None:
    value = code.variable(code.word(record, Record.BASE))
    group, table = [code.pointer_at(record, word) for word in (Record.ITEM, Record.BLOCK)]
    with code.when(~code.is_null(group)):
        value.set(value.get() + offset_of(code, group, item))
    with code.when(~code.is_null(table)):
        value.set(value.get() + code.word(table, block))
    code.set_word(code.pointer_at(record, Record.TARGET), 0, value.get())


def _call(code: Code, call: Value, block: Value, blocks: Value) -> None:
    kernel, context = code.pointer_at(call, 0), code.pointer_at(call, 1)
    when = code.word(call, 2)
    always = when.equals(When.ALWAYS)
    first = when.equals(When.FIRST) & block.equals(0)
    last = when.equals(When.LAST) & (block + 1).equals(blocks)
    with code.when(always | first | last):
        code.call_pointer(kernel, context, code.constant(0, I64), code.constant(1, I64))
