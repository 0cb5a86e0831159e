"""The layers that networks of any kind use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from needle import init
from needle.autograd import Tensor
from needle.errors import DTypeError, ShapeError, describe, kind_of
from needle.nn.checks import require_number, require_positive, require_tensors
from needle.nn.module import Module, Parameter
from needle.ops.attention import dropped

__all__ = ["Dropout", "Identity", "Linear", "Residual", "Sequential"]


class Identity(Module):
    """x itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear(Module):
    """y = x W + b.

    x: (..., in_features) -> y: (..., out_features)
    weight: (in_features, out_features), kaiming_uniform, drawn first
    bias: (1, out_features), kaiming_uniform with fan_in = out_features; None with bias=False
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        like = {"device": device, "dtype": dtype}
        self.weight = Parameter(init.kaiming_uniform(in_features, out_features, **like))
        self.bias: Parameter | None = None
        if bias:
            draw = init.kaiming_uniform(out_features, 1, **like)
            self.bias = Parameter(draw.reshape((1, out_features)))

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("Linear", x)
        if x.ndim == 0 or x.shape[-1] != self.weight.shape[0]:
            raise ShapeError(
                f"Linear: expected x [..., {self.weight.shape[0]}], got {describe(x)}."
            )
        y = x @ self.weight
        if self.bias is None:
            return y
        if x.ndim == 1:  # keep a vector a vector
            return y + self.bias.reshape((self.out_features,))
        return y + self.bias

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Sequential(Module):
    """The modules one after another, each on the last one's result. `modules` is their tuple.

    >>> import needle as ndl
    >>> model = ndl.nn.Sequential(ndl.nn.Linear(4, 3), ndl.nn.ReLU(), ndl.nn.Linear(3, 2))
    >>> len(model), model[1], model[:2].num_parameters()
    (3, ReLU(), 15)
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for module in modules:
            _require_module("Sequential", module, "what it holds: Sequential({0})")
        self.modules = modules

    def forward(self, x: Any) -> Any:
        for module in self.modules:
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules)

    def __getitem__(self, index: int | slice) -> Module:
        found = self.modules[index]
        return Sequential(*found) if isinstance(found, tuple) else found


class Residual(Module):
    """fn(x) + x, of one shape. He et al., "Deep Residual Learning", 2016, eq. 1."""

    def __init__(self, fn: Module) -> None:
        super().__init__()
        _require_module("Residual", fn, "one: Residual(Sequential({0}))")
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(x)
        require_tensors("Residual", x, y)
        if y.shape != x.shape:
            raise ShapeError(f"Residual: expected fn(x) of x's shape, got {describe(y, x)}.")
        return y + x


class Dropout(Module):
    """In training, zero each element with probability p and divide the others by 1 - p.

    Draws: `numpy.random.rand(*x.shape)`; an element is kept where its draw is ≤ 1 - p.
    In evaluation, and with p = 0, it is x itself and nothing is drawn.

    Srivastava et al., "Dropout", 2014.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        require_number(type(self).__name__, "p in [0, 1]", p, lambda p: 0 <= p <= 1)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("Dropout", x)
        if not self.training or self.p == 0:
            return x
        return dropped(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _require_module(container: str, module: Any, several: str) -> None:
    """A class in place of its instance, or a list, is told now and not in the first forward.

    several  what to hand over for more than one, with a place for them
    """
    expected = f"{container}: expected modules, got"
    if isinstance(module, type):
        name = module.__name__
        raise DTypeError(f"{expected} the class {name}. Make one of it: {name}(...).")
    if callable(module):
        return
    if not isinstance(module, Iterable) or isinstance(module, str):
        raise DTypeError(f"{expected} {describe(module)}.")
    items = "*modules.values()" if isinstance(module, Mapping) else "*modules"
    raise DTypeError(f"{expected} {kind_of(module)}. Hand over {several.format(items)}.")
