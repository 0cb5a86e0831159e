"""Text for language models by words: words to ids, a corpus of ids, batches of columns of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import StringIO
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device
from needle.data.datasets.text_dataset import (
    ids_in,
    read_text,
    require_share,
    require_whole,
    shortened,
    text_in,
)
from needle.dtypes import as_dtype
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError, describe, kind_of
from needle.files import write_atomically

__all__ = ["Corpus", "Dictionary", "batchify", "get_batch", "write_ptb_folder"]

Array = np.ndarray[Any, Any]

_UNKNOWN, _END = "<unk>", "<eos>"


class Dictionary:
    """Words and their ids, given in order of first appearance.

    word2idx  word -> id
    idx2word  the words by id

    >>> import needle as ndl
    >>> words = ndl.data.Dictionary()
    >>> words.add_word("to"), words.add_word("be"), words.add_word("to"), len(words)
    (0, 1, 0, 2)
    """

    def __init__(self) -> None:
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []

    def add_word(self, word: str) -> int:
        """The id of the word, a new one if it has none."""
        if word not in self.word2idx:
            self.word2idx[word] = len(self.idx2word)
            self.idx2word.append(word)
        return self.word2idx[word]

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words, split at white space; a line break is the word `<eos>`.

        A word that has no id counts as `<unk>`. Raises OptionError that names such words if
        `<unk>` has none either.
        """
        words = text_in("Dictionary", text).replace("\n", f" {_END} ").split()
        unknown = [word for word in words if word not in self.word2idx]
        if unknown and _UNKNOWN not in self.word2idx:
            raise OptionError(
                f"Dictionary: expected words of the vocabulary of {len(self)}, got "
                f"{shortened(unknown)}."
            )
        return [self.word2idx[word if word in self.word2idx else _UNKNOWN] for word in words]

    def decode(self, ids: Any) -> str:
        """The words that ids (N,) stand for, with a space between two, and lines for `<eos>`."""
        ids = ids_in("Dictionary", ids).reshape(-1).tolist()
        wrong = [i for i in ids if not 0 <= i < len(self)]
        if wrong:
            raise OutOfRangeError(
                f"Dictionary: expected ids in 0..{len(self) - 1}, got {wrong[0]}."
            )
        words = (self.idx2word[i] for i in ids)
        text = " ".join("\n" if word == _END else word for word in words)
        return "\n".join(line.strip(" ") for line in text.split("\n"))

    def __len__(self) -> int:
        return len(self.idx2word)


class Corpus:
    """The ids of the texts in a folder, as the Penn Treebank comes.

    base_dir   the folder with `train.txt`, `test.txt` and perhaps `valid.txt`
    max_lines  read only so many lines of each file
    validate   whether to read `valid.txt` as well, if there is one

    train, test  lists of ids
    valid        the same of `valid.txt`, or None
    dictionary   of all files read: words get their ids in order of `train`, `test`, then `valid`

    Raises FileNotFoundError, and FileFormatError for what is no text in UTF-8, or none at all.
    """

    def __init__(
        self,
        base_dir: str | PathLike[str],
        max_lines: int | None = None,
        *,
        validate: bool = False,
    ) -> None:
        folder = Path(base_dir)
        self.dictionary = Dictionary()
        self.train = self.tokenize(folder / "train.txt", max_lines)
        self.test = self.tokenize(folder / "test.txt", max_lines)
        self.valid: list[int] | None = None
        if validate and (folder / "valid.txt").exists():
            self.valid = self.tokenize(folder / "valid.txt", max_lines)

    def tokenize(self, path: str | PathLike[str], max_lines: int | None = None) -> list[int]:
        """The ids of a file's words, split at white space, with `<eos>` after each line.

        `<eos>` gets its id like any word, when it is first met. Raises FileNotFoundError, and
        FileFormatError for what is no text in UTF-8, or none at all.
        """
        if max_lines is not None:
            require_whole("Corpus", 0, max_lines=max_lines)
        return [
            self.dictionary.add_word(word)
            for line in islice(StringIO(read_text(path, "Corpus")), max_lines)
            for word in [*line.split(), _END]
        ]


