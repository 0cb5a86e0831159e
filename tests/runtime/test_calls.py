"""Calls into kernels from Python: threads of either side, forks, memory, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import needle.backend_ndarray as nd
from needle.compiler.prepared import Prepared
from needle.runtime.call import bind, runtime_function
from needle.runtime.threads import get_num_threads, set_num_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def results(x: nd.NDArray, w: nd.NDArray) -> list[bytes]:
    """Work of every kind that is shared out among threads."""
    found = [
        nd.exp(x) * x.permute((1, 0)).reshape(x.shape),
        x.sum(),
        x.sum(0),
        x.sum(1),
        x.max(),
        x @ w,
        (x.permute((1, 0)) @ x),
        x[nd.arange(x.shape[0])],
        nd.cumsum(x, 1),
    ]
    return [y.numpy().tobytes() for y in found]


def test_results_have_the_same_bits_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    x = nd.array(rng.standard_normal((600, 1000)))
    w = nd.array(rng.standard_normal((1000, 300)))
    by_threads = {}
    for threads in (1, 2, 3, 5):
        set_num_threads(threads)
        by_threads[threads] = results(x, w)
    assert all(found == by_threads[1] for found in by_threads.values())


def test_python_threads_may_call_at_once() -> None:
    set_num_threads(2)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((300, 400)).astype(np.float32) for _ in range(4)]
    wrong: list[int] = []

    def work(number: int) -> None:
        x = nd.array(arrays[number])
        expected = arrays[number] @ arrays[number].T
        for _ in range(30):
            product = (x @ x.permute((1, 0))).numpy()
            total = float((x + x).sum())
            if not np.allclose(product, expected, atol=1e-3) or not np.isclose(
                total, 2 * arrays[number].sum(), atol=1e-2
            ):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_plans_are_made_by_several_threads_at_once() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                shape = tuple(int(n) for n in rng.integers(1, 40, 2))
                a = rng.standard_normal(shape).astype(np.float32)
                np.testing.assert_array_equal((nd.array(a) + nd.array(a[0])).numpy(), a + a[0])
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_on_threads_of_its_own() -> None:
    set_num_threads(2)
    x = nd.array(np.ones((500, 500)))
    expected = float((x @ x).sum())
    child = os.fork()
    if child == 0:
        os._exit(0 if float((x @ x).sum()) == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert float((x @ x).sum()) == expected


def test_memory_is_used_again_and_given_back_on_request() -> None:
    used, kept, trim = [runtime_function(name) for name in ("used", "kept", "trim")]
    x = nd.array(np.ones(1000))
    y = x + x
    before, pool = used(), kept()
    for _ in range(1000):
        y = x + y
    assert used() == before
    assert kept() <= pool + 3 * 8192
    assert trim() >= 0
    assert kept() == 0
    del y
    assert used() < before


def test_views_keep_the_memory_alive() -> None:
    used = runtime_function("used")
    before = used()
    row = nd.array(np.arange(100_000)).reshape((100, 1000))[7]
    shared = np.asarray(nd.array(np.arange(10)))
    nd.array(np.zeros(100_000))  # would take the place of memory freed too early
    assert float(row[0, 0]) == 7000.0
    assert shared.tolist() == list(range(10))
    del row, shared
    assert used() == before


def test_a_kernel_refuses_what_is_no_memory() -> None:
    double = bind(Prepared(0, (), 0.0), [4])
    with pytest.raises(ValueError, match="invalid PyCapsule"):
        double("not memory", 0)


def test_allocating_more_than_there_is_raises() -> None:
    with pytest.raises(MemoryError):
        runtime_function("new")(1 << 60)


def test_calls_keep_no_reference_to_what_they_do_not_return() -> None:
    x = nd.array(np.ones(8))
    y = x + x
    x[...] = y
    before = [sys.getrefcount(value) for value in (True, x._memory, y._memory)]
    for _ in range(1000):
        x + y
        x.sum()
        x[...] = y
    after = [sys.getrefcount(value) for value in (True, x._memory, y._memory)]
    assert all(b - a < 100 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("arguments", [(), (1, 2), ("x",), (-1,), (2**64,)])
def test_the_allocator_refuses_what_is_no_count(arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        runtime_function("new")(*arguments)


def test_a_call_refuses_an_offset_that_is_no_int() -> None:
    double = bind(Prepared(0, (), 0.0), [4])
    memory = runtime_function("new")(64)
    with pytest.raises(TypeError):
        double(memory, "0")
    with pytest.raises(TypeError):
        double(memory)


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(),
    reason="the limit is set from the size of the address space, which Linux's /proc tells",
)
def test_what_is_kept_is_given_back_before_an_allocation_fails() -> None:
    code = """
import resource, needle.backend_ndarray as nd
nd.zeros((10,)) + 1
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1200 << 20),) * 2)
arrays = [nd.full((45 << 20,), 0.0) for _ in range(5)]
del arrays
kept = [nd.full((60 << 20,), 0.0) for _ in range(2)]
try:
    nd.full((400 << 20,), 0.0)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("full: expected memory for a result of 1,677,721,600 bytes")
