"""PyTorch's networks with the names and layouts that are found in files, and random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from parity.side_by_side import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import torch_networks

tnn = torch.nn


class Conv1D(tnn.Module):
    """A linear layer whose weight is (in, out): what the first GPT-2 was written with."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.randn(inputs, outputs))
        self.bias = tnn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Any) -> Any:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class GPT(tnn.Module):
    """GPT-2 as its files have it: below a name, with masks, and with a head that may be its own."""

    def __init__(
        self,
        linear: Any,
        vocabulary: int,
        context: int,
        layers: int,
        heads: int,
        width: int,
        bias: bool = True,
        tied: bool = True,
    ) -> None:
        super().__init__()
        sizes = (vocabulary, context, layers, heads, width)
        self.transformer = torch_networks.GPT(*sizes, bias=bias, linear=linear)
        for block in self.transformer.h:
            block.attn.register_buffer("bias", torch.ones(context, context).tril()[None, None])
            block.attn.register_buffer("masked_bias", torch.tensor(-1e4))
        self.lm_head = tnn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids: Any) -> Any:
        return self.lm_head(self.transformer.features(ids))


def randomize(model: Any, seed: int = 0) -> Any:
    """Weights and running statistics that are neither 0 nor 1; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    masks = (".attn.bias", ".masked_bias")
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.endswith(masks):
                noise = torch.randn(value.shape, generator=generator)
                if value.ndim == 1:
                    value += 0.1 * noise.abs()
                else:
                    value.copy_(noise / value[0].numel() ** 0.5)
    return model.eval()
