"""What optimisers, schedules and averages remember, and how it is saved and restored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from needle import init
from needle.autograd import Tensor
from needle.errors import NeedleError, StateDictError, describe

__all__ = ["State", "fit", "number_in", "plain", "require_dict"]


class State(dict[Tensor, Tensor]):
    """One Tensor per parameter, by parameter; where nothing is stored yet, `fill` everywhere."""

    def __init__(self, fill: float = 0.0) -> None:
        super().__init__()
        self.fill = fill

    def __missing__(self, p: Tensor) -> Tensor:
        return init.constant(*p.shape, c=self.fill, dtype=p.dtype, device=p.device)


def plain(value: Any) -> Any:
    """A Tensor as a NumPy copy, a number as it is: what a state dict holds."""
    return value.numpy() if isinstance(value, Tensor) else value


def number_in(value: Any) -> Any:
    """The Python number in a number, an array of one element or a Tensor of one; else None."""
    try:
        array = np.asarray(plain(value))
    except ValueError:  # ragged lists
        return None
    return array.item() if array.size == 1 and array.dtype.kind in "biuf" else None


def require_dict(state: Any) -> None:
    """Raise StateDictError for what is no mapping."""
    if not isinstance(state, Mapping):
        raise StateDictError(f"load_state_dict: expected a dict, got {describe(state)}.")


def fit(owner: str, state: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `state` in the types, dtypes and shapes of `template`'s.

    Raises one StateDictError that names every key that is missing, unexpected or does not fit.
    """
    require_dict(state)
    fitted = {key: _fit_one(state[key], like) for key, like in template.items() if key in state}
    faults = [
        f"{key}: expected {_wanted(template[key])}, got {describe(state[key])}"
        for key, value in fitted.items()
        if value is None
    ]
    faults += [f"{key}: missing" for key in template if key not in state]
    faults += [f"{key}: unexpected" for key in state if key not in template]
    if faults:
        raise StateDictError(
            f"load_state_dict: expected the keys and shapes of this {owner}, got "
            f"{len(faults)} at fault: {'; '.join(faults)}."
        )
    return fitted


def _fit_one(value: Any, like: Any) -> Any:
    """`value` as a Tensor or number in the manner of `like`; None if it is not one."""
    try:
        if not isinstance(like, Tensor):
            number = number_in(value)
            return None if number is None else _number_like(number, like)
        tensor = Tensor(plain(value), device=like.device, dtype=like.dtype, requires_grad=False)
        return tensor if tensor.shape == like.shape else None
    except (ValueError, OverflowError, NeedleError):  # a count that is Inf; not numbers at all
        return None


def _number_like(number: Any, like: Any) -> Any:
    """`number` as a count or a rate, as `like` is one: counts are whole, none is negative."""
    converted = type(like)(number)
    return converted if converted == number and 0 <= converted < math.inf else None


def _wanted(like: Any) -> str:
    if not isinstance(like, Real):
        return describe(like)
    return "a number from 0 on" if isinstance(like, float) else "a whole number from 0 on"
