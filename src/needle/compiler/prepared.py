"""What the compiler hands over: machine code, and the numbers it is to run with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["MAX_POINTERS", "MAX_SCALARS", "Operand", "Prepared", "tasks_for"]

MAX_POINTERS, MAX_SCALARS = 8, 4

# A second thread is worth waking where each gets this long a piece of work.
_TASK_NANOSECONDS = 10_000


class Operand(Protocol):
    """A strided view: dtype, shape, and strides in elements. A `Layout` is one."""

    @property
    def dtype(self) -> Any:
        """The element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The extent of each axis."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next, on each axis."""


@dataclass(frozen=True)
class Prepared:
    """A kernel and everything about a call that does not change from call to call.

    address      the kernel: void (context, task, tasks), as docs/design/arrays.md has it
    numbers      the i64 words that word 0 of the context points to
    nanoseconds  how long it takes on one thread, estimated
    tasks        into how many shares it may be cut
    scratch      bytes of scratch memory for each task; the first word of all is 0 at the call
    """

    address: int
    numbers: tuple[int, ...]
    nanoseconds: float
    tasks: int = 1
    scratch: int = 0


def tasks_for(nanoseconds: float, at_most: int = 1024) -> int:
    """Into how many shares work of that length is worth cutting."""
    return max(1, min(at_most, int(nanoseconds / _TASK_NANOSECONDS)))
