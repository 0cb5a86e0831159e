"""What this machine can do at most, measured once in a process with kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from needle.backend_ndarray.devices import cpu
from needle.backend_ndarray.layout import Layout
from needle.compiler import build
from needle.compiler.code import Code
from needle.compiler.kernels import elementwise
from needle.compiler.target import Target
from needle.compiler.types import F32
from needle.runtime.program import Call, Program
from needle.runtime.threads import get_num_threads

__all__ = ["Peak", "measure_peak"]

_ACCUMULATORS = 16  # sums that do not wait for each other: as many as the latency is long, twice
_ROUNDS = 400_000
_BYTES = 1 << 26  # of an array, more than caches hold
_REPEATS = 5


@dataclass(frozen=True)
class Peak:
    """What all threads reach together.

    flops      float32 operations a second, in registers
    bandwidth  bytes a second that are read from memory and written to it
    threads    how many that is with
    """

    flops: float
    bandwidth: float
    threads: int

    def seconds(self, flops: float, nbytes: float) -> float:
        """No kernel takes less for that many operations and bytes."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    def __str__(self) -> str:
        """`331 GFLOP/s and 24.1 GB/s with 2 threads`."""
        return (
            f"{self.flops / 1e9:.0f} GFLOP/s and {self.bandwidth / 1e9:.1f} GB/s "
            f"with {self.threads} thread{'s' if self.threads > 1 else ''}"
        )


def measure_peak() -> Peak:
    """The peak with the threads that are set now. Takes a quarter of a second the first time."""
    return _measured(get_num_threads())


@lru_cache(maxsize=8)
def _measured(threads: int) -> Peak:
    return Peak(_flops(threads), _bandwidth(threads), threads)


def _flops(threads: int) -> float:
    out = np.zeros(64 * threads, np.float32)
    address = build.address_of("peak of multiplications and additions", _write)
    call = Call(address, (_ROUNDS,), (out.ctypes.data,), threads)
    lanes = Target.host().lanes(4)
    return threads * _ROUNDS * _ACCUMULATORS * lanes * 2 / _fastest([call], out)


def _write(module: Any, target: Target) -> None:
    """Sums of products in registers; their total is stored, so that nothing is left out."""
    code = Code(module, build.ENTRY, target)
    context, task, _ = code.arguments
    rounds, out = code.word(code.pointer_at(context, 0), 0), code.pointer_at(context, 1)
    lanes = target.lanes(4)
    factor = code.load(out, "float32").spread(lanes)
    start = code.constant(1.0, F32, lanes)
    sums = [code.variable(start * float(i)) for i in range(_ACCUMULATORS)]
    with code.loop(0, rounds):
        for one in sums:
            one.set(code.fma(one.get(), factor, start))
    total = sums[0].get()
    for one in sums[1:]:
        total = total + one.get()
    code.store(code.lane(total, 0), out, "float32", task * 16)
    code.finish()


def _bandwidth(threads: int) -> float:
    """Of a copy: every byte is read once and written once."""
    source, target = (np.ones(_BYTES // 4, np.float32) for _ in range(2))
    flat = Layout.of(cpu(), np.dtype(np.float32), source.shape)
    prepared = elementwise.prepare("copy", [flat], [flat.dtype], flat)
    words = [0] * 15
    words[0], words[1] = source.ctypes.data, target.ctypes.data
    call = Call(prepared.address, prepared.numbers, tuple(words), threads)
    return 2 * _BYTES / _fastest([call], (source, target))


def _fastest(calls: list[Call], keep: Any) -> float:
    """Seconds of a run, the best of a few: whoever disturbs makes it slower, never faster."""
    program = Program([calls], 0, keep)
    times = []
    for _ in range(_REPEATS):
        begun = perf_counter()
        program.run()
        times.append(perf_counter() - begun)
    return min(times)
