"""Random numbers for ops and initialisers, all of NumPy's global stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd.modes import modes

__all__ = ["drawn"]


def drawn(name: str, shape: tuple[int, ...]) -> Any:
    """`numpy.random.<name>(*shape)`, as an array of float64; of a traced function, at each call."""
    if modes.tracer is not None:
        return modes.tracer.draw(name, shape)
    return np.asarray(getattr(np.random, name)(*shape))
