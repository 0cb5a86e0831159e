"""The numbers that govern an optimiser: where they are kept, and the range each must lie in."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from needle.errors import OptionError
from needle.run_numbers import RunNumber

__all__ = ["Flag", "LearningRate", "Option", "check_count", "check_number"]


def check_number(owner: str, name: str, value: Any, below: float = math.inf) -> float:
    """`value` as a float if it lies in [0, below); OptionError otherwise."""
    number: Any = float(value) if isinstance(value, Real) else math.nan
    if isinstance(value, RunNumber):
        number = value  # of a compiled function, which is traced again where it leaves the range
    if 0 <= number < below:
        return number  # type: ignore[no-any-return]
    wanted = "to be finite and at least 0" if below == math.inf else f"in [0, {below:g})"
    raise OptionError(f"{owner}: expected {name} {wanted}, got {value!r}.")


def check_count(owner: str, name: str, value: Any, least: int = 1) -> int:
    """`value` as an int if it is a whole number of at least `least`; OptionError otherwise."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise OptionError(f"{owner}: expected {name} to be an int from {least} on, got {value!r}.")
    return count


class Option:
    """A number in [0, below) that every parameter group holds.

    As an attribute of the optimiser it reads the first group's value; assigning sets all groups.
    """

    def __init__(self, below: float = math.inf) -> None:
        self.below = below

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        try:
            return optimizer.param_groups[0][self.name]
        except KeyError:
            raise AttributeError(f"{owner.__name__} has no {self.name}.") from None

    def __set__(self, optimizer: Any, value: Any) -> None:
        checked = self.check(type(optimizer).__name__, value)
        for group in optimizer.param_groups:
            group[self.name] = checked

    def check(self, owner: str, value: Any) -> Any:
        """`value` as it is stored; OptionError outside the range."""
        return check_number(owner, self.name, value, self.below)


class LearningRate(Option):
    """The learning rate. One assigned by hand is also where a later schedule starts from."""

    def __set__(self, optimizer: Any, value: Any) -> None:
        super().__set__(optimizer, value)
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)


class Flag(Option):
    """An option that is on or off."""

    def check(self, owner: str, value: Any) -> bool:
        if isinstance(value, Real) and value in (True, False):
            return bool(value)
        raise OptionError(f"{owner}: expected {self.name} to be True or False, got {value!r}.")
