"""Attention's weights, which files have as one for q, k and v or as three: the same outputs."""

from __future__ import annotations

import numpy as np
import pytest
from parity.foreign_models import randomize
from parity.side_by_side import torch

import needle as ndl
from needle import nn
from needle.errors import StateDictError
from needle.models import GPT, foreign_state, load_foreign
from needle.models.foreign_names import ForeignNames

tnn = torch.nn

WIDTH, HEADS = 12, 6
RANDOM = np.random.RandomState(5)
SELF = RANDOM.randn(2, 5, WIDTH).astype("float32")


class Separate(tnn.Module):
    """Attention with a linear layer each for q, k and v, of fewer heads for k and v."""

    def __init__(self, kv_heads, bias=True, kdim=WIDTH, names="qkv"):
        super().__init__()
        width = kv_heads * WIDTH // HEADS
        self.names = names = {"qkv": ["q_proj", "k_proj", "v_proj"],
                              "bert": ["query", "key", "value"]}[names]  # fmt: skip
        for name, sizes in zip(names, [(WIDTH, WIDTH), (kdim, width), (kdim, width)], strict=True):
            self.add_module(name, tnn.Linear(*sizes, bias=bias))
        self.o_proj = tnn.Linear(WIDTH, WIDTH, bias=bias)
        randomize(self)

    def forward(self, query, memory):
        given = zip(self.names, [query, memory, memory], strict=True)
        q, k, v = (
            getattr(self, name)(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for name, x in given
        )
        k, v = (x.repeat_interleave(HEADS // x.shape[1], 1) for x in (k, v))
        y = tnn.functional.scaled_dot_product_attention(q, k, v)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def assert_same(ours, theirs, *inputs, **options):
    with torch.no_grad():
        expected = theirs(*map(torch.tensor, inputs), **options)
    expected = expected[0] if isinstance(expected, tuple) else expected
    with ndl.no_grad():
        found = ours.eval()(*[ndl.Tensor(x, dtype="float32") for x in inputs])
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


# -- a linear layer each ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [HEADS, 2, 1])
def test_three_linear_layers_load_into_one(kv_heads, bias):
    theirs = Separate(kv_heads, bias)
    ours = nn.Attention(WIDTH, HEADS, kv_heads=kv_heads, bias=bias)
    assert load_foreign(ours, theirs.state_dict(), rename={"o_proj": "out_proj"}) == ([], [])
    assert_same(ours, theirs, SELF, SELF)
    biases = {"in_proj_bias", "out_proj.bias"} if bias else set()
    assert set(foreign_state(ours)) == {"in_proj_weight", "out_proj.weight"} | biases


def test_three_linear_layers_load_into_three():
    theirs = Separate(2, kdim=7)
    ours = nn.Attention(WIDTH, HEADS, kv_heads=2, kdim=7, vdim=7)
    assert load_foreign(ours, theirs.state_dict(), rename={"o_proj": "out_proj"}) == ([], [])
    assert_same(ours, theirs, SELF, RANDOM.randn(2, 4, 7).astype("float32"))


class Bert(nn.Module):
    foreign_names = ForeignNames(
        parts={
            "attention": ("",),
            "q_proj": ("query",),
            "k_proj": ("key",),
            "v_proj": ("value",),
            "out_proj": ("o_proj",),
        }
    )

    def __init__(self):
        super().__init__()
        self.attention = nn.Attention(WIDTH, HEADS)

    def forward(self, query, memory):
        return self.attention(query, memory)


def test_three_linear_layers_of_other_names_are_read_and_written():
    theirs, ours = Separate(HEADS, names="bert"), Bert()
    assert load_foreign(ours, theirs.state_dict()) == ([], [])
    assert_same(ours, theirs, SELF, SELF)
    back = {name: torch.tensor(x) for name, x in foreign_state(ours).items()}
    theirs = Separate(HEADS, names="bert")
    theirs.load_state_dict(back)
    assert_same(ours, theirs, SELF, SELF)


def test_three_linear_layers_of_other_names_are_renamed():
    theirs = Separate(HEADS, names="bert")
    ours = nn.Attention(WIDTH, HEADS)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "o_proj": "out_proj"}
    load_foreign(ours, theirs.state_dict(), rename=names)
    assert_same(ours, theirs, SELF, SELF)


@pytest.mark.parametrize("inputs_first", [True, False])
def test_three_projections_of_a_gpt_lie_either_way(inputs_first):
    trained, ours = GPT(13, 8, 2, 2, 12), GPT(13, 8, 2, 2, 12)
    file = {}
    for name, array in foreign_state(trained, inputs_first=inputs_first).items():
        if "c_attn" in name:
            parts = np.split(array, 3, -1 if inputs_first else 0)
            for letter, part in zip("qkv", parts, strict=True):
                file[name.replace("c_attn", f"{letter}_proj")] = part
        else:
            file[name] = array
    assert load_foreign(ours, file) == ([], [])
    for name, value in trained.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name].numpy(), value.numpy())


