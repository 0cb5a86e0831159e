"""Initial weights whose variance keeps signals neither growing nor vanishing.

fan_in, fan_out  how many inputs and outputs a unit has; the bound uses these, whatever `shape` is
shape            of the result; default (fan_in, fan_out)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor
from needle.errors import OptionError
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
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return rand(*(shape or (fan_in, fan_out)), low=-bound, high=bound, **kwargs)


def xavier_normal(
    fan_in: int,
    fan_out: int,
    gain: float = 1.0,
    shape: Sequence[int] | None = None,
    **kwargs: Any,
) -> Tensor:
    """N(0, gain² · 2 / (fan_in + fan_out)). Glorot and Bengio, 2010, eq. 12."""
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    return randn(*(shape or (fan_in, fan_out)), std=std, **kwargs)


def kaiming_uniform(
    fan_in: int,
    fan_out: int,
    shape: Sequence[int] | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """U(-a, a), a = √(6 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_uniform", nonlinearity)
    bound = math.sqrt(6 / fan_in)
    return rand(*(shape or (fan_in, fan_out)), low=-bound, high=bound, **kwargs)


def kaiming_normal(
    fan_in: int,
    fan_out: int,
    shape: Sequence[int] | None = None,
    nonlinearity: str = "relu",
    **kwargs: Any,
) -> Tensor:
    """N(0, 2 / fan_in), for layers before a ReLU. He et al., 2015, eq. 10."""
    _require_relu("kaiming_normal", nonlinearity)
    return randn(*(shape or (fan_in, fan_out)), std=math.sqrt(2 / fan_in), **kwargs)


def _require_relu(function: str, nonlinearity: str) -> None:
    if nonlinearity != "relu":
        raise OptionError(f"{function}: expected nonlinearity 'relu', got {nonlinearity!r}.")
