"""Text for language models by characters: files of text, a vocabulary, and windows of ids."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device
from needle.data.random_stream import stream_given
from needle.errors import FileFormatError, OptionError, OutOfRangeError, describe

__all__ = [
    "CharacterText",
    "Characters",
    "ids_in",
    "random_windows",
    "read_text",
    "require_share",
    "require_whole",
    "shortened",
    "text_in",
    "windows",
]

Array = np.ndarray[Any, Any]
_NUMBERS = (int, float, np.integer, np.floating)


class Characters:
    """The distinct characters of a text and their ids: their places in code point order.

    text        any text that has all of them, so also the `characters` of another vocabulary

    characters  the vocabulary as a str, sorted

    >>> import needle as ndl
    >>> vocabulary = ndl.data.Characters("to be or not")
    >>> vocabulary.characters, len(vocabulary)
    (' benort', 7)
    >>> vocabulary.encode("bee")
    array([1, 2, 2])
    >>> vocabulary.decode([1, 4, 6])
    'bot'
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text:
            raise OptionError(f"Characters: expected text of one character or more, got {text!r}.")
        self._codes = np.unique(_code_points(text))
        self.characters = "".join(map(chr, self._codes))

    def encode(self, text: str) -> Array:
        """The characters' ids: text of length N -> int64 (N,).

        Raises OptionError that names the characters which the vocabulary lacks.
        """
        codes = _code_points(text_in("Characters", text))
        ids = np.minimum(np.searchsorted(self._codes, codes), len(self) - 1).astype(np.int64)
        unknown = codes[self._codes[ids] != codes]
        if unknown.size:
            raise OptionError(
                f"Characters: expected characters of the vocabulary of {len(self)}, got "
                f"{shortened(map(chr, unknown.tolist()))}."
            )
        return ids

    def decode(self, ids: Any) -> str:
        """The text that ids (N,) stand for. Raises OutOfRangeError for one that stands for none."""
        ids = ids_in("Characters", ids)
        wrong = ids[(ids < 0) | (ids >= len(self))]
        if wrong.size:
            raise OutOfRangeError(
                f"Characters: expected ids in 0..{len(self) - 1}, got {wrong[0]}."
            )
        return "".join(map(chr, self._codes[ids.reshape(-1)]))

    def __len__(self) -> int:
        return len(self._codes)

    def __repr__(self) -> str:
        return f"Characters({self.characters!r})"


class CharacterText:
    """A file of text as ids of its characters, divided into training and validation.

    path        any text in UTF-8
    validation  the share at the end of the text that is kept from training, in [0, 1)

    vocabulary         the `Characters` of the whole text
    train, validation  ids, int64

    Raises FileNotFoundError, and FileFormatError for what is no text in UTF-8, or none at all.
    """

    def __init__(self, path: str | PathLike[str], validation: float = 0.1) -> None:
        require_share("CharacterText", validation=validation)
        text = read_text(path, "CharacterText")
        self.vocabulary = Characters(text)
        ids = self.vocabulary.encode(text)
        self.train, self.validation = np.split(ids, [int(len(ids) * (1 - validation))])

    def __repr__(self) -> str:
        return (
            f"CharacterText({len(self.train):,} characters to train on, "
            f"{len(self.validation):,} to validate with, {len(self.vocabulary)} distinct)"
        )


def random_windows(
    ids: Array, batch_size: int, length: int, rng: Any = None, device: Device | None = None
) -> tuple[Tensor, Tensor]:
    """x[b, t] = ids[s_b + t], y[b, t] = ids[s_b + t + 1]; every start s_b is equally likely.

    ids: (N,) -> x, y: (batch_size, length), int64, without requires_grad
    rng  a `numpy.random.Generator`; None draws from NumPy's global stream. One draw per window

    Raises OptionError for a text that is shorter than one window and the id after it.

    >>> import needle as ndl, numpy as np
    >>> x, y = ndl.data.random_windows(np.arange(100), 8, 5, np.random.default_rng(0))
    >>> x.shape, bool((y.numpy() == x.numpy() + 1).all())
    ((8, 5), True)
    """
    ids = _checked_ids("random_windows", ids, batch_size=batch_size, length=length)
    draws = stream_given("random_windows", rng).random(batch_size)
    starts = (draws * (len(ids) - length)).astype(np.int64)
    return _pair(ids, starts[:, None] + np.arange(length + 1), device)


