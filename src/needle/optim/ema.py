"""An exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from needle.autograd import Tensor, no_grad
from needle.autograd.modes import is_traced
from needle.autograd.tensor import as_tensor
from needle.errors import OptionError, ShapeError, describe
from needle.optim.options import check_number
from needle.optim.parameters import collect
from needle.optim.state import fit, plain
from needle.run_numbers import Counting

__all__ = ["EMA"]


class EMA(Counting):
    """A running average of parameters, often better on held-out data than the last ones.

        shadow ← d · shadow + (1 - d) · p            shadow starts as a copy of p

    params  Tensors, (name, Tensor) pairs, or a module; buffers such as batch norm's running
            statistics are no parameters and are not averaged
    decay   d, in [0, 1)
    warmup  d = min(decay, (1 + t) / (10 + t)) at the t-th update, so that the average leaves the
            first values, which are random, behind sooner

    `shadow` lists the averages in the order of `params`. Source: Polyak, Juditsky, "Acceleration
    of stochastic approximation by averaging", 1992, in the exponential form in common use.

    >>> import needle as ndl
    >>> w = ndl.Tensor([0.0])
    >>> ema = ndl.optim.EMA([w], decay=0.5)
    >>> w.data = ndl.Tensor([8.0])
    >>> ema.update()
    >>> with ema.average_parameters():
    ...     print(w)
    [4.]
    >>> print(w)
    [8.]
    """

    def __init__(self, params: Any, decay: float = 0.999, warmup: bool = False) -> None:
        self.decay = check_number("EMA", "decay", decay, below=1)
        self.warmup = warmup
        self.t = 0
        self.params = list(collect("EMA", params))
        if not self.params:
            raise OptionError("EMA: expected at least one parameter, got none.")
        self.shadow = [_copy(p) for p in self.params]

    def update(self) -> None:
        """Move the average towards the parameters; call it after each optimiser step."""
        self._check("update", self.params)
        self.t += 1
        d = min(self.decay, (1 + self.t) / (10 + self.t)) if self.warmup else self.decay
        with no_grad():
            for shadow, p in zip(self.shadow, self.params, strict=True):
                shadow.data = shadow * d + p * (1 - d)

    def counted(self) -> list[dict[Any, Any]]:
        """What holds the numbers that updates read and change."""
        return [vars(self)]

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Inside the block the parameters hold the averages; after it, whatever happens in it,
        what they held before."""
        own = [p.data for p in self.params]
        try:
            self.copy_to()
            yield
        finally:
            for p, value in zip(self.params, own, strict=True):
                p.data = value

    def copy_to(self, params: Any = None) -> None:
        """Give the parameters, or `params` of another model alike, copies of the averages."""
        targets = self.params if params is None else list(collect("EMA.copy_to", params))
        self._check("copy_to", targets)
        for shadow, p in zip(self.shadow, targets, strict=True):
            p.data = _copy(shadow)

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many updates they had: a flat dict that `save` takes."""
        return {key: plain(value) for key, value in self._collected().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken.

        Raises StateDictError naming every missing, unexpected and misshapen key; nothing has
        changed then.
        """
        fitted = fit("EMA", state, self._collected())
        self.t = fitted["t"]
        self.shadow = [fitted[f"shadow.{i}"] for i in range(len(self.shadow))]

    def _collected(self) -> dict[str, Any]:
        return {"t": self.t, **{f"shadow.{i}": shadow for i, shadow in enumerate(self.shadow)}}

    def _check(self, method: str, params: list[Tensor]) -> None:
        if _kinds(params) != _kinds(self.shadow):
            raise ShapeError(
                f"EMA.{method}: expected parameters as at the start, {describe(self.shadow)}, "
                f"got {describe(params)}."
            )


def _copy(tensor: Tensor) -> Tensor:
    if is_traced():  # what a compiled function gives has memory of its own
        return tensor.detach()
    return as_tensor(tensor.numpy(), tensor.device)


def _kinds(tensors: list[Tensor]) -> list[Any]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]
