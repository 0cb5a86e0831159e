"""What the recipes for text share: perplexity, samples, and vocabularies that are asked."""

from __future__ import annotations

import hashlib
import math
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill, indent
from typing import Any, ClassVar, Protocol

import numpy as np

from needle import nn
from needle.autograd import Tensor
from needle.cli import plots
from needle.cli.grammar import Parser
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
    "require_text",
    "write_text",
]

Array = np.ndarray[Any, Any]

KIND = "text"
_UNKNOWN = "<unk>"
_COLUMNS = 90
_TEMPERATURE = 0.8  # of samples


class Vocabulary(Protocol):
    """Text to ids and back, as a trained network needs it.

    unit        what an id stands for: "characters" or "words"
    beginning   the text that comes before any other
    unwritten   ids that are read but never written
    """

    unit: str
    beginning: str
    unwritten: tuple[int, ...] = ()

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
        if unknown := [c for c in text if c not in known]:
            raise OptionError(
                f"--prompt: expected characters among the {len(known):,} that the network knows, "
                f"got {shortened(unknown)}."
            )
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
        self.unwritten = tuple(i for i in [words.word2idx.get(_UNKNOWN)] if i is not None)

    def encode(self, text: str) -> list[int]:
        """The same; words that the vocabulary lacks are said, and count as `<unk>` if it has it."""
        unknown = [w for w in text.split() if w not in self.words.word2idx]
        if unknown and _UNKNOWN not in self.words.word2idx:
            raise OptionError(
                f"--prompt: expected words among the {len(self):,} that the network knows, got "
                f"{shortened(unknown)}."
            )
        if unknown:
            remark = f"{shortened(unknown)} not known to the network, read as {_UNKNOWN}."
            print(f"--prompt: {remark}", file=sys.stderr)
        return self.words.encode(text)

    def pieces(self, ids: Iterator[int]) -> Iterator[str]:
        """Words with a space before each that does not begin a line; `<eos>` ends a line."""
        begins = False
        for i in ids:
            piece = self.words.decode([i])
            ends = piece == "\n"
            yield piece if begins or ends else f" {piece}"
            begins = ends

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "vocabulary": self.words.idx2word}

    def __len__(self) -> int:
        return len(self.words)


def require_text(parser: Parser, said: Mapping[str, Any]) -> None:
    """End with one line where no text was named."""
    if "data" not in said:
        parser.error("--data: expected a text to learn from, got none.")


def write_text(
    model: nn.Module, vocabulary: Vocabulary, prompt: str, tokens: int, rng: Any, **choice: Any
) -> Iterator[str]:
    """The text that a network writes after a prompt, piece by piece; `<unk>` is never written.

    choice  temperature, top_k, top_p, as `needle.generation.generate` takes them
    """
    ids = vocabulary.encode(prompt)
    if not ids:
        raise OptionError(f"--prompt: expected {vocabulary.unit} to go on from, got {prompt!r}.")
    new_ids = generate(model, ids, tokens, rng=rng, never=vocabulary.unwritten, **choice)
    pieces = vocabulary.pieces(new_ids)
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
    train: Array
    valid: Array
    test: Array | None = None

    def __init__(self) -> None:
        self.loss_function = nn.SoftmaxLoss()
        self._valid_loss = self._test_loss = math.nan

    @abstractmethod
    def loss_on(self, text: Array) -> float:
        """The mean cross-entropy per token of a text's ids, in nats."""

    def evaluate(self) -> dict[str, float]:
        self.model.eval()
        self._valid_loss = self.loss_on(self.valid)
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

    def tested(self) -> dict[str, float]:
        """What the test text says, which is asked once: when all rounds are done."""
        if self.test is None:
            return {}
        self.model.eval()
        self._test_loss = self.loss_on(self.test)
        return {"test_loss": self._test_loss, "test_perplexity": _exp(self._test_loss)}

    def _sample(self, seed: int) -> str:
        rng, start = np.random.default_rng(seed), self.vocabulary.beginning
        pieces = write_text(
            self.model, self.vocabulary, start, self.sample_tokens, rng, temperature=_TEMPERATURE
        )
        return "".join(pieces).strip("\n")

    def line(self, record: Record) -> str:
        last = self.options.epochs if self.unit == "epoch" else self.options.steps
        sample = indent(self._wrapped(record["sample"]), "    ")
        return (
            f"{self.unit} {record[self.unit]:>{len(str(last))}}/{last}  loss {record['loss']:.4f}  "
            f"validation loss {record['valid_loss']:.4f}  "
            f"perplexity {_shown(record['valid_perplexity'])}  "
            f"{record['tokens_per_second']:,.0f} {self.vocabulary.unit}/s\n{sample}"
        )

    def sample(self, record: Record) -> str:
        when = f"{self.unit} {record[self.unit]:,}, validation loss {record['valid_loss']:.4f}"
        return f"-- {when} --\n\n{self._wrapped(record['sample'])}\n"

    def _wrapped(self, text: str) -> str:
        """Lines of words as they fit on a page; characters say themselves where a line ends."""
        if self.vocabulary.unit == "characters":
            return text
        return "\n".join(fill(line, _COLUMNS) for line in text.splitlines())

    def last_line(self) -> str:
        per = f"per {self.vocabulary.unit[:-1]}"
        losses = {"validation": self._valid_loss, "test": self._test_loss}
        return "\n".join(
            f"{name} loss {loss:.4f} {per}, perplexity {_shown(_exp(loss))}"
            for name, loss in losses.items()
            if not math.isnan(loss)
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
        test = {} if self.test is None else {"test": len(self.test)}
        return {"train": len(self.train), "validation": len(self.valid), **test}

    def data_digest(self) -> str:
        digest = hashlib.sha256(repr(self.vocabulary.as_json()["vocabulary"]).encode())
        for part in (self.train, self.valid, self.test):
            if part is not None:
                digest.update(np.asarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()

    def finish(self, folder: Path, history: list[Record]) -> None:
        if history:  # of a run whose rounds are all done, the last one has it
            self._test_loss = history[-1].get("test_loss", math.nan)
        plots.text_curves(history, self.unit, folder / CURVES)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of logits (..., V) for targets (...)."""
        flat = logits.reshape((targets.size, logits.shape[-1]))
        loss: Tensor = self.loss_function(flat, targets.reshape((targets.size,)))
        return loss


def _exp(loss: float) -> float:
    """The perplexity; what is beyond any float is infinite, which JSON lacks, so the largest."""
    return math.exp(min(loss, 709.0))


def _shown(perplexity: float) -> str:
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:,.4g}"
