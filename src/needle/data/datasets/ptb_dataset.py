"""Text for language models: words to ids, a corpus of ids, and batches of columns of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device
from needle.dtypes import as_dtype
from needle.errors import DTypeError, FileFormatError, OptionError, OutOfRangeError, describe

__all__ = ["Corpus", "Dictionary", "batchify", "get_batch"]

Array = np.ndarray[Any, Any]


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

    def __len__(self) -> int:
        return len(self.idx2word)


class Corpus:
    """The ids of `train.txt` and `test.txt` in a folder, as the Penn Treebank comes.

    base_dir    the folder
    max_lines   read only so many lines of each file

    train, test  lists of ids
    dictionary   of both files, the training file's words first
    """

    def __init__(self, base_dir: str | PathLike[str], max_lines: int | None = None) -> None:
        self.dictionary = Dictionary()
        self.train = self.tokenize(Path(base_dir) / "train.txt", max_lines)
        self.test = self.tokenize(Path(base_dir) / "test.txt", max_lines)

    def tokenize(self, path: str | PathLike[str], max_lines: int | None = None) -> list[int]:
        """The ids of a file's words, split at white space, with `<eos>` after each line.

        `<eos>` gets its id like any word, when it is first met. Raises FileNotFoundError, and
        FileFormatError for what is not UTF-8.
        """
        if max_lines is not None and max_lines < 0:
            raise OptionError(f"Corpus: expected max_lines from 0 on, got {max_lines}.")
        if not Path(path).exists():
            raise FileNotFoundError(f"Corpus: expected a text file at {path}, got none.")
        try:
            with Path(path).open(encoding="utf-8") as file:
                return [
                    self.dictionary.add_word(word)
                    for line in islice(file, max_lines)
                    for word in [*line.split(), "<eos>"]
                ]
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"Corpus: expected text in UTF-8, got {path}: {error}."
            ) from error


def batchify(
    data: Sequence[int], batch_size: int, device: Device | None = None, dtype: Any = "float32"
) -> Array:
    """y[t, b] = data[b·n + t], n = len(data) // batch_size: the text in columns, side by side.

    data: (N,) ids -> y: (n, batch_size), of `dtype`. What does not fill a column is left out.
    `device` is where `get_batch` will put its Tensors and has no effect here.
    Raises OptionError for fewer ids than columns, DTypeError for a dtype that cannot hold the ids.
    """
    if not isinstance(batch_size, (int, np.integer)) or not 1 <= batch_size <= len(data):
        raise OptionError(
            f"batchify: expected batch_size in 1..{len(data)}, the number of ids, got "
            f"{batch_size!r}."
        )
    ids = np.asarray(data)
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
    if not 0 <= i < len(batches) - 1:
        raise OutOfRangeError(
            f"get_batch: expected a row in 0..{len(batches) - 2} of {describe(batches)}, got {i}."
        )
    if bptt < 1:
        raise OptionError(f"get_batch: expected bptt from 1 on, got {bptt}.")
    length = min(bptt, len(batches) - 1 - i)
    pair = batches[i : i + length], batches[i + 1 : i + 1 + length].reshape(-1)
    x, y = (Tensor(a, device=device, dtype=dtype or "float32", requires_grad=False) for a in pair)
    return x, y
