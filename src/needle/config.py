"""Settings read from the environment, once, at import."""

from __future__ import annotations

import os

__all__ = ["BACKEND"]

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


BACKEND = _read_backend()
