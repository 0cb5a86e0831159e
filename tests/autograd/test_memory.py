"""Graphs free themselves: all of this runs with Python's cyclic collector off."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import autograd, nn, optim


@pytest.fixture(autouse=True)
def _no_cyclic_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live_after(step, times):
    for _ in range(times):
        step()
    return autograd.TENSOR_COUNTER


def training_step(look="never"):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(model, nn.LayerNorm1d(8), nn.Linear(8, 3))
    optimizer = optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-2)
    loss_of = nn.SoftmaxLoss()

    def step():
        x = tensor(np.random.randn(5, 6).astype("float32"))
        loss = loss_of(model(x), tensor(np.arange(5) % 3))
        if look == "first":
            loss.item()
        optimizer.reset_grad()
        loss.backward()
        optimizer.step()
        if look == "last":
            loss.item()

    return step


def test_live_values_and_memory_are_steady_over_1000_training_steps():
    step = training_step()
    live = live_after(step, 20)
    tracemalloc.start()
    step()
    before, _ = tracemalloc.get_traced_memory()
    assert live_after(step, 1000) == live
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000


@pytest.mark.nd_mode
@pytest.mark.slow
@pytest.mark.parametrize("look", ["first", "last"])
def test_1000_lazy_training_steps_keep_nothing_and_compile_nothing(look):
    from needle.realization.programs import programs
    from needle.runtime.call import runtime_function

    step = training_step(look)
    used = runtime_function("used")
    with ndl.lazy():
        live = live_after(step, 20)
        native, compiled = used(), programs.compiled
        assert live_after(step, 900) == live
        assert used() == native
        tracemalloc.start()
        live_after(step, 40)  # until all tuples that Python keeps for the next are traced
        before, _ = tracemalloc.get_traced_memory()
        live_after(step, 60)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert after - before < 20_000
    assert programs.compiled == compiled


def test_a_leaf_with_a_gradient_frees_its_graph_when_let_go():
    live = autograd.TENSOR_COUNTER
    for _ in range(10):
        x = tensor(np.ones(3))
        y = ndl.exp(x) * x
        y.sum().backward()
        ndl.logsumexp(x.grad * x).backward()
    del x, y
    assert autograd.TENSOR_COUNTER == live


def test_a_gradient_that_leads_to_the_given_adjoint_makes_no_circle():
    live = autograd.TENSOR_COUNTER
    for _ in range(10):
        x, adjoint = tensor(np.ones(3)), tensor(np.ones(3))
        (x + 1).backward(adjoint)
        (x.grad * 2).sum().backward()
        (adjoint + x).backward(adjoint)  # so that its gradient is itself
        (adjoint.grad * x.grad).sum().backward()
    del x, adjoint
    assert autograd.TENSOR_COUNTER == live


def test_without_reset_grad_only_the_last_graph_stays():
    w = tensor(np.ones((3, 3)))

    def step():
        (tensor(np.ones((2, 3))) @ w).sum().backward()

    assert live_after(step, 2) == live_after(step, 100)


def test_an_intermediate_value_is_freed_with_the_last_that_needs_it():
    x = tensor(np.ones(3))
    middle = ndl.exp(x)
    gone = weakref.ref(middle)
    top = middle * 2
    del middle
    assert gone() is not None
    del top
    assert gone() is None


@pytest.mark.parametrize(
    "use",
    [
        lambda x: ndl.grad(lambda y: (ndl.tanh(y) ** 2).sum())(x),
        lambda x: ndl.jacobian(lambda y: y * y, x),
        lambda x: ndl.hvp(lambda y: (y**4).sum(), x, x),
        lambda x: ndl.checkpoint(lambda y: ndl.exp(y) * y, x).sum().backward(),
        lambda x: ndl.stack(list(ndl.split(x, 0)), 0).sum().backward(),
        lambda x: (x[tensor([0, 0])] * 2).sum().backward(),
        lambda x: (x * x).sum().backward(accumulate=True),
        lambda x: ndl.einsum("i,i->", x, x).backward(),
        lambda x: ndl.max(x).backward(),
    ],
)
def test_nothing_outlives_its_use(use):
    def once():
        use(tensor(np.arange(3.0)))

    once()
    live = autograd.TENSOR_COUNTER
    once()
    assert autograd.TENSOR_COUNTER == live


def test_hooks_and_retained_gradients_make_no_circle():
    live = autograd.TENSOR_COUNTER
    x = tensor(np.ones(3))
    y = ndl.exp(x)
    y.retain_grad()
    x.register_hook(lambda grad: grad * 2)
    (y * y).sum().backward()
    assert y.grad is not None
    del x, y
    assert autograd.TENSOR_COUNTER == live


def test_lazy_values_drop_constant_inputs_once_computed():
    live = autograd.TENSOR_COUNTER
    with ndl.lazy():
        a = tensor(np.ones(3), requires_grad=False)
        b = (a + 1) * 2
    b.numpy()
    del a
    assert autograd.TENSOR_COUNTER == live + 1


@pytest.mark.usefixtures("traced_memory")
def test_accumulating_gradients_keeps_one_part_of_the_batch_at_a_time():
    w = tensor(np.ones((50, 50)))

    def peak(parts, **options):
        w.grad = None
        tracemalloc.start()
        for _ in range(parts):
            h = tensor(np.ones((20, 50)))
            for _ in range(10):
                h = ndl.tanh(h @ w)
            h.sum().backward(**options)
            del h
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    assert peak(8, accumulate=True) < 1.2 * peak(2, accumulate=True)


@pytest.mark.usefixtures("traced_memory")
def test_checkpoint_keeps_less_than_a_plain_call():
    w = tensor(np.ones((100, 100)) * 0.01)

    def block(h):
        for _ in range(10):
            h = ndl.tanh(h @ w)
        return h

    def kept(run):
        tracemalloc.start()
        h = tensor(np.ones((100, 100)))
        for _ in range(5):
            h = run(h)
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now

    assert kept(lambda h: ndl.checkpoint(block, h)) < 0.3 * kept(block)
