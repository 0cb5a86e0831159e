"""Functions that are written as Python source, once it is known what they have to do."""

from __future__ import annotations

from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["Source", "written"]

_codes: WeakValueDictionary[str, CodeType] = WeakValueDictionary()


class Source:
    """Lines of a function, and what its names stand for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self._objects: dict[int, str] = {}

    def _object(self, x: Any) -> str:
        """The name of an object; the same each time."""
        name = self._objects.get(id(x))
        if name is None:
            name = self._objects[id(x)] = f"k{len(self._objects)}"
            self.names[name] = x
        return name


def written(name: str, parameters: str, lines: Iterable[str], names: dict[str, Any]) -> Any:
    """The function whose body these lines are.

    names  its globals

    As objects are but names in it, functions that do alike, such as those for another batch size,
    are spelt alike: then they have one code, which takes long to compile.
    """
    body = "".join(f"    {line}\n" for line in lines)
    return FunctionType(_code_of(f"def {name}({parameters}):\n{body}", name), names)


def _code_of(source: str, name: str) -> CodeType:
    """The code of the one function that is defined there."""
    code = _codes.get(source)
    if code is None:
        module = compile(source, f"<{name}>", "exec")
        code = next(part for part in module.co_consts if isinstance(part, CodeType))
        _codes[source] = code
    return code
