"""Threads that load ahead of the loop that consumes, in order."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

__all__ = ["load_ahead"]

# How long to wait for threads that are told to stop: they end with the batch they are loading.
_PATIENCE = 1.0


def load_ahead(
    load: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int, ahead: int
) -> Generator[Any, None, None]:
    """`load(task)` for each task, in order, computed by threads.

    num_workers  how many threads; with 0 the consumer's own thread loads what it asks for
    ahead        how many results may be begun or waiting beyond those the consumer has received

    An exception in a thread is raised where its result would have come. Closing or dropping the
    iterator stops the threads.
    """
    if num_workers == 0:
        for task in tasks:  # a map would take a StopIteration of `load` for its own end
            yield load(task)
        return
    crew = _Crew(load, tasks, ahead)
    atexit.register(crew.close)
    try:
        crew.start(min(num_workers, len(tasks)))
        for _ in tasks:
            yield crew.receive()
    finally:
        crew.close()
        atexit.unregister(crew.close)


class _Crew:
    """The threads of one iteration and what they share, guarded by `turn`."""

    def __init__(self, load: Callable[[Any], Any], tasks: Sequence[Any], ahead: int) -> None:
        self.load, self.tasks, self.ahead = load, tasks, ahead
        self.turn = threading.Condition()
        self.taken = 0  # tasks begun
        self.received = 0  # results handed to the consumer
        self.results: dict[int, tuple[Any, BaseException | None]] = {}
        self.stopped = False
        self.threads: list[threading.Thread] = []

    def start(self, num_workers: int) -> None:
        for number in range(num_workers):
            thread = threading.Thread(
                target=self._work, name=f"needle-loader-{number}", daemon=True
            )
            thread.start()
            self.threads.append(thread)

    def _work(self) -> None:
        while (number := self._take()) is not None:
            result = _outcome(self.load, self.tasks[number])
            with self.turn:
                self.results[number] = result
                self.turn.notify_all()
            del result  # the consumer's now; a thread that waits must not keep a batch alive

    def _take(self) -> int | None:
        """The number of the next task, once there is room for its result; None to stop."""
        with self.turn:
            self.turn.wait_for(self._has_room_or_ended)
            if self._ended():
                return None
            self.taken += 1
            return self.taken - 1

    def _ended(self) -> bool:
        return self.stopped or self.taken == len(self.tasks)

    def _has_room_or_ended(self) -> bool:
        return self._ended() or self.taken < self.received + self.ahead

    def receive(self) -> Any:
        """The next result in order; raises what its thread raised."""
        with self.turn:
            self.turn.wait_for(lambda: self.received in self.results)
            result, error = self.results.pop(self.received)
            self.received += 1
            self.turn.notify_all()
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: no circle

    def close(self) -> None:
        """Stop the threads, and wait a moment for them to end."""
        with self.turn:
            self.stopped = True
            self.results.clear()
            self.turn.notify_all()
        deadline = time.monotonic() + _PATIENCE
        for thread in self.threads:
            if thread is not threading.current_thread():  # the garbage collector may run in one
                thread.join(max(0.0, deadline - time.monotonic()))


def _outcome(load: Callable[[Any], Any], task: Any) -> tuple[Any, BaseException | None]:
    try:
        return load(task), None
    except BaseException as error:  # whatever it is, it belongs to the consumer
        return None, error
