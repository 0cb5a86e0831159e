"""Needle's networks in PyTorch: what `needle.models` is measured and tested against.

`foreign_state` of the network here gives the weights of the one there: names and layouts are those
of torchvision's ResNet, PyTorch's word-language example and GPT-2. They are written to be fast in
PyTorch, eager, as the benchmarks time them. The benchmarks import this file as a neighbour,
`tests/parity/foreign_models.py` puts its folder on the path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# -- of linear layers ------------------------------------------------------------------------------


class TwoLayerNet(nn.Module):
    """Linear-ReLU-Linear: (B, features) -> logits (B, 10)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.linear2(functional.relu(self.linear1(x)))


class MLPResNet(nn.Sequential):
    """A linear layer, three residual blocks of half the width inside, and a classifier."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        blocks = [
            nn.Sequential(Residual(mlp_block(hidden, hidden // 2, dropout)), nn.ReLU())
            for _ in range(3)
        ]
        super().__init__(
            nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), *blocks, nn.Linear(hidden, 10)
        )


def mlp_block(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """What a residual block of linear layers adds to its input."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.BatchNorm1d(width),
    )


# -- convolutional ---------------------------------------------------------------------------------


class Residual(nn.Module):
    """fn(x) + x."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return self.fn(x) + x


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ResNet9(nn.Module):
    """The course's ResNet-9: images (B, 3, 32, 32) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn(3, 16, 7, 4),
            conv_bn(16, 32, 3, 2),
            Residual(nn.Sequential(conv_bn(32, 32, 3, 1), conv_bn(32, 32, 3, 1))),
            conv_bn(32, 64, 3, 2),
            conv_bn(64, 128, 3, 2),
            Residual(nn.Sequential(conv_bn(128, 128, 3, 1), conv_bn(128, 128, 3, 1))),
            nn.Flatten(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.layers(x)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu(convolutions + shortcut)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return functional.relu(y, inplace=True)


class ResNet18(nn.Module):
    """ResNet-18: images (B, 3, H, W) -> logits (B, classes); torchvision's stem, or a small one."""

    def __init__(self, classes: int = 10, small_images: bool = True) -> None:
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if small_images else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = None if small_images else nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            first = BasicBlock(inputs, outputs, 1 if number == 1 else 2)
            blocks = nn.Sequential(first, BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{number}", blocks)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = x if self.maxpool is None else self.maxpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


# -- recurrent -------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    """Embedding, recurrent network (rnn, lstm, gru) and linear layer, as in PyTorch's example."""

    def __init__(self, kind: str, vocabulary: int, embedding: int, hidden: int, layers: int):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, embedding)
        self.rnn = getattr(nn, kind.upper())(embedding, hidden, layers)
        self.decoder = nn.Linear(hidden, vocabulary)

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Ids (T, B) -> logits (T · B, vocabulary), and the state."""
        out, state = self.rnn(self.encoder(x), state)
        return self.decoder(out).flatten(0, 1), state


# -- attention -------------------------------------------------------------------------------------


class GPTBlock(nn.Module):
    """A block of GPT-2: causal self-attention and an MLP, each after a layer norm."""

    def __init__(self, width: int, heads: int, bias: bool, linear: Any) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, bias=bias)
        self.attn = nn.Module()
        self.attn.c_attn = linear(width, 3 * width, bias=bias)
        self.attn.c_proj = linear(width, width, bias=bias)
        self.ln_2 = nn.LayerNorm(width, bias=bias)
        self.mlp = nn.Module()
        self.mlp.c_fc = linear(width, 4 * width, bias=bias)
        self.mlp.c_proj = linear(4 * width, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) with both halves added."""
        b, t, c = x.shape
        parts = self.attn.c_attn(self.ln_1(x)).split(c, 2)
        q, k, v = (p.view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp.c_proj(functional.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with a head that is the table of embeddings: ids (B, T) -> logits (B, T, vocabulary).

    linear: what makes its linear layers; GPT-2's own have weights (in, out).
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        layers: int,
        heads: int,
        width: int,
        *,
        bias: bool = True,
        linear: Any = nn.Linear,
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(GPTBlock(width, heads, bias, linear) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=bias)

    def features(self, ids: torch.Tensor) -> torch.Tensor:
        """What goes into the head, (B, T, C)."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.features(ids) @ self.wte.weight.T


# -- by name ---------------------------------------------------------------------------------------


def build(kind: str, sizes: Mapping[str, int], dropout: float) -> nn.Module:
    """The network of a benchmark's job; dropout only where a job has some."""
    return _BUILDERS[kind](**sizes, dropout=dropout)


def _gpt(
    vocabulary: int, tokens: int, layers: int, heads: int, width: int, dropout: float
) -> nn.Module:
    return GPT(vocabulary, tokens, layers, heads, width)


def _lstm(vocabulary: int, width: int, layers: int, dropout: float) -> nn.Module:
    return LanguageModel("lstm", vocabulary, width, width, layers)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda features, hidden, dropout: TwoLayerNet(features, hidden),
    "mlp_resnet": MLPResNet,
    "gpt": _gpt,
    "resnet9": lambda dropout: ResNet9(),
    "resnet18": lambda dropout: ResNet18(),
    "lstm": _lstm,
}