def write_ptb_folder(
    text: str | PathLike[str],
    folder: str | PathLike[str],
    vocabulary_size: int = 10_000,
    validation: float = 0.05,
    test: float = 0.05,
) -> Path:
    """Divide a file of text into `train.txt`, `valid.txt` and `test.txt`, for `Corpus`.

    text             a file in UTF-8; its words are what stands between white space
    folder           where the files go; made if there is none, and returned
    vocabulary_size  words in all, 3 or more: `<unk>`, `<eos>`, and the most frequent words of the
                     training part (of equally frequent ones those that come first); others become
                     `<unk>`
    validation, test  shares of the lines, in this order after the training part

    Lines without words are left out. Raises FileNotFoundError, FileFormatError, and OptionError
    for a text with too few lines for three parts; then nothing has been written.
    """
    require_whole("write_ptb_folder", 3, vocabulary_size=vocabulary_size)
    require_share("write_ptb_folder", validation=validation, test=test)
    contents = read_text(text, "write_ptb_folder")
    lines = [words for line in contents.split("\n") if (words := line.split())]
    parts = _divided(lines, validation, test)
    counts = Counter(word for line in parts["train.txt"] for word in line)
    frequent = [w for w, _ in counts.most_common() if w not in (_UNKNOWN, _END)]
    kept = {_UNKNOWN, _END, *frequent[: vocabulary_size - 2]}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        rows = (" ".join(word if word in kept else _UNKNOWN for word in line) for line in lines)
        write_atomically(Path(folder) / name, "".join(f" {row} \n" for row in rows))
    return Path(folder)


def _divided(lines: list[list[str]], validation: float, test: float) -> dict[str, list[list[str]]]:
    """Consecutive shares of the lines, each of one line or more, by the name of the file."""
    valid_lines, test_lines = (round(len(lines) * share) for share in (validation, test))
    train_lines = len(lines) - valid_lines - test_lines
    if min(train_lines, valid_lines, test_lines) < 1:
        raise OptionError(
            "write_ptb_folder: expected shares that leave lines in all three parts, got "
            f"validation={validation} and test={test} of {len(lines)} lines with words."
        )
    end = train_lines + valid_lines
    return {
        "train.txt": lines[:train_lines],
        "valid.txt": lines[train_lines:end],
        "test.txt": lines[end:],
    }


def batchify(
    data: Sequence[int] | Array,
    batch_size: int,
    device: Device | None = None,
    dtype: Any = "float32",
) -> Array:
    """y[t, b] = data[b·n + t], n = len(data) // batch_size: the text in columns, side by side.

    data: (N,) ids -> y: (n, batch_size), of `dtype`. What does not fill a column is left out.
    `device` is where `get_batch` will put its Tensors and has no effect here.
    Raises OptionError for fewer ids than columns, DTypeError for a dtype that cannot hold the ids.
    """
    ids = ids_in("batchify", data)
    if ids.ndim != 1 or ids.size == 0:
        raise ShapeError(f"batchify: expected ids [N], one or more, got {describe(ids)}.")
    if not (_is_whole(batch_size) and 1 <= batch_size <= len(ids)):
        raise OptionError(
            f"batchify: expected batch_size in 1..{len(ids)}, the number of ids, got "
            f"{batch_size!r}."
        )
    rows = len(ids) // batch_size
    columns = ids[: rows * batch_size].reshape(batch_size, rows).T.astype(as_dtype(dtype))
    if not np.array_equal(columns.T.reshape(-1), ids[: rows * batch_size]):
        raise DTypeError(
            f"batchify: expected a dtype that holds every id up to {ids.max()}, got {dtype}. "
            "Use float32 or int64."
        )
    return np.ascontiguousarray(columns)


def get_batch(
    batches: Array, i: int, bptt: int, device: Device | None = None, dtype: Any = None
) -> tuple[Tensor, Tensor]:
    """L words of each column from row i on, and the words that follow them.

    x[t, b] = batches[i+t, b], y[t·B + b] = batches[i+1+t, b]; L = min(bptt, n - 1 - i).

    batches: (n, B), as `batchify` gives -> x: (L, B), y: (L·B,), of `dtype` (default float32),
    without requires_grad. Raises OutOfRangeError for a row that no other follows.
    """
    if getattr(batches, "ndim", None) != 2:
        kind = describe(batches) if hasattr(batches, "dtype") else kind_of(batches)
        raise ShapeError(f"get_batch: expected batches [n, B] as batchify gives, got {kind}.")
    require_whole("get_batch", 1, bptt=bptt)
    if len(batches) < 2:
        raise OutOfRangeError(
            f"get_batch: expected batches of two rows or more, got {describe(batches)}. "
            "Take a longer text or a smaller batch_size."
        )
    if not (_is_whole(i) and 0 <= i < len(batches) - 1):
        raise OutOfRangeError(
            f"get_batch: expected a row in 0..{len(batches) - 2} of {describe(batches)}, got {i}."
        )
    length = min(bptt, len(batches) - 1 - i)
    pair = batches[i : i + length], batches[i + 1 : i + 1 + length].reshape(-1)
    x, y = (Tensor(a, device=device, dtype=dtype or "float32", requires_grad=False) for a in pair)
    return x, y


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
