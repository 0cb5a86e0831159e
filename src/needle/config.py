"""Settings read from the environment, once, at import."""

from __future__ import annotations

import os

__all__ = ["BACKEND", "DEBUG", "PRINT_AFTER", "VERIFY"]

_BACKENDS = ("nd", "np")


def _read_backend() -> str:
    """`NEEDLE_BACKEND`: which array library stands under the operators.

    `nd` is Needle's own, on its devices; `np` is NumPy. Empty counts as unset.
    """
    name = os.environ.get("NEEDLE_BACKEND") or "nd"
    if name not in _BACKENDS:
        expected = " or ".join(repr(backend) for backend in _BACKENDS)
        raise RuntimeError(f"NEEDLE_BACKEND: expected {expected}, got {name!r}.")
    return name


def _read_level(name: str, highest: int) -> int:
    """A variable that holds a number from 0 on; unset or empty is 0."""
    text = os.environ.get(name) or "0"
    if text not in [str(level) for level in range(highest + 1)]:
        raise RuntimeError(f"{name}: expected a number from 0 to {highest}, got {text!r}.")
    return int(text)


BACKEND = _read_backend()

# `NEEDLE_DEBUG`: what the compiler of whole graphs tells on stderr, each level with those below.
# 1: a line for each program; 2: what each pass took; 3: what each made; 4: assembly of kernels.
DEBUG = _read_level("NEEDLE_DEBUG", 4)

# `NEEDLE_PRINT_AFTER`: passes, with commas between them, whose results are to be shown.
PRINT_AFTER = tuple(filter(None, os.environ.get("NEEDLE_PRINT_AFTER", "").split(",")))

# `NEEDLE_VERIFY`: whether what each pass made is checked. Tests of the compiler switch it on.
VERIFY = bool(_read_level("NEEDLE_VERIFY", 1))
