"""What a training job leaves behind, and how `needle predict` and `needle generate` find it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from needle import nn
from needle.cli.checkpoint import CHECKPOINT
from needle.errors import FileFormatError, OptionError
from needle.files import naming, write_atomically
from needle.serialization import load, load_metadata, save

__all__ = ["RunFolder", "load_run"]

MODEL, CONFIG, METRICS, SAMPLES = (
    "model.safetensors", "config.json", "metrics.jsonl", "samples.txt",
)  # fmt: skip
CURVES, CONFUSION, GRAPH = "learning_curves.png", "confusion_matrix.png", "graph.svg"
_OURS = (MODEL, CONFIG, METRICS, SAMPLES, CHECKPOINT, CURVES, CONFUSION, GRAPH)
_ASKED_BY = {"images": "predict", "text": "generate"}


class RunFolder:
    """A folder that one training job writes to. Every file is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: str | None, overwrite: bool, data: str, model: str) -> RunFolder:
        """`out`, or a new folder under `runs`. Raises OptionError for one that holds files."""
        if out is None:
            return cls(_new_folder(f"{datetime.now():%Y-%m-%d-%H%M%S}-{data}-{model}"))
        path = Path(out)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not overwrite:
            raise OptionError(
                f"--out: expected a new or an empty folder, got {out}, which holds files. "
                "Add --overwrite to write into it."
            )
        folder = cls(path)
        for name in _OURS:
            (path / name).unlink(missing_ok=True)
        folder.remove_leftovers()
        return folder

    def remove_leftovers(self) -> None:
        """Delete the beginnings of files that were being written when a run was killed."""
        for name in _OURS:
            for path in self.path.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """All that is needed to understand the run, and to do it again."""
        text = json.dumps(config, indent=2, ensure_ascii=False)
        write_atomically(self.path / CONFIG, f"{text}\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """One line about one round, on disk when this returns."""
        with naming(self.path / METRICS) as path, path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """A line about each round, in place of all that there are."""
        write_atomically(self.path / METRICS, "".join(f"{json.dumps(r)}\n" for r in history))

    def write_samples(self, samples: Sequence[str]) -> None:
        """The text that was written after each round, if any was."""
        if any(samples):
            write_atomically(self.path / SAMPLES, "\n".join(samples))

    def save_model(self, model: nn.Module, recipe: str, about_model: Any, about_data: Any) -> None:
        """The weights, and beside them what `load_run` needs."""
        inside = {"recipe": recipe, "model": about_model, "data": about_data}
        save(model, self.path / MODEL, metadata={"needle": json.dumps(inside, sort_keys=True)})


def _new_folder(name: str) -> Path:
    """`runs/NAME`; `runs/NAME-2` and so on where another job had the same second."""
    number = 1
    while True:
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def load_run(folder: str, kind: str) -> tuple[nn.Module, Any]:
    """The network of a run folder, in evaluation mode, and what it knows of its data.

    kind  "images" or "text", which the network has to take

    Raises FileNotFoundError, OptionError for a network of the other kind, or FileFormatError for
    what `needle train` did not write.
    """
    path = Path(folder)
    if path.name != MODEL or path.is_dir():  # the file itself is as good as its folder
        path /= MODEL
    if not path.is_file():
        raise FileNotFoundError(f"RUN: expected a run folder of needle train, got no {path}.")
    model, about = _rebuilt(path, kind)
    model.load_state_dict(load(path))
    model.eval()
    return model, about


def _rebuilt(path: Path, kind: str) -> tuple[nn.Module, Any]:
    """The network that the metadata of a file of weights speaks of, with fresh weights."""
    from needle.cli.recipes import recipe  # which know the names of the files above

    metadata = load_metadata(path)
    try:
        inside = json.loads(metadata["needle"])
        found = recipe(inside.get("recipe", "examples"))
        if found.KIND == kind:
            return found.restore(inside["model"], inside["data"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(
            f"RUN: expected weights that needle train saved, got {path}, which does not say "
            "which network they are of."
        ) from error
    raise OptionError(
        f"RUN: expected a network that takes {kind}, got {path.parent}, one that takes "
        f"{found.KIND}. Ask it with needle {_ASKED_BY[found.KIND]}."
    )
