"""Memory: flat over a thousand steps, and gone with the function or the model."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from jit.twins import batch, network, training_step

import needle as ndl
from needle.runtime.call import runtime_function

pytestmark = pytest.mark.nd_mode


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def compiled(norm=True):
    model = network(dropout=0.2, norm=norm)
    opt = ndl.optim.Adam(model.parameters(), lr=0.01)
    return model, opt, ndl.jit(training_step(model, opt))


@pytest.mark.usefixtures("no_gc")
def test_a_thousand_steps_leave_nothing_behind():
    # with norm there are 20 Tensors to fetch, and CPython 3.11 keeps the first 2,000 tuples of 20
    _, _, step = compiled(norm=False)
    batches = [batch(i) for i in range(4)]
    for i in range(50):
        step(*batches[i % 4])
    used = runtime_function("used")
    before = ndl.autograd.TENSOR_COUNTER, used()
    tracemalloc.start()
    for i in range(100):
        step(*batches[i % 4])
    python = tracemalloc.get_traced_memory()[0]
    for i in range(1000):
        step(*batches[i % 4])
    grown = tracemalloc.get_traced_memory()[0] - python
    tracemalloc.stop()
    assert (ndl.autograd.TENSOR_COUNTER, used()) == before
    assert grown < 10_000


@pytest.mark.usefixtures("no_gc")
def test_compiled_forward_passes_in_a_larger_graph_leave_nothing_behind():
    model = network()
    call = ndl.jit(lambda x: model(x))
    x, y = batch(0)

    def train():
        loss = ndl.nn.SoftmaxLoss()(call(x), y)
        loss.backward()

    for _ in range(3):
        train()
    before = ndl.autograd.TENSOR_COUNTER
    for _ in range(20):
        train()
    assert before == ndl.autograd.TENSOR_COUNTER


@pytest.mark.usefixtures("no_gc")
def test_a_model_goes_with_the_function_that_holds_it():
    ndl.jit(lambda x: x + 1)(ndl.ones(1))
    before = ndl.autograd.TENSOR_COUNTER
    model, opt, step = compiled()
    for i in range(3):
        step(*batch(i))
    gone = [weakref.ref(x) for x in (model, opt, model.parameters()[0], step)]
    del model, opt, step
    assert [x() for x in gone] == [None] * 4
    assert before == ndl.autograd.TENSOR_COUNTER


@pytest.mark.usefixtures("no_gc")
def test_an_object_goes_though_its_class_has_a_jitted_method():
    class Net(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = ndl.nn.Parameter(ndl.ones(2))

        @ndl.jit
        def forward(self, x):
            return x * self.weight

    net = Net()
    for _ in range(2):
        net(ndl.ones(2))
    gone = weakref.ref(net)
    del net
    assert gone() is None


@pytest.mark.usefixtures("no_gc")
def test_a_trace_that_fails_leaves_nothing_behind():
    model = network()

    @ndl.jit
    def step(x):
        return model(x).sum().item()

    def call():
        with pytest.raises(ndl.JitError):
            step(batch(0)[0])

    call()
    gc.collect()
    before = ndl.autograd.TENSOR_COUNTER
    for _ in range(3):
        call()
    gc.collect()  # the exception's traceback is a circle of Python's
    assert before == ndl.autograd.TENSOR_COUNTER


def test_what_a_step_was_traced_with_is_not_kept():
    x = ndl.Tensor(np.ones((64, 6)), dtype="float32", requires_grad=False)
    y = batch(0, 64)[1]
    _, _, step = compiled()
    array = weakref.ref(x.cached_data)
    step(x, y)
    del x
    assert array() is None


def test_another_batch_size_has_the_same_python():
    # what looks at the state, and what writes it, is compiled once
    _, _, step = compiled()
    for rows in (8, 7):
        step(*batch(0, rows=rows))
    forms = [form for known in step._variants.values() for form in known]
    assert len(forms) == 2
    assert len({id(form.fits.__code__) for form in forms}) == 1
    assert len({id(form._around.__code__) for form in forms}) == 1
