"""`needle train`: from options to a run folder, whatever the recipe."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from needle.cli import checkpoint
from needle.cli.fit import Fit, Interrupt, interrupt_after_step
from needle.cli.info import versions
from needle.cli.printing import say
from needle.cli.recipes import recipe
from needle.cli.run_folder import RunFolder
from needle.cli.settings import TrainJob, kept_options
from needle.cli.task import Progress, Record, Task
from needle.errors import MissingDependencyError, NonFiniteError, OptionError

__all__ = ["Outcome", "train"]


class Outcome(NamedTuple):
    """Whether Ctrl-C ended the training early, and where everything is."""

    interrupted: bool
    folder: Path


def train(job: TrainJob) -> Outcome:
    """Train a network, and leave a run folder with all about it.

    The same options give the same weights, bit for bit, whether the run is interrupted and gone on
    with or not. Raises NonFiniteError if the loss became NaN or Inf; the folder then holds the last
    weights that were finite.
    """
    task = recipe(job.recipe).prepare(job.options)
    run = _resumed(job, task) if job.resume else _begun(job, task)
    # the losses are looked at, so NumPy need not warn of overflow as well
    with interrupt_after_step() as interrupt, np.errstate(all="ignore"):
        fit = run.fit(interrupt)
        try:
            fit.run()
        except NonFiniteError as error:
            run.save_model()
            with suppress(Exception):  # whatever drawing meets: the loss is what there is to say
                run.draw(fit)
            kept = f"The last finite weights are in {run.folder.path}."
            raise NonFiniteError(f"{error} {kept}") from None
        run.save_model()
        run.draw(fit)
    interrupted = interrupt.requested and not task.is_finished(run.progress)
    if interrupted:
        say("Interrupted: what was learnt until then is kept.")
    say(task.last_line())
    say(f"run folder: {run.folder.path}")
    if interrupted:
        say(f"go on with: needle train --resume {run.folder.path}")
    return Outcome(interrupted, run.folder.path)


def _begun(job: TrainJob, task: Task) -> _Run:
    """A run with a folder of its own, which is made when all else is there."""
    options = job.options
    folder = RunFolder.create(options.out, options.overwrite, *task.names())
    run = _Run(job, task, folder, Progress())
    folder.write_config(run.config())
    run.say(task.header())
    return run


def _resumed(job: TrainJob, task: Task) -> _Run:
    """A run that goes on from its last checkpoint; what came after that is forgotten."""
    assert job.resume is not None
    progress, lr = checkpoint.restore(job.resume, task)
    _require_no_less(job, task, progress)
    run = _Run(job, task, RunFolder(Path(job.resume)), progress)
    run.folder.remove_leftovers()
    run.folder.write_config(run.config())
    run.folder.write_metrics(progress.history)
    run.say(task.header())
    if task.is_finished(progress):
        run.say(
            f"all {task.unit}s are done: weights and pictures are written once more. Say "
            f"--{task.unit}s with more to go on."
        )
    elif not math.isclose(lr, task.optimizer.lr):
        run.say(
            f"the learning rate, {lr:.3g} until here, goes on from {task.optimizer.lr:.3g}, as "
            f"the schedule is that of the longer run"
        )
    return run


def _require_no_less(job: TrainJob, task: Task, progress: Progress) -> None:
    done = progress.steps if task.unit == "step" else progress.rounds
    wanted = getattr(job.options, f"{task.unit}s")
    if wanted < done:
        raise OptionError(
            f"--{task.unit}s: expected {done:,} or more, which {job.resume} has done, got {wanted}."
        )


class _Run:
    """A task, the folder that it is written to, and how far it has come."""

    def __init__(self, job: TrainJob, task: Task, folder: RunFolder, progress: Progress) -> None:
        self.job, self.task, self.folder, self.progress = job, task, folder, progress

    def fit(self, interrupt: Interrupt) -> Fit:
        """What trains to the end, or to Ctrl-C."""
        options = self.job.options
        return Fit(
            self.task,
            self.progress,
            interrupt,
            self._on_round,
            self._on_checkpoint,
            options.save_every,
            show_progress=not options.quiet,
        )

    def draw(self, fit: Fit) -> None:
        """Draw the pictures, of the weights as they are now."""
        if not fit.is_evaluated:
            self.task.evaluate()
        try:
            self.task.finish(self.folder.path, self.progress.history)
        except MissingDependencyError as error:
            say(str(error))

    def save_model(self) -> None:
        """Write the weights, and what it takes to use them."""
        task = self.task
        self.folder.save_model(task.model, self.job.recipe, task.about_model(), task.about_data())

    def config(self) -> dict[str, Any]:
        """All that is needed to understand the run, and to do it again."""
        task = self.task
        options = kept_options(self.job.options)
        options.pop("usual_batch_size", None)
        return {
            "recipe": self.job.recipe,
            "options": options | task.options_found(),
            "model": task.about_model() | {"parameters": task.model.num_parameters()},
            "data": task.about_data() | {"examples": task.counts()},
            "versions": versions(),
        }

    def say(self, text: str) -> None:
        """Print, unless quiet was asked for."""
        if not self.job.options.quiet:
            say(text)

    def _on_round(self, record: Record) -> None:
        self.folder.append_metrics(record)
        self.folder.write_samples([self.task.sample(r) for r in self.progress.history])
        self.save_model()
        self.say(self.task.line(record))

    def _on_checkpoint(self, between_rounds: bool) -> None:
        path = self.folder.path / checkpoint.CHECKPOINT
        if between_rounds and not (self.task.keeps_checkpoints or path.exists()):
            return
        kept = kept_options(self.job.options)
        checkpoint.write(path, self.job.recipe, kept, self.task, self.progress)
