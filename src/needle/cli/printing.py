"""What is printed for the user, wherever it goes: a terminal, a file, a pipe that may be closed."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["prepare_stdout", "say", "stop_printing"]


def prepare_stdout() -> None:
    """Print `?` for characters that the encoding of stdout lacks; texts may have any."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str) -> None:
    """Print a line at once. Where nobody reads any more, this and all that follows is dropped."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        stop_printing()


def stop_printing() -> None:
    """Drop what is printed from here on; at exit Python flushes once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
