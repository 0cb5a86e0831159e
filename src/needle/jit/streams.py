"""Generators of random numbers that a function can reach: where they stand, and back to there."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from needle.jit.reach import Reach

__all__ = ["restore_states", "same_state", "states_of"]


def states_of(reach: Reach) -> list[tuple[str, Any]]:
    """Where all generators of random numbers stand."""
    states: list[tuple[str, Any]] = [
        ("NumPy", np.random.get_state()),
        ("Python", random.getstate()),
    ]
    for name, stream in reach.streams:
        if isinstance(stream, np.random.Generator):
            states.append((name, stream.bit_generator.state))
        elif isinstance(stream, np.random.RandomState):
            states.append((name, stream.get_state()))
        else:
            states.append((name, stream.getstate()))
    return states


def restore_states(reach: Reach, states: list[tuple[str, Any]]) -> None:
    """Put all generators back to where they stood."""
    np.random.set_state(states[0][1])
    random.setstate(states[1][1])
    for (_, stream), (_, state) in zip(reach.streams, states[2:], strict=True):
        if isinstance(stream, np.random.Generator):
            stream.bit_generator.state = state
        elif isinstance(stream, np.random.RandomState):
            stream.set_state(state)
        else:
            stream.setstate(state)


def same_state(a: Any, b: Any) -> bool:
    """Whether two states of a generator are one."""
    if isinstance(a, dict):
        return all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return bool(np.array_equal(a, b))
