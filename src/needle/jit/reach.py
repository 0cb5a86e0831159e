"""What a function can reach besides its arguments: Tensors, and the Python values it depends on.

It is followed from closures, globals that the code names, and the object of a method, through
attributes, dicts, lists and tuples. What is found is a place: a dict or list, and a key in it.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from sysconfig import get_paths
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.autograd.value import Value
from needle.backend_selection import Device, NDArray
from needle.optim.optimizer import Optimizer
from needle.run_numbers import Counting

__all__ = ["MISSING", "ArgumentPlace", "Place", "Reach"]

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_OPAQUE = (
    NDArray,
    np.ndarray,
    np.dtype,
    np.generic,
    Device,
    types.ModuleType,
    type,
    types.BuiltinFunctionType,
    types.GeneratorType,
)
_LIBRARIES = tuple({get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_MANY = 4096  # items of a list that are no state but data


class Place:
    """Where a value is found: `holder[key]`, or the contents of a closure's cell."""

    __slots__ = ("holder", "key", "name")

    def __init__(self, holder: Any, key: Any, name: str) -> None:
        self.holder, self.key, self.name = holder, key, name

    def get(self) -> Any:
        """What is there now; `MISSING` if nothing is."""
        if type(self.holder) is types.CellType:
            return self.holder.cell_contents
        try:
            return self.holder[self.key]
        except (KeyError, IndexError):
            return MISSING

    def set(self, value: Any) -> None:
        """Put something else there."""
        if type(self.holder) is types.CellType:
            self.holder.cell_contents = value
        elif value is MISSING:
            self.holder.pop(self.key, None)
        else:
            self.holder[self.key] = value

    def of(self, tensors: Sequence[Any]) -> Place:
        """The place itself; that of an argument is at the Tensor given now."""
        return self


class ArgumentPlace(Place):
    """An attribute of a Tensor among the arguments, which is another one at each call."""

    __slots__ = ("number",)

    def __init__(self, number: int, key: str, tensors: Sequence[Any]) -> None:
        super().__init__(vars(tensors[number]), key, f"an argument's {key}")
        self.number = number

    def of(self, tensors: Sequence[Any]) -> Place:
        return Place(vars(tensors[self.number]), self.key, self.name)


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class Reach:
    """Everything found from some roots.

    tensors    places that hold Tensors
    values     places that hold what a trace depends on: numbers, strings, None, and other objects
               by identity
    sizes      containers, whose length counts
    optimizers found on the way
    counting   what keeps numbers that change from call to call, optimisers among it
    """

    def __init__(self, *roots: tuple[str, Any]) -> None:
        self.tensors: list[Place] = []
        self.values: list[tuple[Place, Any]] = []
        self.sizes: list[tuple[Any, int]] = []
        self.optimizers: list[tuple[str, Optimizer]] = []
        self.counting: list[Counting] = []
        self._seen: set[int] = set()
        self._keep: list[Any] = []
        self._queue: deque[tuple[str, Any]] = deque(roots)
        while self._queue:
            self._visit(*self._queue.popleft())

    def _visit(self, name: str, x: Any) -> None:
        if isinstance(x, (*_SCALARS, *_OPAQUE)) or id(x) in self._seen:
            return
        self._seen.add(id(x))
        self._keep.append(x)
        if isinstance(x, Value):
            if isinstance(x, Tensor):
                self._add_gradient(name, x)
        elif isinstance(x, (types.FunctionType, types.MethodType, partial)):
            self._visit_function(name, x)
        elif isinstance(x, dict):
            self._visit_items(name, x, x.items(), "[{!r}]")
        elif isinstance(x, (list, deque)):
            self._visit_items(name, x, enumerate(x), "[{}]")
        elif isinstance(x, (tuple, set, frozenset)):
            for number, item in enumerate(x):
                self._queue.append((f"{name}[{number}]", item))
        elif hasattr(x, "__dict__"):
            if isinstance(x, Counting):
                self.counting.append(x)
            if isinstance(x, Optimizer):
                self.optimizers.append((name, x))
            attributes = vars(x)
            self._visit_items(name, attributes, attributes.items(), ".{}")

    def _add_gradient(self, name: str, tensor: Tensor) -> None:
        self.tensors.append(Place(vars(tensor), "grad", f"{name}.grad"))

    def _visit_items(self, name: str, holder: Any, items: Any, spelling: str) -> None:
        if len(holder) > _MANY:
            return
        self.sizes.append((holder, len(holder)))
        for key, item in list(items):
            label = name + spelling.format(key if not isinstance(key, Value) else "...")
            self._place(Place(holder, key, label), item)

    def _place(self, place: Place, item: Any) -> None:
        if isinstance(item, Tensor):
            self.tensors.append(place)
        elif not isinstance(item, (np.ndarray, NDArray)):
            self.values.append((place, item))
        self._queue.append((place.name, item))

    def _visit_function(self, name: str, function: Any) -> None:
        if isinstance(function, partial):
            self._queue.append((name, function.func))
            self._queue.append((name, (function.args, function.keywords)))
            return
        if isinstance(function, types.MethodType):
            self._queue.append((f"{function.__func__.__name__}.__self__", function.__self__))
            self._queue.append((name, function.__func__))
            return
        for key, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                self._place(Place(cell, key, key), cell.cell_contents)
            except ValueError:  # not bound yet
                continue
        if _is_of_library(function):
            return
        for key in _global_names(function.__code__):
            if key in function.__globals__:
                self._place(Place(function.__globals__, key, key), function.__globals__[key])
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._queue.append((name, default))


def _is_of_library(function: types.FunctionType) -> bool:
    """Whether it is code that nobody changes while a program runs."""
    if str(function.__module__).partition(".")[0] == "needle":
        return True
    file = function.__code__.co_filename
    return (file.startswith(_LIBRARIES) and "site-packages" in file) or file.startswith("<frozen")


def _global_names(code: types.CodeType) -> Iterator[str]:
    """The names of globals that a function's code, or that of functions in it, may read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
