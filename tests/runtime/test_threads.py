"""The thread pool: every share once, whoever calls, whatever happens to the process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needle.compiler import build, target
from needle.compiler.code import Code, Value
from needle.compiler.types import I32, I64
from needle.errors import OptionError
from needle.runtime import pool as native
from needle.runtime import threads

LINE = 8  # words between what different shares write
KERNELS = ("count", "meet", "hold", "nested", "lock")

forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # from Python 3.12 on, for the test's own threads
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


class Native:
    """The pool and some kernels, linked."""

    def __init__(self) -> None:
        code = build.object_code("pool and kernels", write_all)
        self.address = build.link(code, "needle_parallel", *KERNELS, *threads.FUNCTIONS)
        self.parallel = ctypes.CFUNCTYPE(
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )(self.address["needle_parallel"])
        self.pool = threads.attach(self.address)

    def run(self, kernel: str, cells: np.ndarray, tasks: int) -> int:
        return self.parallel(self.address[kernel], cells.ctypes.data, tasks)


def write_all(module: Any, target: target.Target) -> None:
    threads.write_pool(module, target)
    for name in KERNELS:
        code = Code(module, name, target)
        globals()[f"write_{name}"](code, *code.arguments)
        code.finish()


def read(code: Code, place: Value) -> Value:
    return code.wrap(code.builder.load_atomic(place.ir, "seq_cst", 8, typ=I64.ir), I64)


def write_count(code: Code, cells: Value, task: Value, tasks: Value) -> None:
    """cells[task] += 1; beside it: how many tasks it was told."""
    code.set_word(cells, task * LINE, code.word(cells, task * LINE) + 1)
    code.set_word(cells, task * LINE + 1, tasks)


def write_meet(code: Code, cells: Value, task: Value, tasks: Value) -> None:
    """Ends when all shares have begun."""
    code.builder.atomic_rmw("add", cells.ir, I64.ir(1), "seq_cst")
    with code.repeat_while(lambda: read(code, cells) < tasks):
        pass


def write_hold(code: Code, cells: Value, task: Value, tasks: Value) -> None:
    """Tells that it has begun, and ends when cell 0 is set."""
    code.builder.atomic_rmw("add", (cells + 8).ir, I64.ir(1), "seq_cst")
    with code.repeat_while(lambda: read(code, cells).equals(0)):
        pass


def write_nested(code: Code, cells: Value, task: Value, tasks: Value) -> None:
    """Each share calls the pool again, with a row of counters of its own."""
    count = code.address(code.module.globals["count"])
    row = cells + task * (64 * LINE * 8)
    code.call("needle_parallel", I64, count, row, tasks)


def write_lock(code: Code, cells: Value, task: Value, tasks: Value) -> None:
    """Leaves all slots as a fork can leave them: the worker asleep, another just waking it."""
    pool = code.address(code.module.globals["needle_pool"])
    with code.loop(1, threads.MAX_THREADS) as number:
        slot = pool + (number * native._SLOT_BYTES + native._SLOTS)
        code.set_word(slot + native._SLEEPING, 0, 1)
        code.call("pthread_mutex_lock", I32, slot + native._MUTEX)


@pytest.fixture(scope="module")
def linked() -> Native:
    return Native()


@pytest.fixture
def eight(linked: Native, monkeypatch: pytest.MonkeyPatch) -> Iterator[Native]:
    """The pool with eight threads, more than most machines that run this have."""
    monkeypatch.setattr(threads, "_chosen", None)
    threads.set_num_threads(8)
    yield linked
    threads.set_num_threads(threads.default_num_threads())


def counters(rows: int = 64) -> np.ndarray:
    return np.zeros((rows, LINE), np.int64)


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 8, 20])
def test_every_share_runs_exactly_once_each_time(eight: Native, tasks: int) -> None:
    used = min(tasks, 8)
    cells = counters()
    assert {eight.run("count", cells, tasks) for _ in range(10_000)} == {used}
    assert cells[:, 0].tolist() == [10_000] * used + [0] * (64 - used)
    assert cells[:used, 1].tolist() == [used] * used


def test_shares_run_at_the_same_time(eight: Native) -> None:
    for tasks in (2, 3, 8):
        cells = counters()
        eight.run("meet", cells, tasks)
        assert cells[0, 0] == tasks


def test_sleeping_workers_wake_up(eight: Native) -> None:
    for _ in range(20):
        time.sleep(0.002)
        eight.run("meet", counters(), 4)


def test_growing_and_shrinking_take_effect_with_the_next_call(eight: Native) -> None:
    for count in (3, 1, 5, 2, 8, 64, 4):
        threads.set_num_threads(count)
        cells = counters()
        assert eight.run("count", cells, 1000) == count
        assert cells[:, 0].tolist() == [1] * count + [0] * (64 - count)


def test_callers_at_the_same_time_get_all_their_shares(eight: Native) -> None:
    rows = [counters() for _ in range(4)]

    def call(cells: np.ndarray) -> None:
        for _ in range(3000):
            assert eight.run("count", cells, 5) == 5

    run_threads([lambda cells=cells: call(cells) for cells in rows])
    for cells in rows:
        assert cells[:5, 0].tolist() == [3000] * 5


def test_resizing_and_stopping_while_others_call(eight: Native) -> None:
    calls, cells = 3000, counters()
    used = []

    def call() -> None:
        used.extend(eight.run("count", cells, 8) for _ in range(calls))

    def change() -> None:
        for number in range(300):
            threads.set_num_threads(1 + number % 8)
            eight.pool.stop()

    run_threads([call, change])
    for share in range(8):
        assert cells[share, 0] == sum(share < n for n in used)


def test_a_kernel_that_calls_the_pool_does_not_hang(eight: Native) -> None:
    cells = np.zeros((64 * 64, LINE), np.int64)
    eight.run("nested", cells, 6)
    counts = cells.reshape(64, 64, LINE)[:, :, 0]
    assert counts[:6, :6].tolist() == [[1] * 6] * 6
    assert counts.sum() == 36


def test_a_stopped_pool_starts_again(eight: Native) -> None:
    for _ in range(3):
        eight.run("meet", counters(), 4)
        assert eight.pool.stop()
    assert eight.pool.stop(), "stopping twice is fine"


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two processors",
)
class TestProcessors:
    @pytest.fixture
    def worker(self, linked: Native) -> Iterator[int]:
        """The only worker's thread. Afterwards every thread may run where it might before."""
        before = os.sched_getaffinity(0)
        linked.pool.stop()
        others = thread_numbers()
        linked.pool.resize(2)
        linked.run("count", counters(), 2)
        (worker,) = thread_numbers() - others
        yield int(worker)
        os.sched_setaffinity(0, before)
        linked.pool.stop()

    def call_on(self, linked: Native, processor: int) -> None:
        """A call, most likely from that processor, of a worker that sleeps."""
        allowed = os.sched_getaffinity(0)
        time.sleep(0.05)
        os.sched_setaffinity(0, {processor})
        os.sched_setaffinity(0, allowed)
        linked.run("count", counters(), 2)

    def test_a_worker_that_wakes_stays_off_the_callers(self, linked: Native, worker: int) -> None:
        allowed = os.sched_getaffinity(0)
        for processor in sorted(allowed):
            for _ in range(40):
                self.call_on(linked, processor)
                if os.sched_getaffinity(worker) == allowed - {processor}:
                    break
            else:
                pytest.fail(f"the worker may still use {processor}")

    def test_threads_tied_to_one_processor_all_stay_there(
        self, linked: Native, worker: int
    ) -> None:
        allowed = os.sched_getaffinity(0)
        for only in sorted(allowed):
            for thread in (0, worker):
                os.sched_setaffinity(thread, {only})
            for _ in range(3):
                self.call_on(linked, only)
                assert os.sched_getaffinity(worker) == {only}

    def test_a_wider_choice_is_taken_up(self, linked: Native, worker: int) -> None:
        first, second, *_ = allowed = sorted(os.sched_getaffinity(0))
        for thread in (0, worker):
            os.sched_setaffinity(thread, {first})
        self.call_on(linked, first)
        for thread in (0, worker):
            os.sched_setaffinity(thread, set(allowed))
        for _ in range(40):
            self.call_on(linked, second)
            if os.sched_getaffinity(worker) == set(allowed) - {second}:
                return
        pytest.fail("the worker may still use the caller's processor")


