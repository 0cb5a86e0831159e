"""The native half of programs: a table of kernels, run by all threads together. See `program`."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I32, I64, POINTER
from needle.runtime.memory import require_arguments
from needle.runtime.pool import PoolCode

__all__ = ["PATCH_WORDS", "STAGE_WORDS", "TASK_WORDS", "Head", "write_programs"]


class Head(IntEnum):
    """Words at the beginning of a table: counts, and addresses of its other parts."""

    BINDINGS, POINTERS_AT = 0, 1
    PATCHES, PATCHES_AT = 2, 3
    STAGES, STAGES_AT, TASKS_AT = 4, 5, 6
    CLAIMS_AT, DONE_AT, COUNTERS = 7, 8, 9  # counters: both, in bytes; claims come first
    ERRORS, ERRORS_AT = 10, 11
    THREADS, RELEASES_GIL = 12, 13
    TIMES_AT = 14  # where to note when each task ran; 0: nowhere
    WORDS = 16


STAGE_WORDS = 4  # first task, how many; first error word, how many
TASK_WORDS = 4  # kernel, context, task, tasks
PATCH_WORDS = 3  # the address of a word, the number of a binding, bytes to add
TIME_WORDS = 3  # of a task: begin and end, in nanoseconds of the monotonic clock; its thread
_SPINS = 20_000  # before a thread that waits lends its processor to others


def write_programs(module: Any, target: Target) -> None:
    """needle_program(table, thread, threads), and what Python calls to have it run."""
    _write_program(module, target)
    _write_run(module, target)


def _write_program(module: Any, target: Target) -> None:
    code = PoolCode(module, "needle_program", target)
    table, thread, threads = code.arguments
    stages = code.word(table, Head.STAGES)
    stages_at, tasks_at = (
        code.pointer_at(table, Head.STAGES_AT),
        code.pointer_at(table, Head.TASKS_AT),
    )
    claims, done = code.pointer_at(table, Head.CLAIMS_AT), code.pointer_at(table, Head.DONE_AT)
    errors, times = code.pointer_at(table, Head.ERRORS_AT), code.pointer_at(table, Head.TIMES_AT)
    with code.loop(0, stages) as number:
        stage = stages_at + number * (8 * STAGE_WORDS)
        first, count = code.word(stage, 0), code.word(stage, 1)
        finished = code.variable(code.constant(0, I64))
        with code.loop(0, threads) as turn:
            owner = (thread + turn) % threads
            begin, end = [(count * (owner + i) + (threads - 1)) // threads for i in (0, 1)]
            claim = claims + (owner * stages + number) * 8
            with code.repeat_while(_below(code, claim, end - begin)):
                mine = begin + code.add(claim, 1)
                with code.when(mine < end):
                    task = first + mine
                    note = times + task * (8 * TIME_WORDS)
                    _note_time(code, times, note, 0)
                    _run_task(code, tasks_at + task * (8 * TASK_WORDS))
                    _note_time(code, times, note, 1, thread)
                    finished.set(finished.get() + 1)
        here = done + number * 8
        with code.when(finished.get() > 0):
            code.add(here, finished.get())
        _wait(code, _below(code, here, count))
        with code.loop(0, code.word(stage, 3)) as i:
            error = code.pointer_at(errors, code.word(stage, 2) + i)
            with code.when(code.word(error, 0).differs(0)):  # all threads see it, and leave
                code.finish()
    code.finish()


def _below(code: PoolCode, place: Value, count: Value) -> Callable[[], Value]:
    """Whether the word there is still less than that."""
    return lambda: code.read(place) < count


def _run_task(code: Code, task: Value) -> None:
    kernel, context = code.pointer_at(task, 0), code.pointer_at(task, 1)
    code.call_pointer(kernel, context, code.word(task, 2), code.word(task, 3))


def _note_time(
    code: PoolCode, times: Value, note: Value, word: int, thread: Value | None = None
) -> None:
    """Note the time, and who it is that ran, if anybody wants to know."""
    with code.when(~code.is_null(times)):
        code.set_word(note, word, code.nanoseconds())
        if thread is not None:
            code.set_word(note, 2, thread)


def _wait(code: PoolCode, unfinished: Callable[[], Value]) -> None:
    with code.repeat_while(unfinished):
        code.spin_while(unfinished, _SPINS)
        with code.when(unfinished()):
            if "windows" not in code.target.triple:
                code.call("sched_yield", I32)


def _write_run(module: Any, target: Target) -> None:
    """needle_py_run(table, args, count): (memory, offset in bytes) for each binding.

    True; or False where a kernel found fault with a value, and the program stopped there.
    """
    code = PoolCode(module, "needle_py_run", target, [POINTER, POINTER, I64], POINTER)
    bound, args, given = code.arguments
    table = code.pointer_at(code.call("PyBytes_AsString", POINTER, bound), 0)
    require_arguments(code, given.equals(code.word(table, Head.BINDINGS) * 2))
    pointers = code.pointer_at(table, Head.POINTERS_AT)
    _take_bindings(code, args, given // 2, pointers)
    _patch(code, table, pointers)
    counters = code.pointer_at(table, Head.CLAIMS_AT)
    code.call("memset", POINTER, counters, code.constant(0, I32), code.word(table, Head.COUNTERS))
    program = code.address(code.module.globals["needle_program"])

    def run() -> None:
        code.call("needle_parallel", I64, program, table, code.word(table, Head.THREADS))

    def run_without_gil() -> None:
        state = code.call("PyEval_SaveThread", POINTER)
        run()
        code.call("PyEval_RestoreThread", None, state)

    code.either(code.word(table, Head.RELEASES_GIL).differs(0), run_without_gil, run)
    code.finish(code.call("PyBool_FromLong", POINTER, _is_faultless(code, table)))


def _take_bindings(code: Code, args: Value, count: Value, pointers: Value) -> None:
    with code.loop(0, count) as i:
        capsule = code.pointer_at(args, i * 2)
        data = code.call("PyCapsule_GetPointer", POINTER, capsule, code.null())
        with code.when(code.is_null(data)):
            code.finish(code.null())
        offset = code.call("PyLong_AsSsize_t", I64, code.pointer_at(args, i * 2 + 1))
        code.set_word(pointers, i, data + offset)
    with code.when(~code.is_null(code.call("PyErr_Occurred", POINTER))):
        code.finish(code.null())


def _patch(code: Code, table: Value, pointers: Value) -> None:
    """Write the bindings' addresses to where kernels read them."""
    patches = code.pointer_at(table, Head.PATCHES_AT)
    with code.loop(0, code.word(table, Head.PATCHES)) as i:
        patch = patches + i * (8 * PATCH_WORDS)
        address = code.word(pointers, code.word(patch, 1)) + code.word(patch, 2)
        code.set_word(code.pointer_at(patch, 0), 0, address)


def _is_faultless(code: Code, table: Value) -> Value:
    """Whether no kernel left an error; the next run starts without."""
    faultless = code.variable(code.constant(1, I64))
    errors = code.pointer_at(table, Head.ERRORS_AT)
    with code.loop(0, code.word(table, Head.ERRORS)) as i:
        error = code.pointer_at(errors, i)
        with code.when(code.word(error, 0).differs(0)):
            faultless.set(0)
            code.set_word(error, 0, 0)
    return faultless.get()
