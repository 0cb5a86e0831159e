"""Checkpoints: all that it takes to go on with a training as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from needle.autograd import Tensor
from needle.backend_selection import BACKEND
from needle.cli.task import Progress, Task
from needle.data import random_stream
from needle.errors import FileFormatError, OptionError
from needle.serialization import load, load_metadata, save

__all__ = ["CHECKPOINT", "Plan", "Restored", "read_plan", "restore", "write"]

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Plan:
    """What a run was begun as, and how far it has come.

    recipe    of `needle train`
    options   by name, as they were when it began
    backend   nd or np
    data      the digest of what it learns from
    progress  the numbers of a Progress, by name
    """

    recipe: str
    options: dict[str, Any]
    backend: str
    data: str
    progress: dict[str, Any]


def write(path: Path, recipe: str, options: Mapping[str, Any], task: Task, at: Progress) -> None:
    """Write a checkpoint to `path`, all of it or none: one file, no pickle."""
    plan = Plan(recipe, dict(options), BACKEND, task.digest, asdict(at))
    state = {name: part.state_dict() for name, part in _parts(task).items()}
    state["random"] = random_stream.get_global_state()
    save(state, path, metadata={"needle": json.dumps(asdict(plan))})


def read_plan(run: str) -> Plan:
    """What the checkpoint of a run folder says of it.

    Raises FileNotFoundError where there is none, FileFormatError for another file.
    """
    path = Path(run) / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume: expected a run folder of needle train with a checkpoint, got no {path}."
        )
    metadata = load_metadata(path)
    try:
        plan = Plan(**json.loads(metadata["needle"]))
        if not {field.name for field in fields(Progress)} == plan.progress.keys():
            raise ValueError("another progress")
        return plan
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"--resume: expected a checkpoint that needle train wrote, got {path}."
        ) from error


class Restored(NamedTuple):
    """How far a run has come, and the learning rate that its schedule had reached there."""

    progress: Progress
    lr: float


def restore(run: str, task: Task) -> Restored:
    """Bring the parts of a task, and NumPy's global stream, to where the checkpoint was written.

    Raises OptionError where mode or data are others than they were, and StateDictError.
    """
    plan = read_plan(run)
    if plan.backend != BACKEND:
        raise OptionError(
            f"--resume: expected NEEDLE_BACKEND={plan.backend}, as {run} was begun with, got "
            f"{BACKEND}."
        )
    if plan.data != task.digest:
        raise OptionError(f"--resume: expected the data that {run} was begun with, got other data.")
    state = load(Path(run) / CHECKPOINT)
    for name, part in _parts(task).items():
        part.load_state_dict(_under(name, state))
    lr = float(state["optimizer.lr.0"].item())
    drawn_from = {name: value.numpy() for name, value in _under("random", state).items()}
    random_stream.check_state(drawn_from)
    random_stream.set_global_state(drawn_from)
    return Restored(Progress(**plan.progress), lr)


def _parts(task: Task) -> dict[str, Any]:
    parts = {"model": task.model, "optimizer": task.optimizer, "task": task}
    return parts if task.schedule is None else parts | {"schedule": task.schedule}


def _under(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
