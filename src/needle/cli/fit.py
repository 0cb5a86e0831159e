"""The loop over rounds and batches: when to stop, and what is kept then."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from needle.autograd import Tensor
from needle.cli.task import Batch, Progress, Record, Task
from needle.errors import NonFiniteError
from needle.jit.steps import training_step

__all__ = ["Fit", "Interrupt", "interrupt_after_step"]


class Interrupt:
    """Whether Ctrl-C has been pressed."""

    requested = False


@contextmanager
def interrupt_after_step() -> Iterator[Interrupt]:
    """Let the first Ctrl-C only set `requested`; a second one raises KeyboardInterrupt as ever."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals come to the main thread only
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: Any) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class Fit:
    """Trains the network of a task, round after round.

    task           what is trained on what
    progress       where to begin; kept up to date
    interrupt      stop after the step at hand when it is requested
    on_checkpoint  called where going on later would have to begin; with whether a round is over
    on_round       called with the record of each round, and of one that was broken off, after that
    save_every     call it also after so many steps
    show_progress  a progress bar per round, on stderr
    """

    def __init__(
        self,
        task: Task,
        progress: Progress,
        interrupt: Interrupt,
        on_round: Callable[[Record], None],
        on_checkpoint: Callable[[bool], None],
        save_every: int | None = None,
        show_progress: bool = False,
    ) -> None:
        self.task, self.progress, self.interrupt = task, progress, interrupt
        self.on_round, self.on_checkpoint = on_round, on_checkpoint
        self.save_every, self.show_progress = save_every, show_progress
        self.is_evaluated = False  # whether the weights are those of the last evaluation
        self._finite: dict[str, Tensor] = {}
        self._parameters = dict(task.model.named_parameters(remove_duplicate=False))
        self._has_buffers = next(task.model.named_buffers(), None) is not None
        self._train = task.compiled(training_step(task.objective(), task.optimizer, task.clip))

    def run(self) -> None:
        """Train. Raises NonFiniteError for a loss of NaN or Inf, with the last finite weights."""
        while not (self.interrupt.requested or self.task.is_finished(self.progress)):
            self._round()

    def _round(self) -> None:
        task, progress = self.task, self.progress
        compiled = task.compile_seconds
        self._steps()
        complete = progress.in_round == task.steps_in_round(progress)
        if not complete:
            self.on_checkpoint(False)
        measured = task.evaluate()
        self.is_evaluated = True
        for value in measured.values():
            self._require_finite(value, task.place_of_evaluation(progress), self._finite)
        record = task.record(progress, measured, complete)
        record["compile_seconds"] = round(task.compile_seconds - compiled, 3)
        progress.history.append(record)
        if complete:
            progress.begin_round()
            self.on_checkpoint(True)
        self.on_round(record)

    def _steps(self) -> None:
        """The steps of the round that are still to be done, or those until Ctrl-C."""
        progress = self.progress
        self.task.model.train()
        begun = self._clock() - progress.seconds
        for batch in self._batches():
            self._step(batch)
            progress.seconds = self._clock() - begun
            if self.interrupt.requested:
                return
            if self.save_every and progress.steps % self.save_every == 0:
                self.on_checkpoint(False)

    def _clock(self) -> float:
        """Seconds, but for those that compiling takes."""
        return time.perf_counter() - self.task.compile_seconds

    def _batches(self) -> Iterator[Batch]:
        """The round's batches, under a progress bar where there is somebody to see it."""
        batches = self.task.batches(self.progress)
        if not (self.show_progress and sys.stderr.isatty()):
            yield from batches
            return
        from tqdm import tqdm

        progress = self.progress
        with tqdm(
            desc=self.task.title(progress),
            initial=progress.in_round,
            total=self.task.steps_in_round(progress),
            leave=False,
            unit=" steps",
            dynamic_ncols=True,
        ) as bar:
            for batch in batches:
                yield batch
                bar.set_postfix_str(f"loss {progress.loss / progress.items:.3f}", refresh=False)
                bar.update()

    def _step(self, batch: Batch) -> None:
        task = self.task
        before = self._weights()
        loss, *found = self._train(*task.arguments(batch))
        self.is_evaluated = False
        value = float(loss.item())
        self._require_finite(value, task.place(self.progress), self._finite or before)
        self._finite = before
        if task.schedule is not None:
            task.schedule.step()
        self.progress.add(value, *task.count(batch, *found))

    def _weights(self) -> dict[str, Tensor]:
        """The model's state dict, taken at each step: parameters are Tensors that stay the same, so
        that only a model with buffers, which do not, is walked through.
        """
        if self._has_buffers:
            return self.task.model.state_dict()
        return {name: p.detach() for name, p in self._parameters.items()}

    def _require_finite(self, loss: float, when: str, kept: dict[str, Tensor]) -> None:
        if math.isfinite(loss):
            return
        if kept:
            self.task.model.load_state_dict(kept)
            self.is_evaluated = False
        raise NonFiniteError(
            f"loss: expected a finite number, got {loss} {when}. "
            f"Lower --lr (it is {self.task.optimizer.lr:g})."
        )
