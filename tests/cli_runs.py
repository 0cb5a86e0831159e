"""Small data sets and runs for the tests of `needle train` with a recipe."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from data_files import CIFAR_NAMES

import needle as ndl
from needle.cli import plots
from needle.cli.fit import Fit
from needle.cli.main import main
from needle.cli.recipes.gpt import GptTask
from needle.cli.recipes.lm import LmTask

TIMES = {"seconds", "compile_seconds", "examples_per_second", "tokens_per_second"}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "it", "was", "hers"]

# options that make a run of each recipe as small as it can be and still be one
SMALL = {
    "examples": ["--data", "table.npz", "--epochs", "2", "--batch-size", "4", "--hidden", "4"],
    "mlp-resnet": [
        *["--data", "table.npz", "--epochs", "2", "--batch-size", "4", "--hidden", "4"],
        *["--model", "mlp-resnet", "--optimizer", "sgd"],
    ],
    "cifar10": ["cifar10", "--data-dir", ".", "--epochs", "2", "--batch-size", "5"],
    "lm": [
        *["lm", "--data", "words.txt", "--epochs", "2", "--batch-size", "4", "--seq-len", "16"],
        *["--embedding", "4", "--hidden", "4", "--layers", "2"],
    ],
    "gpt": [
        *["gpt", "--data", "words.txt", "--steps", "8", "--eval-every", "4", "--batch-size", "2"],
        *["--layers", "1", "--heads", "2", "--width", "8", "--context", "8", "--warmup", "2"],
        *["--dropout", "0.1"],
    ],
}


def write_data(folder: Path) -> None:
    """words.txt, table.npz and cifar-10-batches-py."""
    draw = np.random.RandomState(0)
    lines = [" ".join(draw.choice(WORDS, size=6)) for _ in range(60)]
    (folder / "words.txt").write_text("\n".join(lines) + "\n")
    np.savez(folder / "table.npz", X=draw.randn(20, 3), y=np.arange(20) % 2)
    write_light_rows(folder / "cifar-10-batches-py")


def write_light_rows(base: Path, count: int = 4) -> None:
    """CIFAR-10 as it is published, but images are light in three rows, which say the class."""
    base.mkdir()
    draw = np.random.RandomState(0)
    for part, name in enumerate(CIFAR_NAMES):
        labels = [(part * count + i) % 10 for i in range(count)]
        pixels = draw.randint(0, 60, size=(count, 3, 32, 32)).astype(np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, 3 * label : 3 * label + 3] += 180
        content = {b"data": pixels.reshape(count, 3072), b"labels": labels}
        (base / name).write_bytes(pickle.dumps(content, 2))


def train(*arguments: str) -> int:
    return main(["train", *arguments])


def records(folder: str) -> list[dict]:
    """What metrics.jsonl holds, without what depends on the clock."""
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def weights(folder: str) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in ndl.load(Path(folder, "model.safetensors")).items()}


def keep_it_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time of a small run: pictures, and most of the samples."""
    for name in ("learning_curves", "confusion_matrix", "text_curves"):
        monkeypatch.setattr(plots, name, lambda *arguments: None)
    for task in (LmTask, GptTask):
        monkeypatch.setattr(task, "sample_tokens", 10)


def after_step(monkeypatch: pytest.MonkeyPatch, number: int, happens) -> None:
    """Let something happen after one step of the next training; it is called with the Fit."""
    step = Fit._step

    def step_and_what_happens(self, batch):
        step(self, batch)
        if self.progress.steps == number:
            happens(self)

    monkeypatch.setattr(Fit, "_step", step_and_what_happens)


def press_ctrl_c(fit: Fit) -> None:
    fit.interrupt.requested = True


def kill(fit: Fit) -> None:
    raise KeyboardInterrupt
