"""`jit(check=True)`: the function as it is written runs beside the compiled one."""

from __future__ import annotations

import numpy as np
import pytest
from jit.twins import assert_same_state, batch, network, state_of, training_step

import needle as ndl

pytestmark = pytest.mark.nd_mode


def test_state_is_as_after_one_step():
    seen = []
    for way in (lambda f: f, ndl.jit(check=True)):
        model = network(dropout=0.3, norm=True)
        opt = ndl.optim.Adam(model.parameters(), lr=0.01)
        step = way(training_step(model, opt))
        np.random.seed(3)
        losses = [step(*batch(i)).item() for i in range(3)]
        seen.append({"losses": np.array(losses), **state_of(model, opt)})
    assert_same_state(seen[1], seen[0])


def spoil(call, *arguments):
    """Have the compiled form write 1000 into all of its results."""
    check, call.check = call.check, False
    call(*arguments)
    call.check = check
    ((variant,),) = call._variants.values()
    run = variant.executable.run

    def wrong(inputs, results):
        done = run(inputs, results)
        array = ndl.zeros(1).cached_data
        for memory in results[::2]:
            array._memory = memory
            array[:] = 1000
        return done

    variant.executable.run = wrong


def test_a_result_that_differs_is_named():
    call = ndl.jit(check=True)(lambda x: {"y": x * 2, "z": x * 3})
    spoil(call, ndl.ones(1))
    with pytest.raises(ndl.JitError, match=r"result 0 \(float32\[1\]: 998 of 2\); result 1"):
        call(ndl.ones(1))


def test_state_that_differs_is_named_and_all_is_put_back():
    box = {"total": ndl.zeros(1), "count": 0}

    @ndl.jit(check=True)
    def call(x):
        box["total"] = box["total"] + x
        box["count"] += 1

    call(ndl.ones(1))
    assert box["total"].item() == 1 and box["count"] == 1
    spoil(call, ndl.ones(1))
    before = dict(box)
    with pytest.raises(ndl.JitError, match=r"box\['total'\]"):
        call(ndl.ones(1))
    assert box["count"] == before["count"] and box["total"] is before["total"]


def test_the_functions_own_errors_come_through():
    loss = ndl.nn.SoftmaxLoss()
    call = ndl.jit(check=True)(lambda x, y: loss(x, y))
    x = ndl.ones(2, 3)
    call(x, ndl.Tensor([0, 1], dtype="int64"))
    with pytest.raises(ndl.errors.OutOfRangeError):
        call(x, ndl.Tensor([0, 3], dtype="int64"))


def test_the_tolerance_can_be_given():
    call = ndl.jit(check=1e4)(lambda x: x * 2)
    spoil(call, ndl.ones(1))
    assert call.check == 1e4
    assert call(ndl.ones(1)).item() == 1000
