"""Numbers that change from call to call, so that a program is given them anew at each."""

from __future__ import annotations

from typing import Any

__all__ = ["Varying"]


class Varying:
    """Numbers, by holder and key, that have been seen to change from call to call.

    A trace has a `RunNumber` for each; those with which none succeeds are counted out.
    """

    def __init__(self) -> None:
        self.marks: set[tuple[int, Any]] = set()
        self._settled: set[tuple[int, Any]] = set()
        self._out: set[tuple[int, Any]] = set()

    def add(self, mark: tuple[int, Any]) -> None:
        """Another one, unless it has been counted out."""
        if mark not in self._out:
            self.marks.add(mark)

    def settle(self) -> None:
        """A trace has succeeded with all of them."""
        self._settled |= self.marks

    def give_up(self) -> bool:
        """A trace has failed: count out those that are new; whether there are any."""
        new = self.marks - self._settled
        self._out |= new
        self.marks -= new
        return bool(new)
