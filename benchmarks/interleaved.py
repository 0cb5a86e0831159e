"""Timing contenders against each other: they take turns in one process, and ratios are quoted.

Absolute times mean little on a shared machine, and a drift of its speed hits whoever is at it. So
every round times each contender once, in an order that turns from round to round, and the ratio is
taken within the round. Before a turn there is a pause, in which the threads of the one before stop
spinning, and one call that is not timed, which wakes the contender's own.

The caller is tied to one processor, and all other threads of the process to the rest (Linux):
otherwise the scheduler may put a library's woken thread on its caller's processor, where it waits
for the next tick, some milliseconds. Needle keeps its threads from that itself, so it is not Needle
that this helps. A library whose caller only waits while its own threads work (JAX) would have one
processor less by it: such a contender is `free`, and while it is at it any thread may run anywhere.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Contender = Callable[[], object]

_PAUSE = 0.1  # seconds; the threads of OpenMP and OpenBLAS spin for some tens of milliseconds


@dataclass(frozen=True)
class Result:
    """Median seconds of each contender, and the first one's ratio to each: quartiles."""

    seconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]  # low, median, high

    def line(self, label: str) -> str:
        """One line: times, and ratios with their quartiles."""
        times = "  ".join(f"{name} {_time(t)}" for name, t in self.seconds.items())
        ratios = "  ".join(
            f"/{name} {median:.2f} ({low:.2f}-{high:.2f})"
            for name, (low, median, high) in self.ratios.items()
        )
        return f"{label:<34} {times}   ratio {ratios}"

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        return {"seconds": self.seconds, "ratios": self.ratios}


def _time(seconds: float) -> str:
    for unit, scale in (("s ", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:7.2f} {unit}"
    return f"{seconds * 1e9:7.0f} ns"


def parser_for(documentation: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--rounds", type=_rounds, default=rounds, help="2 or more")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:  # quartiles take two at least
        raise argparse.ArgumentTypeError(f"expected a number of 2 or more, got {text!r}")
    return int(text)


def earlier_results(path: Path | None) -> dict[str, Any]:
    """What a file of results holds already: cases that do not run this time stay in it."""
    if path is None or not path.exists():
        return {}
    return dict(json.loads(path.read_text()))


def write_json(path: Path | None, results: Mapping[str, object]) -> None:
    """Write what was measured, if a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


def compare(
    contenders: Mapping[str, Contender],
    rounds: int = 21,
    at_least: float = 2e-3,
    free: Collection[str] = (),
) -> Result:
    """Time the contenders in turns; each turn repeats its call for `at_least` seconds.

    free  contenders whose threads are left to the scheduler
    """
    return _result(_times(contenders, rounds, at_least, free))


def least_seconds(contenders: Mapping[str, Contender], rounds: int = 10) -> float:
    """Of the fastest call of any contender, in turns as above."""
    return min(min(found) for found in _times(contenders, rounds, 0, ()).values())


def _times(
    contenders: Mapping[str, Contender], rounds: int, at_least: float, free: Collection[str]
) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    names = list(contenders)
    for contender in contenders.values():
        contender()  # its threads are there now
    repeats = {}
    for name in names:
        _place_threads(name in free)
        repeats[name] = _repeats(contenders[name], at_least)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            _place_threads(name in free)
            times[name].append(_timed(contenders[name], repeats[name]))
    _place_threads(free=True)  # as they were
    return times


def _result(times: Mapping[str, list[float]]) -> Result:
    names = list(times)
    first = times[names[0]]
    ratios = {}
    for name in names[1:]:
        low, median, high = statistics.quantiles(
            [a / b for a, b in zip(first, times[name], strict=True)], n=4
        )
        ratios[name] = (low, median, high)
    return Result({name: statistics.median(t) for name, t in times.items()}, ratios)


def _place_threads(free: bool) -> None:
    """Tie this thread to one processor, and all others of the process to the rest; free: none."""
    if not hasattr(os, "sched_setaffinity"):
        return
    processors = {number for thread in _threads() for number in os.sched_getaffinity(thread)}
    if len(processors) < 2:
        return
    own = min(processors)
    for thread in _threads():
        mine = thread == threading.get_native_id()
        tied = {own} if mine else processors - {own}
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread, processors if free else tied)


def _threads() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]


def _repeats(contender: Contender, at_least: float) -> int:
    once = _timed(contender, 1)
    if once < at_least:
        once = min(once, _timed(contender, 1), _timed(contender, 1))
    return max(1, int(at_least / max(once, 1e-8)))


def _timed(contender: Contender, repeats: int) -> float:
    time.sleep(_PAUSE)
    contender()
    start = time.perf_counter()
    for _ in range(repeats):
        contender()
    return (time.perf_counter() - start) / repeats
