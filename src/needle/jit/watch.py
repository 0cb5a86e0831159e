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
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_paths
from types import FrameType
from typing import Any

from needle.errors import NeedleError

__all__ = ["JitError", "is_users", "line_of", "line_where", "user_line", "watching"]

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep

_CLOCKS = [
    time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic,
    time.monotonic_ns, time.process_time, time.thread_time, datetime.datetime.now,
    datetime.datetime.utcnow, datetime.datetime.today, datetime.date.today,
]  # fmt: skip
# Built-in functions, refused on the user's own lines.
_REFUSED: dict[Any, str] = {
    **dict.fromkeys(_CLOCKS, "the time is read"),
    time.sleep: "the program sleeps",
    os.urandom: "random bytes are asked for",
}
_STREAMS = [kind.__new__(kind) for kind in (io.TextIOWrapper, io.BufferedWriter, io.FileIO)]
# Those refused too where Python's own library calls them for the user's lines.
_OUTPUT: dict[Any, str] = {
    builtins.print: "something is printed",
    builtins.input: "input is asked for",
    io.open: "a file is opened",
    **dict.fromkeys([os.write, *[stream.write for stream in _STREAMS]], "something is written"),
}


class JitError(NeedleError, RuntimeError):
    """A function does what a compiled one could not do again at each call."""


_LIBRARY = ("<frozen", "<string>", "<guard>", get_paths()["stdlib"])


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(_LIBRARY) and "site-packages" not in file


def is_users(frame: FrameType) -> bool:
    """Whether it is at a line that is neither Needle's nor of Python's library."""
    return not frame.f_code.co_filename.startswith(_PACKAGE) and not _is_library(frame)


@contextmanager
def watching(iterators: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Refuse, in the block, what the user's lines do that a compiled function never does.

    Where something else watches this thread already, such as a profiler, nothing is refused.
    """
    if sys.getprofile() is not None:
        yield
        return
    from needle.runtime.watch import definition_of, watching_calls  # which loads the compiler

    watch = _Watch(iterators, definition_of)
    with watching_calls([*watch.said, *watch.output], [*watch.bodies, *watch.codes], watch.met):
        yield
    if watch.asked:
        raise watch.asked[0]


class _Watch:
    """What is refused, and what messages say of it.

    said    of built-in functions by their definitions, on the user's lines
    output  the same, called by Python's library too; `codes`: of functions written in Python
    bodies  frames of generators within reach, with their names
    asked   errors for those of them that went on
    """

    def __init__(
        self, iterators: Sequence[tuple[str, Any]], definition_of: Callable[[Any], int]
    ) -> None:
        self._definition_of = definition_of
        self.said = {definition_of(function): said for function, said in _REFUSED.items()}
        self.output = {definition_of(function): said for function, said in _OUTPUT.items()}
        if iterators:
            self.said[definition_of(builtins.next)] = _next_of(iterators[0][0])
        self.codes = dict(_output_in_python())
        self.bodies: dict[FrameType, str] = {}
        for name, x in iterators:
            if isinstance(x, types.GeneratorType) and x.gi_frame is not None:
                self.bodies[x.gi_frame] = name
        self.asked: list[JitError] = []

    def met(self, called: Any) -> None:
        """Raise JitError, if it is the user who calls that function, or enters that frame."""
        frame: FrameType | None = sys._getframe(1)
        if called in self.bodies:  # to raise here would end the generator
            self.asked.append(_refused(_next_of(self.bodies[called]), called.f_back))
        elif isinstance(called, FrameType):
            self._refuse_output(self.codes[called.f_code], called.f_back)
        elif (definition := self._definition_of(called)) in self.output:
            self._refuse_output(self.output[definition], frame)
        elif frame is not None and is_users(frame):
            raise _refused(self.said[definition], frame)

    def _refuse_output(self, said: str, frame: FrameType | None) -> None:
        while frame is not None and _is_library(frame):
            if frame.f_code.co_filename == warnings.__file__:  # each is shown once, as it is
                return
            frame = frame.f_back
        if frame is not None and is_users(frame):
            raise _refused(said, frame, "Return what it is about, and do it")


def _next_of(name: str) -> str:
    return f"{name} is asked for its next item"


def _output_in_python() -> Iterator[tuple[types.CodeType, str]]:
    """Functions written in Python that are output."""
    logging = sys.modules.get("logging")
    if logging is not None:
        yield logging.Logger.handle.__code__, "something is logged"
    for stream in (sys.stdout, sys.stderr):
        write = getattr(type(stream), "write", None)
        if isinstance(write, types.FunctionType):
            yield write.__code__, "something is written"


def _refused(said: str, frame: FrameType | None, instead: str = "Do it") -> JitError:
    return JitError(
        f"jit: expected a function that computes from Tensors alone, but at {_spelt(frame)} "
        f"{said}, which a compiled function does not do again at each call. {instead} outside of "
        "the function, or call it under ndl.disable_jit()."
    )


def _spelt(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown line"
    return f'"{frame.f_code.co_filename}", line {frame.f_lineno}'


def user_line() -> str:
    """The user's line that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return _spelt(frame)


def line_of(error: BaseException) -> str:
    """The user's line that an error comes from: the last one before Needle's own."""
    line = "an unknown line"
    for frame, number in traceback.walk_tb(error.__traceback__):
        if is_users(frame):
            line = f'"{frame.f_code.co_filename}", line {number}'
    return line


def line_where(function: Callable[[], Any], happened: Callable[[], bool]) -> str:
    """The user's line of `function`, which is run, after which something has happened first."""
    found: list[str] = []
    last: dict[FrameType | None, str] = {}  # the line that each call is at

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not is_users(frame):
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
