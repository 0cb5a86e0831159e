"""Everything that a function can change, as it is at one moment: to compare, and to put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from needle.jit.places import MISSING, Place
from needle.jit.reach import Container, Reach

__all__ = ["Change", "Snapshot"]


class Change(NamedTuple):
    """A place that holds something else than before; None for what no place can be given.

    held  the container that has other items then
    """

    place: Place | None
    name: str
    before: Any
    now: Any
    held: Any = None


class Snapshot:
    """What containers, cells and other places hold, and the Tensors' data.

    reach  what there is
    more   places besides: gradients of arguments
    """

    def __init__(self, reach: Reach, more: Sequence[Place] = ()) -> None:
        self._copies = [(container, _copy(container.held)) for container in reach.containers]
        held = {id(container.held) for container in reach.containers}
        places = [place for place, _ in (*reach.tensors, *reach.values)]
        self._places: dict[tuple[int, Any], Place] = {}
        for place in places:
            self._places[id(place.container()), _mark(place.key)] = place
        self._loose = [
            (place, place.get())
            for place in (*places, *reach.gradients, *more)
            if id(place.container()) not in held
        ]
        self._tensors = [
            (tensor, tensor.cached_data, tensor.requires_grad)
            for tensor in {id(tensor): tensor for _, tensor in reach.tensors}.values()
        ]

    def changes(self) -> Iterator[Change]:
        """What is otherwise now, but for the Tensors' data."""
        for container, copy in self._copies:
            yield from self._in_container(container, copy)
        for place, value in self._loose:
            now = place.get()
            if now is not value:
                yield Change(place, place.name, value, now)

    def _in_container(self, container: Container, copy: Any) -> Iterator[Change]:
        held = container.held
        if isinstance(held, dict):
            for key in [*copy, *[key for key in held if key not in copy]]:
                before, now = dict.get(copy, key, MISSING), dict.get(held, key, MISSING)
                if now is not before:
                    place = self._place(container, key)
                    yield Change(place, place.name, before, now)
        elif isinstance(held, (list, deque)) and len(held) == len(copy):
            for key, (before, now) in enumerate(zip(copy, held, strict=True)):
                if now is not before:
                    place = self._place(container, key)
                    yield Change(place, place.name, before, now)
        elif len(held) != len(copy) or (isinstance(held, (set, frozenset)) and held != copy):
            before, now = f"{len(copy)} items", f"{len(held)} items"
            yield Change(None, container.name, before, now, held)

    def _place(self, container: Container, key: Any) -> Place:
        found = self._places.get((id(container.held), _mark(key)))
        if found is not None:
            return found
        name = f".{key}" if type(key) is str and container.place is None else f"[{key!r}]"
        return Place(container.place or container.held, key, container.name + name)

    def restore(self) -> None:
        """Put everything back."""
        for container, copy in self._copies:
            _restore(container.held, copy)
        for place, value in self._loose:
            if place.get() is not value:
                place.set(value)
        for tensor, data, requires_grad in self._tensors:
            if tensor.cached_data is not data or tensor.requires_grad is not requires_grad:
                tensor.cached_data, tensor.requires_grad, tensor._leaf = data, requires_grad, None


def _mark(key: Any) -> Any:
    return key if type(key) in (str, int) else id(key)


def _copy(held: Any) -> Any:
    if isinstance(held, dict):
        return dict(held)
    return list(held) if isinstance(held, (list, deque)) else set(held)


def _restore(held: Any, copy: Any) -> None:
    if isinstance(held, dict):
        for key in [key for key in held if key not in copy]:
            del held[key]
        for key, value in copy.items():
            if dict.get(held, key, MISSING) is not value:
                held[key] = value
    elif isinstance(held, list):
        if len(held) != len(copy) or any(a is not b for a, b in zip(held, copy, strict=True)):
            held[:] = copy
    elif isinstance(held, deque):
        if len(held) != len(copy) or any(a is not b for a, b in zip(held, copy, strict=True)):
            held.clear()
            held.extend(copy)
    elif isinstance(held, set) and held != copy:
        held.clear()
        held.update(copy)
