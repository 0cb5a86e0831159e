"""`needle train`: from options to a run folder, whatever the recipe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from needle.cli import checkpoint
from needle.cli.fit import Fit, Interrupt, interrupt_after_step
from needle.cli.info import versions
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
    run.say(task.header())
    # the losses are looked at, so NumPy need not warn of overflow as well
    with interrupt_after_step() as interrupt, np.errstate(all="ignore"):
        try:
            run.fit(interrupt)
        except NonFiniteError as error:
            run.finish()
            kept = f"The last finite weights are in {run.folder.path}."
            raise NonFiniteError(f"{error} {kept}") from None
        run.finish()
    if interrupt.requested:
        print("Interrupted: what was learnt until then is kept.")
    print(task.last_line())
    print(f"run folder: {run.folder.path}")
    if interrupt.requested:
        print(f"go on with: needle train --resume {run.folder.path}")
    return Outcome(interrupt.requested, run.folder.path)


def _begun(job: TrainJob, task: Task) -> _Run:
    """A run with a folder of its own, which is made when all else is there."""
    options = job.options
    folder = RunFolder.create(options.out, options.overwrite, *task.names())
    run = _Run(job, task, folder, Progress())
    folder.write_config(run.config())
    return run


def _resumed(job: TrainJob, task: Task) -> _Run:
    """A run that goes on from its last checkpoint; what came after that is forgotten."""
    assert job.resume is not None
    progress = checkpoint.restore(job.resume, task)
    if task.is_finished(progress):
        count = progress.steps if task.unit == "step" else progress.rounds
        raise OptionError(
            f"--resume: expected a run that is not finished, got {job.resume}, whose {count:,} "
            f"{task.unit}s are done. Say --{task.unit}s with more to go on."
        )
    run = _Run(job, task, RunFolder(Path(job.resume)), progress)
    run.folder.write_config(run.config())
    run.folder.write_metrics(progress.history)
    return run


class _Run:
    """A task, the folder that it is written to, and how far it has come."""

    def __init__(self, job: TrainJob, task: Task, folder: RunFolder, progress: Progress) -> None:
        self.job, self.task, self.folder, self.progress = job, task, folder, progress

    def fit(self, interrupt: Interrupt) -> None:
        """Train to the end, or to Ctrl-C."""
        options = self.job.options
        Fit(
            self.task,
            self.progress,
            interrupt,
            self._on_round,
            self._on_checkpoint,
            options.save_every,
            show_progress=not options.quiet,
        ).run()

    def finish(self) -> None:
        """Write the weights and the pictures."""
        self._save_model()
        try:
            self.task.finish(self.folder.path, self.progress.history)
        except MissingDependencyError as error:
            print(error)

    def config(self) -> dict[str, Any]:
        """All that is needed to understand the run, and to do it again."""
        task = self.task
        options = asdict(self.job.options)
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
            print(text, flush=True)

    def _on_round(self, record: Record) -> None:
        self.folder.append_metrics(record)
        self.folder.write_samples(self.progress.history)
        self._save_model()
        self.say(self.task.line(record))

    def _on_checkpoint(self, between_rounds: bool) -> None:
        path = self.folder.path / checkpoint.CHECKPOINT
        if between_rounds and not (self.task.keeps_checkpoints or path.exists()):
            return
        kept = kept_options(self.job.options)
        checkpoint.write(path, self.job.recipe, kept, self.task, self.progress)

    def _save_model(self) -> None:
        task = self.task
        self.folder.save_model(task.model, self.job.recipe, task.about_model(), task.about_data())
