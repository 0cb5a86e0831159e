"""Settings read from the environment, once, at import."""

from __future__ import annotations

import os

__all__ = ["BACKEND"]

_BACKENDS = ("np",)


def _read_backend() -> str:
    """`NEEDLE_BACKEND`: which array library stands under the operators. `np` is NumPy."""
    name = os.environ.get("NEEDLE_BACKEND", "np")
    if name not in _BACKENDS:
        raise RuntimeError(
            f"NEEDLE_BACKEND: expected {' or '.join(repr(b) for b in _BACKENDS)}, got {name!r}. "
            "The native array library ('nd') is not part of this version."
        )
    return name


BACKEND = _read_backend()
