"""Random programs that attend: eager, compiled on two threads and on one, with guards, and lazy.

FUZZ_EXAMPLES=5000 FUZZ_SEED=1000000 makes a long run from another seed: a fifth as many programs.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

import numpy as np
import pytest
from fuzz.quick_code import unoptimized
from fuzz.random_attention import random_attention
from program.guarded import guarded

import needle as ndl
from needle.jit import jit
from needle.program.chains import Chain

pytestmark = pytest.mark.nd_mode

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "160")) // 5
FIRST = int(os.environ.get("FUZZ_SEED", "0"))
BLOCKS = 8


def prepared(seed):
    scope = {}
    exec(random_attention(seed), scope)
    return scope["prepare"]()


def results_of(seed, way):
    step, given = prepared(seed)
    run = way(step)
    run(*given)
    return run, [x.numpy() for x in run(*given)]


def lazily(function):
    def run(*given):
        with ndl.lazy():
            return function(*given)

    return run


def check(seed):
    """Raise AssertionError unless a program agrees with itself; gives how many chains it has."""
    threads = ndl.get_num_threads()
    try:
        _, expected = results_of(seed, lambda step: step)
        ndl.set_num_threads(2)
        run, compiled = results_of(seed, jit)
        ndl.set_num_threads(1)
        with guarded():
            _, alone = results_of(seed, jit)
        ways = {"jit": compiled, "jit on one thread": alone}
        if seed % 3 == 0:
            ways["lazy"] = results_of(seed, lazily)[1]
    finally:
        ndl.set_num_threads(threads)
    for way, found in ways.items():
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0)))
            same = a.shape == b.shape and np.allclose(a, b, 1e-9, 1e-9 * scale, equal_nan=True)
            assert same, f"{way}: result {i}: apart by {np.abs(a - b).max()}, of {scale}"
    for i, (a, b) in enumerate(zip(compiled, alone, strict=True)):
        assert a.tobytes() == b.tobytes(), f"result {i}: other bits on one thread"
    units = run._latest.executable.compiled.fused.units
    return sum(isinstance(unit, Chain) for unit in units)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_attention(block):
    for seed in range(FIRST + block, FIRST + EXAMPLES, BLOCKS):
        try:
            with nullcontext() if seed % 8 == 0 else unoptimized():
                check(seed)
        except Exception as error:
            source = random_attention(seed)
            script = f"{source}\n\nstep, given = prepare()\nprint(ndl.jit(step)(*given))"
            raise AssertionError(f"seed {seed}: {error}; to run it:\n{script}") from error


def test_some_of_them_have_chains():
    with unoptimized():
        assert sum(map(check, range(8)))