def test_idle_workers_use_no_processor(eight: Native) -> None:
    eight.run("meet", counters(), 8)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory through Linux")
@pytest.mark.parametrize("before", ["", "lock"], ids=["fresh", "forked amid a wake-up"])
def test_where_the_system_grants_no_threads_the_caller_does_all(before: str) -> None:
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_threads import Native, counters, threads
threads.set_num_threads(1)
linked = Native()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (40 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cells = counters()
if {before!r}:
    linked.run({before!r}, cells, 1)
threads.set_num_threads(64)
for _ in range(10):
    assert linked.run("count", cells, 64) == 64
assert cells[:, 0].tolist() == [10] * 64
import os
print(len(os.listdir("/proc/self/task")) < 30)
"""
    assert run_python(script) == "True\n"


@pytest.mark.parametrize("pause", ["", "time.sleep(0.01)"], ids=["awake", "asleep"])
def test_the_process_ends_quietly_with_workers(pause: str) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_threads import Native, counters, threads
linked = Native()
threads.set_num_threads(4)
linked.run("meet", counters(), 4)
{pause}
print("end")
"""
    assert run_python(script) == "end\n"


class TestFork:
    pytestmark = forks

    def test_child_starts_workers_of_its_own(self, eight: Native) -> None:
        eight.run("meet", counters(), 4)
        assert in_child(lambda: eight.run("meet", counters(), 4)) == 0
        eight.run("meet", counters(), 4)

    def test_child_of_a_process_whose_pool_is_at_work_does_not_hang(self, eight: Native) -> None:
        cells = counters()
        held = threading.Thread(target=eight.run, args=("hold", cells, 3))
        held.start()
        while cells[0, 1] < 3:
            time.sleep(0.001)
        try:
            assert not eight.pool.stop(), "a call is at work"
            assert in_child(lambda: eight.run("meet", counters(), 4)) == 0
        finally:
            cells[0, 0] = 1
            held.join()

    def test_nothing_but_the_forking_thread_is_left_before_a_fork(self, eight: Native) -> None:
        if not Path("/proc/self/task").exists():
            pytest.skip("knows threads through Linux")
        eight.pool.stop()
        before = thread_numbers()
        eight.run("meet", counters(), 8)
        workers = thread_numbers() - before
        assert len(workers) == 7
        assert in_child(lambda: None) == 0
        end = time.monotonic() + 10
        while workers & thread_numbers():  # listed for a moment after they have been joined
            assert time.monotonic() < end
            time.sleep(0.001)


class TestNumbers:
    def test_set_num_threads_is_what_get_num_threads_gives(self, eight: Native) -> None:
        threads.set_num_threads(3)
        assert threads.get_num_threads() == 3
        threads.set_num_threads(np.int64(2))
        assert threads.get_num_threads() == 2

    @pytest.mark.parametrize("count", [0, -1, 257, 1.0, "2", None, True])
    def test_set_num_threads_refuses_what_is_no_number_of_threads(self, count: Any) -> None:
        message = f"^set_num_threads: expected an integer from 1 to 256, got {count!r}.$"
        with pytest.raises(OptionError, match=message):
            threads.set_num_threads(count)

    def test_default_is_what_the_environment_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEEDLE_NUM_THREADS", "5")
        assert threads.default_num_threads() == 5
        monkeypatch.setattr(threads, "_chosen", None)
        assert threads.get_num_threads() == 5

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NEEDLE_NUM_THREADS", raising=False)
        unset = threads.default_num_threads()
        monkeypatch.setenv("NEEDLE_NUM_THREADS", "")
        assert threads.default_num_threads() == unset

    @pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", "1000", "²"])
    def test_bad_value_in_the_environment_is_named(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("NEEDLE_NUM_THREADS", value)
        message = "^NEEDLE_NUM_THREADS: expected an integer from 1 to 256, got "
        with pytest.raises(OptionError, match=message):
            threads.default_num_threads()

    def test_default_does_not_exceed_the_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NEEDLE_NUM_THREADS", raising=False)
        assert 1 <= threads.default_num_threads() <= (os.cpu_count() or 1)


class TestTargets:
    @pytest.mark.parametrize("machine", target.TARGETS, ids=lambda t: t.name)
    def test_pool_is_lowered_for_every_target(self, machine: target.Target) -> None:
        text = build.assembly(native.write, machine)
        assert "needle_parallel:" in text
        assert {"pause", "isb"} & set(text.split())

    def test_without_pthreads_everything_runs_on_one_thread(self) -> None:
        windows = replace(target.PLAIN, triple="x86_64-pc-windows-msvc")
        text = build.assembly(native.write, windows)
        assert "needle_parallel:" in text
        assert "pthread" not in text

    def test_an_unattached_pool_runs_on_one_thread(self) -> None:
        addresses = build.link(build.object_code("unattached", native.write), "needle_pool_size")
        assert ctypes.CFUNCTYPE(ctypes.c_int64)(addresses["needle_pool_size"])() == 1


def test_the_module_does_not_load_llvmlite() -> None:
    script = "import sys, needle.runtime.threads; print('llvmlite' in sys.modules)"
    assert run_python(script) == "False\n"


def test_without_llvmlite_the_device_says_what_is_missing() -> None:
    told = run_python(
        "import sys; sys.modules['llvmlite'] = None\n"
        "import needle as ndl, needle.backend_ndarray as nd\n"
        "nd.ones(2, device=nd.cpu_numpy()) + 1\n"
        "try: nd.ones(2, device=nd.cpu())\n"
        "except ndl.errors.DeviceError as error: print(error)"
    )
    assert told.startswith("cpu(): expected the package llvmlite")


def run_threads(functions: list[Callable[[], None]]) -> None:
    """All of them at the same time; their errors are raised here."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(timeout=60)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]


def thread_numbers() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def in_child(function: Callable[[], object], seconds: float = 20) -> int:
    """The exit code of a forked process that runs it; a child that hangs is an error."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def run_python(script: str) -> str:
    """What a fresh interpreter prints; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
