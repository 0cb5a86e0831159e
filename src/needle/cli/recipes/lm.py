"""Language models of words, recurrent or a Transformer: `needle train lm`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from needle import nn
from needle.autograd import Tensor
from needle.cli.grammar import Parser, adder, one_of, path, whole
from needle.cli.recipes.text import (
    KIND,
    Array,
    TextTask,
    add_training_options,
    mean_loss,
    require_text,
)
from needle.cli.recipes.vocabularies import WordVocabulary
from needle.cli.settings import Common
from needle.cli.task import Batch, Count, Progress, Record
from needle.data import Corpus, batchify, get_batch, write_ptb_folder
from needle.data.datasets.text_dataset import read_text
from needle.errors import OptionError
from needle.models import LanguageModel

__all__ = ["KIND", "OPTIONS", "LmOptions", "add_options", "options", "prepare", "restore"]

_MODELS = ("lstm", "gru", "rnn", "transformer")
_VALID_BATCH = 10
_WARM_UP = 0.1  # of all steps, for a Transformer
_SMALL = 0.1  # of the numbers that are drawn


@dataclass(frozen=True, kw_only=True)
class LmOptions(Common):
    """`needle train lm`."""

    data: str
    model: str = "lstm"
    embedding: int = 200
    hidden: int = 200
    layers: int = 2
    dropout: float = 0.2
    seq_len: int = 35
    batch_size: int = 20
    lr: float = 0.002
    epochs: int = 6
    clip: float = 0.5
    weight_decay: float = 0.0
    vocabulary: int = 10_000


OPTIONS = LmOptions


def add_options(parser: Parser) -> None:
    """The options of `needle train lm`."""
    parser.description = "Train a language model of words."
    add = adder(parser, LmOptions(data=""))
    add("--model", one_of(_MODELS), ", ".join(_MODELS), "MODEL")
    text = "a folder with train.txt and test.txt (valid.txt is used if there), or a text file"
    parser.add_argument("--data", type=path("text"), metavar="TEXT", help=text)
    add("--vocabulary", whole(3), "most words told apart in a text file; others are <unk>")
    add("--embedding", whole(1), "numbers per word")
    add("--hidden", whole(1), "width of the sequence model")
    add("--layers", whole(1), "of the sequence model")
    add("--seq-len", whole(1), "words per step and column")
    add("--batch-size", whole(1), "columns that the text is laid out in")
    add("--epochs", whole(1), "passes over the text")
    add_training_options(add)


def options(parser: Parser, said: Mapping[str, Any]) -> LmOptions:
    """As they were said; there has to be a text."""
    require_text(parser, said)
    return LmOptions(**said)


class LmTask(TextTask):
    """Epochs over a text in columns; the state at the end of a batch begins the next."""

    options: LmOptions
    sample_tokens = 60
    model_options = ("model", "embedding", "hidden", "layers", "seq_len", "dropout")

    def __init__(self, options: LmOptions, corpus: Corpus) -> None:
        vocabulary = WordVocabulary(corpus.dictionary)
        super().__init__(options, vocabulary, corpus.train, *_held_out(corpus))
        self.columns = batchify(corpus.train, options.batch_size, dtype="int64")
        self.model = _model(len(vocabulary), self.about_model())
        parameters, steps = self.model.named_parameters(), options.epochs * self._steps_per_epoch()
        warmup = 0
        if options.model == "transformer":
            _lower_start(self.model)
            warmup = round(_WARM_UP * steps)
        self.train_with(parameters, steps, warmup, weight_decay=options.weight_decay)
        self._state: Any = None  # of the sequence model, after the latest batch

    def _steps_per_epoch(self) -> int:
        return math.ceil((len(self.columns) - 1) / self.options.seq_len)

    def steps_in_round(self, progress: Progress) -> int:
        return self._steps_per_epoch()

    def is_finished(self, progress: Progress) -> bool:
        return progress.rounds >= self.options.epochs

    def batches(self, progress: Progress) -> Iterable[Batch]:
        if progress.in_round == 0:
            self._state = None
        yield from self._pieces(self.columns, progress.in_round)

    def _pieces(self, columns: Array, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (T, B) and those after them (T · B,), `seq_len` rows a piece, from `first` on."""
        length = self.options.seq_len
        for row in range(first * length, len(columns) - 1, length):
            yield get_batch(columns, row, length, dtype="int64")

    def objective(self) -> Callable[..., Any]:
        model = self.model

        def predict(x: Tensor, y: Tensor, state: Any) -> Any:
            """The mean loss of the ids y (T · B,) that follow x (T, B), and the state then."""
            logits, state = model(x, state)
            return mean_loss(logits, y), _detached(state)

        return predict

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        return *batch, self._state

    def count(self, batch: Batch, *found: Any) -> Count:
        (self._state,) = found
        return Count(batch[1].size)

    def losses(self, text: Array) -> Iterator[tuple[Tensor, int]]:
        few = min(_VALID_BATCH, len(text) // 2)  # columns, so that little of the text is left out
        state = None
        for x, y in self._pieces(batchify(text, few, dtype="int64")):
            loss, state = self.measure(x, y, state)
            yield loss, y.size

    def record(self, progress: Progress, measured: Mapping[str, float], complete: bool) -> Record:
        record = super().record(progress, measured, complete)
        is_last = complete and record["epoch"] == self.options.epochs
        return record | self.tested() if is_last else record

    def title(self, progress: Progress) -> str:
        return f"epoch {progress.rounds + 1}/{self.options.epochs}"

    def names(self) -> tuple[str, str]:
        return self.name, self.options.model

    def state_dict(self) -> dict[str, Any]:
        return {f"state.{i}": part for i, part in enumerate(_tensors(self._state))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The same Tensors: one, or a pair for an LSTM; none before the first batch."""
        parts = [state[f"state.{i}"] for i in range(len(state))]
        one = parts[0] if len(parts) == 1 else tuple(parts)
        self._state = one if parts else None


def prepare(options: LmOptions) -> LmTask:
    """Read the text and build the network."""
    corpus = _corpus(options)
    valid, _ = _held_out(corpus)
    if len(corpus.train) < 2 * options.batch_size or min(len(valid), len(corpus.test)) < 2:
        raise OptionError(
            f"--data: expected {2 * options.batch_size} words to train on or more (two rows of "
            f"--batch-size) and 2 to validate, got {len(corpus.train):,} and {len(valid):,} in "
            f"{options.data}."
        )
    return LmTask(options, corpus)


def _corpus(options: LmOptions) -> Corpus:
    """A folder as it is; a file of text divided into the same three parts."""
    if Path(options.data).is_dir():
        for name in ("train.txt", "test.txt"):
            read_text(Path(options.data, name), "--data")
        return Corpus(options.data, validate=True)
    read_text(options.data, "--data")
    with TemporaryDirectory() as folder:
        try:
            return Corpus(write_ptb_folder(options.data, folder, options.vocabulary), validate=True)
        except OptionError as error:
            raise OptionError(
                f"--data: expected a text of lines enough for training, validation and test, got "
                f"{options.data}."
            ) from error


def _held_out(corpus: Corpus) -> tuple[list[int], list[int] | None]:
    """The ids to validate with, and those to test with if they are others."""
    return (corpus.test, None) if corpus.valid is None else (corpus.valid, corpus.test)


def _model(words: int, about: Mapping[str, Any]) -> LanguageModel:
    return LanguageModel(
        about["embedding"],
        words,
        about["hidden"],
        about["layers"],
        about["model"],
        seq_len=about["seq_len"],
        dropout=about["dropout"],
    )


def _lower_start(model: Any) -> None:
    """Begin near chance: the course's Transformer has no norm before its last layer.

    With positions as long as words, and a last layer that is drawn for inputs of length 1, the
    first losses would be twice those of chance, and much of the first epoch goes by with that.
    """
    for weight in (model.seq_model.positional_embedding.weight, model.linear.weight):
        weight.data = weight.detach() * _SMALL


def _tensors(state: Any) -> list[Tensor]:
    if state is None:
        return []
    return list(state) if isinstance(state, tuple) else [state]


def _detached(state: Any) -> Any:
    """The state as constants: gradients end where a batch begins."""
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return None if state is None else state.detach()


def restore(model: dict[str, Any], data: dict[str, Any]) -> tuple[nn.Module, WordVocabulary]:
    """The network with fresh weights, and its vocabulary."""
    vocabulary = WordVocabulary.from_json(data)
    return _model(len(vocabulary), model), vocabulary
