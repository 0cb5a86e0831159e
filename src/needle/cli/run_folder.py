"""What a training job leaves behind, and how `needle predict` finds it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from needle import nn
from needle.cli.datasets import Description
from needle.errors import FileFormatError, OptionError
from needle.files import write_atomically
from needle.models import MLPResNet, TwoLayerNet
from needle.serialization import load, load_metadata, save

__all__ = ["ModelSpec", "RunFolder", "load_run"]

MODEL, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.jsonl"
CURVES, CONFUSION, GRAPH = "learning_curves.png", "confusion_matrix.png", "graph.svg"
_OURS = (MODEL, CONFIG, METRICS, CURVES, CONFUSION, GRAPH)


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build a network again: its kind and its widths."""

    kind: str
    in_features: int
    hidden: int
    classes: int

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        if self.kind == "two-layer":
            return TwoLayerNet(self.in_features, self.hidden, self.classes)
        if self.kind == "mlp-resnet":
            return MLPResNet(self.in_features, self.hidden, num_classes=self.classes)
        raise OptionError(f"model: expected two-layer or mlp-resnet, got {self.kind!r}.")


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
        for name in _OURS:
            (path / name).unlink(missing_ok=True)
        return cls(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """All that is needed to understand the run, and to do it again."""
        text = json.dumps(config, indent=2, ensure_ascii=False)
        write_atomically(self.path / CONFIG, f"{text}\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """One line about one epoch, on disk when this returns."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save_model(self, model: nn.Module, spec: ModelSpec, about: Description) -> None:
        """The weights, and beside them what `load_run` needs."""
        inside = {"model": vars(spec), "data": about.as_json()}
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


def load_run(folder: str) -> tuple[nn.Module, Description]:
    """The network of a run folder, in evaluation mode, and what it knows of its data.

    Raises FileNotFoundError, or FileFormatError for what `needle train` did not write.
    """
    path = Path(folder) / MODEL
    if not path.is_file():
        raise FileNotFoundError(f"RUN: expected a run folder of needle train, got no {path}.")
    spec, about = _read_metadata(path)
    state = load(path)
    model = spec.build()
    model.load_state_dict(state)
    model.eval()
    return model, about


def _read_metadata(path: Path) -> tuple[ModelSpec, Description]:
    metadata = load_metadata(path)
    try:
        inside = json.loads(metadata["needle"])
        spec, data = ModelSpec(**inside["model"]), inside["data"]
        shape, names = tuple(map(int, data["shape"])), tuple(map(str, data["class_names"]))
        about = Description(**(data | {"shape": shape, "class_names": names}))
        if not (_is_sound(spec, about) and math.prod(shape) == spec.in_features):
            raise ValueError("the network does not fit the data")
        return spec, about
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(
            f"RUN: expected weights that needle train saved, got {path}, which does not say "
            "which network they are of."
        ) from error


def _is_sound(spec: ModelSpec, about: Description) -> bool:
    """Whether the values are of the types and in the ranges that `save_model` writes."""
    widths = (spec.in_features, spec.hidden, spec.classes, *about.shape)
    texts = (spec.kind, about.name, about.polarity or "")
    return (
        all(isinstance(width, int) and width > 0 for width in widths)
        and all(isinstance(text, str) for text in texts)
        and (about.scale is None or math.isfinite(about.scale))
        and len(about.class_names) == spec.classes >= 2
    )
