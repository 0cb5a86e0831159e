"""Names of weights in files and here: rename, ForeignNames, models within models."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import init, nn
from needle.errors import DTypeError, OptionError, StateDictError
from needle.models import GPT, LanguageModel, foreign_state, load_foreign
from needle.models.foreign_names import ForeignNames


class Holder(nn.Module):
    """A module with the modules that it is given, under the names it is given."""

    def __init__(self, names=None, **modules):
        super().__init__()
        if names is not None:
            self.foreign_names = names
        for name, module in modules.items():
            setattr(self, name, module)


def gpt(**options):
    return GPT(7, 5, 1, 2, 4, **options)


def assert_equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for name, value in a.items():
        np.testing.assert_array_equal(value.numpy(), b[name].numpy())


# -- models within a model -------------------------------------------------------------------------


@pytest.mark.parametrize("inputs_first", [True, False])
def test_the_names_of_a_model_within_a_model_are_known(inputs_first):
    trained, other = (Holder(gpt=gpt(), out=nn.Linear(4, 3)) for _ in range(2))
    file = foreign_state(trained, inputs_first=inputs_first)
    alone = foreign_state(trained.gpt, inputs_first=inputs_first)
    assert list(file) == [*[f"gpt.{name}" for name in alone], "out.weight", "out.bias"]
    assert file["out.weight"].shape == (3, 4)
    file["gpt.h.0.attn.bias"] = np.tril(np.ones((1, 1, 5, 5)))
    file["gpt.lm_head.weight"] = file["gpt.wte.weight"]
    assert load_foreign(other, file) == ([], [])
    assert_equal_states(other, trained)


def test_what_a_model_within_a_model_is_wrapped_in_is_read_past():
    trained, other = Holder(gpt=gpt(tied=False)), Holder(gpt=gpt(tied=False))
    file = foreign_state(trained)
    del file["gpt.lm_head.weight"]
    file = {f"module.{name.replace('gpt.', 'gpt.transformer.')}": x for name, x in file.items()}
    load_foreign(other, file)
    trained.gpt.head.weight.data = trained.gpt.token_embedding.weight.transpose().detach()
    assert_equal_states(other, trained)


def test_what_both_are_wrapped_in_is_read_past():
    names = ForeignNames(parts={"gpt": ("decoder", "lm")}, outer=("net",))
    model = Holder(names, gpt=gpt())
    file = {f"net.{name}": array for name, array in foreign_state(model).items()}
    file = {name.replace("decoder.", "lm.transformer."): array for name, array in file.items()}
    for head in ("net.lm.lm_head.weight", "lm.transformer.lm_head.weight"):
        table = file["net.lm.transformer.wte.weight"]
        more = {head: table, "net.lm.transformer.h.0.attn.bias": np.ones(1)}
        assert load_foreign(model, {**file, **more}) == ([], [])


def test_a_model_in_a_list_and_one_in_another_are_known():
    parts = {"first": nn.Sequential(gpt()), "second": [LanguageModel(3, 7, 4, 1, "lstm")]}
    names = list(foreign_state(Holder(**parts)))
    assert names[0] == "first.0.wte.weight"
    assert "second.0.rnn.weight_ih_l0" in names
    assert "second.0.decoder.bias" in names


def test_masks_are_passed_over_only_where_the_model_is():
    model = Holder(gpt=gpt())
    file = {**foreign_state(model), "other.attn.bias": np.ones(1)}
    with pytest.raises(StateDictError, match=r"got 1 at fault: other\.attn\.bias: unexpected"):
        load_foreign(model, file)


def test_a_head_within_a_model_that_is_no_table_is_refused():
    model = Holder(gpt=gpt())
    file = {**foreign_state(model), "gpt.lm_head.weight": np.ones((7, 4))}
    with pytest.raises(
        StateDictError, match=r"gpt\.lm_head\.weight: differs from gpt\.wte\.weight"
    ):
        load_foreign(model, file)
    file = {name: x for name, x in file.items() if "wte" not in name}
    report = load_foreign(model, file, strict=False)
    assert report == (["gpt.wte.weight"], ["gpt.lm_head.weight"])


def test_the_model_outside_names_what_the_one_inside_says_nothing_of():
    names = ForeignNames(
        parts={"gpt": ("decoder",), "head": ("classifier",), "out": ("fc",), "gpt.norm": ("last",)}
    )
    model = Holder(names, gpt=gpt(tied=False), head=Holder(out=nn.Linear(4, 3)))
    found = foreign_state(model)
    assert {"decoder.h.0.ln_1.weight", "decoder.lm_head.weight", "classifier.fc.bias"} < set(found)
    assert "last.weight" in found
    assert load_foreign(model, found) == ([], [])


def test_a_layer_that_stands_in_two_places_is_turned_in_both():
    layer = nn.Linear(3, 2)
    model = Holder(a=layer, b=layer)
    file = foreign_state(model)
    assert file["a.weight"].shape == file["b.weight"].shape == (2, 3)
    assert load_foreign(model, file) == ([], [])


def test_other_weights_of_attention_have_their_own_names():
    model = nn.Attention(4, 2)
    model.scale = model.in_proj.scale = nn.Parameter(init.ones(1).reshape(()))
    names = ["in_proj_weight", "in_proj_bias", "in_proj.scale"]
    file = foreign_state(model)
    assert list(file) == [*names, "out_proj.weight", "out_proj.bias", "scale"]
    assert load_foreign(model, file) == ([], [])


def test_foreign_names_of_another_type_are_refused():
    model = Holder({"a": "b"}, a=nn.Linear(3, 2))
    for call in (foreign_state, lambda model: load_foreign(model, {})):
        with pytest.raises(
            DTypeError, match="expected the foreign_names of Holder to be a Foreign"
        ):
            call(Holder(outer=model))


# -- rename ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rename",
    [
        {"model": ""},
        {"model.": ""},
        {"model.": "module."},
        {"m": "x", "mode": "y", "model.0": "0", "model": "z", "model.2.": "2."},
        {"model": "z", "model.0.weight": "0.weight", "model.0.": "0", "model.2": "2."},
    ],
    ids=str,
)
def test_beginnings_are_replaced_the_longest_first(rename):
    model, other = (nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)) for _ in range(2))
    file = {f"model.{name}": array for name, array in foreign_state(model).items()}
    assert load_foreign(other, file, rename=rename) == ([], [])
    assert_equal_states(other, model)


def test_no_beginning_at_all_is_that_of_every_name():
    model = Holder(net=nn.Linear(3, 2))
    file = foreign_state(model.net)
    for rename in ({"": "net"}, {"": "net."}):
        assert load_foreign(model, file, rename=rename) == ([], [])


# -- ForeignNames ----------------------------------------------------------------------------------


def test_a_level_can_be_left_out():
    names = ForeignNames(parts={"net": ("",), "first": ("", "fc1")})
    model = Holder(names, net=Holder(first=nn.Linear(3, 2)), last=nn.Linear(2, 2))
    file = foreign_state(model)
    assert list(file) == ["weight", "bias", "last.weight", "last.bias"]
    assert load_foreign(model, file) == ([], [])
    file["fc1.weight"] = file.pop("weight")
    assert load_foreign(model, file) == ([], [])


def test_several_parts_in_a_row_are_named_together():
    names = ForeignNames(
        parts={"net.first": ("fc.1",), "first": ("other",), "a.b.weight": ("w",), "a.b": ("c",)}
    )
    model = Holder(
        names,
        net=Holder(first=nn.Linear(3, 2), second=nn.Linear(3, 2)),
        first=nn.Linear(1, 1, bias=False),
        a=Holder(b=nn.Linear(1, 1)),
    )
    file = foreign_state(model)
    assert list(file) == [
        "fc.1.weight", "fc.1.bias", "net.second.weight", "net.second.bias", "other.weight",
        "w", "c.bias",
    ]  # fmt: skip
    assert load_foreign(model, file) == ([], [])


def test_names_that_become_one_are_refused():
    names = ForeignNames(parts={"a": ("",), "b": ("",)})
    model = Holder(names, a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    message = (
        r"{}: expected a name in files for each weight, got 'weight' for a\.weight and b\.weight\."
    )
    with pytest.raises(StateDictError, match=message.format("foreign_state")):
        foreign_state(model)
    with pytest.raises(StateDictError, match=message.format("load_foreign")):
        load_foreign(model, {})


def test_a_model_in_place_of_its_state_dict_is_told_in_one_line():
    with pytest.raises(DTypeError) as caught:
        load_foreign(nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2)))
    assert str(caught.value) == (
        "load_foreign: expected a path or a dict of names and arrays, got a Sequential. "
        "Hand over its .state_dict()."
    )


def test_a_run_from_foreign_weights_can_be_saved_and_resumed_to_the_same_bits(tmp_path):
    def trained(model, steps):
        optimizer = ndl.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(steps):
            loss = (model(x) ** 2).mean()
            loss.backward(create_graph=False)
            optimizer.step()
        return model

    def network():
        return nn.Sequential(nn.Conv2d(5, 33, 3), nn.Flatten(), nn.Linear(33 * 9, 7))

    np.random.seed(0)
    x = init.randn(4, 5, 5, 5, requires_grad=False)
    first, resumed = network(), network()
    load_foreign(first, foreign_state(network()))
    ndl.save(trained(first, 2), tmp_path / "run.safetensors")
    resumed.load_state_dict(ndl.load(tmp_path / "run.safetensors"))
    assert_equal_states(trained(first, 3), trained(resumed, 3))


def test_a_written_name_goes_before_one_that_may_be_read():
    names = ForeignNames(parts={"a": ("x", "b")})
    model = Holder(names, a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    file = foreign_state(model)
    assert load_foreign(model, file) == ([], [])
    np.testing.assert_array_equal(model.b.weight.numpy(), file["b.weight"].T)


REFUSED = {
    "a string for names": ({"parts": {"a": "fc"}}, DTypeError, r"parts\['a'\] .*, got str 'fc'"),
    "no name": ({"parts": {"a": ()}}, OptionError, r"parts\['a'\] .* one name or more, got \(\)"),
    "an empty key": ({"parts": {"": ("a",)}}, OptionError, "'fc' or 'net.fc' in parts, got ''"),
    "an odd key": ({"parts": {"a.": ("b",)}}, OptionError, "in parts, got 'a.'"),
    "an odd name": ({"parts": {"a": ("b..c",)}}, OptionError, r"in parts\['a'\], got 'b..c'"),
    "no dict": ({"parts": [("a", "b")]}, DTypeError, "expected parts to be a dict"),
    "a string for outer": ({"outer": "net"}, DTypeError, "outer to be a tuple of strings"),
    "an empty outer": ({"outer": ("",)}, OptionError, "in outer, got ''"),
    "a number to ignore": ({"ignored": (3,)}, DTypeError, "ignored to be a tuple of strings"),
    "a single tied name": ({"tied": (("a",),)}, OptionError, "tied to hold pairs of names, got"),
    "tied strings": ({"tied": ("ab",)}, DTypeError, "tied to be a tuple of strings, got str 'ab'"),
}


@pytest.mark.parametrize("fault", list(REFUSED))
def test_what_are_no_names_is_refused(fault):
    options, kind, message = REFUSED[fault]
    with pytest.raises(kind, match=message) as caught:
        ForeignNames(**options)
    assert str(caught.value).startswith("ForeignNames: expected ")
    assert "\n" not in str(caught.value)
