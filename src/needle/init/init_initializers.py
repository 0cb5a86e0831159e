"""Initial weights whose variance keeps signals neither growing nor vanishing.

fan_in, fan_out  how many inputs and outputs a unit has; the bound uses these, whatever `shape` is
shape            of the result, numbers or one number; default (fan_in, fan_out)
"""

from __future__ import annotations

import math
from typing import Any

from needle.autograd import Tensor
from needle.errors import OptionError
from needle.init.init_basic import Extents, _float_dtype, _shape, rand, randn

__all__ = ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"]


def xavier_uniform(
    fan_in: int,
    fan_out: int,
    gain: float = 1.0,
    shape: Extents | None = None,
    **kwargs: Any,
) -> Tensor:
    """U(-a, a), a = gain · √(6 / (fan_in + fan_out)). Glorot and Bengio, 2010, eq. 16."""
    _require_usable("xavier_uniform", fan_in + fan_out, **kwargs)
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    size = _weights_shape("xavier_uniform", shape, fan_in, fan_out)
    return rand(*size, low=-bound, high=bound, **kwargs)


def xavier_normal(
    fan_in: int,
    fan_out: int,
    gain: float = 1.0,
    shape: Extents | None = None,
    **kwargs: Any,
) -> Tensor:
    """N(0, gain² · 2 / (fan_in + fan_out)). Glorot and Bengio, 2010, eq. 12."""
    _require_usable("xavier_normal", fan_in + fan_out, **kwargs)
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    size = _weights_shape("xavier_normal", shape, fan_in, fan_out)
    return randn(*size, std=std, **kwargs)


def kaiming_uniform(
    fan_in: int,
    fan_out: int,
    shape: Extents | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """U(-a, a), a = √(6 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_uniform", nonlinearity)
    _require_usable("kaiming_uniform", fan_in, **kwargs)
    bound = math.sqrt(6 / fan_in)
    size = _weights_shape("kaiming_uniform", shape, fan_in, fan_out)
    return rand(*size, low=-bound, high=bound, **kwargs)


def kaiming_normal(
    fan_in: int,
    fan_out: int,
    shape: Extents | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """N(0, 2 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_normal", nonlinearity)
    _require_usable("kaiming_normal", fan_in, **kwargs)
    size = _weights_shape("kaiming_normal", shape, fan_in, fan_out)
    return randn(*size, std=math.sqrt(2 / fan_in), **kwargs)


def _require_relu(function: str, nonlinearity: str) -> None:
    if nonlinearity != "relu":
        raise OptionError(f"{function}: expected nonlinearity 'relu', got {nonlinearity!r}.")


def _require_usable(function: str, fan: int, dtype: Any = "float32", **_: Any) -> None:
    if fan < 1:
        raise OptionError(f"{function}: expected a fan of 1 or more, got {fan}.")
    _float_dtype(function, dtype)


def _weights_shape(
    function: str, shape: Extents | None, fan_in: int, fan_out: int
) -> tuple[int, ...]:
    return _shape(function, (fan_in, fan_out) if shape is None else (shape,))
