"""Contractions of NumPy arrays by the native kernels, and operands whose sums are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from native_calls import call, view

from needle.compiler import build
from needle.compiler.kernels import contraction
from needle.compiler.target import AVX2, PLAIN, Target

MATRICES = (0, 1, 1, 1)
BATCHES = (1, 1, 1, 1)


def fresh(shape, dtype):
    """Filled with what no sum gives: the kernel has to write every element."""
    out = np.empty(shape, dtype)
    out.view(f"u{out.itemsize}")[...] = 0x7F if out.itemsize == 1 else 0x7C01
    return out


def contract(a, b, groups=MATRICES, tasks=1, out=None):
    batch, m, _, k = groups
    if out is None:
        shape = a.shape[: batch + m] + b.shape[batch + k :]
        out = fresh(shape, np.result_type(a, b) if a.dtype != b.dtype else a.dtype)
    call(contraction.prepare(view(a), view(b), view(out), *groups), a, b, out, tasks=tasks)
    return out


def whole_numbers(shape, dtype=np.float32, seed=0, most=4):
    """Sums of their products are exact in every float dtype while they stay small."""
    low = -most if np.dtype(dtype).kind in "fiV" else 0
    return np.random.RandomState(seed).randint(low, most + 1, shape).astype(dtype)


HOST = Target.host()
POORER = [replace(t, triple=HOST.triple) for t in (AVX2, PLAIN)] if HOST.name == "avx512" else []


def run_as(monkeypatch, target):
    """Make this machine's kernels those of a poorer target."""
    made = {}

    def address_of(key, write):
        if key not in made:
            machine = target.machine()
            code = machine.emit_object(build.optimized(write, target, machine))
            made[key] = build.link(bytes(code))[build.ENTRY]
        return made[key]

    monkeypatch.setattr(Target, "host", classmethod(lambda cls: target))
    monkeypatch.setattr(contraction, "address_of", address_of)
