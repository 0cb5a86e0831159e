"""Attention, with learned projections and without."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle import init, ops
from needle.autograd import Tensor
from needle.autograd.modes import is_traced
from needle.autograd.tensor import as_tensor
from needle.errors import DTypeError, OptionError, ShapeError, describe, kind_of
from needle.nn.checks import (
    require_float_dtype,
    require_positive,
    require_tensors,
    shown_options,
)
from needle.nn.embedding import RotaryEmbedding
from needle.nn.key_value_cache import KeyValueCache, require_cache
from needle.nn.layers import Dropout, Linear
from needle.nn.module import Module, Parameter
from needle.ops.attention import require_no_bools

__all__ = ["Attention", "MultiHeadAttention"]


class MultiHeadAttention(Module):
    """softmax(q kᵀ / √d) v for each head, and the probabilities. It has no parameters.

    q: (B, heads, T, d), k and v: (B, heads, S, d) -> (B, heads, T, d), and (B, heads, T, S): the
    probabilities after dropout. For learned projections see `Attention`.

    causal  query i looks at keys 0..i only
    """

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        causal: bool = False,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        require_tensors("MultiHeadAttention", q, k, v)
        fits = q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2]
        if not fits or k.shape[:-1] != v.shape[:-1]:
            raise ShapeError(
                "MultiHeadAttention: expected q [b, heads, t, d], k and v [b, heads, s, d], got "
                f"{describe(q, k, v)}."
            )
        return ops.scaled_dot_product_attention(  # type: ignore[no-any-return]
            q, k, v, causal=self.causal, dropout=_rate(self.dropout), return_weights=True
        )

    def extra_repr(self) -> str:
        return f"causal={self.causal}"


class Attention(Module):
    """softmax(Q Kᵀ / √d) V per head, with learned projections: y = concat(heads) W_o + b_o.

    Q = query W_q + b_q, K = key W_k + b_k, V = value W_v + b_v, each cut into heads of size
    d = embed_dim / num_heads.

    query: (B, T, embed_dim); key: (B, S, kdim), value: (B, S, vdim), default query, and key
    -> y: (B, T, embed_dim); with return_weights also the weights, (B, num_heads, T, S)

    dropout   of the weights, in training
    kv_heads  heads of keys and values, if fewer: each serves num_heads / kv_heads heads of queries
    rotary    positions, a RotaryEmbedding of dim d, applied to Q and K

    In `forward`:

    mask              (T, S), (B, T, S) or (B, num_heads, T, S): True where a query may look, or
                      floats to add. PyTorch's MultiheadAttention has True where it may not
    key_padding_mask  (B, S): True where a key is padding, which no query looks at, as in PyTorch
    causal            query i looks at keys 0..i only; after what a cache holds
    cache             a KeyValueCache: keys and values are added to it, and all of it is looked at

    A query that may look nowhere gets b_o. With kdim and vdim at their defaults the projections
    are columns of one `in_proj` (embed_dim, 3 embed_dim), in the order q, k, v, else `q_proj`,
    `k_proj` and `v_proj`. Weights are xavier_uniform, biases 0.

    Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        kv_heads: int | None = None,
        rotary: RotaryEmbedding | None = None,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_float_dtype("Attention", dtype)
        kv_heads = num_heads if kv_heads is None else kv_heads
        kdim, vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        require_positive("Attention", embed_dim=embed_dim, num_heads=num_heads, kv_heads=kv_heads)
        require_positive("Attention", kdim=kdim, vdim=vdim)
        _require_factor("num_heads", num_heads, "embed_dim", embed_dim)
        _require_factor("kv_heads", kv_heads, "num_heads", num_heads)
        self.embed_dim, self.num_heads, self.kv_heads = embed_dim, num_heads, kv_heads
        self.head_dim = embed_dim // num_heads
        if not (rotary is None or isinstance(rotary, RotaryEmbedding)):
            raise DTypeError(
                f"Attention: expected rotary to be a RotaryEmbedding, got {kind_of(rotary)}."
            )
        if rotary is not None and rotary.dim != self.head_dim:
            raise OptionError(
                f"Attention: expected rotary of dim {self.head_dim}, as the heads, got "
                f"{rotary.dim}."
            )
        like = {"bias": bias, "device": device, "dtype": dtype}
        width = kv_heads * self.head_dim
        self.in_proj: Linear | None = None
        if kdim == vdim == embed_dim:
            self.in_proj = _projection(embed_dim, embed_dim + 2 * width, **like)
        else:
            self.q_proj = _projection(embed_dim, embed_dim, **like)
            self.k_proj = _projection(kdim, width, **like)
            self.v_proj = _projection(vdim, width, **like)
        self.out_proj = _projection(embed_dim, embed_dim, **like)
        self.kdim, self.vdim, self.rotary = kdim, vdim, rotary
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Any = None,
        key_padding_mask: Any = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> Any:
        self._require_sequences(query, key, value)
        if cache is not None:
            require_cache("Attention", cache)
        q, k, v = self._projected(query, key, value)
        return self._attended(q, k, v, mask, key_padding_mask, causal, cache, return_weights)

    def to_memory(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        mask: Any = None,
        key_padding_mask: Any = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """`forward` with memory for key and value, projected once for each cache.

        It is projected again when another Tensor comes, and after the cache's reset(). A compiled
        function, which is handed another Tensor at each call, projects it at each.
        """
        self._require_sequences(query, memory, None)
        if cache is not None:
            require_cache("Attention", cache)
        held = None if cache is None or is_traced() else cache._memory
        if held is None or held[0] is not memory:
            held = (memory, *self._keys_and_values(memory, memory))
        _, k, v = held
        y: Tensor = self._attended(self._queries(query), k, v, mask, key_padding_mask)
        if cache is not None and not is_traced():
            cache._memory = held
        return y

    def _attended(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Any,
        key_padding_mask: Any,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> Any:
        """What queries (B, heads, T, d) find, projected; only then the cache holds k and v."""
        past = 0 if cache is None else cache.length
        batch, _, length, _ = q.shape
        shape = (batch, self.num_heads, length, past + k.shape[-2])
        allowed = (_of_each_head(mask, q, shape), _not_padding(key_padding_mask, q, shape))
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        if cache is not None:
            k, v = cache.joined(k, v)
        heads, weights = ops.scaled_dot_product_attention(
            q, k, v, allowed, causal, _rate(self.dropout), past=past, return_weights=True
        )
        joined = heads.transpose((1, 2)).reshape((batch, length, self.embed_dim))
        y: Tensor = self.out_proj(joined)
        if cache is not None:
            cache.keys, cache.values = k, v
        return (y, weights) if return_weights else y

    def _projected(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> Any:
        """Q, K and V, each cut into heads: (B, heads, T or S, d)."""
        key_of = query if key is None else key
        value_of = key_of if value is None else value
        if self.in_proj is not None and key_of is query and value_of is query:
            return self._parts(self.in_proj(query))
        return self._queries(query), *self._keys_and_values(key_of, value_of)

    def _queries(self, x: Tensor) -> Tensor:
        if self.in_proj is None:
            return self._heads(self.q_proj(x), self.num_heads)
        return self._heads(_columns(self.in_proj, slice(0, self.embed_dim), x), self.num_heads)

    def _keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.in_proj is None:
            k, v = self.k_proj(key), self.v_proj(value)
        else:
            first, last = self.embed_dim, self.embed_dim + self.kv_heads * self.head_dim
            k = _columns(self.in_proj, slice(first, last), key)
            v = _columns(self.in_proj, slice(last, None), value)
        return self._heads(k, self.kv_heads), self._heads(v, self.kv_heads)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        """(B, T, count · d) -> (B, count, T, d)."""
        return x.reshape((*x.shape[:2], count, self.head_dim)).transpose((1, 2))

    def _parts(self, x: Tensor) -> Any:
        """Q, K and V side by side, (B, T, all heads · d), taken apart."""
        b, t, _ = x.shape
        if self.kv_heads == self.num_heads:
            three = ops.split(x.reshape((b, t, 3, self.num_heads, self.head_dim)), 2)
            return [part.transpose((1, 2)) for part in three]
        first, last = self.num_heads, self.num_heads + self.kv_heads
        x = self._heads(x, last + self.kv_heads)
        return x[:, :first], x[:, first:last], x[:, last:]

    def _require_sequences(self, query: Any, key: Any, value: Any) -> None:
        given = [query, *[x for x in (key, value) if x is not None]]
        require_tensors("Attention", *given)
        key_of = query if key is None else key
        value_of = key_of if value is None else value
        widths = zip((query, key_of, value_of), (self.embed_dim, self.kdim, self.vdim), strict=True)
        fits = all(x.ndim == 3 and x.shape[-1] == width for x, width in widths)
        if (
            not fits
            or key_of.shape[:2] != value_of.shape[:2]
            or len({x.shape[0] for x in given}) > 1
        ):
            raise ShapeError(
                f"Attention: expected query [b, t, {self.embed_dim}], key [b, s, {self.kdim}] and "
                f"value [b, s, {self.vdim}], got {describe(*given)}."
            )

    def extra_repr(self) -> str:
        usual = {"kv_heads": self.num_heads, "kdim": self.embed_dim, "vdim": self.embed_dim}
        shown = f"{self.embed_dim}, num_heads={self.num_heads}{shown_options(self, **usual)}"
        return shown if self.out_proj.bias is not None else f"{shown}, bias=False"


def _require_factor(small: str, parts: int, large: str, whole: int) -> None:
    if whole % parts:
        raise OptionError(
            f"Attention: expected {small} to divide {large}, got {small}={parts} and "
            f"{large}={whole}."
        )


def _projection(inputs: int, outputs: int, bias: bool, device: Any, dtype: Any) -> Linear:
    """A Linear with the initial weights of attention."""
    linear = Linear(inputs, outputs, bias, device, dtype)
    linear.weight = Parameter(init.xavier_uniform(inputs, outputs, device=device, dtype=dtype))
    if linear.bias is not None:
        linear.bias = Parameter(init.zeros_like(linear.bias))
    return linear


def _columns(linear: Linear, columns: slice, x: Tensor) -> Tensor:
    """What the linear layer gives in some of its columns."""
    y = x @ linear.weight[:, columns]
    return y if linear.bias is None else y + linear.bias[:, columns]


def _rate(dropout: Dropout) -> float:
    return dropout.p if dropout.training else 0.0


def _of_each_head(mask: Any, like: Tensor, shape: tuple[int, ...]) -> Any:
    """A mask that broadcasts to (B, heads, T, S); given as (B, T, S) it is of every head."""
    if mask is None:
        return None
    given = mask = as_tensor(mask, like.device)
    if mask.ndim == 3:
        require_no_bools(mask)
        mask = mask.expand_dims(1)
    fits = mask.ndim <= 4 and all(
        n in (1, wanted) for n, wanted in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        b, h, t, s = shape
        raise ShapeError(
            f"Attention: expected mask [{t}, {s}], [{b}, {t}, {s}] or [{b}, {h}, {t}, {s}], got "
            f"{describe(given)}."
        )
    return mask


def _not_padding(mask: Any, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """(B, S), true where there is padding -> (B, 1, 1, S), true where there is none."""
    if mask is None:
        return None
    mask = as_tensor(mask, like.device)
    wanted = (shape[0], shape[-1])
    if mask.dtype != np.bool_ or mask.shape != wanted:
        message = (
            f"Attention: expected key_padding_mask bool[{wanted[0]},{wanted[1]}], true where a "
            f"key is padding, got {describe(mask)}."
        )
        if mask.shape != wanted:
            raise ShapeError(message)
        raise DTypeError(f"{message} Compare it first, or give its Tensor dtype='bool'.")
    allowed: Tensor = ops.logical_not(mask).reshape((wanted[0], 1, 1, wanted[1]))
    return allowed
