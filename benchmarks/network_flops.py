"""Floating-point operations of one training step: its contractions, forward and backward.

A contraction of m, n and k numbers is 2·m·n·k operations. Forward it runs once and backward twice,
for the gradients of both operands; where no gradient of the input is wanted, once. Counted is the
operation as it is written down, as PyTorch's `FlopCounterMode` does: with the padding of
convolutions and the masked half of causal attention. Who skips these does less than is counted.
"""

from __future__ import annotations

__all__ = [
    "attention",
    "convolution",
    "gpt",
    "linear",
    "lstm",
    "mlp",
    "mlp_resnet",
    "resnet9",
    "resnet18",
]


def linear(rows: int, inputs: int, outputs: int, passes: int = 3) -> float:
    """x (rows, inputs) @ W; passes: 2 where x wants no gradient."""
    return 2.0 * passes * rows * inputs * outputs


def convolution(
    batch: int, side: int, kernel: int, inputs: int, outputs: int, passes: int = 3
) -> float:
    """A square kernel on pictures whose result is `side` places wide and high."""
    return linear(batch * side * side, kernel * kernel * inputs, outputs, passes)


def attention(batch: int, tokens: int, width: int) -> float:
    """Scores and the mean of values, over all heads."""
    return 2 * linear(batch * tokens, width, tokens)


def mlp(batch: int, features: int, hidden: int) -> float:
    """Two layers."""
    return linear(batch, features, hidden, 2) + linear(batch, hidden, 10)


def mlp_resnet(batch: int, features: int, hidden: int) -> float:
    """A layer, three blocks of half the width inside, a classifier."""
    blocks = 6 * linear(batch, hidden, hidden // 2)
    return linear(batch, features, hidden, 2) + blocks + linear(batch, hidden, 10)


def gpt(batch: int, tokens: int, layers: int, width: int, vocabulary: int) -> float:
    """Blocks, and the head."""
    rows = batch * tokens
    block = 12 * linear(rows, width, width) + attention(batch, tokens, width)
    return layers * block + linear(rows, width, vocabulary)


def lstm(batch: int, steps: int, layers: int, width: int, vocabulary: int) -> float:
    """Four gates of input and state in each layer, and the words."""
    rows = batch * steps
    return layers * 2 * linear(rows, width, 4 * width) + linear(rows, width, vocabulary)


def resnet9(batch: int) -> float:
    """The course's layers on 32 x 32 pictures."""
    return (
        convolution(batch, 8, 7, 3, 16, 2)
        + convolution(batch, 4, 3, 16, 32)
        + 2 * convolution(batch, 4, 3, 32, 32)
        + convolution(batch, 2, 3, 32, 64)
        + convolution(batch, 1, 3, 64, 128)
        + 2 * convolution(batch, 1, 3, 128, 128)
        + linear(batch, 128, 128)
        + linear(batch, 128, 10)
    )


def resnet18(batch: int, side: int) -> float:
    """Two blocks at each of four widths; all but the first begin with half the side."""
    total = convolution(batch, side, 3, 3, 64, 2) + 4 * convolution(batch, side, 3, 64, 64)
    for width in (128, 256, 512):
        side = (side + 1) // 2
        first = convolution(batch, side, 3, width // 2, width)
        shortcut = convolution(batch, side, 1, width // 2, width)
        total += first + shortcut + 3 * convolution(batch, side, 3, width, width)
    return total + linear(batch, 512, 10)
