"""Attention: softmax over the keys that may be looked at, and the mean of their values."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import lru_cache, partial, reduce
from numbers import Real
from typing import Any

import numpy as np

from needle.autograd.modes import is_traced, modes
from needle.autograd.random import drawn
from needle.autograd.tensor import Tensor, TensorOp, as_tensor
from needle.backend_selection import Array, Device, array_api, primitives
from needle.dtypes import is_floating
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.fixed import fixed
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
    """

    name = "masked_softmax"
    expects = "floats [..., n], and masks of bools or floats that broadcast to them"

    def compute(self, x: Array, *masks: Array) -> Array:
        if not is_floating(x.dtype) or not x.ndim:
            raise DTypeError(f"{self.name}: expected {self.expects}, got {describe(x)}.")
        for mask in masks:
            _require_mask(x, mask)
        formula = partial(_masked_softmax, masks)
        return primitives.quietly(primitives.in_float32, formula, x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, *masks = node.inputs
        dx = node * (out_grad - (out_grad * node).sum(-1, keepdims=True))
        added = [mask.requires_grad and is_floating(mask.dtype) for mask in masks]
        pairs = zip(masks, added, strict=True)
        return unbroadcast(dx, x), *[unbroadcast(dx, m) if known else None for m, known in pairs]


def _masked_softmax(masks: Sequence[Array], x: Array) -> Array:
    allowed = [mask for mask in masks if mask.dtype == np.bool_]
    for mask in masks:
        if mask.dtype != np.bool_:
            x = x + _narrowed(mask, x.dtype)
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


def _narrowed(mask: Array, dtype: Any) -> Array:
    """A mask of floats in another dtype; what is finite stays so."""
    if mask.dtype.itemsize > dtype.itemsize:
        largest = float(np.finfo(dtype).max)
        mask = array_api.where(
            array_api.isfinite(mask), array_api.clip(mask, -largest, largest), mask
        )
    return mask.astype(dtype, copy=False)


def _require_mask(x: Array, mask: Array) -> None:
    if np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        raise ShapeError(
            f"masked_softmax: expected a mask that broadcasts to {list(x.shape)}, got "
            f"{describe(mask)}."
        )
    if mask.dtype != np.bool_ and not is_floating(mask.dtype):
        raise DTypeError(
            "masked_softmax: expected a mask of bools, true where allowed, or of floats to add, "
            f"got {describe(mask)}. Compare it first: mask != 0."
        )


def masked_softmax(a: Tensor, *masks: Any) -> Tensor:
    """softmax along the last axis over the places that every mask allows; elsewhere 0.

    Raises DTypeError for a mask of floats that are zeros and ones: it was one of bools.
    """
    tensors = [as_tensor(mask, a.device) for mask in masks]
    for mask in tensors:
        require_no_bools(mask)
    return MaskedSoftmax()(a, *tensors)


class _MayBeBoolsError(Exception):
    """A mask's smallest number is 0: a second look is due."""


def require_no_bools(mask: Tensor) -> None:
    """Raise DTypeError for a Tensor of floats that was made of bools: 0 and 1 in it, nothing else.

    Parameters and what was computed from them are added as they are. Most other masks hold a
    negative number and are looked at once, for the smallest.
    """
    array = mask.cached_data
    if type(mask) is not Tensor or not mask.is_leaf() or not is_floating(mask.dtype):
        return
    if not mask.size:
        return
    if is_traced():  # both looks at once
        array = modes.tracer.data_of(mask)
        holds = array_api.logical_or(array_api.min(array) != 0, _is_of_numbers(array))
        primitives.require(holds, AssertionError)
        return
    try:
        primitives.require(array_api.min(array) != 0, _MayBeBoolsError)
    except _MayBeBoolsError:
        primitives.require(_is_of_numbers(array), lambda: _of_bools(mask))


def _is_of_numbers(array: Array) -> Array:
    """Whether there is an element that is neither 0 nor 1, or none but 0."""
    other = array_api.any(array * array != array)
    return array_api.logical_or(other, array_api.max(array) == 0)


def _of_bools(mask: Tensor) -> DTypeError:
    return DTypeError(
        "masked_softmax: expected a mask of bools, or of floats to add, got "
        f"{describe(mask)}. The floats are zeros and ones: give the Tensor of the mask "
        "dtype='bool'."
    )


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
    if not (scale is None or isinstance(scale, (Real, Tensor))):
        raise OptionError(f"{_NAME}: expected a number for scale, got {scale!r}.")
    scaled = q * (1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale)
    scores = _by_head(scaled, k, transpose_b=True)
    masks = [*_masks(mask, scores), *_causal_masks(causal, past, scores)]
    usual = not masks and scores.shape[-1]
    weights = softmax(scores) if usual else masked_softmax(scores, *masks)
    if dropout:
        weights = dropped(weights, float(dropout))
    y = _by_head(weights, v)
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
    fits = fits and k.shape[-2] == v.shape[-2]
    if not (fits and _leading_fit(q, k, v)):
        raise ShapeError(
            f"{_NAME}: expected q [..., t, d], k [..., s, d] and v [..., s, e], got "
            f"{describe(q, k, v)}."
        )


def _leading_fit(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether batches broadcast, and heads, of which k and v may have fewer, by a whole factor."""
    leading = [x.shape[:-2] for x in (q, k, v)]
    for i, x in enumerate((k, v), 1):
        if _shares_heads(q, x):
            if not x.shape[-3] or q.shape[-3] % x.shape[-3]:
                raise ShapeError(
                    f"{_NAME}: expected as many heads (axis -3) of q as of k and v, or a multiple, "
                    f"got {q.shape[-3]} and {x.shape[-3]}, of {describe(q, k, v)}."
                )
            leading[i] = (*x.shape[:-3], q.shape[-3])
    try:
        np.broadcast_shapes(*leading)
    except ValueError:
        return False
    return True


def _shares_heads(a: Tensor, b: Tensor) -> bool:
    """Whether heads of b, on axis -3 behind the batch's, serve several of a each."""
    return min(a.ndim, b.ndim) >= 4 and a.shape[-3] not in (1, b.shape[-3])


_MANY_ROWS = 16


def _by_head(a: Tensor, b: Tensor, transpose_b: bool = False) -> Tensor:
    """The products of the heads of a with those of b; what shares a head of b is one product."""
    if not _shares_heads(a, b):
        return matmul(a, b, transpose_b=transpose_b)
    heads, t, width = a.shape[-3:]
    shared = b.shape[-3]
    if t >= _MANY_ROWS:  # products of their own, as without sharing, which compile to one chain
        apart = a.reshape((*a.shape[:-3], shared, heads // shared, t, width))
        y = matmul(apart, b.reshape((*b.shape[:-2], 1, *b.shape[-2:])), transpose_b=transpose_b)
        return y.reshape((*y.shape[:-4], heads, t, y.shape[-1]))
    together = a.reshape((*a.shape[:-3], shared, heads // shared * t, width))
    y = matmul(together, b, transpose_b=transpose_b)
    return y.reshape((*y.shape[:-3], heads, t, y.shape[-1]))


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
    queries, keys = scores.shape[-2:]
    made = _small_until_now if queries * keys <= _SMALL else _until_now
    return [made(queries, keys, operator.index(past), scores.device)]


def _until_now(queries: int, keys: int, past: int, device: Device) -> Tensor:
    """True where key ≤ past + query."""
    allowed = fixed(np.tri(queries, keys, past, dtype=bool))
    return Tensor(allowed, device=device, dtype="bool", requires_grad=False)


# never written to, so each size is made once; not for ever where it takes memory
_small_until_now = lru_cache(maxsize=16)(_until_now)
_SMALL = 1 << 20


def dropped(x: Tensor, p: float) -> Tensor:
    """x with each element zeroed with probability p, the others divided by 1 - p.

    Draws `numpy.random.rand` of x's shape; an element is kept where its draw is ≤ 1 - p.
    """
    keep = 1 - p
    kept = drawn("rand", x.shape) <= keep
    mask = Tensor(kept, device=x.device, dtype=x.dtype, requires_grad=False)
    return x * (mask / keep) if keep else x * 0
