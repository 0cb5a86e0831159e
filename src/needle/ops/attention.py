"""Attention: softmax over the keys that may be looked at, and the mean of their values."""

from __future__ import annotations

import math
import operator
from functools import lru_cache, reduce
from numbers import Real
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp, as_tensor
from needle.backend_selection import Array, Device, array_api, primitives
from needle.dtypes import is_floating
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.ops.broadcasting import unbroadcast
from needle.ops.linalg import matmul
from needle.ops.ops_logarithmic import softmax

__all__ = ["MaskedSoftmax", "masked_softmax", "scaled_dot_product_attention"]


class MaskedSoftmax(TensorOp):
    """y = exp(x) / Σ exp(x) along the last axis, over the places that every mask allows; else 0.

    x: (..., N), float; masks that broadcast to x: of bools, true where allowed, or of floats, which
    are added to x first and may be -inf -> y: as x. A row without any place left gives 0, where
    softmax gives NaN.
    Gradient: dx = y · (dy - Σ dy · y), which is 0 there too; that of a mask of floats the same.
    Raises DTypeError for floats that are 0 and 1 only: those were bools.
    """

    name = "masked_softmax"
    expects = "floats [..., n], and masks of bools or floats that broadcast to them"

    def compute(self, x: Array, *masks: Array) -> Array:
        if not is_floating(x.dtype) or not x.ndim:
            raise DTypeError(f"{self.name}: expected {self.expects}, got {describe(x)}.")
        for mask in masks:
            _require_mask(x, mask)
        return primitives.quietly(_masked_softmax, x, *masks)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, *masks = node.inputs
        dx = node * (out_grad - (out_grad * node).sum(-1, keepdims=True))
        added = [mask.requires_grad and is_floating(mask.dtype) for mask in masks]
        pairs = zip(masks, added, strict=True)
        return unbroadcast(dx, x), *[unbroadcast(dx, m) if known else None for m, known in pairs]


def _masked_softmax(x: Array, *masks: Array) -> Array:
    allowed = [mask for mask in masks if mask.dtype == np.bool_]
    for mask in masks:
        if mask.dtype != np.bool_:
            x = x + mask.astype(x.dtype, copy=False)
    if allowed:
        everywhere = reduce(array_api.logical_and, allowed)
        x = array_api.where(everywhere, x, primitives.scalar_for(x, -math.inf))
    if x.size:
        largest = array_api.max(x, axis=-1, keepdims=True)
        zero = primitives.scalar_for(x, 0)
        x = x - array_api.where(array_api.isfinite(largest), largest, zero)
    powers = array_api.exp(x)
    # a row has 1 = exp 0 at its largest element, or nothing at all
    total = primitives.total(powers, (-1,), True)
    return powers / array_api.maximum(total, primitives.scalar_for(x, 1))


def _require_mask(x: Array, mask: Array) -> None:
    if np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        raise ShapeError(
            f"masked_softmax: expected a mask that broadcasts to {list(x.shape)}, got "
            f"{describe(mask)}."
        )
    if mask.dtype == np.bool_:
        return
    if not is_floating(mask.dtype):
        raise DTypeError(
            "masked_softmax: expected a mask of bools, true where allowed, or of floats to add, "
            f"got {describe(mask)}. Compare it first: mask != 0."
        )
    zero, one = mask == 0, mask == 1
    other = array_api.any(array_api.logical_not(array_api.logical_or(zero, one)))
    both = array_api.logical_and(array_api.any(zero), array_api.any(one))
    holds = array_api.logical_or(other, array_api.logical_not(both))
    primitives.require(holds, _of_bools)


def _of_bools() -> TypeError:
    return TypeError("The floats are zeros and ones: give the Tensor of the mask dtype='bool'.")


