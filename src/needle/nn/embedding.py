"""Vectors for ids, and for the places that they stand at."""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any

import numpy as np

from needle import init, ops
from needle.autograd import Tensor
from needle.autograd.tensor import as_tensor
from needle.backend_selection import Device
from needle.dtypes import is_floating
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError, describe
from needle.fixed import fixed
from needle.nn.checks import (
    require_float_dtype,
    require_number,
    require_positive,
    require_tensors,
)
from needle.nn.module import Module, Parameter
from needle.ops.lookup import padding_row

__all__ = ["Embedding", "RotaryEmbedding", "SinusoidalEmbedding"]


class Embedding(Module):
    """y = weight[ids]: a row of the table for each id.

    ids: any shape, whole numbers in 0..num_embeddings-1, of an integer or float dtype
    -> y: (*ids.shape, embedding_dim)
    weight: (num_embeddings, embedding_dim), N(0, 1)

    padding_idx  an id, negative ones counting from the end, whose row is zeros at first and gets
                 no gradient

    Raises OutOfRangeError for ids that have no row.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: Any = None,
        dtype: Any = "float32",
        *,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_embeddings": num_embeddings, "embedding_dim": embedding_dim}
        require_positive("Embedding", **sizes)
        require_float_dtype("Embedding", dtype)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        weight = init.randn(num_embeddings, embedding_dim, device=device, dtype=dtype)
        self.padding_idx = padding_row("Embedding", padding_idx, num_embeddings)
        if self.padding_idx is not None:
            others = np.arange(num_embeddings)[:, None] != self.padding_idx
            weight = ops.where(others, weight, 0)
        self.weight = Parameter(weight)

    @classmethod
    def from_pretrained(
        cls, weight: Any, freeze: bool = True, padding_idx: int | None = None
    ) -> Embedding:
        """An Embedding of a table that there is already, on its device and in its dtype.

        weight       (num_embeddings, embedding_dim): a Tensor, whose memory it shares, or an array.
                     Nothing is drawn
        freeze       whether the table is left as it is: it gets no gradient
        padding_idx  the row that gets none in any case; it stays as it is
        """
        table = as_tensor(weight).detach()
        if table.ndim != 2 or not is_floating(table.dtype):
            raise ShapeError(
                "Embedding.from_pretrained: expected a table of floats [n, d], got "
                f"{describe(table)}."
            )
        layer = cls.__new__(cls)
        Module.__init__(layer)
        layer.num_embeddings, layer.embedding_dim = table.shape
        layer.padding_idx = padding_row("Embedding", padding_idx, table.shape[0])
        layer.weight = Parameter(table, requires_grad=not freeze)
        return layer

    def forward(self, ids: Tensor) -> Tensor:
        require_tensors("Embedding", ids)
        return ops.embedding(self.weight, ids, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class SinusoidalEmbedding(Module):
    """y[..., t, :] = x[..., t, :] + P[start + t], where

    P[t, 2i] = sin(t / base^(2i/dim)) and P[t, 2i+1] = cos(t / base^(2i/dim)).

    x: (..., T, dim) -> y: as x. Nothing is learned, and no position is too far.

    Vaswani et al., "Attention Is All You Need", 2017, section 3.5.
    """

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        _require_even("SinusoidalEmbedding", dim, base)
        self.dim, self.base = dim, base

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        stop = _last_position("SinusoidalEmbedding", x, self.dim, start)
        table = _sinusoids(_rounded_up(stop), self.dim, float(self.base), x.device, x.dtype)
        return x + table[stop - x.shape[-2] : stop]

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base}"


class RotaryEmbedding(Module):
    """Turn each pair of features by an angle that grows with the position: for queries and keys.

    y[t, 2i]   = x[t, 2i] cos a - x[t, 2i+1] sin a
    y[t, 2i+1] = x[t, 2i] sin a + x[t, 2i+1] cos a,    a = (start + t) / base^(2i/dim)

    so that a query's product with a key depends on how far apart they are.

    x: (..., T, dim), e.g. (B, heads, T, head size) -> y: as x
    interleaved  whether neighbours are pairs, as above and in the paper; else feature i pairs with
                 feature dim/2 + i, as in many published weights
    start        the position of the first, in forward: with a cache, what it holds already

    Su et al., "RoFormer", 2021, eq. 34.
    """

    def __init__(self, dim: int, base: float = 10000.0, *, interleaved: bool = True) -> None:
        super().__init__()
        _require_even("RotaryEmbedding", dim, base)
        self.dim, self.base, self.interleaved = dim, base, interleaved

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        stop = _last_position("RotaryEmbedding", x, self.dim, start)
        options = (self.dim, float(self.base), bool(self.interleaved), x.device, x.dtype)
        cos, sin = _turns(_rounded_up(stop), *options)
        places = slice(stop - x.shape[-2], stop)
        # (a, b) turned is (a, b) · cos + (b, a) · (-sin, sin)
        pairs = (self.dim // 2, 2) if self.interleaved else (2, self.dim // 2)
        swapped = x.reshape((*x.shape[:-1], *pairs)).flip(-1 if self.interleaved else -2)
        return x * cos[places] + swapped.reshape(x.shape) * sin[places]

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base}, interleaved={self.interleaved}"


def _require_even(name: str, dim: Any, base: Any) -> None:
    require_positive(name, dim=dim)
    if dim % 2:
        raise OptionError(f"{name}: expected an even dim, got {dim}.")
    require_number(name, "base above 0", base, lambda base: base > 0)


def _last_position(name: str, x: Any, dim: int, start: Any) -> int:
    """One past the last position of x."""
    require_tensors(name, x)
    if x.ndim < 2 or x.shape[-1] != dim:
        raise ShapeError(f"{name}: expected x [..., t, {dim}], got {describe(x)}.")
    if not is_floating(x.dtype):
        raise DTypeError(f"{name}: expected x of floats, got {describe(x)}.")
    try:
        first = operator.index(start)
    except TypeError:
        first = -1
    if first < 0:
        shown = describe(start) if isinstance(start, Tensor) else repr(start)
        raise OutOfRangeError(f"{name}: expected start to be a position from 0 on, got {shown}.")
    return first + int(x.shape[-2])


def _rounded_up(length: int) -> int:
    """A power of two, so that tables are made anew only when a sequence has doubled."""
    return 1 << max(length - 1, 0).bit_length()


def _angles(length: int, dim: int, base: float) -> np.ndarray[Any, Any]:
    """t / base^(2i/dim): (length, dim/2), in float64."""
    return fixed(np.arange(length)[:, None] / base ** (np.arange(0, dim, 2) / dim))


@lru_cache(maxsize=16)
def _sinusoids(length: int, dim: int, base: float, device: Device, dtype: Any) -> Tensor:
    angles = _angles(length, dim, base)
    table = fixed(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, dim))
    return Tensor(table, device=device, dtype=dtype, requires_grad=False)


@lru_cache(maxsize=16)
def _turns(
    length: int, dim: int, base: float, interleaved: bool, device: Device, dtype: Any
) -> tuple[Tensor, Tensor]:
    """The cosine beside each feature, and the sine with its sign beside the feature's partner."""
    angles = _angles(length, dim, base)
    axis = -1 if interleaved else -2
    tables = [(np.cos(angles), np.cos(angles)), (-np.sin(angles), np.sin(angles))]
    joined = [fixed(np.stack(pair, axis).reshape(length, dim)) for pair in tables]
    cos, sin = [Tensor(x, device=device, dtype=dtype, requires_grad=False) for x in joined]
    return cos, sin
