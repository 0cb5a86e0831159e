"""Files that PyTorch wrote, in Needle's models: the same logits. And the way back."""

from __future__ import annotations

import numpy as np
import pytest
from parity import foreign_models
from parity.foreign_models import Conv1D, randomize, torch_networks
from parity.side_by_side import torch

import needle as ndl
from needle import nn
from needle.errors import DTypeError, FileFormatError, StateDictError
from needle.models import GPT, LanguageModel, ResNet18, foreign_state, load_foreign

safetensors_torch = pytest.importorskip("safetensors.torch")
tnn = torch.nn


def written(model, path, *, leave_out=(), add=()):
    """The model's weights in a file, as PyTorch writes them."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value for name, value in state.items() if name not in leave_out} | dict(add)
    safetensors_torch.save_file(state, path)
    return path


def assert_same(ours, theirs, x, dtype="float32", rtol=1e-4):
    with torch.no_grad():
        expected = theirs(torch.tensor(x))
        expected = expected[0] if isinstance(expected, tuple) else expected
    with ndl.no_grad():
        found = ours.eval()(ndl.Tensor(x, dtype=dtype))
        found = found[0] if isinstance(found, tuple) else found
    scale = expected.abs().max().item()
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=rtol, atol=rtol * scale)


def tokens(*shape):
    return np.random.RandomState(3).randint(13, size=shape)


# -- families --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["small images", "torchvision"])
def resnet_pair(request):
    theirs = randomize(torch_networks.ResNet18(5, request.param))
    return theirs, ResNet18(5, small_images=request.param)


def test_resnet18(resnet_pair, tmp_path):
    theirs, ours = resnet_pair
    assert load_foreign(ours, written(theirs, tmp_path / "file")) == ([], [])
    x = np.random.RandomState(0).randn(2, 3, 33, 40).astype("float32")
    assert_same(ours, theirs, x)
    back = foreign_state(ours)
    for name, value in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back.pop(name), value.numpy(), strict=True)
    assert not back


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_language_models(kind, layers, tmp_path):
    theirs = randomize(torch_networks.LanguageModel(kind, 13, 6, 7, layers))
    ours = LanguageModel(6, 13, 7, layers, kind)
    assert load_foreign(ours, written(theirs, tmp_path / "file")) == ([], [])
    assert_same(ours, theirs, tokens(5, 3))
    theirs.load_state_dict({name: torch.tensor(x) for name, x in foreign_state(ours).items()})
    assert_same(ours, theirs, tokens(5, 3))


@pytest.mark.parametrize("rename", [{}, {"words": "encoder", "net": "rnn", "out": "decoder"}])
def test_language_models_under_other_names(rename):
    theirs = randomize(torch_networks.LanguageModel("lstm", 13, 6, 7, 1))
    names = rename or {"embedding": "encoder", "lstm": "rnn", "fc": "decoder"}
    state = {}
    for name, value in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        other = next(name for name, usual in names.items() if usual == first)
        state[f"module.{other}.{rest}" if not rename else f"{other}.{rest}"] = value
    ours = LanguageModel(6, 13, 7, 1, "lstm")
    load_foreign(ours, state, rename=rename)
    assert_same(ours, theirs, tokens(5, 3))


def test_a_language_model_whose_file_has_one_table_for_both_ends(tmp_path):
    theirs = torch_networks.LanguageModel("rnn", 13, 7, 7, 1)
    theirs.decoder.weight = theirs.encoder.weight
    randomize(theirs)
    ours = LanguageModel(7, 13, 7)
    load_foreign(ours, written(theirs, tmp_path / "file", leave_out=["decoder.weight"]))
    assert_same(ours, theirs, tokens(5, 3))


GPTS = [
    {},
    {"leave_out": ["lm_head.weight"]},
    {"prefix": ""},
    {"bias": False},
    {"tied": False},
]


@pytest.mark.parametrize("linear", [Conv1D, tnn.Linear], ids=["hugging face", "linear"])
@pytest.mark.parametrize("options", GPTS, ids=str)
def test_gpt(linear, options, tmp_path):
    bias, tied = options.get("bias", True), options.get("tied", True)
    theirs = randomize(foreign_models.GPT(linear, 13, 8, 2, 2, 12, bias=bias, tied=tied))
    ours = GPT(13, 8, 2, 2, 12, bias=bias, tied=tied)
    path = written(theirs, tmp_path / "file", leave_out=options.get("leave_out", ()))
    source = path
    if "prefix" in options:
        source = {name.removeprefix("transformer."): x for name, x in ndl.load(path).items()}
    assert load_foreign(ours, source) == ([], [])
    assert_same(ours, theirs, tokens(3, 8))
    back = foreign_state(ours, inputs_first=linear is Conv1D)
    for name, value in back.items():
        full = name if name.startswith("lm_head") else f"transformer.{name}"
        np.testing.assert_array_equal(value, theirs.state_dict()[full].numpy(), strict=True)


def test_a_head_of_its_own_takes_the_table_where_the_file_has_only_that():
    theirs = randomize(foreign_models.GPT(Conv1D, 13, 8, 1, 2, 12))
    state = theirs.state_dict()
    del state["lm_head.weight"]
    ours = GPT(13, 8, 1, 2, 12, tied=False)
    load_foreign(ours, state)
    assert_same(ours, theirs, tokens(3, 8))


def test_a_tied_model_refuses_a_head_that_is_no_table():
    theirs = foreign_models.GPT(tnn.Linear, 13, 8, 1, 2, 12, tied=False)
    with pytest.raises(StateDictError, match=r"lm_head\.weight: differs from transformer\.wte"):
        load_foreign(GPT(13, 8, 1, 2, 12), theirs.state_dict())


def test_a_tied_model_of_bfloat16_loads_from_a_dict():
    theirs = randomize(foreign_models.GPT(Conv1D, 13, 8, 1, 2, 12)).to(torch.bfloat16)
    ours = GPT(13, 8, 1, 2, 12)
    load_foreign(ours, theirs.state_dict(keep_vars=True))
    assert_same(ours, theirs.float(), tokens(3, 8))


# -- any model by the same names -------------------------------------------------------------------

PAIRS = {
    "linear": lambda n: n.Sequential(n.Linear(6, 4), n.ReLU(), n.Linear(4, 4, bias=False)),
    "norms": lambda n: n.Sequential(
        n.Linear(6, 4), n.BatchNorm1d(4), n.Sequential(n.LayerNorm(4), n.Tanh())
    ),
    "convolutions": lambda n: n.Sequential(
        n.Conv2d(2, 4, (3, 2), padding=1, groups=2),
        n.BatchNorm2d(4),
        n.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        n.GroupNorm(3, 6),
        n.Conv2d(6, 6, 1, groups=6),
    ),
    "one axis": lambda n: n.Sequential(
        n.Conv1d(2, 4, 3), n.ReLU(), n.ConvTranspose1d(4, 3, 2, stride=2)
    ),
}
INPUTS = {
    "linear": (5, 6),
    "norms": (5, 6),
    "convolutions": (2, 2, 7, 6),
    "one axis": (2, 2, 9),
}


@pytest.mark.parametrize("kind", list(PAIRS))
def test_a_sequential_model(kind, tmp_path):
    theirs, ours = randomize(PAIRS[kind](tnn)), PAIRS[kind](nn)
    assert load_foreign(ours, written(theirs, tmp_path / "file")) == ([], [])
    x = np.random.RandomState(0).randn(*INPUTS[kind]).astype("float32")
    assert_same(ours, theirs, x)
    ndl.save(foreign_state(ours), tmp_path / "back")
    state = safetensors_torch.load_file(tmp_path / "back")
    theirs.load_state_dict(state, strict=False)
    assert set(state) <= set(theirs.state_dict())
    assert_same(ours, theirs, x)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_a_cell_by_itself(kind):
    theirs, ours = randomize(getattr(tnn, kind)(4, 3)), getattr(nn, kind)(4, 3)
    load_foreign(ours, theirs.state_dict())
    np.testing.assert_array_equal(ours.W_hh.numpy().T, theirs.weight_hh.detach().numpy())
    assert set(foreign_state(ours)) == set(theirs.state_dict())


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_bidirectional_network(kind):
    theirs = randomize(getattr(tnn, kind)(4, 3, 2, bidirectional=True))
    ours = getattr(nn, kind)(4, 3, 2, bidirectional=True)
    load_foreign(ours, theirs.state_dict())
    assert_same(ours, theirs, np.random.RandomState(0).randn(5, 2, 4).astype("float32"))
    assert set(foreign_state(ours)) == set(theirs.state_dict())


def test_a_transformer_encoder():
    options = {"dim_feedforward": 16, "norm_first": True}
    theirs = tnn.TransformerEncoder(
        tnn.TransformerEncoderLayer(8, 2, **options, batch_first=True),
        2,
        enable_nested_tensor=False,
    )
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, **options), 2)
    assert load_foreign(ours, randomize(theirs).state_dict()) == ([], [])
    assert_same(ours, theirs, np.random.RandomState(0).randn(3, 5, 8).astype("float32"))
    assert set(foreign_state(ours)) == set(theirs.state_dict())


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_numbers_are_cast_to_the_models_dtype(dtype, tmp_path):
    theirs = tnn.Linear(3, 2).to(getattr(torch, dtype))
    ours = nn.Linear(3, 2)
    load_foreign(ours, written(theirs, tmp_path / "file"))
    assert ours.weight.dtype == np.float32
    expected = theirs.weight.detach().float().numpy().T
    np.testing.assert_array_equal(ours.weight.numpy(), expected)


# -- what does not fit -----------------------------------------------------------------------------


def unchanged(model, source, kind, match, **options):
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with pytest.raises(kind, match=match) as caught:
        load_foreign(model, source, **options)
    assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    return str(caught.value)


def test_every_weight_at_fault_is_named_and_the_model_unchanged():
    theirs = torch_networks.LanguageModel("lstm", 13, 6, 7, 1)
    state = theirs.state_dict()
    state["extra"] = state.pop("rnn.bias_hh_l0")
    state["decoder.weight"] = state["decoder.weight"].T
    message = unchanged(LanguageModel(6, 13, 7, 1, "lstm"), state, StateDictError, "got 3 at fault")
    assert "rnn.bias_hh_l0: missing" in message
    assert "extra: unexpected" in message
    assert "decoder.weight: expected shape (13, 7), got (7, 13)" in message


def test_weights_of_another_architecture_are_refused():
    state = torch_networks.ResNet18(10, False).state_dict()
    model = ResNet18(10)
    assert "conv1.weight: expected shape (64, 3, 3, 3), got (64, 3, 7, 7)" in unchanged(
        model, state, StateDictError, "ResNet18, got 1 at fault"
    )
    unchanged(GPT(13, 8, 1, 2, 12), state, StateDictError, "wte.weight: missing")


def test_a_gpt_of_another_size_is_refused():
    state = foreign_models.GPT(Conv1D, 13, 8, 2, 2, 12).state_dict()
    message = unchanged(GPT(13, 9, 1, 2, 12), state, StateDictError, "got 13 at fault")
    assert "transformer.wpe.weight: expected shape (9, 12), got (8, 12)" in message
    assert "transformer.h.1.ln_1.weight: unexpected" in message


def test_a_weight_that_comes_twice_is_unexpected():
    state = tnn.Linear(3, 2).state_dict()
    state["module.weight"] = state["weight"]
    unchanged(nn.Linear(3, 2), state, StateDictError, r"got 1 at fault: module\.weight: unexpected")


def test_without_strict_what_there_is_gets_loaded():
    theirs = tnn.Sequential(tnn.Linear(3, 2), tnn.ReLU())
    state = {**theirs.state_dict(), "1.extra": torch.zeros(1)}
    del state["0.bias"]
    ours = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    assert load_foreign(ours, state, strict=False) == (["0.bias"], ["1.extra"])
    expected = theirs[0].weight.detach().numpy().T
    np.testing.assert_array_equal(ours[0].weight.numpy(), expected)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    model = nn.Linear(3, 2)
    path = written(tnn.Linear(3, 2), tmp_path / "file")
    path.write_bytes(path.read_bytes()[:-3])
    unchanged(model, path, FileFormatError, "expected a whole safetensors file")
    torch.save(tnn.Linear(3, 2).state_dict(), path)
    message = unchanged(model, str(path), FileFormatError, "expected a whole safetensors file")
    assert "It is pickled" in message
    assert "safetensors.torch.save_file(model.state_dict(), path)" in message
    unchanged(model, tmp_path / "absent", FileNotFoundError, "got no file at")


def test_what_is_neither_a_path_nor_a_dict_is_refused():
    unchanged(nn.Linear(3, 2), [1], DTypeError, "load_foreign: expected a path or a dict")


@pytest.mark.parametrize("value", [None, "numbers", [[1.0], [1.0, 2.0]]])
def test_what_is_no_array_is_named(value):
    state = {**tnn.Linear(3, 2).state_dict(), "weight": value}
    unchanged(nn.Linear(3, 2), state, StateDictError, r"got 1 at fault: weight: ")


def test_complex_numbers_are_refused():
    state = {**tnn.Linear(3, 2).state_dict(), "weight": np.ones((2, 3), "complex64")}
    unchanged(nn.Linear(3, 2), state, StateDictError, r"weight: .*real numbers")


def test_dicts_of_other_things_are_refused():
    state = tnn.Linear(3, 2).state_dict()
    model = nn.Linear(3, 2)
    unchanged(model, {0: state["weight"]}, DTypeError, r"got a dict with the name 0, an int\.$")
    unchanged(
        model,
        {"state_dict": state, "epoch": 3},
        DTypeError,
        r"got a dict that holds another under 'state_dict'\. Hand over that one",
    )
    for rename in ("lstm", [("a", "b")], {1: "b"}, {"a": None}):
        unchanged(
            model, state, DTypeError, "expected rename to be a dict of strings, got ", rename=rename
        )


def test_what_is_no_module_is_refused():
    for call in (lambda: load_foreign({}, {}), lambda: foreign_state(3)):
        with pytest.raises(DTypeError, match="expected a module, got a"):
            call()


def test_long_lists_of_faults_are_cut():
    state = {f"layers.{i}.weight": torch.zeros(1) for i in range(18)}
    message = unchanged(nn.Linear(3, 2), state, StateDictError, "got 20 at fault: weight: missing")
    assert message.endswith("layers.5.weight: unexpected; and 12 more unexpected.")


def test_numbers_that_the_models_dtype_cannot_hold_are_refused():
    state = {"weight": np.full((2, 3), 1e300), "bias": np.array([np.inf, 1.0])}
    unchanged(
        nn.Linear(3, 2), state, StateDictError,
        r"got 1 at fault: weight: expected numbers that float32 holds, got 1e\+300\.",
    )  # fmt: skip
