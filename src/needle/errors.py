"""The errors a user can meet.

Each says `op: expected X, got Y. Hint.` and is also one of Python's own exceptions, so code that
catches `ValueError`, `TypeError` or `IndexError` as with NumPy keeps working.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AxisError",
    "DTypeError",
    "DeviceError",
    "FileFormatError",
    "GradientError",
    "MissingDependencyError",
    "NeedleError",
    "NonFiniteError",
    "OptionError",
    "OutOfRangeError",
    "ShapeError",
    "StateDictError",
    "describe",
    "kind_of",
]


class NeedleError(Exception):
    """Base of every error that Needle raises for something the caller did."""


class ShapeError(NeedleError, ValueError):
    """Shapes do not fit the operator or each other."""


class AxisError(NeedleError, ValueError, IndexError):
    """An axis that the array does not have, or has been named twice."""


class DTypeError(NeedleError, TypeError):
    """A value of the wrong type or an array of the wrong dtype."""


class OutOfRangeError(NeedleError, IndexError):
    """An index or a class label outside its range."""


class DeviceError(NeedleError, RuntimeError):
    """A device that does not exist here, or tensors on different devices."""


class GradientError(NeedleError, RuntimeError):
    """Differentiation was asked for where there is nothing to differentiate."""


class NonFiniteError(NeedleError, FloatingPointError):
    """NaN or Inf appeared where `detect_anomaly` or the training loop watches for it."""


class FileFormatError(NeedleError, ValueError):
    """A file that is truncated, foreign, or not what its name says."""


class OptionError(NeedleError, ValueError):
    """An argument or option outside the values it may take."""


class StateDictError(NeedleError, KeyError, ValueError):
    """Keys or shapes of a state dict do not match the object that loads it."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class MissingDependencyError(NeedleError, ImportError):
    """An optional package is needed and not installed."""


def describe(*values: Any) -> str:
    """`float32[2,3] and int64[4]`: dtype and shape of arrays or Tensors, for messages."""
    return " and ".join(_describe_one(value) for value in values)


def kind_of(value: Any) -> str:
    """`a list`, `an ndarray`: the type of a value, for messages."""
    name = type(value).__name__
    return f"{'an' if name.lower() == 'ndarray' or name[0] in 'aeiouAEIO' else 'a'} {name}"


def _describe_one(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        few = value if len(value) <= 8 or any(hasattr(x, "shape") for x in value) else value[:3]
        shown = [_describe_one(item) for item in few]
        shown += [f"... {len(value)} in all"] if len(few) < len(value) else []
        return "(" + ", ".join(shown) + ")"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}[{','.join(str(extent) for extent in value.shape)}]"
    return f"{type(value).__name__} {value!r}"
