"""Places: where a function finds a value, and where it is looked for again at each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "MISSING",
    "ArgumentPlace",
    "CellPlace",
    "ClassPlace",
    "Place",
    "SlotPlace",
]


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()


class Place:
    """`holder[key]`, of a dict, list or tuple.

    holder  that object; or the place where it is found, if another may be there at each call
    name    what messages call it
    """

    __slots__ = ("holder", "key", "name")

    def __init__(self, holder: Any, key: Any, name: str) -> None:
        self.holder, self.key, self.name = holder, key, name

    def container(self) -> Any:
        """What holds the value now."""
        return self.holder.get() if isinstance(self.holder, Place) else self.holder

    def get(self) -> Any:
        """What is there now; `MISSING` if nothing is."""
        try:
            return self.container()[self.key]
        except (KeyError, IndexError, TypeError):
            return MISSING

    def set(self, value: Any) -> None:
        """Put something else there."""
        if value is MISSING:
            self.container().pop(self.key, None)
        else:
            self.container()[self.key] = value

    def of(self, tensors: Sequence[Any]) -> Place:
        """The place itself; that of an argument is at the Tensor given now."""
        return self

    def spelling(self, spelled: Callable[[Any], str]) -> str:
        """Python's expression for what is there; `spelled` gives one for an object or a place."""
        key = repr(self.key) if type(self.key) in (str, int) else spelled(self.key)
        return f"{spelled(self.holder)}[{key}]"


class CellPlace(Place):
    """The cell of a closure, which may be empty."""

    __slots__ = ()

    def get(self) -> Any:
        try:
            return self.holder.cell_contents
        except ValueError:
            return MISSING

    def set(self, value: Any) -> None:
        if value is not MISSING:
            self.holder.cell_contents = value

    def spelling(self, spelled: Callable[[Any], str]) -> str:
        return f"{spelled(self.holder)}.cell_contents"


class _AttributePlace(Place):
    """An attribute, set as Python sets it."""

    __slots__ = ()

    def set(self, value: Any) -> None:
        if value is MISSING:
            delattr(self.holder, self.key)
        else:
            setattr(self.holder, self.key, value)


class ClassPlace(_AttributePlace):
    """What a class itself holds under a name."""

    __slots__ = ()

    def get(self) -> Any:
        return vars(self.holder).get(self.key, MISSING)

    def spelling(self, spelled: Callable[[Any], str]) -> str:
        return f"{spelled(vars(self.holder))}[{self.key!r}]"


class SlotPlace(_AttributePlace):
    """An attribute that is no entry of the object's dict."""

    __slots__ = ()

    def get(self) -> Any:
        return getattr(self.holder, self.key, MISSING)

    def spelling(self, spelled: Callable[[Any], str]) -> str:
        return f"{spelled(self.holder)}.{self.key}"


class ArgumentPlace(Place):
    """An attribute of a Tensor among the arguments, which is another one at each call."""

    __slots__ = ("number",)

    def __init__(self, number: int, key: str, tensors: Sequence[Any]) -> None:
        super().__init__(vars(tensors[number]), key, f"an argument's {key}")
        self.number = number

    def of(self, tensors: Sequence[Any]) -> Place:
        return Place(vars(tensors[self.number]), self.key, self.name)

    def spelling(self, spelled: Callable[[Any], str]) -> str:
        return f"tensors[{self.number}].{self.key}"
