"""Compiled programs run on memory with guards: who writes beyond what is his is found.

Every buffer of the arena lies apart from all others, between bytes that are looked at after the
run; so do copies of the inputs and outputs. All memory that nobody has written to holds NaN, so
that what is read there shows in the results.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from needle.program import pipeline, plan_memory
from needle.program.plan_memory import ALIGN, MemoryPlan, Span
from needle.runtime.call import runtime_function
from needle.runtime.program import Program

__all__ = ["OutOfBounds", "guarded"]

GUARD = 4096  # bytes on both sides
POISON = 0xFF  # NaN of every float, -1 of ints


class OutOfBounds(AssertionError):
    """A program wrote where it had nothing to write."""


@contextmanager
def guarded() -> Iterator[None]:
    """Programs that are compiled in the block are guarded whenever they run."""
    build = pipeline.build

    @functools.wraps(build)
    def guarded_build(lowered: Any, schedule: Any, memory: MemoryPlan) -> Any:
        built = build(lowered, schedule, memory)
        built.program.run = functools.partial(_run, built.program, memory)
        return built

    with (
        mock.patch.object(pipeline, "build", guarded_build),
        mock.patch.object(plan_memory, "_place", _place_apart),
    ):
        yield


def _place_apart(plan: MemoryPlan) -> None:
    at = GUARD
    for span in plan.spans.values():
        span.offset = at
        at = span.end + GUARD


class _Guarded:
    """A copy of some bytes, between guards."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.bytes = _poisoned(nbytes + 2 * GUARD)
        self.inside = self.bytes[GUARD : GUARD + nbytes]
        ctypes.memmove(self.inside.ctypes.data, address, nbytes)
        self.memory = _memory_of(self.bytes)

    def require_guards(self, what: str) -> None:
        rest = (self.bytes[:GUARD], self.bytes[GUARD + self.nbytes :])
        if any(np.any(part != POISON) for part in rest):
            raise OutOfBounds(f"written beyond {what} of {self.nbytes} bytes")

    def give_back(self) -> None:
        ctypes.memmove(self.address, self.inside.ctypes.data, self.nbytes)


def _run(program: Program, plan: MemoryPlan, *bindings: Any) -> Any:
    address, size = runtime_function("address"), runtime_function("size")
    memories, begins = bindings[::2], bindings[1::2]
    copies: dict[int, _Guarded] = {}
    for memory in memories:
        where = address(memory)
        if where not in copies:
            copies[where] = _Guarded(where, size(memory))
    arena = _poisoned(plan.total + GUARD)
    given: list[Any] = []
    for memory, begin in zip(memories, begins, strict=True):
        given += (copies[address(memory)].memory, begin + GUARD)
    with program._lock:
        done = program._run(*given, _memory_of(arena), 0)
    for number, copy in enumerate(copies.values()):
        copy.require_guards(f"binding {number}")
    _require_gaps(arena, plan)
    for copy in copies.values():
        copy.give_back()
    return done


def _require_gaps(arena: np.ndarray[Any, Any], plan: MemoryPlan) -> None:
    end, before = 0, None
    for span in sorted(plan.spans.values(), key=lambda span: span.offset):
        _require_gap(arena[end : span.offset], before)
        end, before = span.offset + span.buffer.nbytes, span
    _require_gap(arena[end:], before)


def _require_gap(gap: np.ndarray[Any, Any], before: Span | None) -> None:
    if np.any(gap != POISON):
        what = "the beginning of the arena"
        if before is not None:
            what = f"{before.title}, {before.buffer.nbytes} bytes"
        raise OutOfBounds(f"written beyond {what}")


def _poisoned(nbytes: int) -> np.ndarray[Any, Any]:
    """Memory that begins with a cache line."""
    room = np.full(nbytes + ALIGN, POISON, np.uint8)
    begin = -room.ctypes.data % ALIGN
    return room[begin : begin + nbytes]


def _memory_of(array: np.ndarray[Any, Any]) -> Any:
    return runtime_function("foreign")(array.ctypes.data, array, array.nbytes)
