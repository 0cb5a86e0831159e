"""A watch over the calls that Python makes in this thread, which costs some 10 ns a call.

`sys.setprofile` calls a function written in Python for each call and each return, ten times as
long. Here the function is native: it looks whether what is called is one of those watched for.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from needle.runtime.call import runtime_address

__all__ = ["definition_of", "watching_calls"]

_HEADER = object.__basicsize__  # of each object; a built-in function then points to its definition


def definition_of(function: Any) -> int:
    """What all built-in functions and methods have in common that are one function in C."""
    return int(ctypes.c_size_t.from_address(id(function) + _HEADER).value)


@contextmanager
def watching_calls(
    definitions: Iterable[int],
    entered: Iterable[Any],
    met: Callable[[Any], None],
) -> Iterator[None]:
    """In the block, `met` is called before a built-in function with one of these definitions is.

    It gets the function. Also as a code, or a frame of a generator, of these is `entered`: then it
    gets the frame. What it raises is raised there.
    """
    keys = [*definitions, *map(id, entered)]
    table = struct.pack(f"{2 + len(keys)}q", len(keys), _HEADER // 8, *keys)
    _set_profile()(runtime_address("needle_watch"), (table, met))
    try:
        yield
    finally:
        sys.setprofile(None)


@lru_cache(maxsize=1)
def _set_profile() -> Any:
    function = ctypes.pythonapi.PyEval_SetProfile
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.py_object], None
    return function
