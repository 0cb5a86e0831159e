"""Initial weights whose variance keeps signals neither growing nor vanishing.

fan_in, fan_out  how many inputs and outputs a unit has; the bound uses these, whatever `shape` is
shape            of the result; default (fan_in, fan_out)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor
from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, OptionError
from needle.init.init_basic import rand, randn

__all__ = ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"]


def xavier_uniform(
    fan_in: int,
    fan_out: int,
    gain: float = 1.0,
    shape: Sequence[int] | None = None,
    **kwargs: Any,
) -> Tensor:
    """U(-a, a), a = gain · √(6 / (fan_in + fan_out)). Glorot and Bengio, 2010, eq. 16."""
    _require_usable("xavier_uniform", fan_in + fan_out, **kwargs)
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return rand(*_shape(shape, fan_in, fan_out), low=-bound, high=bound, **kwargs)


def xavier_normal(
    fan_in: int,
    fan_out: int,
    gain: float = 1.0,
    shape: Sequence[int] | None = None,
    **kwargs: Any,
) -> Tensor:
    """N(0, gain² · 2 / (fan_in + fan_out)). Glorot and Bengio, 2010, eq. 12."""
    _require_usable("xavier_normal", fan_in + fan_out, **kwargs)
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    return randn(*_shape(shape, fan_in, fan_out), std=std, **kwargs)


def kaiming_uniform(
    fan_in: int,
    fan_out: int,
    shape: Sequence[int] | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """U(-a, a), a = √(6 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_uniform", nonlinearity)
    _require_usable("kaiming_uniform", fan_in, **kwargs)
    bound = math.sqrt(6 / fan_in)
    return rand(*_shape(shape, fan_in, fan_out), low=-bound, high=bound, **kwargs)


def kaiming_normal(
    fan_in: int,
    fan_out: int,
    shape: Sequence[int] | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """N(0, 2 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_normal", nonlinearity)
    _require_usable("kaiming_normal", fan_in, **kwargs)
    return randn(*_shape(shape, fan_in, fan_out), std=math.sqrt(2 / fan_in), **kwargs)


def _require_relu(function: str, nonlinearity: str) -> None:
    if nonlinearity != "relu":
        raise OptionError(f"{function}: expected nonlinearity 'relu', got {nonlinearity!r}.")


def _require_usable(function: str, fan: int, dtype: Any = "float32", **_: Any) -> None:
    if fan < 1:
        raise OptionError(f"{function}: expected a fan of 1 or more, got {fan}.")
    if dtype is not None and not is_floating(as_dtype(dtype)):  # all weights would round to 0
        raise DTypeError(f"{function}: expected a float dtype, got {as_dtype(dtype)}.")


def _shape(shape: Sequence[int] | None, fan_in: int, fan_out: int) -> Sequence[int]:
    return (fan_in, fan_out) if shape is None else shape
