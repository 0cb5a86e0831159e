"""What has to be computed for some values: in which order, and what of it is kept.

A program writes to memory what somebody can ask for later, and nothing else. That is:

- what was asked for, and what `needle.autograd.laziness` expects to be
- what somebody holds beside the values computed here: a name of the user's, a parameter's
  `.grad`, a value that still waits and reads it
- what requires grad and no backward pass has been through yet, with all that such a value reads:
  that pass will read it, as in eager mode
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import ref

from needle.autograd.value import Value
from needle.errors import DTypeError

__all__ = ["Waiting"]


class Waiting:
    """The values to compute.

    asked     what was asked for
    expected  weak references to what is computed with it, where it is made of the same values

    order     the values, each after those it was computed from
    last_use  of each value, by its identity, the place in `order` of the last that reads it
    """

    def __init__(self, asked: Sequence[Value], expected: Iterable[ref[Value]]) -> None:
        self.order: list[Value] = []
        self._found: set[int] = set()
        self._apart: set[int] = set()  # what only unrelated expected values were computed from
        self._kept: set[int] = set()
        for value in asked:
            self._add(value)
            self._kept.add(id(value))
        for reference in expected:
            self._add_expected(reference())
        self.last_use = {
            id(edge): place for place, value in enumerate(self.order) for edge in value._edges
        }
        self._keep_for_backward()
        self._keep_what_is_held()

    def keeps(self, value: Value) -> bool:
        """Whether the data of a value is stored in it."""
        return id(value) in self._kept

    def is_read_from(self, value: Value, place: int) -> bool:
        """Whether a value is read by that at `place`, or a later one."""
        return self.last_use.get(id(value), -1) >= place

    def _add_expected(self, value: Value | None) -> None:
        if value is not None and self._add(value, related=True):
            self._kept.add(id(value))

    def _add(self, root: Value, related: bool = False) -> bool:
        """Append what `root` waits for, and it; with `related`, only if it reads what is there.

        False if nothing was added.
        """
        if root.cached_data is not None or id(root) in self._found:
            return False
        order, seen, meets, skipped = self._walk(root, self._apart)
        if related and not meets:
            self._apart |= seen
            return False
        if skipped:  # something that unrelated ones are computed from too
            order, seen, _, _ = self._walk(root, set())
            self._apart -= seen
        self._found |= seen
        self.order += order
        return True

    def _walk(self, root: Value, apart: set[int]) -> tuple[list[Value], set[int], bool, bool]:
        """What `root` waits for and nobody before it did, in order, and their identities.

        Then whether it meets what was found before, and whether something `apart` was left out.
        """
        order: list[Value] = []
        seen, meets, skipped = {id(root)}, False, False
        stack = [(root, iter(_edges_of(root)))]
        while stack:
            value, edges = stack[-1]
            for edge in edges:
                number = id(edge)
                if edge.cached_data is not None or number in seen:
                    continue
                if number in self._found or number in apart:
                    meets, skipped = meets or number in self._found, skipped or number in apart
                    continue
                seen.add(number)
                stack.append((edge, iter(_edges_of(edge))))
                break
            else:
                order.append(value)
                stack.pop()
        return order, seen, meets, skipped

    def _keep_for_backward(self) -> None:
        for value in self.order:
            if value.requires_grad and not value._is_passed:
                self._kept.add(id(value))
                self._kept.update(map(id, value._edges))

    def _keep_what_is_held(self) -> None:
        read = Counter(id(edge) for value in self.order for edge in value._edges)
        for value, references in zip(self.order, _references(self.order), strict=True):
            if references > read[id(value)]:
                self._kept.add(id(value))


def _edges_of(value: Value) -> tuple[Any, ...]:
    if value.op is None:
        raise DTypeError("realize: expected a value with data or an op, got one with neither.")
    return value._edges


def _references(values: list[Any]) -> list[int]:
    """How many references there are to each value, beside the one in the list."""
    values.append(object())  # tells how many are of this function's making
    counts = [sys.getrefcount(value) for value in values]
    values.pop()
    return [count - counts[-1] for count in counts[:-1]]
