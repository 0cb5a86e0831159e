"""What the recipes for text share: perplexity, samples, and vocabularies that are asked."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.cli import plots
from needle.cli.run_folder import CURVES
from needle.cli.task import Progress, Record, Task
from needle.data import Characters, Dictionary
from needle.data.datasets.text_dataset import shortened
from needle.errors import OptionError
from needle.generation import generate

__all__ = [
    "KIND",
    "CharacterVocabulary",
    "TextTask",
    "Vocabulary",
    "WordVocabulary",
    "write_text",
]

KIND = "text"
_END = "<eos>"
_TEMPERATURE = 0.8  # of samples


class Vocabulary(Protocol):
    """Text to ids and back, as a trained network needs it.

    unit        what an id stands for: "characters" or "words"
    beginning   the text that comes before any other
    """

    unit: str
    beginning: str

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises OptionError that names what the vocabulary lacks."""

    def pieces(self, ids: Iterator[int]) -> Iterator[str]:
        """What to print for each id, as they come."""

    def as_json(self) -> dict[str, Any]:
        """What it takes to make it again."""

    def __len__(self) -> int: ...


class CharacterVocabulary(Vocabulary):
    """An id for each character of a text."""

    unit = "characters"

    def __init__(self, characters: Characters) -> None:
        self.characters = characters
        self.beginning = "\n" if "\n" in characters.characters else characters.characters[0]

    def encode(self, text: str) -> list[int]:
        known = self.characters.characters
        _require_known([c for c in text if c not in known], self.unit, len(known))
        return [int(i) for i in self.characters.encode(text)]

    def pieces(self, ids: Iterator[int]) -> Iterator[str]:
        return (self.characters.decode([i]) for i in ids)

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "vocabulary": self.characters.characters}

    def __len__(self) -> int:
        return len(self.characters)


class WordVocabulary(Vocabulary):
    """An id for each word of a text, words being what stands between white space."""

    unit = "words"
    beginning = "\n"

    def __init__(self, words: Dictionary) -> None:
        self.words = words

    def encode(self, text: str) -> list[int]:
        words = text.replace("\n", f" {_END} ").split()
        _require_known([w for w in words if w not in self.words.word2idx], self.unit, len(self))
        return [self.words.word2idx[word] for word in words]

    def pieces(self, ids: Iterator[int]) -> Iterator[str]:
        """Words with a space before each that does not begin a line; `<eos>` ends a line."""
        begins = False
        for i in ids:
            word = self.words.idx2word[i]
            yield "\n" if word == _END else word if begins else f" {word}"
            begins = word == _END

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "vocabulary": self.words.idx2word}

    def __len__(self) -> int:
        return len(self.words)


def _require_known(unknown: list[str], unit: str, known: int) -> None:
    if unknown:
        raise OptionError(
            f"--prompt: expected {unit} among the {known:,} that the network knows, got "
            f"{shortened(unknown)}."
        )


def write_text(
    model: nn.Module, vocabulary: Vocabulary, prompt: str, tokens: int, rng: Any, **choice: Any
) -> Iterator[str]:
    """The text that a network writes after a prompt, piece by piece.

    choice  temperature, top_k, top_p, as `needle.generation.generate` takes them
    """
    ids = vocabulary.encode(prompt)
    if not ids:
        raise OptionError(f"--prompt: expected {vocabulary.unit} to go on from, got {prompt!r}.")
    pieces = vocabulary.pieces(generate(model, ids, tokens, rng=rng, **choice))
    first = next(pieces, "")
    # after a prompt that ends a line, a word begins one
    yield first.lstrip(" ") if prompt.endswith(("\n", " ")) else first
    yield from pieces


class TextTask(Task):
    """The next token from those before: what all text has in common.

    name        of the text
    vocabulary  its tokens
    """

    measured_on: ClassVar[str] = "the validation text"
    sample_tokens: ClassVar[int]

    name: str
    vocabulary: Vocabulary
    options: Any
    train: np.ndarray[Any, Any]
    valid: np.ndarray[Any, Any]

    def __init__(self) -> None:
        self.loss_function = nn.SoftmaxLoss()
        self._valid_loss = math.nan

    @abstractmethod
    def valid_loss(self) -> float:
        """The mean cross-entropy per token of the validation text, in nats."""

    def evaluate(self) -> dict[str, float]:
        self.model.eval()
        self._valid_loss = self.valid_loss()
        return {"valid_loss": self._valid_loss}

    def record(self, progress: Progress, measured: Mapping[str, float], complete: bool) -> Record:
        """Losses are means per token, in nats; the training loss is that of the batches as they
        came; times in seconds. The sample is drawn with a seed of its own.
        """
        loss, number = progress.loss / progress.items, progress.rounds + 1
        when = {"epoch": number} if self.unit == "epoch" else {"step": progress.steps}
        return {
            **when,
            "loss": loss,
            "perplexity": _exp(loss),
            **measured,
            "valid_perplexity": _exp(measured["valid_loss"]),
            "lr": float(self.optimizer.lr),
            "tokens": progress.items,
            "seconds": progress.seconds,
            "complete": complete,
            "tokens_per_second": round(progress.speed, 1),
            "sample": self._sample(number),
        }

    def _sample(self, seed: int) -> str:
        rng, start = np.random.default_rng(seed), self.vocabulary.beginning
        pieces = write_text(
            self.model, self.vocabulary, start, self.sample_tokens, rng, temperature=_TEMPERATURE
        )
        return "".join(pieces).strip("\n")

    def line(self, record: Record) -> str:
        last = self.options.epochs if self.unit == "epoch" else self.options.steps
        sample = "\n".join(f"    {line}" for line in record["sample"].splitlines())
        return (
            f"{self.unit} {record[self.unit]:>{len(str(last))}}/{last}  loss {record['loss']:.4f}  "
            f"validation loss {record['valid_loss']:.4f}  "
            f"perplexity {record['valid_perplexity']:.2f}  "
            f"{record['tokens_per_second']:,.0f} {self.vocabulary.unit}/s\n{sample}"
        )

    def last_line(self) -> str:
        return (
            f"validation loss {self._valid_loss:.4f} per {self.vocabulary.unit[:-1]}, perplexity "
            f"{_exp(self._valid_loss):.2f}"
        )

    def header(self) -> str:
        options, unit = self.options, self.vocabulary.unit
        return (
            f"{self.name}: {len(self.train):,} {unit} to train on, {len(self.valid):,} to "
            f"validate, {len(self.vocabulary):,} distinct; {self.names()[1]}: "
            f"{self.model.num_parameters():,} parameters; "
            f"{type(self.optimizer).__name__.lower()}, lr {options.lr:g}"
        )

    def about_data(self) -> dict[str, Any]:
        return {"name": self.name, **self.vocabulary.as_json()}

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.valid)}

    def data_digest(self) -> str:
        digest = hashlib.sha256(repr(self.vocabulary.as_json()["vocabulary"]).encode())
        for part in (self.train, self.valid):
            digest.update(np.asarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()

    def finish(self, folder: Path, history: list[Record]) -> None:
        plots.text_curves(history, self.unit, folder / CURVES)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of logits (..., V) for targets (...)."""
        flat = logits.reshape((targets.size, logits.shape[-1]))
        loss: Tensor = self.loss_function(flat, targets.reshape((targets.size,)))
        return loss


def _exp(loss: float) -> float:
    """The perplexity; what is beyond any float is infinite, which JSON lacks, so the largest."""
    return math.exp(min(loss, 709.0))
