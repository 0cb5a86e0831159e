"""What the command line's grammar is made of: a parser with errors of one line, and values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

__all__ = [
    "Parser",
    "adder",
    "did_you_mean",
    "number",
    "one_of",
    "path",
    "share",
    "share_or_all",
    "whole",
]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the option that was probably meant.

    known_elsewhere  what to say of a word that belongs in another place; None for any other word
    """

    known_elsewhere: Callable[[str], str | None] | None = None

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What was said, as a namespace; ends the process over words that do not belong here."""
        said, extra = self.parse_known_args(args, namespace)
        if extra:
            name = next((word for word in extra if word.startswith("-")), extra[0])
            self.error(self._not_understood(name.partition("=")[0]))
        return said

    def _not_understood(self, name: str) -> str:
        if known := self.known_elsewhere and self.known_elsewhere(name):
            return known
        if not name.startswith("-"):
            if taken := [action.metavar for action in self._get_positional_actions()]:
                return f"expected {' '.join(map(str, taken))} and options, got {name!r} besides."
            return f"expected options only, got {name!r}: it takes no arguments."
        hint = did_you_mean(name, self._option_string_actions)
        return f"{name}: expected an option that exists.{hint}"

    def has_option(self, name: str) -> bool:
        """Whether `name`, such as --lr, is one of this parser's options."""
        return name in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        """End the process with one line and status 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def adder(parser: Parser, defaults: Any) -> Callable[..., None]:
    """Adds an option with the default that the settings have, if it is a word or a number."""

    def add(name: str, kind: Any, summary: str, metavar: str = "N") -> None:
        default = getattr(defaults, name.removeprefix("--").replace("-", "_"), None)
        shown = "" if default is None else f" ({default})"
        parser.add_argument(name, type=kind, metavar=metavar, help=f"{summary}{shown}")

    return add


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else " See --help."


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A word among `names`."""

    def name(text: str) -> str:
        if text not in names:
            near = get_close_matches(text, list(names), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(f"expected {', '.join(names)}; got {text!r}.{hint}")
        return text

    return name


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A whole number in least..most."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limit = "" if most == math.inf else f" to {most}"
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least}{limit or ' on'}, got {text!r}."
            )
        return value

    return number


def number(below: float = math.inf) -> Callable[[str], float]:
    """A finite number in [0, below)."""

    def value(text: str) -> float:
        found = _float(text)
        if not 0 <= found < below:
            kind = "finite number from 0 on" if below == math.inf else f"number in [0, {below:g})"
            raise argparse.ArgumentTypeError(f"expected a {kind}, got {text!r}.")
        return found

    return value


def path(kind: str) -> Callable[[str], str]:
    """The name of a `kind`, such as a folder; not checked to exist."""

    def name(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"expected the name of a {kind}, got {text!r}.")
        return text

    return name


def share(text: str) -> float:
    """A number in (0, 1)."""
    if not 0 < _float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}.")
    return float(text)


def share_or_all(text: str) -> float:
    """A number in (0, 1]."""
    return 1.0 if _float(text) == 1 else share(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
