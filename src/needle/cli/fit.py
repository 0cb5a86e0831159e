"""The loop over epochs and batches: losses, accuracies, when to stop, and what is kept then."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor, no_grad
from needle.errors import NonFiniteError

__all__ = ["Epoch", "Fit", "Interrupt", "evaluate", "interrupt_after_step"]

Array = np.ndarray[Any, Any]
_TEST_BATCH = 1000


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave. Losses are means per example; times in seconds.

    The training loss and accuracy are those of the batches as they came, the network getting
    better meanwhile; those of the test are of the network at the end of the epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    examples: int
    seconds: float
    complete: bool

    @property
    def examples_per_second(self) -> float:
        """How fast the training went; evaluation does not count."""
        return self.examples / max(self.seconds, 1e-9)


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
    """Trains a network for some epochs.

    model, optimizer  the network and what moves its parameters
    loader            batches of (examples, class ids)
    test_x, test_y    examples to measure on after each epoch
    interrupt         stop after the step at hand when it is requested
    on_epoch          called with each Epoch
    show_progress     a progress bar per epoch, on stderr

    `history` holds the epochs so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Any,
        test_x: Array,
        test_y: Array,
        interrupt: Interrupt,
        on_epoch: Callable[[Epoch], None],
        show_progress: bool,
    ) -> None:
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.test_x, self.test_y = test_x, test_y
        self.interrupt, self.on_epoch, self.show_progress = interrupt, on_epoch, show_progress
        self.loss_function = nn.SoftmaxLoss()
        self.history: list[Epoch] = []
        self._finite: dict[str, Tensor] = {}

    def run(self, epochs: int) -> None:
        """Train. Raises NonFiniteError for a loss of NaN or Inf, with the last finite weights."""
        for number in range(1, epochs + 1):
            if self.interrupt.requested:
                return
            epoch = self._epoch(number, epochs)
            self.history.append(epoch)
            self.on_epoch(epoch)

    def _epoch(self, number: int, epochs: int) -> Epoch:
        self.model.train()
        begun = time.perf_counter()
        total, right, examples, steps = 0.0, 0, 0, 0
        for x, y in self._batches(f"epoch {number}/{epochs}"):
            steps += 1
            loss, hits = self._step(x, y, f"in epoch {number}, step {steps}")
            total, right, examples = total + loss * len(y), right + hits, examples + len(y)
            if self.interrupt.requested:
                break
        seconds = time.perf_counter() - begun
        test_loss, predicted = evaluate(self.model, self.test_x, self.test_y)
        self._require_finite(test_loss, f"on the test data after epoch {number}")
        return Epoch(
            epoch=number,
            loss=total / examples,
            accuracy=right / examples,
            test_loss=test_loss,
            test_accuracy=float(np.mean(predicted == self.test_y)),
            examples=examples,
            seconds=seconds,
            complete=steps == len(self.loader),
        )

    def _batches(self, label: str) -> Iterator[Any]:
        """The loader's batches, under a progress bar where there is somebody to see it."""
        if not (self.show_progress and sys.stderr.isatty()):
            yield from self.loader
            return
        from tqdm import tqdm

        yield from tqdm(self.loader, desc=label, leave=False, unit=" batches", dynamic_ncols=True)

    def _step(self, x: Tensor, y: Tensor, when: str) -> tuple[float, int]:
        """One step; returns the loss and the number of right answers before it."""
        logits = self.model(x)
        loss = self.loss_function(logits, y)
        value = float(loss.item())
        self._require_finite(value, when)
        self._finite = self.model.state_dict()
        self.optimizer.reset_grad()
        loss.backward(create_graph=False)
        self.optimizer.step()
        return value, int((logits.numpy().argmax(1) == y.numpy()).sum())

    def _require_finite(self, loss: float, when: str) -> None:
        if math.isfinite(loss):
            return
        if self._finite:
            self.model.load_state_dict(self._finite)
        raise NonFiniteError(
            f"loss: expected a finite number, got {loss} {when}. "
            f"Lower --lr (it is {self.optimizer.lr:g})."
        )


def evaluate(model: nn.Module, x: Array, y: Array) -> tuple[float, Array]:
    """The mean loss per example, and the class predicted for each, in evaluation mode."""
    model.eval()
    loss_function = nn.SoftmaxLoss()
    total, predicted = 0.0, []
    with no_grad():
        for start in range(0, len(y), _TEST_BATCH):
            batch = slice(start, start + _TEST_BATCH)
            logits = model(Tensor(x[batch], requires_grad=False))
            labels = Tensor(y[batch], requires_grad=False)
            total += float(loss_function(logits, labels).item()) * len(labels)
            predicted.append(logits.numpy().argmax(1))
    return total / len(y), np.concatenate(predicted)
