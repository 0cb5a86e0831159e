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
EPS = 2.0**-52


def prepared(seed):
    scope = {}
    exec(random_attention(seed), scope)
    return scope["prepare"]()


def results_of(seed, way, noise=0.0):
    step, given = prepared(seed)
    if noise:
        rng = np.random.default_rng(seed)
        given = [disturbed(x, noise * rng.uniform(-1, 1, x.shape)) for x in given]
    run = way(step)
    run(*given)
    return run, [x.numpy() for x in run(*given)]


def disturbed(x, by):
    if x.dtype != "float64":
        return x
    return ndl.Tensor(x.numpy() * (1 + by), dtype="float64", requires_grad=x.requires_grad)


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
            same = same or (a.shape == b.shape and is_within_rounding(seed, i, a, b))
            assert same, f"{way}: result {i}: apart by {np.abs(a - b).max()}, of {scale}"
    for i, (a, b) in enumerate(zip(compiled, alone, strict=True)):
        assert a.tobytes() == b.tobytes(), f"result {i}: other bits on one thread"
    units = run._latest.executable.compiled.fused.units
    return sum(isinstance(unit, Chain) for unit in units)


def is_within_rounding(seed, number, a, b):
    """Whether a result moves about as far when operands change by what rounding takes of them.

    Sums that cancel, of scores less their mean, may leave nothing else.
    """
    moved = [results_of(seed, lambda step: step, noise)[1][number] for noise in (EPS, -2 * EPS)]
    return np.abs(a - b).max() <= 8 * max(np.abs(x - b).max() for x in moved)


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


def test_sums_that_cancel_are_allowed_what_rounding_leaves_of_them():
    with unoptimized():
        check(183957778)  # of its results one is 4e-8 of rounding, in eager too


def test_some_of_them_have_chains():
    with unoptimized():
        assert sum(map(check, range(8)))
