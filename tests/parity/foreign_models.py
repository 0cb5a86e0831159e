"""Models in PyTorch whose weights have the names and layouts that are found in files."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from parity.side_by_side import torch

tnn = torch.nn
F = torch.nn.functional


class Block(tnn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = tnn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(outputs)
        self.conv2 = tnn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = tnn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = tnn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = tnn.Sequential(shortcut, tnn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(tnn.Module):
    """As torchvision's, with its stem or with one for small images."""

    def __init__(self, classes: int, small_images: bool) -> None:
        super().__init__()
        stem = {"kernel_size": 3, "padding": 1} if small_images else {
            "kernel_size": 7, "padding": 3, "stride": 2}  # fmt: skip
        self.conv1 = tnn.Conv2d(3, 64, bias=False, **stem)
        self.bn1 = tnn.BatchNorm2d(64)
        self.maxpool = tnn.Identity() if small_images else tnn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            blocks = Block(inputs, outputs, 1 + (i > 0)), Block(outputs, outputs, 1)
            setattr(self, f"layer{i + 1}", tnn.Sequential(*blocks))
        self.fc = tnn.Linear(512, classes)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class WordModel(tnn.Module):
    """Embedding, recurrent network and linear layer, as in PyTorch's example."""

    def __init__(self, kind: str, vocabulary: int, embedding: int, hidden: int, layers: int):
        super().__init__()
        self.encoder = tnn.Embedding(vocabulary, embedding)
        self.rnn = getattr(tnn, kind.upper())(embedding, hidden, layers)
        self.decoder = tnn.Linear(hidden, vocabulary)

    def forward(self, x: Any, h: Any = None) -> Any:
        out, h = self.rnn(self.encoder(x), h)
        return self.decoder(out.flatten(0, 1)), h


class Conv1D(tnn.Module):
    """A linear layer whose weight is (in, out): what the first GPT-2 was written with."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = tnn.Parameter(torch.randn(inputs, outputs))
        self.bias = tnn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Any) -> Any:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Attention(tnn.Module):
    """Causal self-attention from one fused product."""

    def __init__(self, linear: Any, width: int, heads: int, context: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = linear(width, 3 * width, bias=bias)
        self.c_proj = linear(width, width, bias=bias)
        self.register_buffer("bias", torch.ones(context, context).tril()[None, None])
        self.register_buffer("masked_bias", torch.tensor(-1e4))

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        heads = (batch, length, self.heads, width // self.heads)
        q, k, v = (y.view(heads).transpose(1, 2) for y in self.c_attn(x).split(width, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
        hidden = self.bias[:, :, :length, :length] == 0
        y = torch.softmax(scores.masked_fill(hidden, -math.inf), -1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(tnn.Module):
    """The half of a block that looks at each place by itself."""

    def __init__(self, linear: Any, width: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = linear(width, 4 * width, bias=bias)
        self.c_proj = linear(4 * width, width, bias=bias)

    def forward(self, x: Any) -> Any:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class GPTBlock(tnn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, linear: Any, width: int, heads: int, context: int, bias: bool) -> None:
        super().__init__()
        self.ln_1 = tnn.LayerNorm(width, bias=bias)
        self.attn = Attention(linear, width, heads, context, bias)
        self.ln_2 = tnn.LayerNorm(width, bias=bias)
        self.mlp = MLP(linear, width, bias)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(tnn.Module):
    """GPT-2; its linear layers are Conv1D (Hugging Face) or Linear."""

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
        block = (linear, width, heads, context, bias)
        self.transformer = tnn.ModuleDict(
            {
                "wte": tnn.Embedding(vocabulary, width),
                "wpe": tnn.Embedding(context, width),
                "h": tnn.ModuleList([GPTBlock(*block) for _ in range(layers)]),
                "ln_f": tnn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = tnn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Any) -> Any:
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"].weight[: ids.shape[1]]
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


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
