"""Language models of words, recurrent or a Transformer: `needle train lm`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from needle import nn, optim
from needle.autograd import Tensor, no_grad
from needle.cli.grammar import Parser, adder, number, one_of, path, whole
from needle.cli.recipes.text import KIND, TextTask, WordVocabulary, require_text
from needle.cli.settings import Common
from needle.cli.task import Batch, Loss, Progress, Record
from needle.data import Corpus, Dictionary, batchify, get_batch, write_ptb_folder
from needle.data.datasets.text_dataset import read_text
from needle.errors import OptionError
from needle.models import LanguageModel

__all__ = ["KIND", "OPTIONS", "LmOptions", "add_options", "options", "prepare", "restore"]

_MODELS = ("lstm", "gru", "rnn", "transformer")
_VALID_BATCH = 10
_LOWEST_LR = 0.1  # of the highest
_WARM_UP = 0.1  # of all steps, for a Transformer
_SMALL = 0.1  # of the numbers that are drawn

Array = np.ndarray[Any, Any]


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
    add("--dropout", number(below=1), "share of the numbers zeroed in training", "X")
    add("--seq-len", whole(1), "words per step and column")
    add("--batch-size", whole(1), "columns that the text is laid out in")
    add("--lr", number(), "highest learning rate, of AdamW; it sinks to a tenth", "X")
    add("--clip", number(), "longest that a gradient may be; 0 for any", "X")
    add("--weight-decay", number(), "how strongly weights are drawn towards 0", "X")
    add("--epochs", whole(1), "passes over the text")


def options(parser: Parser, said: Mapping[str, Any]) -> LmOptions:
    """As they were said; there has to be a text."""
    require_text(parser, said)
    return LmOptions(**said)


class LmTask(TextTask):
    """Epochs over a text in columns; the state at the end of a batch begins the next."""

    sample_tokens = 60

    def __init__(self, options: LmOptions, corpus: Corpus) -> None:
        super().__init__()
        self.options: LmOptions = options
        self.name = Path(options.data).stem
        self.vocabulary = WordVocabulary(corpus.dictionary)
        self.train = np.asarray(corpus.train)
        self.valid = np.asarray(corpus.test if corpus.valid is None else corpus.valid)
        self.test = None if corpus.valid is None else np.asarray(corpus.test)
        self.columns = batchify(corpus.train, options.batch_size, dtype="int64")
        np.random.seed(options.seed)
        self.model = _model(len(self.vocabulary), self.about_model())
        if options.model == "transformer":
            _lower_start(self.model)
        self.optimizer = optim.AdamW(
            self.model.named_parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        steps = options.epochs * self._steps_per_epoch()
        warmup = round(_WARM_UP * steps) if options.model == "transformer" else 0
        lowest = _LOWEST_LR * options.lr
        self.schedule = optim.WarmupCosine(self.optimizer, warmup, steps, eta_min=lowest)
        self.clip = options.clip or None
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
        length = self.options.seq_len
        for row in range(progress.in_round * length, len(self.columns) - 1, length):
            yield get_batch(self.columns, row, length, dtype="int64")

    def loss(self, batch: Batch) -> Loss:
        x, y = batch  # (T, B), (T · B,)
        logits, state = self.model(x, self._state)
        self._state = _detached(state)
        return Loss(self.mean_loss(logits, y), y.size)

    def loss_on(self, text: Array) -> float:
        few = min(_VALID_BATCH, len(text) // 2)  # columns, so that little of the text is left out
        columns, length = batchify(text, few, dtype="int64"), self.options.seq_len
        total, items, state = 0.0, 0, None
        with no_grad():
            for row in range(0, len(columns) - 1, length):
                x, y = get_batch(columns, row, length, dtype="int64")
                logits, state = self.model(x, state)
                total += float(self.mean_loss(logits, y).item()) * y.size
                items += y.size
        return total / items

    def record(self, progress: Progress, measured: Mapping[str, float], complete: bool) -> Record:
        record = super().record(progress, measured, complete)
        is_last = complete and record["epoch"] == self.options.epochs
        return record | self.tested() if is_last else record

    def title(self, progress: Progress) -> str:
        return f"epoch {progress.rounds + 1}/{self.options.epochs}"

    def names(self) -> tuple[str, str]:
        return self.name, self.options.model

    def about_model(self) -> dict[str, Any]:
        options = self.options
        names = ("model", "embedding", "hidden", "layers", "seq_len", "dropout")
        return {name: getattr(options, name) for name in names}

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
    valid = corpus.test if corpus.valid is None else corpus.valid
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
    words = Dictionary()
    for word in data["vocabulary"]:
        words.add_word(word)
    return _model(len(words), model), WordVocabulary(words)
