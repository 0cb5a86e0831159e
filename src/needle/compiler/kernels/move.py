"""The kernel that runs before each step of a recurrence: it moves addresses on.

    for each record: word at its target = base + (first + time) % period * step

The time is the number of the task. See `runtime.program.Moving`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from needle.compiler import build
from needle.compiler.code import Code
from needle.compiler.target import Target

__all__ = ["RECORD_WORDS", "Record", "Word", "address"]

RECORD_WORDS = 5


class Word(IntEnum):
    """Words of the context: where the records are, and how many."""

    RECORDS_AT, RECORDS = 1, 2


class Record(IntEnum):
    """Words of a record: the address of a word, and what it is to be."""

    TARGET, BASE, STEP, FIRST, PERIOD = 0, 1, 2, 3, 4


def address() -> int:
    """Of the machine code, which is the same for all."""
    return build.address_of("move", _write)


def _write(module: Any, target: Target) -> None:
    code = Code(module, build.ENTRY, target)
    context, time, _ = code.arguments
    records = code.pointer_at(context, Word.RECORDS_AT)
    with code.loop(0, code.word(context, Word.RECORDS)) as i:
        record = records + i * (8 * RECORD_WORDS)
        turn = (code.word(record, Record.FIRST) + time) % code.word(record, Record.PERIOD)
        value = code.word(record, Record.BASE) + turn * code.word(record, Record.STEP)
        code.set_word(code.pointer_at(record, Record.TARGET), 0, value)
    code.finish()