def masked_softmax(a: Tensor, *masks: Any) -> Tensor:
    """softmax along the last axis over the places that every mask allows; elsewhere 0."""
    return MaskedSoftmax()(a, *[as_tensor(mask, a.device) for mask in masks])


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    *,
    past: int = 0,
    return_weights: bool = False,
) -> Any:
    """softmax(q kᵀ · scale) v: for each query the mean of the values, weighted by its keys.

    q: (..., T, d), k: (..., S, d), v: (..., S, e) -> (..., T, e); leading axes (batch, heads)
    broadcast. If k and v have fewer heads (axis -3), by a whole factor, each serves so many
    neighbouring heads of q (grouped queries: Ainslie et al., "GQA", 2023).

    mask     broadcasts to (..., T, S): bools, True where a query may look; or floats, which are
             added to the products and may be -inf; or a tuple of masks that all apply. A query
             that may look nowhere gets 0. (In nd mode a Tensor of bools needs dtype="bool";
             NumPy's arrays are taken as they are)
    causal   query i looks at keys 0..i and no further, also where T and S differ
    dropout  the probability to drop a weight, the others divided by 1 - dropout; draws
             `numpy.random.rand` of the weights' shape, if above 0
    scale    default 1 / √d
    past     with `causal`: how many keys come before the first query, as those from a cache do;
             query i then looks at keys 0..past + i
    return_weights  give the weights after dropout too, (..., T, S)

    Raises ShapeError, DTypeError and OptionError. Vaswani et al., "Attention Is All You Need",
    2017, eq. 1.

    >>> import needle as ndl
    >>> x = ndl.Tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> ndl.scaled_dot_product_attention(x, x, x, causal=True, scale=0.0)
    needle.Tensor([[1.  0. ]
     [0.5 1. ]])
    """
    _require_fitting(q, k, v)
    if not (isinstance(dropout, Real) and 0 <= dropout <= 1):
        raise OptionError(f"{_NAME}: expected dropout in [0, 1], got {dropout!r}.")
    scaled = q * (1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale)
    scores = matmul(scaled, _repeated_heads(k, q), transpose_b=True)
    masks = [*_masks(mask, scores), *_causal_masks(causal, past, scores)]
    usual = not masks and scores.shape[-1]
    weights = softmax(scores) if usual else masked_softmax(scores, *masks)
    if dropout:
        weights = _dropped(weights, float(dropout))
    y = weights @ _repeated_heads(v, weights)
    return (y, weights) if return_weights else y


_NAME = "scaled_dot_product_attention"


def _require_fitting(q: Any, k: Any, v: Any) -> None:
    tensors = all(isinstance(x, Tensor) for x in (q, k, v))
    if not tensors or not (is_floating(q.dtype) and q.dtype == k.dtype == v.dtype):
        raise DTypeError(
            f"{_NAME}: expected q, k and v to be Tensors of one float dtype, got "
            f"{describe(q, k, v)}."
        )
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1]
    if not fits or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            f"{_NAME}: expected q [..., t, d], k [..., s, d] and v [..., s, e], got "
            f"{describe(q, k, v)}."
        )


def _repeated_heads(x: Tensor, like: Tensor) -> Tensor:
    """Keys or values, each head as often as there are heads of `like` for one of them."""
    if x.ndim < 3 or like.ndim < 3 or x.shape[-3] in (1, like.shape[-3]) or like.shape[-3] == 1:
        return x
    heads, wanted = x.shape[-3], like.shape[-3]
    if not heads or wanted % heads:
        raise ShapeError(
            f"{_NAME}: expected as many heads (axis -3) of q as of k and v, or a multiple, got "
            f"{wanted} and {heads}, of {describe(x)}."
        )
    groups = (*x.shape[:-2], wanted // heads, *x.shape[-2:])
    repeated = x.expand_dims(x.ndim - 2).broadcast_to(groups)
    return repeated.reshape((*x.shape[:-3], wanted, *x.shape[-2:]))


def _masks(mask: Any, scores: Tensor) -> list[Tensor]:
    """What was given as mask, as Tensors that fit the scores."""
    given = mask if isinstance(mask, tuple) else (mask,)
    masks = [as_tensor(one, scores.device) for one in given if one is not None]
    for one in masks:
        try:
            fits = np.broadcast_shapes(one.shape, scores.shape) == scores.shape
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(
                f"{_NAME}: expected a mask that broadcasts to [..., queries, keys], here "
                f"{list(scores.shape)}, got {describe(one)}."
            )
    return masks


def _causal_masks(causal: bool, past: Any, scores: Tensor) -> list[Tensor]:
    if not hasattr(past, "__index__") or operator.index(past) < 0:
        raise OptionError(f"{_NAME}: expected past of 0 or more keys, got {past!r}.")
    if not causal or scores.shape[-1] <= past + 1:  # the first query sees them all
        return []
    return [_until_now(*scores.shape[-2:], past, scores.device)]


@lru_cache(maxsize=16)
def _until_now(queries: int, keys: int, past: int, device: Device) -> Tensor:
    """True where key ≤ past + query; made once for each size, and never written to."""
    allowed = np.tri(queries, keys, past, dtype=bool)
    return Tensor(allowed, device=device, dtype="bool", requires_grad=False)


def _dropped(weights: Tensor, p: float) -> Tensor:
    keep = 1 - p
    kept = (np.random.rand(*weights.shape) <= keep) * (1 / keep if keep else 0.0)
    factors = Tensor(kept, device=weights.device, dtype=weights.dtype, requires_grad=False)
    return weights * factors
