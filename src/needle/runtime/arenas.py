"""The memory in which programs keep what comes and goes while they run: one for all of them.

Programs run one after the other, so one arena, as large as the largest needs, serves them all: the
signatures of a function, training and evaluation. Where two threads run programs at the same time
there is another for as long as that takes. What only a program needs that is gone goes too.
"""

from __future__ import annotations

import weakref
from typing import Any

from needle.runtime.call import runtime_function

__all__ = ["Arenas", "shared_arenas"]


class Arenas:
    """Memory that is lent: the largest that came back is kept, and lent again."""

    def __init__(self) -> None:
        self._idle: list[Any] = []
        self._needs: list[int] = []
        self._most = 0
        self._new, self._size = runtime_function("new"), runtime_function("size")

    def need(self, program: Any, nbytes: int) -> None:
        """Note that a program takes so many bytes, for as long as it is there."""
        self._needs.append(nbytes)
        self._most = max(self._most, nbytes)
        weakref.finalize(program, self._forget, nbytes).atexit = False

    def _forget(self, nbytes: int) -> None:
        self._needs.remove(nbytes)
        self._most = max(self._needs, default=0)
        if self.kept > self._most:
            self._idle.clear()

    def take(self, nbytes: int) -> Any:
        """Memory of that many bytes or more, which nobody else has until it comes back."""
        try:
            memory = self._idle.pop()
        except IndexError:
            return self._new(nbytes)
        if self._size(memory) >= nbytes:
            return memory
        del memory  # first: both need not be there at the same time
        return self._new(nbytes)

    def give(self, memory: Any) -> None:
        """Bring it back."""
        idle, size = self._idle, self._size(memory)
        if size <= self._most and (not idle or self._size(idle[-1]) < size):
            idle[:] = [memory]

    @property
    def kept(self) -> int:
        """Bytes that are lent to nobody."""
        return sum(self._size(memory) for memory in self._idle)


_known: weakref.ref[Arenas] | None = None


def shared_arenas() -> Arenas:
    """Those of all programs there are; hold them as long as the program is there."""
    global _known
    found = None if _known is None else _known()
    if found is None:
        found = Arenas()
        _known = weakref.ref(found)
    return found
