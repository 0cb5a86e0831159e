"""Threads: the same bits on one or two, several callers at once, and forks."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
import pytest
from jit.twins import batch, network, training_step, variants

import needle as ndl
from needle.jit.tracing import Trace

pytestmark = pytest.mark.nd_mode


@pytest.fixture(autouse=True)
def _threads():
    before = ndl.get_num_threads()
    yield
    ndl.set_num_threads(before)


def trained(rows=512, columns=6):
    model = network(dropout=0.2, norm=True)
    opt = ndl.optim.Adam(model.parameters(), lr=0.01)
    step = ndl.jit(training_step(model, opt))
    np.random.seed(0)
    losses = [step(*batch(i, rows)).item() for i in range(4)]
    return losses, [p.numpy() for p in model.parameters()]


def test_the_same_bits_run_after_run_and_on_one_or_two_threads():
    found = []
    for threads in (1, 2, 2, 1):
        ndl.set_num_threads(threads)
        found.append(trained())
    for losses, parameters in found[1:]:
        assert losses == found[0][0]
        assert all(np.array_equal(a, b) for a, b in zip(parameters, found[0][1], strict=True))


def test_another_number_of_threads_is_honoured_after_compiling():
    call = ndl.jit(lambda x: (x @ x).sum())
    x = ndl.init.randn(300, 300)
    ndl.set_num_threads(2)
    seen = [call(x).item()]
    ndl.set_num_threads(1)
    seen.append(call(x).item())
    ndl.set_num_threads(2)
    seen.append(call(x).item())
    assert len(set(seen)) == 1 and variants(call) == 2


def run_in_threads(function, count=4):
    errors = []

    def guarded(number):
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors


def test_several_threads_call_one_function():
    w = ndl.nn.Parameter(ndl.zeros(3))
    opt = ndl.optim.SGD([w], lr=1.0)

    @ndl.jit
    def step(x):
        opt.reset_grad()
        (w * x).sum().backward()
        opt.step()
        return w.sum()

    x = ndl.ones(3)
    run_in_threads(lambda _: [step(x) for _ in range(50)])
    assert np.array_equal(w.numpy(), [-200.0] * 3) and opt.t == 200


def test_several_threads_trace_functions_of_one_model():
    model = network()
    x, _ = batch(0)
    expected = model(x).numpy()

    def work(number):
        call = ndl.jit(lambda x: model(x) + number)
        for _ in range(5):
            np.testing.assert_allclose(call(x).numpy(), expected + number, rtol=1e-5, atol=1e-5)

    run_in_threads(work)


def test_a_thread_that_traces_leaves_the_gradients_of_others(monkeypatch):
    started, done = threading.Event(), threading.Event()
    seen = []
    draw = Trace.draw

    def other(_):
        started.wait(30)
        x = ndl.Tensor([3.0])
        (x * x).sum().backward()
        seen.append(x.grad.item())
        done.set()

    def meanwhile(*arguments):
        started.set()
        done.wait(30)
        return draw(*arguments)

    monkeypatch.setattr(Trace, "draw", meanwhile)
    thread = threading.Thread(target=other, args=(0,))
    thread.start()
    ndl.jit(lambda x: x * ndl.init.rand(1))(ndl.ones(1))
    thread.join(30)
    assert seen == [6.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_goes_on():
    model = network()
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    step = ndl.jit(training_step(model, opt))
    step(*batch(0))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            step(*batch(1))
            ndl.jit(lambda x: x * 2)(ndl.ones(2))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    step(*batch(1))


def lazy_product(x):
    with ndl.lazy():
        y = ndl.exp(x * 2) @ x + 1
    return y.numpy()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("way", ["jit", "lazy"])
def test_a_child_goes_on_though_another_thread_was_at_work_when_it_was_born(way):
    jitted = ndl.jit(lambda x: ndl.exp(x * 2) @ x + 1)
    work = lazy_product if way == "lazy" else jitted
    x = ndl.Tensor(np.zeros((600, 600), np.float32))
    work(x)
    stopped = threading.Event()

    def go_on():
        while not stopped.is_set():
            work(x)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        all_go_on = all(status_of_child(lambda: work(x)) == 0 for _ in range(8))
    finally:
        stopped.set()
        thread.join(60)
    assert all_go_on


def status_of_child(work):
    """How a child of a fork ends that does some work, or is ended after 20 s."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def test_threads_that_go_back_through_one_function_do_so_with_their_own_numbers():
    settings = {"scale": 1.0}
    scaled = ndl.jit(lambda x: (ndl.tanh(x * settings["scale"]) * settings["scale"]).sum())
    found = {}

    def go_back(scale, loss, x, barrier):
        barrier.wait(30)
        loss.backward()
        found[scale] = x.grad.numpy()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            barrier, threads = threading.Barrier(3), []
            for scale in (1.5, 2.5, 3.5):
                settings["scale"] = scale
                x = ndl.zeros(64, requires_grad=True)
                given = scale, scaled(x), x, barrier
                threads.append(threading.Thread(target=go_back, args=given))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            for scale in (1.5, 2.5, 3.5):
                np.testing.assert_allclose(found[scale], scale**2, rtol=1e-5)
    finally:
        sys.setswitchinterval(interval)
