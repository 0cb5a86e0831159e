"""Every layer and loss of `needle.nn`, and every model, trained compiled and eager."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compiled_runs import both_ways, kinds, loss_of, tensors_in

import needle as ndl
from needle import errors, models, nn
from needle.jit import jit
from needle.testing import assert_close

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
    return ndl.Tensor(array, dtype=array.dtype, requires_grad=array.dtype.kind == "f")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_layer_trains_compiled_as_it_does_eagerly(row: Row):
    (step,) = both_ways(lambda wrap: train(row, wrap), str(row))
    assert kinds(step) == 1, "one program serves all steps"


# -- models ----------------------------------------------------------------------------------------


def images(*shape: int) -> Arrays:
    return lambda rng: [rng.randn(*shape)]


def language_model(kind: str) -> Row:
    def make() -> nn.Module:
        return models.LanguageModel(6, 11, 4, 2, kind, seq_len=5, dropout=0.2)

    return Row(make, ids(11, 5, 2), name=f"LanguageModel({kind})")


MODELS = [
    row(models.TwoLayerNet, floats(3, 2, 4), 8, 5, 3),
    row(models.MLPResNet, floats(4, 6), 6, 5, 1, 3, drop_prob=0.2),
    row(models.ResidualBlock, floats(4, 6), 6, 3),
    row(models.ConvBN, IMAGE, 4, 3, 3, 2),
    row(models.BasicBlock, IMAGE, 4, 6, 2),
    row(models.ResNet9, images(4, 3, 32, 32), dtype="float64"),
    row(models.ResNet18, images(4, 3, 8, 8), dtype="float64"),
    *[language_model(kind) for kind in ("rnn", "lstm", "gru", "transformer")],
    row(models.GPT, ids(11, 2, 5), 11, 6, 2, 2, 8, 0.2),
    row(models.GPT, ids(11, 2, 5), 11, 6, 1, 2, 8, bias=False, tied=False, positions="rotary"),
]


def test_every_model_has_a_row():
    public = {name for name in models.__all__ if not name.endswith(("_foreign", "foreign_state"))}
    assert public == {str(row).partition("(")[0] for row in MODELS}


@pytest.mark.parametrize("row", MODELS, ids=str)
def test_model_trains_compiled_as_it_does_eagerly(row: Row):
    # batch norm of few small images magnifies roundings a lot
    bounds = {"rtol": 1e-9, "atol": 1e-9} if "float64" in str(row) else {}
    (step,) = both_ways(lambda wrap: train(row, wrap, 2), str(row), **bounds)
    assert kinds(step) == 1


# -- state that grows ------------------------------------------------------------------------------


def with_a_cache(wrap: Callable[[Any], Any]) -> list[Any]:
    """Tokens one by one: the cache is longer at each call."""
    attention, cache = nn.Attention(8, 2), nn.KeyValueCache()
    tokens = ndl.init.randn(2, 4, 8)

    @wrap
    def step(x: ndl.Tensor) -> ndl.Tensor:
        with ndl.no_grad():
            return attention(x, cache=cache, causal=True)

    found = [step(tokens[:, t : t + 1]) for t in range(4)]
    return [y.numpy() for y in (*found, cache.keys, cache.values)]


def test_key_value_cache_grows_in_a_compiled_function():
    both_ways(with_a_cache, "cache")


def with_rooms(wrap: Callable[[Any], Any]) -> list[Any]:
    """A cache of many keys, which eager steps keep in memory with room for more."""
    cache, width = nn.KeyValueCache(), 1 << 15

    def append(keys: ndl.Tensor) -> ndl.Tensor:
        with ndl.no_grad():
            return cache.append(keys, keys * 2)[1].sum(-1)

    compiled = wrap(append)
    keys = [ndl.init.randn(1, 1, 2, width) for _ in range(4)]
    found = [append(keys[0]), append(keys[1]), compiled(keys[2]), append(keys[3])]
    return [y.numpy() for y in (*found, cache.keys, cache.values)]


def test_cache_with_room_goes_on_eager_after_a_compiled_step():
    both_ways(with_rooms, "cache", rtol=1e-4, atol=1e-3)


def with_a_memory(wrap: Callable[[Any], Any]) -> list[Any]:
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12), 1).eval()
    caches, targets = decoder.new_cache(), ndl.init.randn(2, 3, 8)

    @wrap
    def step(x: ndl.Tensor, memory: ndl.Tensor) -> ndl.Tensor:
        with ndl.no_grad():
            return decoder(x, memory, cache=caches)

    memory = ndl.init.randn(2, 4, 8)
    return [step(targets[:, t : t + 1], memory).numpy() for t in range(3)]


def test_decoder_with_caches_projects_its_memory():
    both_ways(with_a_memory, "decoder")


# -- lengths that are not known while a function is traced -----------------------------------------


def padded_again(wrap: Callable[[Any], Any]) -> list[Any]:
    x = ndl.init.randn(5, 3, 2)

    @wrap
    def run(x: ndl.Tensor, lengths: ndl.Tensor) -> Any:
        sequences = nn.PackedSequence(x, lengths)
        y, n = nn.pad_packed_sequence(
            sequences.reversed(), batch_first=True, padding_value=7.0, total_length=6
        )
        return y, n, sequences.last(), sequences.masked()

    given = [[5, 1, 3], [2, 4, 2]]
    found = [run(x, ndl.Tensor(lengths, dtype="int64")) for lengths in given]
    return [y.numpy() for results in found for y in results]


def test_packed_sequences_follow_their_lengths():
    (run,) = both_ways(padded_again, "sequences")
    assert kinds(run) == 1


def test_lists_of_lengths_are_looked_at_before_each_call():
    rnn, x = nn.GRU(2, 3), ndl.init.randn(5, 2, 2)
    run = jit(lambda x, lengths: rnn(x, lengths=lengths)[0])
    for lengths in ([5, 2], [1, 4], [5, 2]):
        assert_close(run(x, lengths), rnn(x, lengths=lengths)[0])


@pytest.mark.parametrize("lengths", [[6, 1], [1, 0], [2.5, 1]])
def test_lengths_that_do_not_fit_raise_what_eager_raises(lengths: list[float]):
    x = ndl.init.randn(5, 2, 2)
    run = jit(lambda x, lengths: nn.PackedSequence(x, lengths).masked())
    given = ndl.Tensor(lengths, dtype="float32")
    with pytest.raises(errors.NeedleError, match="lengths: expected") as eager:
        nn.PackedSequence(x, given)
    with pytest.raises(type(eager.value), match=re.escape(str(eager.value))):
        run(x, given)


@pytest.mark.parametrize(
    ("function", "way_out"),
    [
        (lambda x, n: nn.pack_padded_sequence(x, n).padded, r"PackedSequence\(x, lengths\)"),
        (lambda x, n: nn.pad_packed_sequence(nn.PackedSequence(x, n))[0], "total_length"),
        (lambda x, n: nn.unpad_sequence(x, n), "PackedSequence keeps them"),
    ],
)
def test_what_is_as_long_as_the_longest_sequence_is_refused(function: Any, way_out: str):
    x, n = ndl.init.randn(5, 2, 2), ndl.Tensor([3, 2], dtype="int64")
    with pytest.raises(errors.NeedleError, match=f"expected lengths whose values.*{way_out}"):
        jit(function)(x, n)


# -- values that are found wrong -------------------------------------------------------------------


BAD_TARGETS = [
    (nn.SoftmaxLoss(), [0.0, 4.0]),
    (nn.SoftmaxLoss(), [0.0, -1.0]),
    (nn.SoftmaxLoss(), [0.0, np.nan]),
    (nn.CrossEntropyLoss(), [0.0, 4.0]),
    (nn.CrossEntropyLoss(), [np.inf, 1.0]),
    (nn.CrossEntropyLoss(), [[1.5, 0, 0, 0], [0, 0, 0, 1]]),
    (nn.BCEWithLogitsLoss(), [[1.5, 0, 0, 0], [0, 0, 0, 1]]),
    (nn.BCEWithLogitsLoss(), [[np.nan, 0, 0, 0], [0, 0, 0, 1]]),
]


@pytest.mark.parametrize(("loss", "target"), BAD_TARGETS)
def test_bad_target_raises_what_eager_raises_and_changes_nothing(loss: Any, target: Any):
    model, x = nn.Linear(3, 4), ndl.init.randn(2, 3)
    optimizer = ndl.optim.SGD(model.parameters(), lr=0.1)

    def step(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        optimizer.reset_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value

    before = model.weight.numpy()
    y = ndl.Tensor(np.array(target), dtype="float32", requires_grad=False)
    with pytest.raises(errors.OutOfRangeError) as eager:
        step(x, y)
    with pytest.raises(errors.OutOfRangeError, match=re.escape(str(eager.value))):
        jit(step)(x, y)
    np.testing.assert_array_equal(model.weight.numpy(), before)
    assert optimizer.t == 0


@pytest.mark.parametrize("pos_weight", [1.0, 3, ndl.Tensor([2.0, 1.0, 0.0, 1.0])])
def test_binary_cross_entropy_may_be_made_inside(pos_weight: Any):
    def loss(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        return nn.BCEWithLogitsLoss(pos_weight)(x, y)

    x, y = ndl.init.randn(2, 4), ndl.init.rand(2, 4)
    assert_close(jit(loss)(x, y).numpy(), loss(x, y).numpy())


def test_negative_pos_weight_of_a_loss_made_inside_raises_what_eager_raises():
    def loss(x: ndl.Tensor, weight: ndl.Tensor) -> ndl.Tensor:
        return nn.BCEWithLogitsLoss(weight)(x, ndl.ones_like(x))

    x = ndl.init.randn(2, 4)
    jitted = jit(loss)
    assert_close(jitted(x, ndl.ones(4)).numpy(), loss(x, ndl.ones(4)).numpy())
    with pytest.raises(errors.OptionError, match="expected pos_weight of 0 or more"):
        jitted(x, -ndl.ones(4))


def test_ids_without_a_row_raise_what_eager_raises():
    table, ids = nn.Embedding(3, 2), ndl.Tensor([0, 3], dtype="int64")
    with pytest.raises(errors.OutOfRangeError, match="no row 3"):
        jit(lambda ids: table(ids))(ids)


@pytest.mark.parametrize("values", [[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]], [[-1.0, 0.0]]])
def test_mask_of_floats_made_of_bools_is_refused_as_in_eager_mode(values: Any):
    q, mask = ndl.init.randn(1, 2, 4), ndl.Tensor(values, requires_grad=False)

    def attend(q: ndl.Tensor, mask: ndl.Tensor) -> Any:
        return ndl.scaled_dot_product_attention(q, q, q, mask)

    try:
        expected = attend(q, mask)
    except errors.DTypeError as error:
        with pytest.raises(errors.DTypeError, match=re.escape(str(error))):
            jit(attend)(q, mask)
    else:
        assert_close(jit(attend)(q, mask), expected)
