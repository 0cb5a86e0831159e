"""Reads a pickled dict of plain values and uint8 arrays, and executes nothing.

A pickle is a program for a stack machine, and two of its instructions call any function at all.
This machine knows the instructions that build values, and five names of NumPy's and Python's that
pickles of byte arrays refer to. It does by hand what those names stand for; it imports and calls
nothing. Anything else is refused.

Strings that Python 2 wrote, and text keys, come out as bytes: the keys of CIFAR-10's files are
`b"data"` and `b"labels"` whichever Python wrote them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from needle.errors import FileFormatError

__all__ = ["read_pickled_dict"]


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """The dict in a pickle file, its uint8 arrays as NumPy arrays.

    Raises FileFormatError for anything else, in whichever way the file is broken or hostile.
    """
    machine = _Machine()
    try:
        result = machine.run(path.read_bytes())
    except FileFormatError as error:
        raise FileFormatError(
            f"pickle: expected only plain values and uint8 arrays in {path}, got {error}. "
            "Nothing of it was executed."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # what a malformed pickle comes to, in pickletools or here: operands missing or odd
        raise FileFormatError(
            f"pickle: expected a whole pickle in {path}, got {type(error).__name__}: {error}."
        ) from error
    if not isinstance(result, dict):
        raise FileFormatError(
            f"pickle: expected a dict in {path}, got an object of type {type(result).__name__}."
        )
    return {_as_key(key): _finished(value) for key, value in result.items()}


def _as_key(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key


def _finished(value: Any) -> Any:
    return value.array if isinstance(value, _Array) else value


class _Array:
    """An array that the pickle announces first and fills in later, under one name."""

    array: np.ndarray[Any, Any] | None = None

    def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> _Array:
        if dtype is not _UINT8 or not isinstance(data, (bytes, bytearray)):
            raise FileFormatError("an array that is not of bytes")
        flat = np.frombuffer(bytes(data), dtype=np.uint8)
        self.array = flat.reshape(shape, order="F" if order == "F" else "C")
        return self


class _Name:
    """A name that stands in a pickle, as a value of its own: it is not looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


_UINT8 = object()


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _dtype(name: Any, align: Any, copy: Any) -> object:
    if name not in ("u1", b"u1"):
        raise FileFormatError("an array that is not of bytes")
    return _UINT8


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array().fill(data, dtype, shape, order)


def _encode(text: Any, encoding: Any) -> Any:
    if encoding not in ("latin1", "latin-1"):
        raise FileFormatError("text in an unknown encoding")
    return text.encode("latin-1")


# What stands for the calls that pickles of byte arrays make. NumPy 2 renamed `core` to `_core`;
# `_codecs.encode` is how Python 3 writes bytes for Python 2, and `bytes()` how it writes none.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",
}
_NAMES = {*_CALLS, "numpy.ndarray"}

# Instructions whose operand is the value
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_PYTHON2_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_NOTES = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """The stack, the stacks set aside at each MARK, and the memo of values named by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        from pickletools import genops  # only those who read pickles pay for its import

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a name, which is then refused anyway
            for opcode, operand, _ in genops(program):
                self.step(opcode.name, operand)
        return self.stack.pop()

    def step(self, name: str, operand: Any) -> None:
        if name in _LITERALS:
            self.push(operand)
        elif name in _PYTHON2_STRINGS:
            self.push(operand.encode("latin-1"))
        elif name in _NEW:
            self.push(_NEW[name]())
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, operand)
        elif name not in _NOTES:
            raise FileFormatError(f"the instruction {name}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, count: int) -> tuple[Any, ...]:
        """The last values, taken off."""
        return tuple([self.stack.pop() for _ in range(count)])[::-1]

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """What was pushed since the last MARK, taken off."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def extend(self, values: Sequence[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise FileFormatError("an APPEND to what is no list")
        self.stack[-1].extend(values)

    def make_dict(self, values: Sequence[Any]) -> None:
        self.push({})
        self.set_items(values)

    def set_items(self, values: Sequence[Any]) -> None:
        keys = values[::2]
        # hashing a tuple of tuples of ... could take for ever
        if not isinstance(self.stack[-1], dict) or any(type(k) not in _KEY_TYPES for k in keys):
            raise FileFormatError("a SETITEM to what is no dict, or under an odd key")
        self.stack[-1].update(zip(keys, values[1::2], strict=True))

    def remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def name(self, module: Any, attribute: Any) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise FileFormatError("a name that is no text")
        if f"{module}.{attribute}" not in _NAMES:
            raise FileFormatError(f"the name {module}.{attribute}")
        self.push(_Name(f"{module}.{attribute}"))

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Name) or function.name not in _CALLS:
            raise FileFormatError("a call of what is no function")
        self.push(_CALLS[function.name](*arguments))

    def build(self, target: Any, state: Any) -> None:
        self.push(target)
        if isinstance(target, _Array):
            _, shape, dtype, fortran, data = state
            target.fill(data, dtype, shape, "F" if fortran else "C")
        elif target is not _UINT8:  # a dtype's state is its byte order and fields: bytes have none
            raise FileFormatError("a BUILD of what is no array")


_KEY_TYPES = (bytes, str, int)

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(m.top(1)),
    "TUPLE2": lambda m, _: m.push(m.top(2)),
    "TUPLE3": lambda m, _: m.push(m.top(3)),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend(m.top(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "DICT": lambda m, _: m.make_dict(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(m.top(2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "PUT": lambda m, number: m.remember(number),
    "BINPUT": lambda m, number: m.remember(number),
    "LONG_BINPUT": lambda m, number: m.remember(number),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GET": lambda m, number: m.push(m.memo[number]),
    "BINGET": lambda m, number: m.push(m.memo[number]),
    "LONG_BINGET": lambda m, number: m.push(m.memo[number]),
    "GLOBAL": lambda m, name: m.name(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.top(2)),
    "REDUCE": lambda m, _: m.call(*m.top(2)),
    "BUILD": lambda m, _: m.build(*m.top(2)),
}
