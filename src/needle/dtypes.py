"""Names to dtypes, and the few questions that are asked of a dtype.

`bfloat16` and the 8-bit floats come from `ml_dtypes`, imported only when one is named.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from needle.errors import DTypeError

__all__ = ["as_dtype", "is_floating", "is_integer", "is_narrow", "name_of"]


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """A `numpy.dtype` from a name (`"float32"`, `"bfloat16"`), a type object or a dtype."""
    try:
        if dtype is not None:  # which NumPy takes for float64
            return np.dtype(dtype)  # type: ignore[no-any-return]
    except TypeError:
        pass
    extension = _extension_type(dtype) if isinstance(dtype, str) else None
    if extension is None:
        raise DTypeError(
            f"dtype: expected a name such as 'float32', 'int64' or 'bfloat16', got {dtype!r}."
        )
    return np.dtype(extension)  # type: ignore[no-any-return]


def _extension_type(name: str) -> Any:
    """The scalar type of that name in ml_dtypes, if it has one."""
    import ml_dtypes

    found = getattr(ml_dtypes, name, None)
    return found if isinstance(found, type) and issubclass(found, np.generic) else None


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """`str(dtype)`, which NumPy puts together anew each time it is asked."""
    return str(dtype)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """True for float16/32/64 and for ml_dtypes' floats, which NumPy files under kind 'V'."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """True for floats of less than 32 bits, whose sums are made in float32."""
    return dtype.itemsize < 4 and is_floating(dtype)


def is_integer(dtype: np.dtype[Any]) -> bool:
    """True for signed and unsigned integers; False for bool."""
    return dtype.kind in "iu"
