"""GPT: a Transformer that sees the tokens so far, and says how likely each next one is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from needle import init, nn, ops
from needle.autograd import Tensor
from needle.errors import OptionError, ShapeError, describe
from needle.models.foreign_names import ForeignNames
from needle.nn.checks import require_float_dtype, require_positive, require_tensors
from needle.nn.key_value_cache import caches_of, restored_on_failure

__all__ = ["GPT", "GPTBlock", "GPTFeedForward"]

Cache = Sequence[nn.KeyValueCache] | None


class GPTFeedForward(nn.Module):
    """y = projection(gelu(hidden(x))), gelu by its tanh form.

    x: (..., width) -> y: (..., width); hidden: Linear(width, 4 · width)
    """

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width, **options)
        self.projection = nn.Linear(4 * width, width, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.projection(ops.gelu(self.hidden(x), "tanh"))
        return y


class GPTBlock(nn.Module):
    """x ← x + attention(norm1(x)); x ← x + feed_forward(norm2(x)). x: (B, T, width)."""

    def __init__(
        self, width: int, heads: int, dropout: float, rotary: bool, bias: bool, **like: Any
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=bias, **like)
        self.attention = nn.Attention(
            width,
            heads,
            dropout=dropout,
            bias=bias,
            rotary=nn.RotaryEmbedding(width // heads) if rotary else None,
            **like,
        )
        self.norm2 = nn.LayerNorm(width, bias=bias, **like)
        self.feed_forward = GPTFeedForward(width, bias=bias, **like)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: nn.KeyValueCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), causal=True, cache=cache))
        y: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return y


class GPT(nn.Module):
    """logits = head(norm(blocks(token_embedding(ids) + position_embedding(0, 1, ...)))).

    vocab_size  how many tokens there are
    context     the most tokens that it can look at
    layers      how many GPTBlocks
    heads       of the attention; a divisor of width
    width       numbers per place
    dropout     share zeroed in training: of the embeddings, of the attention's weights, and of what
                each half of a block adds
    bias        whether Linear layers and norms add one; the head never does
    tied        True: the head is the table of token embeddings; False: a Linear of its own
    positions   "learned": a table of `context` rows; "rotary": q and k are turned by their place

    Initial weights: N(0, 0.02²), those that feed the residual sum divided by √(2 · layers); biases
    0. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.

    >>> import needle as ndl
    >>> from needle.models import GPT
    >>> model = GPT(vocab_size=65, context=64, layers=4, heads=4, width=128)
    >>> model(ndl.init.zeros(2, 10)).shape, model.num_parameters()
    ((2, 10, 65), 809856)
    """

    foreign_names = ForeignNames(
        parts={
            "token_embedding": ("wte",),
            "position_embedding": ("wpe",),
            "blocks": ("h",),
            "norm1": ("ln_1",),
            "attention": ("attn",),
            "in_proj_weight": ("c_attn.weight",),
            "in_proj_bias": ("c_attn.bias",),
            "out_proj": ("c_proj",),
            "norm2": ("ln_2",),
            "feed_forward": ("mlp",),
            "hidden": ("c_fc",),
            "projection": ("c_proj",),
            "norm": ("ln_f",),
            "head": ("lm_head",),
        },
        outer=("transformer",),
        ignored=("attn.bias", "attn.masked_bias"),
        tied=(("lm_head.weight", "wte.weight"),),
        inputs_first=("in_proj_weight", "out_proj", "hidden", "projection"),
    )

    def __init__(
        self,
        vocab_size: int,
        context: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        tied: bool = True,
        positions: str = "learned",
        device: Any = None,
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        _require_options(positions, vocab_size, context, layers, heads, width)
        require_float_dtype("GPT", dtype)
        like = {"device": device, "dtype": dtype}
        rotary = positions == "rotary"
        self.vocab_size, self.context, self.width = vocab_size, context, width
        self.token_embedding = nn.Embedding(vocab_size, width, **like)
        self.position_embedding = None if rotary else nn.Embedding(context, width, **like)
        self.blocks = [GPTBlock(width, heads, dropout, rotary, bias, **like) for _ in range(layers)]
        self.norm = nn.LayerNorm(width, bias=bias, **like)
        self.head = None if tied else nn.Linear(width, vocab_size, bias=False, **like)
        self.dropout = nn.Dropout(dropout)
        self.apply(_start)
        for block in self.blocks:
            for last in (block.attention.out_proj, block.feed_forward.projection):
                _start(last, 0.02 / math.sqrt(2 * layers))

    def forward(self, ids: Tensor, cache: Cache = None) -> Tensor:
        """Logits for the token after each place.

        ids: (B, T) token ids; with a cache (`new_cache()`): those after the ones that it has seen,
        which it then has seen too -> logits (B, T, vocab_size)

        Raises ShapeError for more tokens than the context, OutOfRangeError for ids outside the
        vocabulary, DTypeError and OptionError for what is no cache of this model. Then the cache
        is as it was.
        """
        caches = caches_of("GPT", cache, len(self.blocks), "blocks")
        seen = 0 if cache is None else cache[0].length
        batch, length = self._require_fitting(ids, seen)
        x = self._embedded(ids, seen)  # (B, T, width)
        with restored_on_failure(caches):
            for block, own in zip(self.blocks, caches, strict=True):
                x = block(x, own)
        x = self.norm(x).reshape((batch * length, self.width))  # one product for the whole table
        if self.head is None:
            logits = ops.matmul(x, self.token_embedding.weight, transpose_b=True)
        else:
            logits = self.head(x)
        return logits.reshape((batch, length, self.vocab_size))

    def new_cache(self) -> list[nn.KeyValueCache]:
        """An empty cache: a KeyValueCache for each block."""
        return [nn.KeyValueCache() for _ in self.blocks]

    def _embedded(self, ids: Tensor, start: int) -> Tensor:
        """Ids (B, T), the first of them at place `start`, as (B, T, width)."""
        x: Tensor = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[start : start + ids.shape[1]]
        embedded: Tensor = self.dropout(x)
        return embedded

    def _require_fitting(self, ids: Tensor, seen: int) -> tuple[int, int]:
        """The shape of ids, one or more for each sequence, and for which there is room."""
        require_tensors("GPT", ids)
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ShapeError(
                f"GPT: expected token ids [B, T], T of 1 or more, got {describe(ids)}."
            )
        batch, length = ids.shape
        if seen + length > self.context:
            after = f" after {seen} in the cache" if seen else ""
            raise ShapeError(
                f"GPT: expected at most {self.context} tokens (the context), got {length}{after}."
            )
        return batch, length

    def extra_repr(self) -> str:
        tied = self.head is None
        return f"vocab_size={self.vocab_size}, context={self.context}, tied={tied}"


def _start(module: nn.Module, std: float = 0.02) -> None:
    """Give a layer GPT-2's initial weights."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        weight = module.weight
        draw = init.randn(*weight.shape, std=std, dtype=weight.dtype, device=weight.device)
        module.weight = nn.Parameter(draw)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias = nn.Parameter(init.zeros_like(module.bias))


def _require_options(positions: str, *sizes: int) -> None:
    names = ("vocab_size", "context", "layers", "heads", "width")
    require_positive("GPT", **dict(zip(names, sizes, strict=True)))
    heads, width = sizes[-2:]
    if width % heads:
        raise OptionError(f"GPT: expected heads that divide the width {width}, got {heads}.")
    if positions not in ("learned", "rotary"):
        raise OptionError(f"GPT: expected positions 'learned' or 'rotary', got {positions!r}.")
