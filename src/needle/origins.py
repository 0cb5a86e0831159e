"""What a piece of work comes from: an operator, and the line of the user's program that used it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Origin", "current", "in_gradient_of", "origin_here"]

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep
# parts of the package that are on the way from any line that uses an operator to the operator
_ON_THE_WAY = tuple(
    _PACKAGE + part for part in ("autograd", "ops", "backend_", "jit", "origins", "inspection")
)


class Origin(NamedTuple):
    """An operator, and who asked for it.

    op           its name
    line         the user's line, `file:line`
    within       the line of this package that the user's led to: of a module, an optimiser; else ""
    is_gradient  whether the work belongs to the gradient of that operator
    """

    op: str
    line: str
    within: str = ""
    is_gradient: bool = False

    def __str__(self) -> str:
        """The user's line."""
        return self.line

    @property
    def title(self) -> str:
        """`matmul`, `gradient of matmul`."""
        return f"gradient of {self.op}" if self.is_gradient else self.op


_NOTHING = nullcontext()


class _Current(threading.local):
    """Where what is being recorded comes from, in this thread, and the gradient at work, if any."""

    origin: Origin | None = None
    gradient: Origin | None = None
    profile: Any = None  # who is told how long things take: see `needle.inspection.profiling`

    def span(self, kind: str, name: str) -> AbstractContextManager[None]:
        """Let the profile, if there is one, know how long the block takes."""
        return _NOTHING if self.profile is None else self.profile.span(kind, name)


current = _Current()


def origin_here(op: str) -> Origin:
    """The origin of an operator that is being applied now: in a gradient, that of the gradient."""
    if current.gradient is not None:
        return current.gradient
    within = ""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            break
        if not within and not file.startswith(_ON_THE_WAY):
            within = f"{file[len(_PACKAGE) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return Origin(op, f"{frame.f_code.co_filename}:{frame.f_lineno}", within)


@contextmanager
def in_gradient_of(op: str, origin: Any) -> Iterator[None]:
    """What is applied inside the block belongs to the gradient of an operator.

    origin  where that was used, if it is known
    """
    before = current.gradient
    known = origin if isinstance(origin, Origin) else Origin(op, str(origin or ""))
    current.gradient = known._replace(op=op, is_gradient=True)
    try:
        yield
    finally:
        current.gradient = before
