"""The watch over a function that is being traced: what it may not do, and at which line it is."""

from __future__ import annotations

import builtins
import datetime
import io
import os
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_paths
from types import FrameType
from typing import Any

from needle.errors import NeedleError

__all__ = ["JitError", "line_of", "line_where", "user_line", "watching"]

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep

_CLOCKS = [
    time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic,
    time.monotonic_ns, time.process_time, time.thread_time, datetime.datetime.now,
    datetime.datetime.utcnow, datetime.datetime.today, datetime.date.today,
]  # fmt: skip
_REFUSED: dict[Any, str] = {
    **dict.fromkeys(_CLOCKS, "the time is read, which"),
    builtins.print: "something is printed, which",
    builtins.input: "input is asked for, which",
    io.open: "a file is opened, which",
    os.urandom: "random bytes are asked for, which",
}


class JitError(NeedleError, RuntimeError):
    """A function does what a compiled one could not do again at each call."""


_NO_USERS = (_PACKAGE, "<frozen", "<string>", "<guard>", get_paths()["stdlib"])


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith(_NO_USERS) or "site-packages" in file


@contextmanager
def watching(iterators: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Refuse, in the block, calls from the user's own lines that a compiled function never makes.

    Where something else watches this thread already, such as a profiler, nothing is refused.
    """
    if sys.getprofile() is not None:
        yield
        return
    bodies = {id(x.gi_frame): name for name, x in iterators if isinstance(x, types.GeneratorType)}
    asked: list[JitError] = []
    name = iterators[0][0] if iterators else ""

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            try:
                said = _REFUSED.get(called)
            except TypeError:  # of what cannot be hashed
                return
            if called is builtins.next and iterators:
                said = f"{name} is asked for its next item, which"
            if said is not None and _is_users(frame):
                raise _refused(said, _spelt(frame))
        elif event == "call" and id(frame) in bodies:  # to raise here would end the generator
            said = f"{bodies[id(frame)]} is asked for its next item, which"
            asked.append(_refused(said, _spelt(frame.f_back or frame)))

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
    if asked:
        raise asked[0]


def _refused(said: str, line: str) -> JitError:
    return JitError(
        f"jit: expected a function that computes from Tensors alone, but at {line} {said} a "
        "compiled function does not do again at each call. Do it outside of the function, or call "
        "it under ndl.disable_jit()."
    )


def _spelt(frame: FrameType) -> str:
    return f'"{frame.f_code.co_filename}", line {frame.f_lineno}'


def user_line() -> str:
    """The user's line that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    return "an unknown line" if frame is None else _spelt(frame)


def line_of(error: BaseException) -> str:
    """The user's line that an error comes from: the last one before Needle's own."""
    line = "an unknown line"
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_users(frame):
            line = f'"{frame.f_code.co_filename}", line {number}'
    return line


def line_where(function: Callable[[], Any], happened: Callable[[], bool]) -> str:
    """The user's line of `function`, which is run, after which something has happened first."""
    found: list[str] = []
    last: dict[FrameType | None, str] = {}  # the line that each call is at

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not _is_users(frame):
            return None
        if not found and happened():
            found.append(last.get(frame.f_back if event == "call" else frame, _spelt(frame)))
        last[frame] = _spelt(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Exception:  # it is run for the line alone
        pass
    finally:
        sys.settrace(before)
    return found[0] if found else next(reversed(last.values()), "an unknown line")
