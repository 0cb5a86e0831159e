"""The encoder and the decoder of a Transformer, with the names and options of PyTorch's.

Sequences are (B, T, d_model) always, PyTorch's batch_first. Masks of bools are True where a query
may look; a key_padding_mask is True where a key is padding (see `Attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from inspect import signature
from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.errors import DTypeError, OptionError, kind_of
from needle.nn.attention import Attention
from needle.nn.checks import require_positive, require_tensors
from needle.nn.embedding import RotaryEmbedding
from needle.nn.key_value_cache import KeyValueCache, caches_of, restored_on_failure
from needle.nn.layers import Dropout, Linear
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm

__all__ = [
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Cache = Sequence[KeyValueCache] | None
Function = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Function] = {"relu": ops.relu, "gelu": ops.gelu}


class _Encodes(Module):
    """Base: how the encoder (with a list of caches) and its layers (with one) are called."""

    _through: Callable[..., Tensor]  # x, its cache, and the masks by name

    def forward(
        self,
        x: Tensor,
        mask: Any = None,
        key_padding_mask: Any = None,
        causal: bool = False,
        cache: KeyValueCache | Cache = None,
    ) -> Tensor:
        return self._through(x, cache, mask=mask, key_padding_mask=key_padding_mask, causal=causal)


class _Decodes(Module):
    """Base: how the decoder (with a list of caches) and its layers (with one) are called."""

    _through: Callable[..., Tensor]  # x, its cache, memory, and the masks by name

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Any = None,
        memory_mask: Any = None,
        key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        causal: bool = False,
        cache: KeyValueCache | Cache = None,
    ) -> Tensor:
        return self._through(
            x,
            cache,
            memory,
            mask=mask,
            memory_mask=memory_mask,
            key_padding_mask=key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            causal=causal,
        )


class _Layer(Module):
    """Base: the parts that the layers of encoder and decoder consist of, with the same options."""

    cross_attention: bool

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Function = "relu",
        layer_norm_eps: float = 1e-5,
        *,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
        rotary: RotaryEmbedding | None = None,
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        _require_batch_first(type(self).__name__, batch_first)
        self.activation = _activation(type(self).__name__, activation)
        self.norm_first = norm_first
        like = {"bias": bias, "device": device, "dtype": dtype}
        self.self_attn = Attention(d_model, nhead, dropout=dropout, rotary=rotary, **like)
        if self.cross_attention:
            self.multihead_attn = Attention(d_model, nhead, dropout=dropout, **like)
        self.linear1 = Linear(d_model, dim_feedforward, **like)
        self.linear2 = Linear(dim_feedforward, d_model, **like)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, **like)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, **like)
        if self.cross_attention:
            self.norm3 = LayerNorm(d_model, layer_norm_eps, **like)
        self.dropout = Dropout(dropout)

    def _with(self, norm: Module, part: Function, x: Tensor) -> Tensor:
        """x and what a part makes of it, normalised before the part or after the sum."""
        if self.norm_first:
            return x + self.dropout(part(norm(x)))  # type: ignore[no-any-return]
        return norm(x + self.dropout(part(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.linear2(hidden)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


class TransformerEncoderLayer(_Layer, _Encodes):
    """Self-attention, then two linear layers, each with a shortcut and a norm.

    x ← norm1(x + drop(self_attn(x))); x ← norm2(x + drop(linear2(drop(f(linear1(x))))))
    with norm_first: x ← x + drop(self_attn(norm1(x))); x ← x + drop(linear2(... norm2(x)))

    x: (B, T, d_model) -> as x

    d_model, nhead   the width, and how many heads share it
    dim_feedforward  the width between linear1 and linear2
    activation       f: "relu", "gelu" or a function of a Tensor
    batch_first      True, as sequences are (B, T, d_model) always; here for programs that say so
    bias             whether attention, linear layers and norms have one
    rotary           positions for the self-attention, of dim d_model / nhead

    Vaswani et al., "Attention Is All You Need", 2017, section 3.1; norm_first: Xiong et al., "On
    Layer Normalization in the Transformer Architecture", 2020.
    """

    cross_attention = False

    def _through(self, x: Tensor, cache: KeyValueCache | None, **masks: Any) -> Tensor:
        with restored_on_failure([cache]):
            x = self._with(self.norm1, lambda x: self.self_attn(x, **masks, cache=cache), x)
            return self._with(self.norm2, self._feed_forward, x)


class TransformerDecoderLayer(_Layer, _Decodes):
    """Self-attention, then attention to the encoder's memory, then two linear layers.

    x ← norm1(x + drop(self_attn(x))); x ← norm2(x + drop(multihead_attn(x, memory)));
    x ← norm3(x + drop(linear2(drop(f(linear1(x)))))); norm_first as in TransformerEncoderLayer,
    whose options these are.

    x: (B, T, d_model), memory: (B, S, d_model) -> as x
    """

    cross_attention = True

    def _through(
        self,
        x: Tensor,
        cache: KeyValueCache | None,
        memory: Tensor,
        *,
        memory_mask: Any,
        memory_key_padding_mask: Any,
        **own: Any,
    ) -> Tensor:
        require_tensors(type(self).__name__, x, memory)
        others = {"mask": memory_mask, "key_padding_mask": memory_key_padding_mask}
        look = partial(self.multihead_attn.to_memory, memory=memory, **others, cache=cache)
        with restored_on_failure([cache]):
            x = self._with(self.norm1, lambda x: self.self_attn(x, **own, cache=cache), x)
            x = self._with(self.norm2, look, x)
            return self._with(self.norm3, self._feed_forward, x)


class _Stack(Module):
    """Base: layers one after another, then a norm if there is one.

    layer  a layer, of which copies are made that begin with the same weights, as in PyTorch; or a
           function without arguments that makes one, for weights of their own
    """

    kind: type[Module]

    def __init__(
        self,
        layer: Module | Callable[[], Module],
        num_layers: int,
        norm: Module | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        require_positive(name, num_layers=num_layers)
        made = [self._made(layer) for _ in range(num_layers)]
        if not (norm is None or isinstance(norm, Module)):
            raise DTypeError(f"{name}: expected norm to be a module, got {norm!r}.")
        self.layers: list[Any] = made
        self.norm = norm

    def _made(self, layer: Any) -> Module:
        """A copy of a layer, or what a function makes."""
        is_function = callable(layer) and not isinstance(layer, Module)
        lacking = _lacking(layer) if is_function else ""
        one = layer() if is_function and not lacking else layer
        if not isinstance(one, self.kind):
            raise DTypeError(
                f"{type(self).__name__}: expected a {self.kind.__name__}, or a function that makes "
                f"them, got {_kind_of(one)}{lacking}."
            )
        return one if is_function else deepcopy(one)

    def new_cache(self) -> list[KeyValueCache]:
        """A KeyValueCache for each layer, for `cache` in forward: token by token."""
        return [KeyValueCache() for _ in self.layers]

    def _through(self, x: Tensor, cache: Cache, *inputs: Any, **masks: Any) -> Tensor:
        """The layers on x, each with the same inputs and masks and a cache of its own."""
        caches = caches_of(type(self).__name__, cache, len(self.layers), "layers")
        with restored_on_failure(caches):
            for layer, own in zip(self.layers, caches, strict=True):
                x = layer(x, *inputs, **masks, cache=own)
            return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack, _Encodes):
    """num_layers of TransformerEncoderLayer, then `norm` if there is one.

    x: (B, T, d_model) -> as x; the masks and `causal` are every layer's. `layer` is one that is
    copied, with its initial weights as in PyTorch, or a function that makes one.

    >>> import needle as ndl
    >>> def layer():
    ...     return ndl.nn.TransformerEncoderLayer(8, 2, 16)
    >>> encoder = ndl.nn.TransformerEncoder(layer, num_layers=3)
    >>> encoder(ndl.init.randn(2, 5, 8), causal=True).shape
    (2, 5, 8)
    """

    kind = TransformerEncoderLayer


class TransformerDecoder(_Stack, _Decodes):
    """num_layers of TransformerDecoderLayer, then `norm` if there is one.

    x: (B, T, d_model), memory: (B, S, d_model) -> as x; the masks and `causal` are every layer's.
    `layer` as for TransformerEncoder.
    """

    kind = TransformerDecoderLayer


def _lacking(function: Callable[..., Any]) -> str:
    """What a function cannot be called without, in brackets; nothing if it can."""
    try:
        signature(function).bind()
    except TypeError as error:
        return f" ({error})"
    except ValueError:  # nobody knows what it takes
        pass
    return ""


def _kind_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)


def _require_batch_first(name: str, batch_first: Any) -> None:
    if batch_first is not True:
        raise OptionError(
            f"{name}: expected batch_first=True, got {batch_first!r}. "
            "Sequences are (B, T, d_model) always."
        )


def _activation(name: str, activation: str | Function) -> Function:
    if callable(activation) and not isinstance(activation, type):
        return activation
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        shown = _kind_of(activation) if isinstance(activation, type) else repr(activation)
        raise OptionError(f"{name}: expected activation 'relu', 'gelu' or a function, got {shown}.")
    return _ACTIVATIONS[activation]
