"""How long each kernel of a program takes: several runs, task by task, and their medians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["Timing", "time_kernels"]

_WARM_UP, _FEWEST, _MOST = 2, 5, 30
_SECONDS = 1.0  # after which no further run begins


@dataclass(frozen=True)
class Timing:
    """Seconds.

    kernels  of each kernel, on the thread that worked longest for it
    busy     of each kernel, on all threads together
    wall     from the first task's begin to the last one's end
    tasks    of one typical run, for each task: its kernel's number, begin, end, thread
    runs     how many runs these are medians of
    """

    kernels: Sequence[float]
    busy: Sequence[float]
    wall: float
    tasks: Sequence[tuple[int, float, float, int]]
    runs: int


def time_kernels(count: int, owner: Any, run: Callable[[], Any]) -> Timing:
    """Time the kernels of a program, of which there are `count`.

    owner  of each task, the number of its kernel
    run    runs it once; begin, end (ns) and thread of each task, call by call: `Program.run_timed`
    """
    tables: list[Any] = []
    started = perf_counter()
    while len(tables) < _WARM_UP + _FEWEST or (
        len(tables) < _MOST and perf_counter() - started < _SECONDS
    ):
        tables.append(run())
    tables = tables[_WARM_UP:]
    walls = [_wall(table) for table in tables]
    typical = tables[int(np.argsort(walls)[len(walls) // 2])]
    threads = 1 + max((int(table[:, 2].max()) for table in tables if len(table)), default=0)
    spent = np.array([_by_thread(owner, (count, threads), table) for table in tables])
    kernels, busy = np.median(spent.max(axis=2), axis=0), np.median(spent.sum(axis=2), axis=0)
    first = typical[:, 0].min() if len(typical) else 0
    tasks = [
        (int(number), 1e-9 * (begin - first), 1e-9 * (end - first), int(thread))
        for number, (begin, end, thread) in zip(owner, typical[:, :3], strict=True)
    ]
    return Timing(
        (1e-9 * kernels).tolist(),
        (1e-9 * busy).tolist(),
        1e-9 * float(np.median(walls)),
        tasks,
        len(tables),
    )


def _wall(table: Any) -> int:
    return int(table[:, 1].max() - table[:, 0].min()) if len(table) else 0


def _by_thread(owner: Any, shape: tuple[int, int], table: Any) -> Any:
    """Nanoseconds of each kernel on each thread."""
    spent = np.zeros(shape)
    np.add.at(spent, (owner, table[:, 2]), table[:, 1] - table[:, 0])
    return spent
