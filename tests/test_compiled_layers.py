"""Every layer and loss of `needle.nn`, and every model, trained compiled and eager."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compiled_runs import both_ways, kinds, loss_of, tensors_in

import needle as ndl
from needle import nn

pytestmark = pytest.mark.nd_mode

Arrays = Callable[[np.random.RandomState], list[Any]]


def floats(*shape: int) -> Arrays:
    return lambda rng: [rng.randn(*shape).astype(np.float32)]


def ids(below: int, *shape: int) -> Arrays:
    return lambda rng: [rng.randint(0, below, shape)]


def several(*kinds_of_arrays: Arrays) -> Arrays:
    return lambda rng: [array for make in kinds_of_arrays for array in make(rng)]


LINE, IMAGE = floats(2, 4, 9), floats(2, 4, 6, 6)
STEPS = floats(5, 2, 4)  # (T, B, I)
TOKENS = floats(2, 5, 8)  # (B, T, width)
LENGTHS: Arrays = lambda rng: [np.array([5, 3]) if rng.rand() < 0.5 else np.array([2, 5])]  # noqa: E731
PADDING: Arrays = lambda rng: [np.arange(5) >= rng.randint(2, 6, (2, 1))]  # noqa: E731
FEW = floats(3, 4)


@dataclass
class Row:
    """A module, the arrays that it is called with, and how, where that is not `module(*arrays)`."""

    make: Callable[[], nn.Module]
    arrays: Arrays
    call: Callable[..., Any] = lambda module, *x: module(*x)
    name: str = ""

    def __str__(self) -> str:
        return self.name


def row(kind: type, arrays: Arrays, *args: Any, call: Any = None, **options: Any) -> Row:
    shown = [*map(str, args), *[f"{key}={value}" for key, value in options.items()]]
    name = f"{kind.__name__}({','.join(shown)})".replace(" ", "")
    made = Row(lambda: kind(*args, **options), arrays, name=name)
    if call is not None:
        made.call = call
    return made


def elementwise() -> list[Row]:
    plain = [
        nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid, nn.Hardswish, nn.Tanh,
        nn.Sigmoid, nn.SiLU, nn.Softplus, nn.GELU, nn.Softmax, nn.LogSoftmax, nn.PReLU, nn.Identity,
        nn.Dropout,
    ]  # fmt: skip
    return [row(kind, FEW) for kind in plain] + [
        row(nn.GELU, FEW, "tanh"),
        row(nn.PReLU, LINE, 4),
        row(nn.Dropout1d, LINE, 0.4),
        row(nn.Dropout2d, IMAGE, 0.4),
        row(nn.Dropout, FEW, 1.0),
    ]


def shapes() -> list[Row]:
    return [
        row(nn.Flatten, IMAGE),
        row(nn.Unflatten, FEW, 1, (2, 2)),
        row(nn.PixelShuffle, IMAGE, 2),
        row(nn.PixelUnshuffle, IMAGE, 2),
        row(nn.Upsample, IMAGE, scale_factor=2),
        row(nn.Upsample, IMAGE, size=(7, 4)),
        row(nn.Upsample, IMAGE, scale_factor=1.5, mode="bilinear"),
        row(nn.Upsample, LINE, size=5, mode="linear", align_corners=True),
        row(nn.ConstantPad1d, LINE, 2, 1.5),
        row(nn.ConstantPad2d, IMAGE, 1, 1.5),
        row(nn.ZeroPad1d, LINE, (2, 0)),
        row(nn.ZeroPad2d, IMAGE, (1, 0, 2, 1)),
        row(nn.ReflectionPad1d, LINE, 2),
        row(nn.ReflectionPad2d, IMAGE, 2),
        row(nn.ReplicationPad1d, LINE, 2),
        row(nn.ReplicationPad2d, IMAGE, 2),
        row(nn.CircularPad1d, LINE, 2),
        row(nn.CircularPad2d, IMAGE, 2),
    ]


def pictures() -> list[Row]:
    return [
        row(nn.Conv, IMAGE, 4, 6, 3),
        row(nn.Conv1d, LINE, 4, 6, 3, padding=1),
        row(nn.Conv2d, IMAGE, 4, 6, 3, stride=2, padding=1),
        row(nn.Conv2d, IMAGE, 4, 6, 3, padding=2, dilation=2, groups=2, padding_mode="reflect"),
        row(nn.ConvTranspose1d, LINE, 4, 3, 3, stride=2),
        row(nn.ConvTranspose2d, IMAGE, 4, 3, 3, stride=2, padding=1, output_padding=1),
        row(nn.MaxPool1d, LINE, 3, stride=2),
        row(nn.MaxPool2d, IMAGE, 2),
        row(nn.MaxPool2d, IMAGE, 3, stride=2, padding=1, ceil_mode=True),
        row(nn.AvgPool1d, LINE, 3),
        row(nn.AvgPool2d, IMAGE, 2),
        row(nn.AvgPool2d, IMAGE, 3, stride=2, padding=1, count_include_pad=False),
        row(nn.AdaptiveAvgPool1d, LINE, 4),
        row(nn.AdaptiveAvgPool2d, IMAGE, (4, 3)),
        row(nn.AdaptiveMaxPool1d, LINE, 4),
        row(nn.AdaptiveMaxPool2d, IMAGE, (4, 3)),
        row(nn.GlobalAvgPool, IMAGE),
        row(nn.GlobalMaxPool, IMAGE),
    ]


def norms() -> list[Row]:
    return [
        row(nn.BatchNorm1d, floats(6, 4), 4),
        row(nn.BatchNorm1d, LINE, 4, affine=False),
        row(nn.BatchNorm2d, IMAGE, 4),
        row(nn.BatchNorm2d, IMAGE, 4, track_running_stats=False),
        row(nn.InstanceNorm1d, LINE, 4),
        row(nn.InstanceNorm2d, IMAGE, 4, affine=True, track_running_stats=True),
        row(nn.LayerNorm, TOKENS, 8),
        row(nn.LayerNorm, TOKENS, (5, 8), bias=False),
        row(nn.LayerNorm1d, FEW, 4),
        row(nn.RMSNorm, TOKENS, 8),
        row(nn.GroupNorm, IMAGE, 2, 4),
    ]


def with_lengths(module: Any, x: Any, lengths: Any) -> Any:
    return module(x, lengths=lengths)


def packed(module: Any, x: Any, lengths: Any) -> Any:
    return module(nn.PackedSequence(x, lengths))


def recurrence() -> list[Row]:
    cells = [row(kind, FEW, 4, 3) for kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell)]
    layers = [row(kind, STEPS, 4, 3) for kind in (nn.RNN, nn.LSTM, nn.GRU)]
    deep = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
    sequences = several(STEPS, LENGTHS)
    return [
        *cells,
        *layers,
        row(nn.RNN, sequences, 4, 3, call=with_lengths),
        row(nn.LSTM, sequences, 4, 3, **deep, call=with_lengths),
        row(nn.GRU, sequences, 4, 3, **deep, call=packed),
        row(nn.LSTM, floats(2, 5, 4), 4, 3, batch_first=True),
    ]


def masked(module: Any, x: Any, padding: Any) -> Any:
    return module(x, key_padding_mask=padding, causal=True)


def to_memory(module: Any, x: Any, memory: Any) -> Any:
    return module(x, memory)


def attention() -> list[Row]:
    heads = several(*[floats(2, 2, 5, 4)] * 3)
    both = several(TOKENS, floats(2, 3, 8))
    encoder = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "dropout": 0.2}

    def stack(kind: type, layer: type) -> Callable[[], Any]:
        return lambda: kind(layer(**encoder), 2)

    return [
        row(nn.MultiHeadAttention, heads, dropout=0.2, causal=True),
        row(nn.Attention, TOKENS, 8, 2, dropout=0.2),
        row(nn.Attention, several(TOKENS, PADDING), 8, 4, kv_heads=2, call=masked),
        row(nn.Attention, several(TOKENS, floats(5, 5)), 8, 2,
            call=lambda module, x, mask: module(x, mask=mask, return_weights=True)),
        row(nn.AttentionLayer, TOKENS, 8, 2, 4, dropout=0.2),
        row(nn.TransformerLayer, TOKENS, 8, 2, 4, 12, dropout=0.2),
        row(nn.Transformer, TOKENS, 8, 12, 2, num_head=2, dim_head=4, batch_first=True),
        row(nn.TransformerEncoderLayer, TOKENS, **encoder),
        row(nn.TransformerEncoderLayer, TOKENS, **encoder, norm_first=True, activation="gelu"),
        row(nn.TransformerDecoderLayer, both, **encoder, call=to_memory),
        Row(stack(nn.TransformerEncoder, nn.TransformerEncoderLayer), TOKENS,
            name="TransformerEncoder"),
        Row(stack(nn.TransformerDecoder, nn.TransformerDecoderLayer), both, to_memory,
            name="TransformerDecoder"),
    ]  # fmt: skip


def embeddings() -> list[Row]:
    return [
        row(nn.Embedding, ids(6, 3, 2), 6, 4),
        row(nn.Embedding, ids(6, 3, 2), 6, 4, padding_idx=1),
        row(nn.SinusoidalEmbedding, TOKENS, 8),
        row(nn.RotaryEmbedding, TOKENS, 8),
        row(nn.RotaryEmbedding, TOKENS, 8, interleaved=False),
    ]


def composed() -> list[Row]:
    def chain() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4, bias=False))

    return [
        row(nn.Linear, FEW, 4, 3),
        row(nn.Linear, floats(4), 4, 3),
        Row(chain, FEW, name="Sequential"),
        Row(lambda: nn.Residual(chain()), FEW, name="Residual"),
    ]


def probabilities(rng: np.random.RandomState) -> list[Any]:
    p = rng.rand(3, 4).astype(np.float32)
    return [p / p.sum(1, keepdims=True)]


def some_ignored(rng: np.random.RandomState) -> list[Any]:
    return [np.array([[0, -100, 3], [-100, 2, rng.randint(0, 4)]])]


WEIGHT = np.array([0.5, 1.0, 2.0, 0.0], np.float32)


def losses() -> list[Row]:
    pair, places = several(FEW, FEW), floats(2, 4, 3)
    return [
        *[row(kind, pair) for kind in (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)],
        row(nn.BCEWithLogitsLoss, several(FEW, probabilities)),
        row(nn.BCEWithLogitsLoss, several(FEW, probabilities), WEIGHT, "none"),
        row(nn.SoftmaxLoss, several(FEW, ids(4, 3))),
        row(nn.CrossEntropyLoss, several(FEW, ids(4, 3))),
        row(nn.CrossEntropyLoss, several(FEW, probabilities), label_smoothing=0.1, weight=WEIGHT),
        row(nn.CrossEntropyLoss, several(places, some_ignored), label_smoothing=0.1),
        row(nn.CrossEntropyLoss, several(places, some_ignored), weight=WEIGHT),
        row(nn.CrossEntropyLoss, several(places, some_ignored), reduction="none"),
    ]


ROWS = [
    *elementwise(), *shapes(), *pictures(), *norms(), *recurrence(), *attention(), *embeddings(),
    *composed(), *losses(),
]  # fmt: skip


def public_modules(package: Any) -> set[str]:
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name for name, value in found.items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value is not nn.Module
    }  # fmt: skip


def test_every_module_of_nn_has_a_row():
    assert public_modules(nn) == {str(row).partition("(")[0] for row in ROWS}


def train(row: Row, wrap: Callable[[Any], Any], steps: int = 3) -> list[Any]:
    """What some steps give: results, gradients by the inputs, the state after them."""
    module, rng = row.make(), np.random.RandomState(1)
    parameters = module.parameters()
    optimizer = ndl.optim.SGD(parameters, lr=0.01, momentum=0.5) if parameters else None

    def step(*inputs: Any) -> Any:
        if optimizer is not None:
            optimizer.reset_grad()
        result = row.call(module, *inputs)
        loss = loss_of(result)
        if not loss.requires_grad:
            return list(tensors_in(result)), []
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        return list(tensors_in(result)), [x.grad for x in inputs if x.requires_grad]

    step = wrap(step)
    found: list[Any] = []
    for _ in range(steps):
        outputs, gradients = step(*[_tensor(array) for array in row.arrays(rng)])
        found += [*outputs, *gradients]
    module.eval()
    found += tensors_in(row.call(module, *[_tensor(array) for array in row.arrays(rng)]))
    return [y.numpy() for y in found] + list(module.state_dict().values())


def _tensor(array: Any) -> ndl.Tensor:
    array = np.asarray(array)
    return ndl.Tensor(array, dtype=array.dtype, requires_grad=array.dtype == np.float32)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_layer_trains_compiled_as_it_does_eagerly(row: Row):
    (step,) = both_ways(lambda wrap: train(row, wrap), str(row))
    assert kinds(step) == 1, "one program serves all steps"
