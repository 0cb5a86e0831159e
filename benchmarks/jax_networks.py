"""The jobs' networks in JAX: plain functions of a dict of arrays, Needle's names and layouts.

Weights are (in, out) as in `state_dict()`. Each function gives the logits of a batch. They are
written as JAX is fast: one einsum a product, `lax.scan` over time with the input's products before
it, and nothing that is computed at each call and could be a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["NETWORKS"]

Weights = Mapping[str, Any]


def linear(p: Weights, name: str, x: Any) -> Any:
    """x W + b."""
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"].reshape(-1)


# -- of linear layers ------------------------------------------------------------------------------


def mlp(p: Weights, x: Any, key: Any, dropout: float, sizes: Mapping[str, int]) -> Any:
    """x (B, features) -> (B, 10)."""
    return linear(p, "linear2", jax.nn.relu(linear(p, "linear1", x)))


def mlp_resnet(p: Weights, x: Any, key: Any, dropout: float, sizes: Mapping[str, int]) -> Any:
    """x (B, features) -> (B, 10). No running statistics: training does not read them."""
    x = jax.nn.relu(linear(p, "modules.1", x))
    for number, part in enumerate(jax.random.split(key, 3), start=3):
        name = f"modules.{number}.modules.0.fn.modules"
        y = jax.nn.relu(batch_norm(p, f"{name}.1", linear(p, f"{name}.0", x)))
        y = dropped(y, part, dropout)
        y = batch_norm(p, f"{name}.5", linear(p, f"{name}.4", y))
        x = jax.nn.relu(x + y)
    return linear(p, "modules.6", x)


def batch_norm(p: Weights, name: str, x: Any) -> Any:
    """Over the rows of x (B, C)."""
    centred = x - x.mean(0)
    scale = lax.rsqrt((centred * centred).mean(0) + 1e-5)
    return centred * (scale * p[f"{name}.weight"]) + p[f"{name}.bias"]


def dropped(x: Any, key: Any, share: float) -> Any:
    """Dropout."""
    if not share:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0.0)


# -- attention -------------------------------------------------------------------------------------


def gpt(p: Weights, ids: Any, key: Any, dropout: float, sizes: Mapping[str, int]) -> Any:
    """ids (B, T) -> (B, T, vocabulary)."""
    table = p["token_embedding.weight"]
    x = table[ids] + p["position_embedding.weight"][: ids.shape[1]]
    for number in range(sizes["layers"]):
        name = f"blocks.{number}"
        x = x + attention(p, f"{name}.attention", layer_norm(p, f"{name}.norm1", x), sizes["heads"])
        y = linear(p, f"{name}.feed_forward.hidden", layer_norm(p, f"{name}.norm2", x))
        x = x + linear(p, f"{name}.feed_forward.projection", jax.nn.gelu(y, approximate=True))
    return layer_norm(p, "norm", x) @ table.T


def attention(p: Weights, name: str, x: Any, heads: int) -> Any:
    """Causal self-attention of x (B, T, C)."""
    b, t, c = x.shape
    parts = linear(p, f"{name}.in_proj", x).reshape(b, t, 3, heads, c // heads)
    q, k, v = (parts[:, :, number] for number in range(3))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return linear(p, f"{name}.out_proj", y.reshape(b, t, c))


def layer_norm(p: Weights, name: str, x: Any) -> Any:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
    return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]


# -- recurrent -------------------------------------------------------------------------------------


def lstm(p: Weights, ids: Any, state: Any, sizes: Mapping[str, int]) -> tuple[Any, Any]:
    """ids (T, B), h and c (layers, B, C) -> (T, B, vocabulary), and the new h and c."""
    x, last = p["embedding.weight"][ids], []
    for number in range(sizes["layers"]):
        name = f"seq_model.lstm_cells.{number}"
        x, after = _lstm_layer(p, name, x, (state[0][number], state[1][number]))
        last.append(after)
    h, c = (jnp.stack(parts) for parts in zip(*last, strict=True))
    return linear(p, "linear", x), (h, c)


def _lstm_layer(p: Weights, name: str, x: Any, state: Any) -> tuple[Any, Any]:
    projected = x @ p[f"{name}.W_ih"] + (p[f"{name}.bias_ih"] + p[f"{name}.bias_hh"])
    w = p[f"{name}.W_hh"]

    def step(state: Any, gates: Any) -> tuple[Any, Any]:
        h, c = state
        i, f, g, o = jnp.split(gates + h @ w, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    after, out = lax.scan(step, state, projected)
    return out, after


NETWORKS: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "mlp_resnet": mlp_resnet,
    "gpt": gpt,
    "lstm": lstm,
}
