"""Random programs, eager against compiled and lazy: see `random_programs` and `running`.

FUZZ_EXAMPLES=1000 FUZZ_SEED=1000000 runs so many, from another seed on; `make fuzz` does.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from fuzz import running
from fuzz.programs import scope_of
from fuzz.quick_code import unoptimized
from fuzz.random_programs import random_program
from fuzz.running import check, error_of, failure_of, reproducer, run
from fuzz.shrinking import shrink
from test_opspecs import exported_ops

from needle.autograd.value import Value
from needle.errors import NeedleError

pytestmark = pytest.mark.nd_mode

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
FIRST = int(os.environ.get("FUZZ_SEED", "0"))
BLOCKS = min(EXAMPLES, 3 + EXAMPLES // 20)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_programs(block):
    seeds = iter(range(FIRST + block, FIRST + EXAMPLES, BLOCKS))
    failure = next(filter(None, map(failure_of, seeds)), "")
    others = [seed for seed in seeds if error_of(random_program(seed))]
    also = f"\n\nThe programs of these seeds failed too: {others}" if others else ""
    assert not failure, failure + also


def test_programs_are_the_same_for_the_same_seed():
    sources = [random_program(seed).source() for seed in (5, 5, 6)]
    assert sources[0] == sources[1] != sources[2]


def test_programs_reach_every_kind_of_ending_and_dtype():
    sources = "\n".join(random_program(seed).source() for seed in range(40))
    for part in ("ndl.grad(", "opt.step()", "kept['a'] =", "float16", "bfloat16", "float64"):
        assert part in sources


def test_programs_have_hundreds_of_ops_of_every_kind(monkeypatch):
    make, kinds, sizes = Value.make_from_op.__func__, set(), []

    def counted(cls, op, inputs, **options):
        kinds.add(type(op))
        sizes[-1] += 1
        return make(cls, op, inputs, **options)

    with unoptimized():
        programs = [random_program(seed).source() for seed in range(300)]
    monkeypatch.setattr(Value, "make_from_op", classmethod(counted))
    with unoptimized(), np.errstate(all="ignore"):
        for source in programs:
            sizes.append(0)
            run(source, lambda step: step, calls=1)
    assert not exported_ops() - kinds
    assert np.median(sizes) > 120
    assert np.mean(sizes) > 180


@pytest.fixture
def broken(monkeypatch):
    """A compiler that takes every tanh for its argument."""

    def broken_jit(function):
        def run(*arguments):
            tanh = running.ndl.tanh
            monkeypatch.setattr(running.ndl, "tanh", lambda x: x * 1)
            try:
                return function(*arguments)
            finally:
                monkeypatch.setattr(running.ndl, "tanh", tanh)

        return run

    monkeypatch.setattr(running, "jit", broken_jit)


def test_a_wrong_value_is_found_and_the_program_made_short(broken):
    program = next(p for p in map(random_program, range(100)) if "ndl.tanh(v" in p.source())

    def fails(candidate):
        try:
            check(candidate)
        except (AssertionError, NeedleError) as error:
            return isinstance(error, AssertionError)
        return False

    assert fails(program)
    short = shrink(program, fails)
    assert fails(short)
    assert len(short.lines) <= 2
    assert "ndl.tanh(" in short.source()


def test_failure_prints_the_seed_and_a_script_that_runs(broken, capsys):
    seed = next(s for s in range(100) if "ndl.tanh(v" in random_program(s).source())
    message = failure_of(seed)
    assert f"seed {seed}" in message
    with np.errstate(), running.threads(2):  # which the script changes
        exec(message.split("run it again:\n\n")[1], {})
    assert capsys.readouterr().out.count("[") == 4  # the largest differences, of four ways


def test_numbers_can_be_disturbed():
    scope = scope_of("")
    calm = scope["numbers"]((4,), "float64", 1).numpy()
    scope["NOISE"] = 1e-6
    disturbed = scope["numbers"]((4,), "float64", 1).numpy()
    assert not np.array_equal(calm, disturbed)
    np.testing.assert_allclose(disturbed, calm, rtol=1e-5)


def test_reproducers_need_nothing_of_the_tests():
    assert "fuzz" not in reproducer(random_program(3))