def test_floats_of_several_dtypes_are_joined():
    state = Separate(2).state_dict()
    state["k_proj.weight"] = state["k_proj.weight"].to(torch.bfloat16)
    state["v_proj.weight"] = state["v_proj.weight"].to(torch.float16)
    ours = nn.Attention(WIDTH, HEADS, kv_heads=2)
    load_foreign(ours, state, rename={"o_proj": "out_proj"})
    joined = [state[f"{letter}_proj.weight"].float().T for letter in "qkv"]
    np.testing.assert_array_equal(ours.in_proj.weight.numpy(), np.concatenate(joined, 1))


def test_a_projection_that_is_missing_or_wrong_is_named():
    state = Separate(2).state_dict()
    del state["k_proj.weight"]
    state["v_proj.bias"] = torch.zeros(5)
    ours = nn.Attention(WIDTH, HEADS, kv_heads=2)
    before = ours.in_proj.weight.numpy().copy()
    with pytest.raises(StateDictError) as caught:
        load_foreign(ours, state, rename={"o_proj": "out_proj"})
    assert str(caught.value) == (
        "load_foreign: expected the weights of Attention, got 2 at fault: "
        "v_proj.bias: expected shape (4,), got (5,); k_proj.weight: missing."
    )
    np.testing.assert_array_equal(ours.in_proj.weight.numpy(), before)


def test_complex_projections_are_refused():
    state = Separate(2).state_dict()
    state["k_proj.weight"] = state["k_proj.weight"].to(torch.complex64)
    ours = nn.Attention(WIDTH, HEADS, kv_heads=2)
    with pytest.raises(StateDictError, match=r"1 at fault: k_proj\.weight: .*complex64"):
        load_foreign(ours, state, rename={"o_proj": "out_proj"})


def test_without_strict_a_projection_that_is_missing_stays_as_it_is():
    """Some models have no bias for the keys."""
    theirs = Separate(HEADS)
    theirs.k_proj.bias = None
    ours = nn.Attention(WIDTH, HEADS)
    report = load_foreign(ours, theirs.state_dict(), rename={"o_proj": "out_proj"}, strict=False)
    assert report == (["k_proj.bias"], [])
    assert_same(ours, theirs, SELF, SELF)


def test_one_for_all_goes_before_three_that_come_too():
    one = foreign_state(nn.Attention(WIDTH, HEADS))
    both = {**one, "q_proj.weight": np.ones((WIDTH, WIDTH)), "v_proj.bias": np.ones(WIDTH)}
    ours = nn.Attention(WIDTH, HEADS)
    assert load_foreign(ours, both, strict=False) == ([], ["q_proj.weight", "v_proj.bias"])
    for name, array in foreign_state(ours).items():
        np.testing.assert_array_equal(array, one[name])


# -- PyTorch's own with keys and values of other widths --------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{"kdim": 7, "vdim": 9}, {"vdim": 9}, {"kdim": 7}], ids=str)
def test_multihead_attention_with_kdim_and_vdim(widths, bias):
    theirs = randomize(tnn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=True, **widths))
    ours = nn.Attention(WIDTH, HEADS, bias=bias, **widths)
    if bias:
        with torch.no_grad():
            theirs.in_proj_bias.copy_(torch.randn(3 * WIDTH))
    assert load_foreign(ours, theirs.state_dict()) == ([], [])
    k = RANDOM.randn(2, 4, widths.get("kdim", WIDTH)).astype("float32")
    v = RANDOM.randn(2, 4, widths.get("vdim", WIDTH)).astype("float32")
    assert_same(ours, theirs, SELF, k, v)
    back = foreign_state(ours)
    assert set(back) == set(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(back[name], value.numpy(), strict=True)


def test_a_bias_of_another_size_is_named():
    theirs = tnn.MultiheadAttention(WIDTH, HEADS, kdim=7).state_dict()
    theirs["in_proj_bias"] = torch.zeros(WIDTH)
    with pytest.raises(StateDictError, match=r"in_proj_bias: expected shape \(36,\), got \(12,\)"):
        load_foreign(nn.Attention(WIDTH, HEADS, kdim=7), theirs)


def test_one_bias_of_three_is_known_when_a_model_has_no_more():
    ours = nn.Attention(WIDTH, HEADS, kdim=7)
    ours.k_proj.bias = None
    state = foreign_state(ours)
    assert {"q_proj.bias", "v_proj.bias"} < set(state)
    assert load_foreign(ours, state) == ([], [])
