"""What layers and losses ask of their arguments, and how they show them, once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, OptionError, describe, kind_of
from needle.ops.broadcasting import require_tensors

__all__ = [
    "require_float_dtype",
    "require_number",
    "require_positive",
    "require_state",
    "require_tensors",
    "shown_options",
]


def require_float_dtype(name: str, dtype: Any) -> None:
    """Raise DTypeError unless `dtype` is one of floats."""
    if not is_floating(as_dtype(dtype)):
        raise DTypeError(f"{name}: expected a float dtype, got {as_dtype(dtype)}.")


def require_number(name: str, wanted: str, value: Any, fits: Callable[[Any], bool]) -> None:
    """Raise OptionError unless `value` is a number that `fits`; `wanted`: `"p in [0, 1]"`."""
    if not (isinstance(value, Real) and fits(value)):
        raise OptionError(f"{name}: expected {wanted}, got {value!r}.")


def require_positive(name: str, **sizes: Any) -> None:
    """Raise OptionError unless all `sizes` are whole numbers of 1 or more."""
    for option, size in sizes.items():
        try:
            positive = operator.index(size) >= 1
        except TypeError:
            positive = False
        if not positive:
            raise OptionError(f"{name}: expected {option} of 1 or more, got {size!r}.")


def require_state(name: str, wanted: str, state: Any) -> Mapping[str, Any]:
    """`state`, or DTypeError unless it is a dict; a model may have been meant to give its own."""
    if isinstance(state, Mapping):
        return state
    if hasattr(state, "state_dict"):
        raise DTypeError(
            f"{name}: expected {wanted}, got {kind_of(state)}. Hand over its .state_dict()."
        )
    raise DTypeError(f"{name}: expected {wanted}, got {describe(state)}.")


def shown_options(layer: Any, **usual: Any) -> str:
    """`, option=value` for each option of a layer that is not as usual."""
    options = {option: getattr(layer, option) for option in usual}
    return "".join([f", {o}={value!r}" for o, value in options.items() if value != usual[o]])
