"""Vocabularies that a trained network is asked with: of characters, and of words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from needle.data import Characters, Dictionary
from needle.data.datasets.text_dataset import shortened
from needle.errors import OptionError

__all__ = ["CharacterVocabulary", "Vocabulary", "WordVocabulary"]

_UNKNOWN = "<unk>"


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

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> CharacterVocabulary:
        """The one that `as_json` is of."""
        return cls(Characters(given["vocabulary"]))

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

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> WordVocabulary:
        """The one that `as_json` is of."""
        words = Dictionary()
        for word in given["vocabulary"]:
            words.add_word(word)
        return cls(words)

    def __len__(self) -> int:
        return len(self.words)
