"""Language models of words, recurrent or a Transformer: `needle train lm`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from needle import nn, optim
from needle.autograd import Tensor, no_grad
from needle.cli.recipes.text import KIND, TextTask, WordVocabulary
from needle.cli.settings import LmOptions
from needle.cli.task import Batch, Loss, Progress
from needle.data import Corpus, Dictionary, batchify, get_batch, write_ptb_folder
from needle.errors import OptionError
from needle.models import LanguageModel

__all__ = ["KIND", "prepare", "restore"]

_VALID_BATCH = 10
_LOWEST_LR = 0.1  # of the highest


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
        self.columns = batchify(corpus.train, options.batch_size, dtype="int64")
        few = min(_VALID_BATCH, len(self.valid) // 2)  # so that little of the text is left out
        self.valid_columns = batchify(self.valid.tolist(), few, dtype="int64")
        np.random.seed(options.seed)
        self.model = _model(len(self.vocabulary), self.about_model())
        self.optimizer = optim.AdamW(
            self.model.named_parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self.schedule = optim.CosineAnnealingLR(
            self.optimizer,
            options.epochs * self._steps_per_epoch(),
            eta_min=_LOWEST_LR * options.lr,
        )
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

    def valid_loss(self) -> float:
        columns, length = self.valid_columns, self.options.seq_len
        total, items, state = 0.0, 0, None
        with no_grad():
            for row in range(0, len(columns) - 1, length):
                x, y = get_batch(columns, row, length, dtype="int64")
                logits, state = self.model(x, state)
                total += float(self.mean_loss(logits, y).item()) * y.size
                items += y.size
        return total / items

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
    if len(corpus.train) < 2 * options.batch_size or len(valid) < 2:
        raise OptionError(
            f"--data: expected {2 * options.batch_size} words to train on or more (two rows of "
            f"--batch-size) and 2 to validate, got {len(corpus.train):,} and {len(valid):,} in "
            f"{options.data}."
        )
    return LmTask(options, corpus)


def _corpus(options: LmOptions) -> Corpus:
    """A folder as it is; a file of text divided into the same three parts."""
    if Path(options.data).is_dir():
        return Corpus(options.data, validate=True)
    with TemporaryDirectory() as folder:
        return Corpus(write_ptb_folder(options.data, folder, options.vocabulary), validate=True)


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
