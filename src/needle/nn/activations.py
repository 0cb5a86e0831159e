"""The nonlinearities as modules, for Sequential."""

from __future__ import annotations

from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.errors import ShapeError, describe
from needle.init import constant
from needle.nn.checks import require_positive, require_tensors
from needle.nn.module import Module, Parameter

__all__ = [
    "ELU",
    "GELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSoftmax",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope · x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = ops.LeakyReLU(negative_slope).slope  # raises OptionError

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where x > 0, else weight · x, with one weight for all, or one for each channel.

    x: any shape, with `num_parameters` channels on axis 1 if that is not 1
    weight: (num_parameters,), `init`. No weight decay should be on it: it would pull to ReLU.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_positive("PReLU", num_parameters=num_parameters)
        self.weight = Parameter(constant(num_parameters, c=init, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("PReLU", x)
        count = self.weight.shape[0]
        if count == 1:
            return ops.prelu(x, self.weight)
        if x.ndim < 2 or x.shape[1] != count:
            raise ShapeError(f"PReLU: expected x [B, {count}, ...], got {describe(x)}.")
        return ops.prelu(x, self.weight.reshape((count,) + (1,) * (x.ndim - 2)))

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.shape[0]}"


class ELU(Module):
    """x where x > 0, else alpha · (exp x - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = ops.ELU(alpha).alpha  # raises OptionError

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Hardtanh(Module):
    """min(max(x, min_val), max_val), with slope 0 at the bounds."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        ops.Hardtanh(min_val, max_val)  # raises OptionError
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu6(x)


class Hardsigmoid(Module):
    """min(max(x / 6 + 1/2, 0), 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardsigmoid(x)


class Hardswish(Module):
    """x · min(max(x / 6 + 1/2, 0), 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.hardswish(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class SiLU(Module):
    """x · sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Softplus(Module):
    """log(1 + exp x)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softplus(x)


class GELU(Module):
    """x · Φ(x); approximate = "tanh" for the cheaper form."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = ops.GELU(approximate).approximate  # raises OptionError

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softmax(Module):
    """exp(x) / Σ exp(x), along `axis`."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(x, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Module):
    """log of softmax, along `axis`."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return ops.logsoftmax(x, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"
