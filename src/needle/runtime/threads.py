"""How many threads kernels run on, and the life of the pool that they run in.

The pool itself is native (`runtime.pool`); here are its size, and what happens to it when the
process forks or ends.
"""

from __future__ import annotations

import atexit
import ctypes
import operator
import os
from collections.abc import Mapping
from typing import Any

from needle.errors import OptionError
from needle.runtime.cpus import available_cpus

__all__ = [
    "FUNCTIONS",
    "MAX_THREADS",
    "Pool",
    "attach",
    "chosen_num_threads",
    "default_num_threads",
    "get_num_threads",
    "set_num_threads",
    "write_pool",
]

MAX_THREADS = 256

# what `write_pool` defines and `attach` needs the addresses of
FUNCTIONS = ("needle_pool_resize", "needle_pool_stop", "needle_pool_reset")

_ENVIRONMENT = "NEEDLE_NUM_THREADS"
_chosen: int | None = None
_pools: list[Pool] = []


def set_num_threads(count: int) -> None:
    """Run kernels on at most `count` threads, the caller's among them.

    Raises OptionError for anything but an integer from 1 to 256.
    """
    global _chosen
    _chosen = _checked("set_num_threads", count)
    for pool in _pools:
        pool.resize(_chosen)


def get_num_threads() -> int:
    """On how many threads kernels run at most."""
    return default_num_threads() if _chosen is None else _chosen


def chosen_num_threads() -> int | None:
    """What `set_num_threads` was given last; None: nothing, and the number stays as it is."""
    return _chosen


def default_num_threads() -> int:
    """`NEEDLE_NUM_THREADS` (empty counts as unset), or as many as the process may use processors.

    Raises OptionError where the variable holds anything but an integer from 1 to 256.
    """
    wanted = os.environ.get(_ENVIRONMENT)
    if not wanted:
        return min(available_cpus(), MAX_THREADS)
    return _checked(_ENVIRONMENT, int(wanted) if wanted.strip().isdecimal() else wanted)


def _checked(name: str, count: Any) -> int:
    try:
        number = 0 if isinstance(count, bool) else operator.index(count)
    except TypeError:
        number = 0
    if not 1 <= number <= MAX_THREADS:
        raise OptionError(f"{name}: expected an integer from 1 to {MAX_THREADS}, got {count!r}.")
    return number


class Pool:
    """The functions of a linked pool that Python calls. The GIL is released meanwhile."""

    def __init__(self, addresses: Mapping[str, int]) -> None:
        number = ctypes.c_int64
        self._resize = ctypes.CFUNCTYPE(None, number)(addresses["needle_pool_resize"])
        self._stop = ctypes.CFUNCTYPE(number)(addresses["needle_pool_stop"])
        self._reset = ctypes.CFUNCTYPE(None)(addresses["needle_pool_reset"])

    def resize(self, threads: int) -> None:
        """Use at most so many from the next call on; those too many sleep."""
        self._resize(threads)

    def stop(self) -> bool:
        """End the workers, which start again on the next need; False while a call is at work."""
        return bool(self._stop())

    def reset(self) -> None:
        """Forget the workers: they do not exist in this process."""
        self._reset()


def attach(addresses: Mapping[str, int]) -> Pool:
    """Make a pool work that was linked just now; until then everything runs on one thread.

    addresses  of FUNCTIONS
    """
    pool = Pool(addresses)
    pool.reset()
    pool.resize(get_num_threads())
    _pools.append(pool)
    return pool


def write_pool(module: Any, target: Any) -> None:
    """Add the pool's native functions to a module: `pool.write`, which loads llvmlite."""
    from needle.runtime import pool

    pool.write(module, target)


def _stop_all() -> None:
    for pool in _pools:
        pool.stop()


def _reset_all() -> None:
    for pool in _pools:
        pool.reset()


def _leave() -> None:
    """Daemon threads that go on while the interpreter ends run their kernels by themselves."""
    for pool in _pools:
        pool.resize(1)
    _stop_all()


if hasattr(os, "register_at_fork"):
    # Without workers there is nothing for a child to inherit in part. Where a call is at work in
    # another thread they cannot be stopped; then it is the child that forgets them.
    os.register_at_fork(before=_stop_all, after_in_child=_reset_all)
atexit.register(_leave)
