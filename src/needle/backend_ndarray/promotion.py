"""Which dtype a primitive computes in and which its result has: NumPy 2's rules, asked of NumPy.

Beside dtypes there are the types `bool`, `int` and `float`, for Python numbers: the last two are
weak, that is, they take the dtype of an array of their kind or of a higher one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from needle.dtypes import as_dtype, is_floating, is_integer
from needle.errors import DTypeError

__all__ = [
    "SUPPORTED",
    "as_supported",
    "check_fits",
    "fits",
    "rank",
    "reduction_dtype",
    "result_dtypes",
    "stored",
    "sum_dtype",
]

DType = np.dtype[Any]

# names of the dtypes that NDArrays have
SUPPORTED = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

# primitives that NumPy has no function of that name for, and the function whose rule is theirs
_RULE_OF = {"abs": "absolute", "erf": "exp", "sigmoid": "exp"}

# what there is for bools, which have no differences
_INSTEAD = {"subtract": "Use a ^ b.", "negative": "Use ~x."}

_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "invert")


_known: dict[Any, DType] = {}  # asking a dtype for its name takes microseconds


def as_supported(dtype: Any) -> DType:
    """A dtype that NDArrays have, from a name, a type or a dtype; in the machine's byte order.

    Raises DTypeError for any other.
    """
    try:
        return _known[dtype]
    except (KeyError, TypeError):  # not asked before; no name, type or dtype at all
        found = _supported(dtype)
        _known[dtype] = found
        return found


def _supported(dtype: Any) -> DType:
    found = as_dtype(dtype)
    if found.name not in SUPPORTED:
        raise DTypeError(f"dtype: expected one of {', '.join(SUPPORTED)}, got {found.name}.")
    # ml_dtypes is there if bfloat16 was named; NumPy does not know the name
    return found if found.name == "bfloat16" else np.dtype(found.name)


@lru_cache(maxsize=4096)
def result_dtypes(name: str, dtypes: tuple[Any, ...]) -> tuple[tuple[DType, ...], DType]:
    """What an elementwise primitive converts each input to, and the dtype of its result.

    >>> result_dtypes("divide", (np.dtype("int32"), int))
    ((dtype('float64'), dtype('float64')), dtype('float64'))

    All inputs become one dtype, but for the condition of `where`, a bool, and for int64 next to
    uint64, which are compared as they are, as in NumPy, for want of a common dtype.
    Conversion to bool, as for `logical_and`, is `!= 0`. Raises DTypeError, naming the dtypes.
    """
    if name == "copy":
        return dtypes, dtypes[0]
    if name == "where":
        both, result = result_dtypes("maximum", dtypes[1:])  # which just promotes
        return (np.dtype(np.bool_), *both), result
    if name == "multiply_add":
        _, product = result_dtypes("multiply", dtypes[:2])
        (_, to), result = result_dtypes("add", (product, dtypes[2]))
        return (to, to, to), result
    ufunc = getattr(np, _RULE_OF.get(name, name))
    try:
        *inputs, result = ufunc.resolve_dtypes((*_strengthened(dtypes), None))
    except TypeError:
        raise DTypeError(_refusal(name, dtypes)) from None
    # NumPy has two of some integer dtypes, equal but not the same object; as_supported has one
    return tuple([as_supported(each) for each in inputs]), as_supported(result)


def _refusal(name: str, dtypes: tuple[Any, ...]) -> str:
    """Why NumPy has no such function of these dtypes."""
    if name in _BITWISE:
        return f"{name}: expected integers or bools, got {_named(dtypes)}."
    bools = all(each is bool or getattr(each, "name", "") == "bool" for each in dtypes)
    if bools and name in _INSTEAD:
        return f"{name}: expected integers or floats, got {_named(dtypes)}. {_INSTEAD[name]}"
    return f"{name}: expected numbers, got {_named(dtypes)}."


def _strengthened(dtypes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The dtypes as NumPy takes them: `bool` is no weak type, and next to bfloat16 none is."""
    wide = next((each for each in dtypes if getattr(each, "name", "") == "bfloat16"), None)
    as_numpy = {bool: np.dtype(np.bool_), int: wide or int, float: wide or float}
    return tuple([as_numpy.get(each, each) for each in dtypes])


def _named(dtypes: tuple[Any, ...]) -> str:
    return " and ".join(getattr(each, "name", None) or each.__name__ for each in dtypes)


def reduction_dtype(name: str, dtype: DType) -> DType:
    """The dtype of sum, prod, cumsum, mean, max, min, all, any, argmax or argmin of an array.

    Sums and products of integers and bools are int64 or uint64; means of them float64.
    """
    if name in ("all", "any"):
        return np.dtype(np.bool_)
    if name in ("argmax", "argmin"):
        return np.dtype(np.int64)
    if name in ("sum", "prod", "cumsum") and not is_floating(dtype):
        return np.dtype(np.uint64 if dtype.kind == "u" else np.int64)
    if name == "mean" and not is_floating(dtype):
        return np.dtype(np.float64)
    return dtype


def sum_dtype(dtype: DType) -> DType:
    """What numbers of a dtype are added up in: float32 for 16-bit floats, else themselves."""
    return np.dtype(np.float32) if is_floating(dtype) and dtype.itemsize < 4 else dtype


def rank(dtype: DType) -> int:
    """How general numbers of a dtype are: bools 0, unsigned 1, signed 2, floats 3.

    In place, a result may become one of no lower rank, as in NumPy.
    """
    return "bui".find(dtype.kind) if dtype.kind in "bui" else 3


def fits(value: Any, dtype: DType) -> bool:
    """Whether a number can be converted to a dtype: floats to integers by dropping the fraction."""
    if dtype.kind == "b":
        return True
    try:
        if not is_integer(dtype):
            return float(value) is not None
        limits = np.iinfo(dtype)
        return bool(limits.min <= int(value) <= limits.max)
    except (OverflowError, ValueError):  # an int beyond float64; NaN or Inf as an integer
        return False


def check_fits(value: Any, dtype: DType) -> None:
    """Raises DTypeError for a number that an integer dtype, or float64, cannot hold."""
    if fits(value, dtype):
        return
    limits: Any = np.iinfo(dtype) if is_integer(dtype) else np.finfo(np.float64)
    raise DTypeError(
        f"{dtype}: expected a number in {limits.min}..{limits.max}, got {value}. "
        "Convert the array to a wider dtype first."
    )


def stored(value: Any, dtype: DType) -> float | int:
    """A number as it is written into an array: a float for floats, else an int.

    Raises DTypeError for one that an integer dtype, or float64, cannot hold.
    """
    if type(value) is float and dtype.kind == "f":
        return value
    if dtype.kind == "b":
        return int(bool(value))
    check_fits(value, dtype)
    return int(value) if is_integer(dtype) else float(value)
