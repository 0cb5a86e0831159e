"""Seconds that compiling a whole training step takes: empty cache, warm cache, another batch size.

    python benchmarks/compile_time.py [--only NAME ...] [--rounds 3] [--threads N] [--json FILE]

Each round starts two processes, the first with an empty cache of machine code, the second with
what the first has left. Compiling is the first call of the step less a usual one: tracing, passes,
machine code, linking. Then the step is called with another batch size, which must build no kernel.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import fresh_process
import machine
import needle_contenders
from interleaved import earlier_results, parser_for, write_json
from jobs import JOBS

import needle as ndl
from needle.jit import jit

PARTS = ("first call", "usual step", "compiling", "kernels", "other batch", "its new kernels")


def main() -> int:
    """Print a line for each network and cache; 1 if another batch size built kernels."""
    parser = parser_for(__doc__, rounds=3)
    parser.add_argument("--threads", type=int, default=ndl.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=["gpt6x384"])
    options = parser.parse_args()
    results = earlier_results(options.json)
    for name in options.only:
        empty, warm = [], []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for runs in (empty, warm):
                    arguments = ("compile_time", "first_calls", name, options.threads)
                    runs.append(fresh_process.call(*arguments, NEEDLE_CACHE_DIR=folder))
        results[name] = {
            "title": JOBS[name]().title,
            "empty cache": medians(empty),
            "warm cache": medians(warm),
            "session": machine.session(),
        }
        for cache in ("empty cache", "warm cache"):
            print(f"{name}, {cache}: {line(results[name][cache])}", flush=True)
        write_json(options.json, results)
    return int(any(results[name]["warm cache"]["its new kernels"] for name in options.only))


def first_calls(name: str, threads: int) -> dict[str, float]:
    """Figures of this process, which has compiled nothing yet."""
    machine.set_threads(threads)
    job = JOBS[name]()
    update = jit(needle_contenders.update_of(job, job.dropout))
    x, y = job.batches[0]
    axis = 1 if job.state is not None else 0  # of the batch
    before = _kernels()
    first, usual = _two_calls(update, job.state, x, y)
    built = _kernels()
    some = [slice(None)] * axis + [slice(x.shape[axis] - 1)]
    fewer = x[tuple(some)], y[tuple(some)]
    state = job.state and (job.state[0], x.shape[axis] - 1, job.state[2])
    other_first, other_usual = _two_calls(update, state, *fewer)
    return {
        "first call": first,
        "usual step": usual,
        "compiling": first - usual,
        "kernels": built - before,
        "other batch": other_first - other_usual,
        "its new kernels": _kernels() - built,
    }


def _kernels() -> int:
    """How many this process has compiled or read from the cache."""
    from needle.compiler.build import made

    return made.compiled + made.loaded


def _two_calls(update: Any, state: tuple[int, ...] | None, x: Any, y: Any) -> tuple[float, float]:
    """Seconds of the first call with a kind of batch, and of a later one (median of three)."""
    call = needle_contenders.on_batches(update, [(x, y)], state)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[0], statistics.median(times[2:])


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each part."""
    return {part: statistics.median(run[part] for run in runs) for part in PARTS}


def line(found: dict[str, float]) -> str:
    """Figures in words."""
    return (
        f"compiling {found['compiling']:.2f} s ({found['kernels']:.0f} kernels), "
        f"step {found['usual step'] * 1e3:.1f} ms; "
        f"another batch size {found['other batch']:.3f} s, "
        f"{found['its new kernels']:.0f} new kernels"
    )


if __name__ == "__main__":
    sys.exit(main())
