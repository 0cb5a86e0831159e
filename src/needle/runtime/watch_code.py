"""The native half of the watch over calls: what CPython tells of each call. See `watch`."""

from __future__ import annotations

from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I32, I64, POINTER

__all__ = ["write_watch"]

_CALL, _C_CALL = 0, 4  # PyTrace_CALL, PyTrace_C_CALL
_COUNT, _DEFINITION, _FIRST = range(3)  # words of the table


def write_watch(module: Any, target: Target) -> None:
    """needle_watch(watched, frame, what, called): a profile function of CPython's.

    watched  a tuple: the table, as bytes, and what to call with the function, or the frame, that
             was met
    """
    _write_meet(module, target)
    code = Code(module, "needle_watch", target, [POINTER, POINTER, I32, POINTER], I32)
    watched, frame, what, called = code.arguments
    table = code.call("PyBytes_AsString", POINTER, _item(code, watched, 0))
    with code.when(what.equals(_C_CALL)):
        _look(code, table, code.word(called, code.word(table, _DEFINITION)), called)
    with code.when(what.equals(_CALL)):
        _look(code, table, _number(code, frame), frame)
        body = code.call("PyFrame_GetCode", POINTER, frame)
        code.call("Py_DecRef", None, body)  # the frame has it
        _look(code, table, _number(code, body), frame)
    code.finish(code.constant(0, I32))


def _look(code: Code, table: Value, key: Value, met: Value) -> None:
    """Return what comes of it, if the key is in the table."""
    found = code.variable(code.constant(0, I64))
    with (
        code.loop(0, code.word(table, _COUNT)) as i,
        code.when(code.word(table, i + _FIRST).equals(key)),
    ):
        found.set(1)
    with code.when(found.get().differs(0)):
        code.finish(code.call("needle_meet", I32, code.arguments[0], met))


def _write_meet(module: Any, target: Target) -> None:
    """needle_meet(watched, met): call what is to be called; -1 where that raises."""
    code = Code(module, "needle_meet", target, [POINTER, POINTER], I32)
    watched, met = code.arguments
    failed = code.constant(-1, I32)
    given = code.call("PyTuple_New", POINTER, code.constant(1, I64))
    with code.when(code.is_null(given)):
        code.finish(failed)
    code.call("Py_IncRef", None, met)
    code.call("PyTuple_SetItem", I32, given, code.constant(0, I64), met)  # which takes that over
    made = code.call("PyObject_Call", POINTER, _item(code, watched, 1), given, code.null())
    code.call("Py_DecRef", None, given)
    with code.when(code.is_null(made)):
        code.finish(failed)
    code.call("Py_DecRef", None, made)
    code.finish(code.constant(0, I32))


def _item(code: Code, row: Value, number: int) -> Value:
    return code.call("PyTuple_GetItem", POINTER, row, code.constant(number, I64))


def _number(code: Code, pointer: Value) -> Value:
    return code.wrap(code.builder.ptrtoint(pointer.ir, I64.ir), I64)
