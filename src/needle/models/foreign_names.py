"""What weights are called in PyTorch's files, where that is not what they are called here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from needle.errors import DTypeError, OptionError, describe

__all__ = ["ForeignNames", "Place"]


@dataclass(frozen=True)
class ForeignNames:
    """How the names of a model's weights differ from those in PyTorch's files.

    A module's attribute `foreign_names` holds for what is within it, wherever it is itself. Where
    modules within it have such names too, theirs go first.

    parts         a part of our dotted names or several in a row ("norm", "attention.out_proj"), and
                  what theirs have in its place: "" for nothing; the first of several is the one to
                  write. Several parts in a row go before one
    outer         parts that their names may begin with
    ignored       endings of names of what is no weight
    tied          pairs of their names: a file that has only the second means it for both
    inputs_first  parts that name Linears which some files have as (in, out)

    Raises DTypeError for what are no strings, OptionError for strings that are no names.
    """

    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outer: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    inputs_first: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.parts, Mapping):
            raise DTypeError(
                "ForeignNames: expected parts to be a dict of names and tuples of names, got "
                f"{describe(self.parts)}."
            )
        _require_names("parts", tuple(self.parts))
        for part, theirs in self.parts.items():
            _require_names(f"parts[{part!r}]", theirs, may_be_empty=True)
            if not theirs:
                raise OptionError(
                    f"ForeignNames: expected parts[{part!r}] to hold one name or more, got (). "
                    "('',) leaves the part out."
                )
        for option in ("outer", "ignored", "inputs_first"):
            _require_names(option, getattr(self, option))
        for pair in self.tied:
            _require_names("tied", pair)
            if len(pair) != 2:
                raise OptionError(
                    f"ForeignNames: expected tied to hold pairs of names, got {pair!r}."
                )


def _require_names(option: str, names: Any, may_be_empty: bool = False) -> None:
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        hint = f" Write ({names!r},)." if isinstance(names, str) else ""
        raise DTypeError(
            f"ForeignNames: expected {option} to be a tuple of strings, got "
            f"{describe(names)}.{hint}"
        )
    for name in names:
        if "" in name.split(".") and not (may_be_empty and name == ""):
            raise OptionError(
                f"ForeignNames: expected names such as 'fc' or 'net.fc' in {option}, got {name!r}."
            )


@dataclass(frozen=True)
class Place:
    """Where something is in a model, and what the modules around it say of its name.

    parts  of the name that PyTorch would give it
    told   names of the modules around it, outermost first, each with how many parts are before it
    """

    parts: tuple[str, ...] = ()
    told: tuple[tuple[int, ForeignNames], ...] = ()

    def at(self, *parts: str) -> Place:
        """A place below this one."""
        return Place((*self.parts, *parts), self.told)

    def under(self, names: ForeignNames) -> Place:
        """This place, of a module that has names for what is below it."""
        return Place(self.parts, (*self.told, (len(self.parts), names)))

    @property
    def names(self) -> tuple[str, ...]:
        """Those that it may have there, the one to write first."""
        choices = itertools.product(*[options for _, options in self._spelt()])
        return tuple([".".join(filter(None, choice)) for choice in choices])

    def is_told_below(self, place: Place) -> bool:
        """Whether someone says what this is called, other than what it is called by `place`."""
        return any(end > len(place.parts) for end, _ in self._spelt())

    def has_inputs_first(self) -> bool:
        """Whether a Linear here is one that some files have as (in, out)."""
        return any(
            not set(names.inputs_first).isdisjoint(self.parts[start:]) for start, names in self.told
        )

    def _spelt(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """What they may have for one run of parts after the other; where it ends, if we are told.

        What we are not told ends at 0.
        """
        start = 0
        while start <= len(self.parts):
            yield from [(0, ("", *names.outer)) for below, names in self.told if below == start]
            run, options = self._longest_told(start)
            if options is None:
                yield 0, self.parts[start : start + 1] or ("",)
            else:
                yield start + run, options
            start += run

    def _longest_told(self, start: int) -> tuple[int, tuple[str, ...] | None]:
        """How many parts from `start` on someone names, the innermost module first, and how."""
        for end in range(len(self.parts), start, -1):
            run = ".".join(self.parts[start:end])
            for below, names in reversed(self.told):
                if below <= start and run in names.parts:
                    return end - start, tuple(names.parts[run])
        return 1, None
