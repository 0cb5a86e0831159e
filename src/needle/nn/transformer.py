"""The Transformer of the course: pre-norm self-attention with learned positions."""

from __future__ import annotations

from typing import Any

from needle import init, ops
from needle.autograd import Tensor
from needle.errors import ShapeError, describe
from needle.nn.attention import MultiHeadAttention
from needle.nn.checks import require_positive, require_tensors
from needle.nn.embedding import Embedding
from needle.nn.layers import Dropout, Linear
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm1d

__all__ = ["AttentionLayer", "Transformer", "TransformerLayer"]


class AttentionLayer(Module):
    """y = concat(heads) W_o, of the heads of norm(q) W_q, norm(k) W_k and norm(v) W_v.

    q: (B, T, q_features), k: (B, S, k_features), default q, v: (B, S, v_features), default k
    -> y: (B, T, out_features)

    Each input has a LayerNorm1d of its own. The projections, without bias, are to num_head ·
    dim_head features; k_features and out_features are q_features unless given, v_features is
    k_features.
    """

    def __init__(
        self,
        q_features: int,
        num_head: int,
        dim_head: int,
        *,
        k_features: int | None = None,
        v_features: int | None = None,
        out_features: int | None = None,
        dropout: float = 0.0,
        causal: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        require_positive("AttentionLayer", num_head=num_head, dim_head=dim_head)
        k_features = q_features if k_features is None else k_features
        v_features = k_features if v_features is None else v_features
        out_features = q_features if out_features is None else out_features
        self.num_head, self.dim_head = num_head, dim_head
        like = {"device": device, "dtype": dtype}
        self.prenorm_q = LayerNorm1d(q_features, **like)
        self.prenorm_k = LayerNorm1d(k_features, **like)
        self.prenorm_v = LayerNorm1d(v_features, **like)
        inner = num_head * dim_head
        self.q_projection = Linear(q_features, inner, bias=False, **like)
        self.k_projection = Linear(k_features, inner, bias=False, **like)
        self.v_projection = Linear(v_features, inner, bias=False, **like)
        self.attention = MultiHeadAttention(dropout=dropout, causal=causal, **like)
        self.out_projection = Linear(inner, out_features, bias=False, **like)

    def forward(self, q: Tensor, k: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        k = q if k is None else k
        v = k if v is None else v
        require_tensors("AttentionLayer", q, k, v)
        fits = q.ndim == k.ndim == v.ndim == 3 and q.shape[0] == k.shape[0]
        if not fits or k.shape[:2] != v.shape[:2]:
            raise ShapeError(
                "AttentionLayer: expected q [b, t, features], k and v [b, s, features], got "
                f"{describe(q, k, v)}."
            )
        heads, _ = self.attention(
            self._heads(self.q_projection(self.prenorm_q(q))),  # (B, heads, T, d)
            self._heads(self.k_projection(self.prenorm_k(k))),
            self._heads(self.v_projection(self.prenorm_v(v))),
        )
        joined = heads.transpose((1, 2)).reshape((*q.shape[:2], self.num_head * self.dim_head))
        y: Tensor = self.out_projection(joined)
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads · d) -> (B, heads, T, d)."""
        return x.reshape((*x.shape[:2], self.num_head, self.dim_head)).transpose((1, 2))


class TransformerLayer(Module):
    """x ← x + drop(attention(x)); x ← x + drop(linear2(drop(relu(linear1(norm(x)))))).

    x: (B, T, q_features) -> as x; linear1 is to hidden_size features. The attention is an
    `AttentionLayer`, which has its norms within.
    """

    def __init__(
        self,
        q_features: int,
        num_head: int,
        dim_head: int,
        hidden_size: int,
        *,
        dropout: float = 0.0,
        causal: bool = True,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        like = {"device": device, "dtype": dtype}
        self.attention = AttentionLayer(
            q_features, num_head, dim_head, dropout=dropout, causal=causal, **like
        )
        self.norm = LayerNorm1d(q_features, **like)
        self.linear1 = Linear(q_features, hidden_size, **like)
        self.linear2 = Linear(hidden_size, q_features, **like)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(x))
        hidden = self.dropout(ops.relu(self.linear1(self.norm(x))))
        return x + self.dropout(self.linear2(hidden))  # type: ignore[no-any-return]


class Transformer(Module):
    """Learned positions added to x, then num_layers times `TransformerLayer`.

    x: (T, B, embedding_size), with batch_first (B, T, embedding_size) -> (y, state): y as x, and
    zeros like x in place of a state, so that it can stand where an RNN does; h, None or what it
    gave last, tells it nothing

    sequence_len  how many positions there are: the longest sequence. `positional_embedding` has a
                  row for each, drawn before the layers

    Raises ShapeError for a longer one.
    """

    def __init__(
        self,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        num_head: int = 8,
        dim_head: int = 32,
        dropout: float = 0.0,
        causal: bool = True,
        device: Any = None,
        dtype: Any = "float32",
        batch_first: bool = False,
        sequence_len: int = 2048,
    ) -> None:
        super().__init__()
        require_positive("Transformer", num_layers=num_layers, sequence_len=sequence_len)
        like = {"device": device, "dtype": dtype}
        self.embedding_size, self.sequence_len = embedding_size, sequence_len
        self.batch_first = batch_first
        self.positional_embedding = Embedding(sequence_len, embedding_size, **like)
        self.layers = [
            TransformerLayer(
                embedding_size, num_head, dim_head, hidden_size,
                dropout=dropout, causal=causal, **like,
            )
            for _ in range(num_layers)
        ]  # fmt: skip

    def forward(self, x: Tensor, h: Any = None) -> tuple[Tensor, Tensor]:
        require_tensors("Transformer", *((x,) if h is None else (x, h)))
        if x.ndim != 3 or x.shape[-1] != self.embedding_size:
            order = "b, t" if self.batch_first else "t, b"
            raise ShapeError(
                f"Transformer: expected x [{order}, {self.embedding_size}], got {describe(x)}."
            )
        y = x if self.batch_first else x.transpose((0, 1))  # (B, T, D)
        length = y.shape[1]
        if length > self.sequence_len:
            raise ShapeError(
                f"Transformer: expected at most {self.sequence_len} steps, as sequence_len says, "
                f"got {length} in {describe(x)}."
            )
        y = y + self.positional_embedding.weight[:length]
        for layer in self.layers:
            y = layer(y)
        return y if self.batch_first else y.transpose((0, 1)), init.zeros_like(x)
