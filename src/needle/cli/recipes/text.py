"""What the recipes for text share: options, how they train, perplexity, samples."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import fill, indent
from typing import Any, ClassVar

import numpy as np

from needle import nn, optim
from needle.autograd import Tensor
from needle.cli import plots
from needle.cli.grammar import Parser, number
from needle.cli.recipes.vocabularies import Vocabulary
from needle.cli.run_folder import CURVES
from needle.cli.task import Progress, Record, Task, compiling
from needle.errors import OptionError
from needle.generation import generate

__all__ = [
    "KIND",
    "Array",
    "TextTask",
    "add_training_options",
    "mean_loss",
    "require_text",
    "write_text",
]

Array = np.ndarray[Any, Any]

KIND = "text"
_LOWEST_LR = 0.1  # of the highest
_COLUMNS = 90
_TEMPERATURE = 0.8  # of samples
_SOFTMAX_LOSS = nn.SoftmaxLoss()


def add_training_options(add: Callable[..., None]) -> None:
    """The options of what trains, for `add` of `needle.cli.grammar.adder`."""
    add("--dropout", number(below=1), "share of the numbers zeroed in training", "X")
    add("--lr", number(), "highest learning rate, of AdamW; it sinks to a tenth", "X")
    add("--clip", number(), "longest that a gradient may be; 0 for any", "X")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")


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

    A recipe's task makes its network after `__init__`, which seeds the draws, and then calls
    `train_with`.

    name           of the text
    vocabulary     its tokens
    train, valid   the ids of its parts (N,); so `test`, if there is one
    model_options  names of the options that its network is made of
    """

    measured_on: ClassVar[str] = "the validation text"
    sample_tokens: ClassVar[int]
    model_options: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        options: Any,
        vocabulary: Vocabulary,
        train: Any,
        valid: Any,
        test: Any = None,
    ) -> None:
        self.options, self.vocabulary = options, vocabulary
        self.name = Path(options.data).stem
        self.train, self.valid = np.asarray(train), np.asarray(valid)
        self.test = None if test is None else np.asarray(test)
        self._valid_loss = self._test_loss = math.nan
        np.random.seed(options.seed)

    def train_with(self, parameters: Any, steps: int, warmup: int, **numbers: Any) -> None:
        """AdamW on the parameters; its learning rate rises for `warmup` steps, and sinks."""
        lr = self.options.lr
        self.optimizer = optim.AdamW(parameters, lr=lr, **numbers)
        self.schedule = optim.WarmupCosine(self.optimizer, warmup, steps, eta_min=_LOWEST_LR * lr)
        self.clip = self.options.clip or None

    @abstractmethod
    def losses(self, text: Array) -> Iterator[tuple[Tensor, int]]:
        """The mean loss of each batch of a text's ids, and of how many tokens it is."""

    def loss_on(self, text: Array) -> float:
        """The mean cross-entropy per token of a text's ids, in nats."""
        self.model.eval()
        total, items = 0.0, 0
        for loss, size in self.losses(text):
            total += float(loss.item()) * size
            items += size
        return total / items

    def evaluate(self) -> dict[str, float]:
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
            f"{record['tokens_per_second']:,.0f} {self.vocabulary.unit}/s{compiling(record)}\n"
            f"{sample}"
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

    def about_model(self) -> dict[str, Any]:
        return {name: getattr(self.options, name) for name in self.model_options}

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


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of logits (..., V) for targets (...)."""
    flat = logits.reshape((targets.size, logits.shape[-1]))
    loss: Tensor = _SOFTMAX_LOSS(flat, targets.reshape((targets.size,)))
    return loss


def _exp(loss: float) -> float:
    """The perplexity; what is beyond any float is infinite, which JSON lacks, so the largest."""
    return math.exp(min(loss, 709.0))


def _shown(perplexity: float) -> str:
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:,.4g}"