def windows(
    ids: Array, batch_size: int, length: int, device: Device | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of consecutive windows x and of what follows them, y: all ids but the first, once.

    ids: (N,) -> x, y: (B, length), int64, without requires_grad; B = batch_size, but fewer in the
    last batch of whole windows. What is left then comes as a batch (1, rest): averages over the
    text weight each batch by its `y.size`.

    Raises OptionError for a text that is shorter than one window and the id after it.

    >>> import needle as ndl, numpy as np
    >>> [x.shape for x, y in ndl.data.windows(np.arange(100), batch_size=4, length=15)]
    [(4, 15), (2, 15), (1, 9)]
    """
    ids = _checked_ids("windows", ids, batch_size=batch_size, length=length)
    return _windows(ids, batch_size, length, device)


def _windows(
    ids: Array, batch_size: int, length: int, device: Device | None
) -> Iterator[tuple[Tensor, Tensor]]:
    whole = (len(ids) - 1) // length
    places = np.arange(length + 1)
    for first in range(0, whole, batch_size):
        starts = np.arange(first, min(first + batch_size, whole)) * length
        yield _pair(ids, starts[:, None] + places, device)
    if whole * length < len(ids) - 1:
        yield _pair(ids, np.arange(whole * length, len(ids))[None], device)


def _pair(ids: Array, places: Array, device: Device | None) -> tuple[Tensor, Tensor]:
    """x and y from the places (B, T+1) of windows that are one longer."""
    found: Array = ids[places]
    x, y = (
        Tensor(part, device=device, dtype="int64", requires_grad=False)
        for part in (found[:, :-1], found[:, 1:])
    )
    return x, y


def _checked_ids(owner: str, given: Any, **sizes: Any) -> Array:
    for name, size in sizes.items():
        require_whole(owner, 1, **{name: size})
    ids: Array = np.asarray(given)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise OptionError(f"{owner}: expected ids (N,) of integers, got {describe(ids)}.")
    if len(ids) <= sizes["length"]:
        raise OptionError(
            f"{owner}: expected more ids than the window's length {sizes['length']}, got "
            f"{len(ids)}. Take shorter windows or a longer text."
        )
    return ids


def ids_in(owner: str, given: Any) -> Array:
    """Ids as an int64 array of the shape given. Raises OptionError for what are no whole numbers.

    Floats count if they are whole: in nd mode ids may come as float32.
    """
    try:
        ids = np.asarray(given.numpy() if isinstance(given, Tensor) else given)
    except ValueError as error:
        raise OptionError(f"{owner}: expected ids, got lists of unequal lengths.") from error
    if ids.size and (ids.dtype.kind not in "iuf" or not (ids == np.trunc(ids)).all()):
        raise OptionError(f"{owner}: expected ids that are whole numbers, got {describe(ids)}.")
    if ids.size and not (abs(ids) < 2.0**63).all():
        raise OutOfRangeError(f"{owner}: expected ids of 64 bits, got {abs(ids).max()}.")
    return ids.astype(np.int64)


def require_whole(owner: str, least: int, **numbers: Any) -> None:
    """Raise OptionError unless all `numbers` are whole ones of `least` or more, and no bools."""
    for name, value in numbers.items():
        try:
            fits = not isinstance(value, bool) and operator.index(value) >= least
        except TypeError:
            fits = False
        if not fits:
            raise OptionError(f"{owner}: expected {name} of {least} or more, got {value!r}.")


def require_share(owner: str, **shares: Any) -> None:
    """Raise OptionError unless all `shares` are numbers in [0, 1)."""
    for name, value in shares.items():
        if isinstance(value, bool) or not (isinstance(value, _NUMBERS) and 0 <= value < 1):
            raise OptionError(f"{owner}: expected {name} to be a share in [0, 1), got {value!r}.")


def text_in(owner: str, given: Any) -> str:
    """The text that was given. Raises OptionError for what is none."""
    if not isinstance(given, str):
        raise OptionError(f"{owner}: expected text to encode, got {describe(given)}.")
    return given


def shortened(names: Iterable[str], most: int = 5) -> str:
    """`'a', 'b', ...`: the first few of some names, each once, for messages."""
    distinct = list(dict.fromkeys(names))
    return ", ".join([*map(repr, distinct[:most]), *["..."] * (len(distinct) > most)])


def _code_points(text: str) -> Array:
    # lone surrogates, which a terminal may hand over, are characters that no vocabulary has
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def read_text(path: str | PathLike[str], owner: str = "read_text") -> str:
    """The text in a file of UTF-8, with `\\n` at the ends of its lines and no byte order mark.

    Raises FileNotFoundError, and FileFormatError for a folder, for other encodings, for data that
    is no text, and for a file without any.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{owner}: expected a text file at {path}, got none.")
    if Path(path).is_dir():
        raise FileFormatError(f"{owner}: expected a text file at {path}, got a folder.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{owner}: expected text in UTF-8, got {path}: {error}.") from error
    if "\0" in text:  # UTF-16, or data whose bytes happen to be valid
        raise FileFormatError(f"{owner}: expected text in UTF-8, got {path} with zero bytes.")
    if not text or text.isspace():
        raise FileFormatError(f"{owner}: expected text, got {path}, which is empty.")
    return text
