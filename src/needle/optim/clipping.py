"""Keeping gradients within bounds. Gradients are replaced, never changed in place."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from needle.autograd import Tensor, TensorOp, no_grad
from needle.autograd.modes import is_traced
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_narrow
from needle.errors import DTypeError, NonFiniteError, OptionError, describe
from needle.ops.conditions import finite, require_to_be
from needle.optim.parameters import collect

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(params: Any, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)); return the norm they had.

    norm = √(Σ g²) over all elements of all gradients together, as a 0-d Tensor; `float(norm)`
    is the number. Parameters without a gradient do not count; one given twice counts once.

    params              Tensors, (name, Tensor) pairs, or a module
    error_if_nonfinite  raise NonFiniteError, before anything changes, if the norm is NaN or Inf

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks",
    2013, Algorithm 1.

    >>> import needle as ndl
    >>> w = ndl.Tensor([0.0, 0.0])
    >>> w.grad = ndl.Tensor([3.0, 4.0])
    >>> float(ndl.optim.clip_grad_norm([w], 1.0))
    5.0
    >>> print(w.grad.numpy().round(3))
    [0.6 0.8]
    """
    _check_bound("clip_grad_norm", "max_norm", max_norm)
    with no_grad():
        held = _with_gradient("clip_grad_norm", params)
        norm = _TotalNorm()(*[grad for _, grad in held]) if held else _zero()
        if error_if_nonfinite:
            _require_finite(norm)
        if not math.isinf(max_norm):  # else it is only measured
            _scale(held, (max_norm / (norm + 1e-6)).clip(high=1.0))
    return norm


def _require_finite(norm: Tensor) -> None:
    if is_traced():
        require_to_be(finite(norm))
    elif not np.isfinite(norm.item()):
        raise NonFiniteError(
            f"clip_grad_norm: expected a finite norm, got {norm.item()}. "
            "ndl.detect_anomaly() names the op it comes from."
        )


def clip_grad_value(params: Any, value: float) -> None:
    """Replace each element g of each gradient by min(max(g, -value), value).

    params  Tensors, (name, Tensor) pairs, or a module
    """
    _check_bound("clip_grad_value", "value", value)
    with no_grad():
        for p, grad in _with_gradient("clip_grad_value", params):
            p.grad = grad.clip(-value, value)


def _check_bound(owner: str, name: str, bound: Any) -> None:
    # infinity is a bound: it clips nothing, and clip_grad_norm then only measures
    if not isinstance(bound, Real) or not float(bound) >= 0:
        raise OptionError(f"{owner}: expected {name} to be a number from 0 on, got {bound!r}.")


def _with_gradient(owner: str, params: Any) -> list[tuple[Tensor, Tensor]]:
    held = [(p, p.grad) for p in collect(owner, params) if p.grad is not None]
    for _, grad in held:
        if not is_floating(grad.dtype):
            raise DTypeError(f"{owner}: expected floating gradients, got {describe(grad)}.")
    return held


class _TotalNorm(TensorOp):
    """√(Σ x²) over the elements of all inputs, in float64: one op, however many there are.

    The sum of each is in its own dtype, or float32 if that is narrower. No gradient.
    """

    name = "clip_grad_norm"
    differentiable = False

    def compute(self, *arrays: Array) -> Array:
        wide = [x.astype("float32") if is_narrow(x.dtype) else x for x in arrays]
        sums = array_api.stack([primitives.total(x * x) for x in wide], axis=0)
        return array_api.sqrt(primitives.total(sums.astype("float64")))


def _zero() -> Tensor:
    return Tensor(0.0, dtype="float64", requires_grad=False)


def _scale(held: list[tuple[Tensor, Tensor]], scale: Tensor) -> None:
    """Give each parameter its gradient times `scale`, in the gradient's dtype."""
    in_dtype: dict[Any, Tensor] = {}
    for p, grad in held:
        dtype = grad.dtype
        if dtype not in in_dtype:
            in_dtype[dtype] = scale.astype(dtype)
        p.grad = grad * in_dtype[dtype]
