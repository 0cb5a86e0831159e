"""A GPT on the characters of any text: `needle train gpt`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.cli.grammar import Parser, adder, path, share, whole
from needle.cli.recipes.text import (
    KIND,
    Array,
    TextTask,
    add_training_options,
    mean_loss,
    require_text,
)
from needle.cli.recipes.vocabularies import CharacterVocabulary
from needle.cli.settings import Common
from needle.cli.task import Batch, Count, Progress
from needle.data import CharacterText, random_windows, windows
from needle.data.datasets.text_dataset import read_text
from needle.errors import OptionError
from needle.models import GPT

__all__ = ["KIND", "OPTIONS", "GptOptions", "add_options", "options", "prepare", "restore"]

_VALID_BATCH = 64
_MOST_VALIDATED = 50_000  # characters, so that evaluation does not outlast training
_LONGEST_WARMUP = 100


@dataclass(frozen=True, kw_only=True)
class GptOptions(Common):
    """`needle train gpt`."""

    data: str
    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    dropout: float = 0.0
    batch_size: int = 16
    lr: float = 0.002
    steps: int = 3000
    warmup: int
    eval_every: int = 500
    clip: float = 1.0
    weight_decay: float = 0.1
    holdout: float = 0.1


OPTIONS = GptOptions


def add_options(parser: Parser) -> None:
    """The options of `needle train gpt`."""
    parser.description = "Train a GPT on the characters of a text."
    add = adder(parser, GptOptions(data="", warmup=0))
    parser.add_argument("--data", type=path("text"), metavar="FILE", help="any text file in UTF-8")
    add("--layers", whole(1), "blocks of attention and feed-forward layers")
    add("--heads", whole(1), "of the attention; a divisor of the width")
    add("--width", whole(1), "numbers per character")
    add("--context", whole(1), "characters that it looks back on")
    add("--batch-size", whole(1), "pieces of text per step")
    add("--steps", whole(1), "steps of the optimiser")
    add_training_options(add)
    usual = f"a tenth, at most {_LONGEST_WARMUP}"
    parser.add_argument(
        "--warmup", type=whole(0), metavar="N", help=f"steps until --lr is reached ({usual})"
    )
    add("--eval-every", whole(1), "steps between evaluations")
    add("--holdout", share, "share of the text kept for validation", "X")


def options(parser: Parser, said: Mapping[str, Any]) -> GptOptions:
    """As they were said; there has to be a text, and steps after those of the warm-up."""
    require_text(parser, said)
    steps = said.get("steps", GptOptions.steps)
    found = GptOptions(**({"warmup": min(_LONGEST_WARMUP, steps // 10)} | dict(said)))
    if found.warmup >= steps:
        parser.error(f"--warmup: expected fewer than the {steps:,} steps, got {found.warmup:,}.")
    return found


class GptTask(TextTask):
    """Steps on random pieces of text; every so often it is validated and writes a sample.

    The pieces of each step are drawn from a stream of (seed, step): going on needs the step alone.
    """

    options: GptOptions
    unit = "step"
    sample_tokens = 200
    model_options = ("context", "layers", "heads", "width", "dropout")

    def __init__(self, options: GptOptions, text: CharacterText) -> None:
        vocabulary = CharacterVocabulary(text.vocabulary)
        super().__init__(options, vocabulary, text.train, text.validation)
        self.model = GPT(len(vocabulary), **self.about_model())
        groups = _groups(self.model, options.weight_decay)
        self.train_with(groups, options.steps, options.warmup, beta2=0.99)

    def steps_in_round(self, progress: Progress) -> int:
        begun = progress.steps - progress.in_round
        return min(self.options.eval_every, self.options.steps - begun)

    def is_finished(self, progress: Progress) -> bool:
        return progress.steps >= self.options.steps

    def batches(self, progress: Progress) -> Iterable[Batch]:
        left = self.steps_in_round(progress) - progress.in_round
        for step in range(progress.steps, progress.steps + left):
            rng = np.random.default_rng((self.options.seed, step))
            yield random_windows(self.train, self.options.batch_size, self.options.context, rng)

    def objective(self) -> Callable[..., Any]:
        model = self.model

        def predict(x: Tensor, y: Tensor) -> Any:
            """The mean loss of the ids y (B, T) that follow x (B, T)."""
            return (mean_loss(model(x), y),)

        return predict

    def count(self, batch: Batch, *found: Any) -> Count:
        return Count(batch[1].size)

    def losses(self, text: Array) -> Iterator[tuple[Tensor, int]]:
        for x, y in windows(text[:_MOST_VALIDATED], _VALID_BATCH, self.options.context):
            (loss,) = self.measure(x, y)
            yield loss, y.size

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: the number of the step, which the Progress has, is all."""

    def title(self, progress: Progress) -> str:
        begun = progress.steps - progress.in_round
        last = begun + self.steps_in_round(progress)
        return f"steps {begun + 1}-{last} of {self.options.steps}"

    def names(self) -> tuple[str, str]:
        return self.name, "gpt"


def prepare(options: GptOptions) -> GptTask:
    """Read the text and build the network."""
    if options.width % options.heads:
        raise OptionError(
            f"--heads: expected a divisor of --width {options.width}, got {options.heads}."
        )
    read_text(options.data, "--data")
    text = CharacterText(options.data, options.holdout)
    if len(text.vocabulary) < 2:
        raise OptionError(
            f"--data: expected a text of two different characters or more, got {options.data}, "
            "which has one."
        )
    shorter = min(len(text.train), len(text.validation))
    if shorter <= options.context:
        raise OptionError(
            f"--data: expected a text whose parts for training and validation have more than "
            f"{options.context} characters each (--context), got {len(text.train):,} and "
            f"{len(text.validation):,} in {options.data}."
        )
    return GptTask(options, text)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay, which are the matrices, and those without."""
    named = list(model.named_parameters())
    decayed = [(name, p) for name, p in named if p.ndim > 1]
    others = [(name, p) for name, p in named if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def restore(model: dict[str, Any], data: dict[str, Any]) -> tuple[nn.Module, CharacterVocabulary]:
    """The network with fresh weights, and its vocabulary."""
    vocabulary = CharacterVocabulary.from_json(data)
    return GPT(len(vocabulary), **model), vocabulary
