"""Faults that only values show: nothing changes, and the error is that of the eager function."""

from __future__ import annotations

import numpy as np
import pytest
from jit.twins import assert_same_state, batch, network, state_of, training_step, variants

import needle as ndl

pytestmark = pytest.mark.nd_mode


def ids(*values):
    return ndl.Tensor(list(values), dtype="int64", requires_grad=False)


def test_a_class_out_of_range_changes_nothing():
    model = network(dropout=0.5, norm=True)
    opt = ndl.optim.Adam(model.parameters(), lr=0.1)
    plain = training_step(model, opt)
    step = ndl.jit(plain)
    x, y = batch(0)
    step(x, y)
    grads = [(p.grad, p.grad.numpy()) for p in model.parameters()]
    before = state_of(model, opt)
    with pytest.raises(ndl.errors.OutOfRangeError) as compiled:
        step(x, ids(*[0] * 7, 3))
    # the eager step has got as far as the loss: dropout is drawn, statistics have moved
    after = state_of(model, opt)
    for name, value in before.items():
        if name.startswith(("modules.0", "modules.4", "optimizer")) and ".grad" not in name:
            assert np.array_equal(after[name], value), name
    assert all(np.array_equal(grad.numpy(), seen) for grad, seen in grads)
    with pytest.raises(ndl.errors.OutOfRangeError) as eager:
        plain(x, ids(*[0] * 7, 3))
    assert str(compiled.value) == str(eager.value)


def test_the_state_is_that_of_the_eager_step_that_raised():
    seen = []
    for way in (lambda f: f, ndl.jit):
        model = network(dropout=0.5, norm=True)
        opt = ndl.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        step = way(training_step(model, opt))
        np.random.seed(5)
        step(*batch(0))
        with pytest.raises(ndl.errors.OutOfRangeError):
            step(batch(1)[0], ids(*[0] * 7, -1))
        step(*batch(2))
        seen.append(state_of(model, opt))
    assert_same_state(seen[1], seen[0])


@pytest.mark.parametrize("row", [7, -8])
def test_an_index_out_of_range(row):
    table = ndl.nn.Embedding(7, 2)
    total = {"sum": ndl.zeros(2)}

    def lookup(rows):
        total["sum"] = total["sum"] + table(rows).sum(0).detach()
        return table(rows)

    call = ndl.jit(lookup)
    call(ids(0, 6))
    before = total["sum"].numpy()
    with pytest.raises(ndl.errors.OutOfRangeError) as compiled:
        call(ids(1, row))
    assert np.array_equal(total["sum"].numpy(), before)
    with pytest.raises(ndl.errors.OutOfRangeError) as eager:
        lookup(ids(1, row))
    assert str(compiled.value) == str(eager.value)
    assert variants(call) == 1


def test_an_index_out_of_range_leaves_the_gradients_that_are_written_in_place():
    table, head = ndl.nn.Embedding(7, 4), ndl.nn.Linear(4, 3)

    @ndl.jit
    def step(rows):
        (head(table(rows)) ** 2).sum().backward()

    step(ids(0, 6, 6))
    (built,) = step.compiled
    assert built.allocations == 0
    params = [*table.parameters(), *head.parameters()]
    before = [p.grad.numpy() for p in params]
    with pytest.raises(ndl.errors.OutOfRangeError):
        step(ids(1, 2, 7))
    assert all(np.array_equal(p.grad.numpy(), x) for p, x in zip(params, before, strict=True))
    step(ids(1, 2, 3))
    assert (table.weight.grad.numpy()[1:4] != 0).all() and not table.weight.grad.numpy()[6].any()


@pytest.mark.parametrize("draw", [ndl.init.rand, ndl.init.randn, ndl.init.randb])
def test_memory_that_is_not_there_leaves_the_random_numbers(monkeypatch, draw):
    call = ndl.jit(lambda x: x + draw(5).astype("float32").sum())
    np.random.randn()  # of which NumPy keeps a second one
    x = ndl.ones(4)
    call(x)
    (known,) = call._variants.values()
    state = np.random.get_state()

    def fail(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(known[0].executable, "run", fail)
    with pytest.raises(MemoryError):
        call(x)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))


def test_a_rate_out_of_range_stops_the_step_before_it_begins():
    model = network()
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    schedule = ndl.optim.OneCycleLR(opt, 0.1, total_steps=2)
    plain = training_step(model, opt)

    @ndl.jit
    def step(x, y):
        plain(x, y)
        schedule.step()

    step(*batch(0))
    step(*batch(1))
    before = state_of(model, opt)
    with pytest.raises(ndl.errors.OptionError, match="total_steps"):
        step(*batch(2))
    assert_same_state(state_of(model, opt), before, rtol=0)
