"""What a function can reach besides its arguments: Tensors, and the Python values it depends on.

It is followed from closures, globals that the code names, and the object of a method, through
attributes, dicts, lists and tuples, and through the methods of the user's own classes. What is
found is a place: see `places`.
"""

from __future__ import annotations

import dis
import enum
import random
import sys
import types
from collections import deque
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from sysconfig import get_paths
from typing import Any, NamedTuple

import numpy as np

from needle.autograd import Tensor
from needle.autograd.value import Value
from needle.backend_selection import Device, NDArray
from needle.jit.places import MISSING, CellPlace, ClassPlace, Place, SlotPlace
from needle.optim.optimizer import Optimizer
from needle.run_numbers import Counting

__all__ = ["Container", "Reach", "is_foreign"]

_SCALARS = (bool, int, float, complex, str, bytes, type(None), enum.Enum)
_OPAQUE = (
    NDArray,
    np.ndarray,
    np.dtype,
    np.generic,
    Device,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_STREAMS = (random.Random, np.random.Generator, np.random.RandomState)
_PACKAGE = str(Path(__file__).resolve().parents[1])
_LIBRARIES = tuple({get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OF_TENSORS = frozenset(Value.__annotations__) | {"grad"}
_MANY = 4096  # items of a container that is no state but data


class Container(NamedTuple):
    """A dict, list, deque or set: where it is found, if that may be another one at each call."""

    held: Any
    place: Place | None
    name: str


class Reach:
    """Everything found from some roots.

    tensors     places that hold Tensors, with the Tensors; a Tensor may be at several
    gradients   places of the gradients of Tensors
    values      places that hold what a trace depends on: numbers, strings, None, and other objects
                by identity
    containers  whose keys and lengths count
    ties        places of containers that were found elsewhere, with the place of that
    optimizers  found on the way
    counting    what keeps numbers that change from call to call, optimisers among it
    streams     generators of random numbers
    iterators   what gives something else each time that it is asked
    """

    def __init__(self, *roots: tuple[str, Any]) -> None:
        self.tensors: list[tuple[Place, Tensor]] = []
        self.gradients: list[Place] = []
        self.values: list[tuple[Place, Any]] = []
        self.containers: list[Container] = []
        self.ties: list[tuple[Place, Place]] = []
        self.optimizers: list[tuple[str, Optimizer]] = []
        self.counting: list[Counting] = []
        self.streams: list[tuple[str, Any]] = []
        self.iterators: list[tuple[str, Any]] = []
        self._seen: dict[int, Place | None] = {}
        self._placed: set[tuple[int, Any]] = set()
        self._keep: list[Any] = []
        self._queue: deque[tuple[str, Any, Place | None]] = deque(
            (name, root, None) for name, root in roots
        )
        while self._queue:
            self._visit(*self._queue.popleft())

    def has_met(self, x: Any) -> bool:
        """Whether it is among what was found."""
        return id(x) in self._seen

    # -- what is found -------------------------------------------------------------------------

    def _visit(self, name: str, x: Any, place: Place | None) -> None:
        if isinstance(x, (*_SCALARS, *_OPAQUE)):
            return
        if id(x) in self._seen and not _is_tuple(x):
            first = self._seen[id(x)]
            if place is not None and first is not None:
                self.ties.append((place, first))
            return
        self._seen[id(x)] = place
        self._keep.append(x)
        if isinstance(x, Value):
            self._visit_tensor(name, x)
        elif isinstance(x, (types.FunctionType, types.MethodType, partial)):
            self._visit_function(name, x)
        elif isinstance(x, dict):
            self._visit_items(name, x, x.items(), "[{!r}]", place)
        elif isinstance(x, (list, deque, tuple)):
            self._visit_items(name, x, enumerate(x), "[{}]", place)
        elif isinstance(x, (set, frozenset)):
            self.containers.append(Container(x, place, name))
            for item in x if len(x) <= _MANY else ():
                self._place(Place((item,), 0, f"{name}'s item"), item)
        elif isinstance(x, type):
            self._visit_class(x)
        elif not isinstance(x, types.ModuleType):
            self._visit_object(name, x)

    def _visit_tensor(self, name: str, x: Value) -> None:
        self.gradients.append(Place(vars(x), "grad", f"{name}.grad"))
        for key, item in list(vars(x).items()):
            if key not in _OF_TENSORS:
                self._place(Place(vars(x), key, f"{name}.{key}"), item)
        if x._hooks:
            self._queue.append((f"{name}'s hooks", x._hooks, None))

    def _visit_object(self, name: str, x: Any) -> None:
        if isinstance(x, _STREAMS):
            self.streams.append((name, x))
            return
        if hasattr(type(x), "__next__"):
            self.iterators.append((name, x))
        follow = getattr(x, "__reached__", None)
        if follow is not None:
            self._queue.extend((name, item, None) for item in follow())
            return
        if isinstance(x, Counting):
            self.counting.append(x)
        if isinstance(x, Optimizer):
            self.optimizers.append((name, x))
        attributes = getattr(x, "__dict__", None)
        if isinstance(attributes, dict):
            self._visit_items(name, attributes, attributes.items(), ".{}", None)
        for kind in type(x).__mro__:
            if not is_foreign(kind.__module__):
                self._queue.append((kind.__name__, kind, None))
            for key in _slots(kind):
                if hasattr(x, key):
                    self._place(SlotPlace(x, key, f"{name}.{key}"), getattr(x, key))

    def _visit_class(self, kind: type) -> None:
        """Of the user's own classes: what they hold, and what their methods name."""
        if is_foreign(kind.__module__):
            return
        for key, item in list(vars(kind).items()):
            if key.startswith("__") and not callable(item) and not isinstance(item, property):
                continue
            self._place(ClassPlace(kind, key, f"{kind.__name__}.{key}"), item)
        for base in kind.__mro__[1:]:
            self._queue.append((base.__name__, base, None))

    def _visit_items(
        self, name: str, holder: Any, items: Any, spelling: str, place: Place | None
    ) -> None:
        if not isinstance(holder, tuple):
            self.containers.append(Container(holder, place, name))
        if len(holder) > _MANY:
            return
        for key, item in list(items):
            label = name + spelling.format(key if not isinstance(key, Value) else "...")
            self._place(Place(place or holder, key, label), item)

    def _place(self, place: Place, item: Any) -> None:
        mark = (id(place.holder), place.key if type(place.key) in (str, int) else id(place.key))
        if mark in self._placed and not isinstance(place.holder, Place):
            return
        self._placed.add(mark)
        self._keep.append(place)
        if item is MISSING:
            self.values.append((place, item))
            return
        if isinstance(item, (staticmethod, classmethod)):
            self.values.append((place, item))
            item = item.__func__
        elif isinstance(item, property):
            self.values.append((place, item))
            for function in (item.fget, item.fset):
                self._queue.append((place.name, function, None))
            return
        elif isinstance(item, Tensor):
            self.tensors.append((place, item))
        else:
            self.values.append((place, item))
        by_path = type(item) in (list, dict) or _is_tuple(item)
        self._queue.append((place.name, item, place if by_path else None))

    # -- functions -----------------------------------------------------------------------------

    def _visit_function(self, name: str, function: Any) -> None:
        if isinstance(function, partial):
            for part in (function.func, function.args, function.keywords):
                self._queue.append((name, part, None))
            return
        if isinstance(function, types.MethodType):
            self._queue.append((f"{function.__func__.__name__}.__self__", function.__self__, None))
            self._queue.append((name, function.__func__, None))
            return
        for key, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            place = CellPlace(cell, key, key)
            self._place(place, place.get())
        defaults = function.__defaults__, function.__kwdefaults__, vars(function) or None
        self._queue.extend((name, part, None) for part in defaults if part)
        if not _is_of_library(function):
            self._visit_globals(function)

    def _visit_globals(self, function: types.FunctionType) -> None:
        names, attributes = _names(function.__code__)
        modules = [cell.get() for cell in map(_as_place, function.__closure__ or ())]
        for key in names:
            value = function.__globals__.get(key, MISSING)
            self._place(Place(function.__globals__, key, key), value)
            modules.append(value)
        for module in modules:
            if isinstance(module, types.ModuleType) and not is_foreign(module.__name__):
                for key in attributes & vars(module).keys():
                    self._place(
                        Place(vars(module), key, f"{module.__name__}.{key}"), vars(module)[key]
                    )


def _as_place(cell: Any) -> CellPlace:
    return CellPlace(cell, "", "")


def _is_tuple(x: Any) -> bool:
    return type(x) is tuple or (isinstance(x, tuple) and hasattr(x, "_fields"))


def _slots(kind: type) -> list[str]:
    """The attributes of a user's class that are no entries of a dict."""
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [] if is_foreign(kind.__module__) else [name for name in names if name[:2] != "__"]


@lru_cache(maxsize=4096)
def is_foreign(module: str) -> bool:
    """Whether a module is code that nobody changes while a program runs: Needle, libraries."""
    if module.partition(".")[0] in ("needle", "builtins"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return module != "__main__" if file is None else _is_installed(file)


def _is_installed(file: str) -> bool:
    parts = Path(file).parts
    installed = "site-packages" in parts or "dist-packages" in parts
    return installed or file.startswith((*_LIBRARIES, "<frozen"))


def _is_of_library(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    return file.startswith(_PACKAGE) or _is_installed(file)


@lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The globals that a function's code, or that of functions in it, names; and attributes."""
    names, attributes = set(), set()
    for part in _parts(code):
        for instruction in dis.get_instructions(part):
            if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "LOAD_NAME", "DELETE_GLOBAL"):
                names.add(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "IMPORT_FROM"):
                attributes.add(instruction.argval)
    return frozenset(names), frozenset(attributes)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)
