"""The native thread pool: one kernel's shares run at the same time, and nothing of Python in it.

Each worker has a slot with a ticket. The caller puts a ticket into the slots of the workers that
it wants, runs share 0, and then takes back every ticket that nobody has taken yet and runs that
share itself. So a call never waits for a worker to wake up, and goes on where the system grants
no threads at all; a worker that is awake always runs the same share, whose data its cache holds.

Who waits, for a ticket or for the last share, spins for a while and then sleeps. A scheduler that
saves power, or takes the one that wakes for the one that will soon sleep, puts the worker that it
wakes on its waker's processor, where it waits until the caller has done the work alone. So the
caller forbids that processor to a worker that it wakes, where the system lets it (Linux).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from needle.compiler.code import Code, Value
from needle.compiler.target import Target
from needle.compiler.types import I32, I64, POINTER
from needle.runtime.threads import MAX_THREADS

__all__ = ["PoolCode", "write"]

# The pool's state, in bytes from its beginning. Words that different threads write lie on lines
# of their own. A mutex or a condition of C takes 64 bytes at most on the systems there are.
_BUSY, _STARTED, _SIZE = 0, 8, 16  # a caller is at work; workers there are; threads to use
_KERNEL, _CONTEXT, _TASKS = 64, 72, 80  # the job
_PENDING = 128  # shares of the job that nobody has finished, besides the caller's
_WAITING = 192  # the caller sleeps until the last is
_DONE_MUTEX, _DONE = 256, 320
_SLOTS, _SLOT_BYTES = 512, 512
# One worker's slot. The first belongs to the caller, who needs none.
_TICKET, _SLEEPING, _NUMBER, _THREAD, _FORBIDDEN, _MUTEX, _WAKE = 0, 8, 16, 24, 32, 64, 128
# Sets of processors: those that the worker may use, and those that this left it when last set.
_ALLOWED, _CHOSEN, _MASK_BYTES = 256, 384, 128
_STATE_BYTES = _SLOTS + MAX_THREADS * _SLOT_BYTES

_NOTHING, _SHARE, _QUIT = range(3)  # tickets

# `pause` takes 40 to 140 cycles on processors since 2016, `isb` about 40: some 60 to 200 us. That
# bridges the Python between two kernels of a training step, and the longer share of a short kernel.
_SPINS = 5000

_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")


def write(module: Any, target: Target) -> None:
    """Add to the module:

    needle_parallel(kernel, context, tasks)  kernel(context, i, n) for i < n <= tasks; gives n
    needle_pool_size()                       the most that n can be
    needle_pool_resize(threads)              set it
    needle_pool_stop()                       end the workers; 0 if a call was at work
    needle_pool_reset()                      forget workers and calls: before all else, after fork
    """
    if "windows" in target.triple:  # no pthreads
        _write_serial(module, target)
        return
    state = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), _STATE_BYTES), "needle_pool")
    state.initializer = ir.Constant(state.value_type, None)
    state.linkage, state.align = "internal", 64
    _write_size(module, target)
    _write_run(module, target)
    _write_worker(module, target)
    _write_parallel(module, target)
    _write_stop(module, target)
    _write_reset(module, target)


class PoolCode(Code):
    """A function of the pool: `Code` with words that several threads read and write."""

    @property
    def state(self) -> Value:
        """Where the pool's state begins."""
        return self.address(self.module.globals["needle_pool"])

    def slot(self, number: Value) -> Value:
        """The slot of the worker with that number, from 1."""
        return self.state + (number * _SLOT_BYTES + _SLOTS)

    def read(self, place: Value) -> Value:
        """The word there now."""
        return self.wrap(self.builder.load_atomic(place.ir, "seq_cst", 8, typ=I64.ir), I64)

    def write(self, place: Value, number: Any) -> None:
        """Another word there, for all to see at once."""
        self.exchange(place, number)  # llvmlite's store_atomic knows pointers with types only

    def exchange(self, place: Value, number: Any) -> Value:
        """Another word there; gives the one before."""
        return self._modify("xchg", place, number)

    def add(self, place: Value, number: Any) -> Value:
        """The word there changed by a number; gives the one before."""
        return self._modify("add", place, number)

    def _modify(self, name: str, place: Value, number: Any) -> Value:
        number = self.as_value(number, I64).ir
        return self.wrap(self.builder.atomic_rmw(name, place.ir, number, "seq_cst"), I64)

    def spin_while(self, condition: Callable[[], Value], spins: int = _SPINS) -> None:
        """Wait, awake, but not for ever."""
        left = self.variable(self.constant(spins, I64))
        with self.repeat_while(lambda: condition() & (left.get() > 0)):
            left.set(left.get() - 1)
            self._relax()

    def _relax(self) -> None:
        if self.target.triple.startswith("x86_64"):
            self.call("llvm.x86.sse2.pause", None)
        elif self.target.triple.startswith(("aarch64", "arm64")):
            self.call("llvm.aarch64.isb", None, self.constant(15, I32))

    def nanoseconds(self) -> Value:
        """The monotonic clock: `time.perf_counter_ns()`."""
        if "windows" in self.target.triple:
            return self._performance_counter()
        moment = self.stack(16)
        clock = 6 if "darwin" in self.target.triple else 1  # CLOCK_MONOTONIC
        self.call("clock_gettime", I32, self.constant(clock, I32), moment)
        return self.word(moment, 0) * 1_000_000_000 + self.word(moment, 1)

    def _performance_counter(self) -> Value:
        count, frequency = self.stack(8), self.stack(8)
        self.call("QueryPerformanceCounter", I32, count)
        self.call("QueryPerformanceFrequency", I32, frequency)
        ticks, second = self.word(count, 0), self.word(frequency, 0)
        return (ticks // second) * 1_000_000_000 + (ticks % second) * 1_000_000_000 // second

    def sleep_while(
        self, condition: Callable[[], Value], flag: Value, mutex: Value, wake: Value
    ) -> None:
        """Wait without using the processor; the flag tells others that `wake_up` is needed."""
        self.call("pthread_mutex_lock", I32, mutex)
        self.write(flag, 1)
        with self.repeat_while(condition):
            self.call("pthread_cond_wait", I32, wake, mutex)
        self.write(flag, 0)
        self.call("pthread_mutex_unlock", I32, mutex)

    def wake_up(self, flag: Value, mutex: Value, wake: Value) -> None:
        """End the sleep of who waits there. What it waits for must be written before.

        It sets its flag and then looks at what it waits for, under the mutex; here the order is
        the reverse: one of the two sees the other.
        """
        with self.when(self.read(flag).differs(0)):
            self.call("pthread_mutex_lock", I32, mutex)
            self.call("pthread_mutex_unlock", I32, mutex)
            self.call("pthread_cond_signal", I32, wake)

    def hand(self, slot: Value, ticket: int) -> None:
        """Put a ticket into a worker's slot, and wake it."""
        with self.when(self.read(slot + _SLEEPING).differs(0)):
            self.keep_away(slot)
        self.write(slot + _TICKET, ticket)
        self.wake_up(slot + _SLEEPING, slot + _MUTEX, slot + _WAKE)

    def keep_away(self, slot: Value) -> None:
        """Forbid a worker the caller's processor, of those that both may use.

        Where somebody else has chosen the worker's processors since the last time, that choice is
        what the next are taken from. Where no processor is left, nothing changes.
        """
        if not _can_forbid(self.target):
            return
        processor = self.call("sched_getcpu", I32).cast(I64)
        known = (processor >= 0) & (processor < 8 * _MASK_BYTES)
        with self.when(known & processor.differs(self.word(slot + _FORBIDDEN, 0))):
            chosen, allowed = slot + _CHOSEN, slot + _ALLOWED
            thread, size = self.word(slot + _THREAD, 0), self.constant(_MASK_BYTES, I64)
            current, callers = self.stack(_MASK_BYTES), self.stack(_MASK_BYTES)
            failed = self.call("pthread_getaffinity_np", I32, thread, size, current)
            failed |= self.call("sched_getaffinity", I32, self.constant(0, I32), size, callers)
            with self.when(failed.equals(0)):
                with self.when(~self._same_mask(current, chosen)):
                    self._copy_mask(current, allowed)
                self._copy_mask(allowed, chosen, within=callers)
                word, bit = processor // 64, self.constant(1, I64) << (processor % 64)
                self.set_word(chosen, word, self.word(chosen, word) & ~bit)
                failed = self.call("pthread_setaffinity_np", I32, thread, size, chosen)
                with self.when(failed.differs(0)):
                    self._copy_mask(current, chosen)
                self.set_word(slot + _FORBIDDEN, 0, self.select(failed.equals(0), processor, -1))

    def _copy_mask(self, source: Value, target: Value, within: Value | None = None) -> None:
        for number in range(_MASK_BYTES // 8):
            word = self.word(source, number)
            if within is not None:
                word = word & self.word(within, number)
            self.set_word(target, number, word)

    def _same_mask(self, a: Value, b: Value) -> Value:
        different = self.constant(0, I64)
        for number in range(_MASK_BYTES // 8):
            different = different | (self.word(a, number) ^ self.word(b, number))
        return different.equals(0)

    def make_lock(self, mutex: Value, condition: Value) -> None:
        """A mutex and a condition of C, new."""
        self.call("pthread_mutex_init", I32, mutex, self.null())
        self.call("pthread_cond_init", I32, condition, self.null())


def _can_forbid(target: Target) -> bool:
    return "linux" in target.triple


def _write_size(module: Any, target: Target) -> None:
    code = PoolCode(module, "needle_pool_size", target, [], I64)
    code.finish(code.maximum(code.read(code.state + _SIZE), 1))
    code = PoolCode(module, "needle_pool_resize", target, [I64])
    code.write(code.state + _SIZE, code.minimum(code.arguments[0], MAX_THREADS))
    code.finish()


def _write_run(module: Any, target: Target) -> None:
    """needle_run(share): one share of the job, by whoever has the ticket for it."""
    code = PoolCode(module, "needle_run", target, [I64])
    job = code.state
    kernel, context = code.pointer_at(job + _KERNEL, 0), code.pointer_at(job + _CONTEXT, 0)
    code.call_pointer(kernel, context, code.arguments[0], code.word(job + _TASKS, 0))
    last = code.add(job + _PENDING, -1).equals(1)
    with code.when(last):
        code.wake_up(job + _WAITING, job + _DONE_MUTEX, job + _DONE)
    code.finish()


def _write_worker(module: Any, target: Target) -> None:
    """needle_worker(slot): what a worker's thread runs."""
    code = PoolCode(module, "needle_worker", target, [POINTER], POINTER)
    slot = code.arguments[0]
    _block_signals(code)
    ticket = code.variable(code.constant(_NOTHING, I64))

    def nothing() -> Value:
        return code.read(slot + _TICKET).equals(_NOTHING)

    with code.repeat_while(lambda: ticket.get().differs(_QUIT)):
        code.spin_while(nothing)
        with code.when(nothing()):
            code.sleep_while(nothing, slot + _SLEEPING, slot + _MUTEX, slot + _WAKE)
        ticket.set(code.exchange(slot + _TICKET, _NOTHING))
        with code.when(ticket.get().equals(_SHARE)):
            code.call("needle_run", None, code.word(slot + _NUMBER, 0))
    code.finish(code.null())


def _block_signals(code: Code) -> None:
    """Signals are the main thread's business, but for those that a fault in here would raise."""
    signals = code.stack(128)  # a sigset_t
    code.call("sigfillset", I32, signals)
    for name in _FAULTS:
        number = code.constant(getattr(signal, name, signal.SIGABRT), I32)
        code.call("sigdelset", I32, signals, number)
    block = code.constant(getattr(signal, "SIG_BLOCK", 0), I32)
    code.call("pthread_sigmask", I32, block, signals, code.null())


def _write_parallel(module: Any, target: Target) -> None:
    """needle_parallel(kernel, context, tasks): see the head of this file."""
    code = PoolCode(module, "needle_parallel", target, [POINTER, POINTER, I64], I64)
    kernel, context, wanted = code.arguments
    tasks = code.maximum(code.minimum(wanted, code.call("needle_pool_size", I64)), 1)
    # One call at a time has the pool. Others, and calls from within a kernel, run all shares.
    with code.when(tasks.equals(1)):
        code.call_pointer(kernel, context, code.constant(0, I64), tasks)
        code.finish(tasks)
    with code.when(code.exchange(code.state + _BUSY, 1).differs(0)):
        with code.loop(0, tasks) as share:
            code.call_pointer(kernel, context, share, tasks)
        code.finish(tasks)
    _start_workers(code, tasks - 1)
    _hand_out(code, kernel, context, tasks)
    code.call_pointer(kernel, context, code.constant(0, I64), tasks)
    _run_what_is_left(code, tasks)
    _wait_for_workers(code)
    code.write(code.state + _BUSY, 0)
    code.finish(tasks)


def _start_workers(code: PoolCode, count: Value) -> None:
    """So many, or as many as the system grants."""
    started = code.state + _STARTED
    failure = code.variable(code.constant(0, I32))
    with code.repeat_while(lambda: (code.word(started, 0) < count) & failure.get().equals(0)):
        number = code.word(started, 0) + 1
        slot = code.slot(number)
        code.write(slot + _TICKET, _NOTHING)
        code.write(slot + _SLEEPING, 0)
        code.set_word(slot + _NUMBER, 0, number)
        code.make_lock(slot + _MUTEX, slot + _WAKE)
        worker = code.address(code.module.globals["needle_worker"])
        failure.set(code.call("pthread_create", I32, slot + _THREAD, code.null(), worker, slot))
        with code.when(failure.get().equals(0)):
            code.set_word(started, 0, number)
            code.set_word(slot + _FORBIDDEN, 0, -1)
            code.set_word(slot + _CHOSEN, 0, 0)  # whatever a worker before this one had
            code.keep_away(slot)


def _hand_out(code: PoolCode, kernel: Value, context: Value, tasks: Value) -> None:
    job = code.state
    for place, value in ((_KERNEL, kernel), (_CONTEXT, context), (_TASKS, tasks)):
        code.set_word(job + place, 0, value)
    code.write(job + _PENDING, tasks - 1)
    after = code.minimum(code.word(job + _STARTED, 0) + 1, tasks)
    with code.loop(1, after) as number:
        code.hand(code.slot(number), _SHARE)
    # nobody sleeps there, and a fork may have left such a slot's mutex locked
    with code.loop(after, tasks) as number:
        code.write(code.slot(number) + _TICKET, _SHARE)


def _run_what_is_left(code: PoolCode, tasks: Value) -> None:
    """The shares whose tickets nobody has taken; the last to be woken first."""
    with code.loop(1, tasks) as i:
        number = tasks - i
        ticket = code.exchange(code.slot(number) + _TICKET, _NOTHING)
        with code.when(ticket.equals(_SHARE)):
            code.call("needle_run", None, number)


def _wait_for_workers(code: PoolCode) -> None:
    job = code.state

    def unfinished() -> Value:
        return code.read(job + _PENDING).differs(0)

    code.spin_while(unfinished)
    with code.when(unfinished()):
        code.sleep_while(unfinished, job + _WAITING, job + _DONE_MUTEX, job + _DONE)


def _write_stop(module: Any, target: Target) -> None:
    code = PoolCode(module, "needle_pool_stop", target, [], I64)
    with code.when(code.exchange(code.state + _BUSY, 1).differs(0)):
        code.finish(code.constant(0, I64))
    after = code.word(code.state + _STARTED, 0) + 1
    with code.loop(1, after) as number:
        code.hand(code.slot(number), _QUIT)
    with code.loop(1, after) as number:
        thread = code.word(code.slot(number) + _THREAD, 0)
        code.call("pthread_join", I32, thread, code.null())
    code.set_word(code.state + _STARTED, 0, 0)
    code.write(code.state + _BUSY, 0)
    code.finish(code.constant(1, I64))


def _write_reset(module: Any, target: Target) -> None:
    code = PoolCode(module, "needle_pool_reset", target, [])
    for place in (_STARTED, _PENDING, _WAITING):
        code.write(code.state + place, 0)
    code.make_lock(code.state + _DONE_MUTEX, code.state + _DONE)
    code.write(code.state + _BUSY, 0)
    code.finish()


def _write_serial(module: Any, target: Target) -> None:
    """The same functions for one thread."""
    one = Code(module, "needle_parallel", target, [POINTER, POINTER, I64], I64)
    kernel, context, _ = one.arguments
    tasks = one.constant(1, I64)
    one.call_pointer(kernel, context, one.constant(0, I64), tasks)
    one.finish(tasks)
    for name in ("needle_pool_size", "needle_pool_stop"):
        code = Code(module, name, target, [], I64)
        code.finish(code.constant(1, I64))
    Code(module, "needle_pool_resize", target, [I64]).finish()
    Code(module, "needle_pool_reset", target, []).finish()
