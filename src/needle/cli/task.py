"""What one training job is about: the parts, and what the loop and the run folder ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from needle import nn, optim
from needle.jit import jit
from needle.jit.steps import evaluation_step

__all__ = ["Batch", "Count", "Progress", "Record", "Task", "compiling"]

Batch = Any
Record = dict[str, Any]


class Count(NamedTuple):
    """Over how many items the loss of a batch is a mean, and how many of them were right."""

    items: int
    right: int = 0


@dataclass
class Progress:
    """Where a training stands: with the states of its parts, all that going on needs.

    A round is what lies between two evaluations: an epoch, or some number of steps.

    rounds                    that are finished
    steps, in_round           steps taken: in all, and in the round under way
    loss, right, items        sums over the round under way
    seconds                   that its steps took, without what compiling them did
    history                   a record per round
    """

    rounds: int = 0
    steps: int = 0
    in_round: int = 0
    loss: float = 0.0
    right: int = 0
    items: int = 0
    seconds: float = 0.0
    history: list[Record] = field(default_factory=list)

    def add(self, loss: float, items: int, right: int) -> None:
        """Count a step whose loss was a mean over `items`."""
        self.steps, self.in_round = self.steps + 1, self.in_round + 1
        self.loss, self.items = self.loss + loss * items, self.items + items
        self.right += right

    def begin_round(self) -> None:
        """Count the round under way as finished."""
        self.rounds += 1
        self.in_round = self.right = self.items = 0
        self.loss = self.seconds = 0.0

    @property
    def speed(self) -> float:
        """Items per second in this round; evaluation and compiling do not count."""
        return self.items / max(self.seconds, 1e-9)


class Task(ABC):
    """A network, what it learns from, and how that is measured and told. One class per recipe.

    unit               what the training is counted in: "epoch" or "step"
    measured_on        what `evaluate` looks at, for messages
    keeps_checkpoints  whether checkpoints are written as the training goes; else when it is
                       interrupted
    options            of the recipe
    clip               the longest that a gradient may be; None: any length
    """

    unit: ClassVar[str] = "epoch"
    measured_on: ClassVar[str] = "the test data"
    keeps_checkpoints: ClassVar[bool] = True

    options: Any
    model: nn.Module
    optimizer: optim.Optimizer
    schedule: optim.Schedule | None = None
    clip: float | None = None

    # -- asked by the loop ---------------------------------------------------------------------

    @abstractmethod
    def steps_in_round(self, progress: Progress) -> int:
        """How many steps the round under way has in all."""

    @abstractmethod
    def is_finished(self, progress: Progress) -> bool:
        """Whether no round is left."""

    @abstractmethod
    def batches(self, progress: Progress) -> Iterable[Batch]:
        """What the steps of the round that are still to come learn from."""

    @abstractmethod
    def objective(self) -> Callable[..., Any]:
        """What a step minimises: from the arguments of a batch to its mean loss, and to more.

        A function of Tensors that holds the network and nothing that training changes otherwise,
        as it is compiled, alone or in a step.
        """

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        """What `objective` is given of a batch."""
        return tuple(batch)

    @abstractmethod
    def count(self, batch: Batch, *found: Any) -> Count:
        """Take note of what a step found besides the loss."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """What the network is worth, by name, `..._loss` first. Draws nothing at random."""

    @abstractmethod
    def record(self, progress: Progress, measured: Mapping[str, float], complete: bool) -> Record:
        """What is to be known of the round just over."""

    @abstractmethod
    def title(self, progress: Progress) -> str:
        """The round under way, for the progress bar."""

    def place(self, progress: Progress) -> str:
        """The step under way, for messages."""
        if self.unit == "step":
            return f"in step {progress.steps + 1}"
        return f"in epoch {progress.rounds + 1}, step {progress.in_round + 1}"

    def place_of_evaluation(self, progress: Progress) -> str:
        """The evaluation under way, for messages."""
        number = progress.steps if self.unit == "step" else progress.rounds + 1
        return f"on {self.measured_on} after {self.unit} {number}"

    # -- compiled functions --------------------------------------------------------------------

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled when it is called first; with --eager as it is."""
        if self.options.eager:
            return function
        self._compiled.append(jit(function))
        return self._compiled[-1]  # type: ignore[no-any-return]

    @cached_property
    def _compiled(self) -> list[Any]:
        return []

    @property
    def compile_seconds(self) -> float:
        """What compiling has taken until now."""
        return sum((function.compile_seconds for function in self._compiled), 0.0)

    @cached_property
    def measure(self) -> Callable[..., Any]:
        """`objective` without a graph, for evaluation."""
        return self.compiled(evaluation_step(self.objective()))

    # -- asked when checkpoints are written and read -------------------------------------------

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the data stands, and what is carried from batch to batch."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    # -- asked by the job ----------------------------------------------------------------------

    @abstractmethod
    def header(self) -> str:
        """The line that is printed first."""

    @abstractmethod
    def line(self, record: Record) -> str:
        """The line, or lines, that are printed about a round."""

    def sample(self, record: Record) -> str:
        """What the network wrote after a round, for a file of such samples; '' if nothing."""
        return ""

    @abstractmethod
    def last_line(self) -> str:
        """What came of it."""

    @abstractmethod
    def names(self) -> tuple[str, str]:
        """Of the data and of the model, for the folder's name."""

    @abstractmethod
    def about_data(self) -> dict[str, Any]:
        """What a user of the trained network has to know of the data, as JSON has it."""

    @abstractmethod
    def about_model(self) -> dict[str, Any]:
        """What it takes to build the network again, as JSON has it."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How much data there is for what."""

    def options_found(self) -> dict[str, Any]:
        """Options that were left to the data, for the record."""
        return {}

    @abstractmethod
    def data_digest(self) -> str:
        """Tells this data from other data: a resumed run needs the same."""

    @cached_property
    def digest(self) -> str:
        """`data_digest`, read off once."""
        return self.data_digest()

    @abstractmethod
    def finish(self, folder: Path, history: list[Record]) -> None:
        """Draw the pictures, of what `evaluate` found last. Raises MissingDependencyError."""


def compiling(record: Record) -> str:
    """What is said of a round in which something was compiled, after its speed."""
    seconds = record.get("compile_seconds", 0)
    return f", after {seconds:.1f} s of compiling" if seconds >= 0.05 else ""
