"""Module: what it finds, modes, names, state, moving, printing, copying."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DeviceError, DTypeError, StateDictError


def live_values():
    return ndl.autograd.TENSOR_COUNTER


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.heads = {"a": nn.Linear(4, 2), "b": [nn.Linear(4, 1, bias=False)]}
        self.scale = nn.Parameter(tensor([2.0], dtype="float32"))
        self.steps = tensor([0])

    def forward(self, x):
        x = self.body(x)
        return self.heads["a"](x) * self.scale, self.heads["b"][0](x)


NAMES = [
    "body.modules.0.weight", "body.modules.0.bias", "body.modules.1.weight",
    "body.modules.1.bias", "body.modules.1.running_mean", "body.modules.1.running_var",
    "heads.a.weight", "heads.a.bias", "heads.b.0.weight", "scale", "steps",
]  # fmt: skip
BUFFERS = ["body.modules.1.running_mean", "body.modules.1.running_var", "steps"]


class Circle(nn.Module):
    """A module, its child that knows its parent, and a list that holds itself."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(1, 1)
        self.child.parent = self
        self.endless: list = [nn.ReLU()]
        self.endless.append(self.endless)


# -- what it consists of -----------------------------------------------------------------------


def test_names_are_dotted_paths():
    network = Network()
    assert list(network.state_dict()) == NAMES
    expected = [name for name in NAMES if name not in BUFFERS]
    assert [name for name, _ in network.named_parameters()] == expected
    assert [name for name, _ in network.named_buffers()] == BUFFERS


def test_modules_have_names():
    names = [name for name, _ in Network().named_modules()]
    assert names == [
        "", "body", "body.modules.0", "body.modules.1", "body.modules.2", "heads.a", "heads.b.0",
    ]  # fmt: skip


def test_shared_parameters_are_named_and_counted_once():
    network = Network()
    network.tied = network.heads["a"].weight
    names = [name for name, _ in network.named_parameters()]
    assert "tied" not in names
    every_name = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert "tied" in every_name
    assert network.num_parameters() == 3 * 4 + 4 + 4 + 4 + 4 * 2 + 2 + 4 + 1


def test_shared_modules_are_listed_once():
    block = nn.Linear(2, 2)
    model = nn.Sequential(block, nn.ReLU(), block)
    assert model.submodules() == [model, block, model.modules[1]]
    assert [name for name, _ in model.named_modules()] == ["", "modules.0", "modules.1"]
    assert len(model.parameters()) == 4


def test_gradients_of_a_shared_parameter_add_up():
    block = nn.Linear(1, 1, bias=False)
    block.weight.data = tensor([[3.0]], dtype="float32")
    nn.Sequential(block, block)(tensor([[1.0]], dtype="float32")).backward()
    assert block.weight.grad.item() == 6.0


def test_circles_are_followed_once():
    circle = Circle()
    assert len(circle.parameters()) == 2
    assert list(circle.state_dict()) == ["child.weight", "child.bias"]
    assert circle.submodules() == [circle, circle.child, circle.endless[0]]
    circle.eval()
    assert not circle.endless[0].training
    assert "(parent): (...)" in repr(circle)


def test_a_module_that_never_called_init_still_works():
    class Careless(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    module = Careless()
    assert module.training is True
    module.eval()
    assert module.training is False
    assert nn.Module.training is True
    assert len(module.parameters()) == 2


def test_forward_that_is_not_written_names_the_class():
    class Unfinished(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished: forward is not written"):
        Unfinished()(1)


def test_arguments_reach_forward():
    class Call(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    assert Call()(1, 2, key=3) == ((1, 2), {"key": 3})


# -- modes -------------------------------------------------------------------------------------


def test_train_and_eval_return_the_module():
    network = Network()
    assert network.eval() is network
    assert network.train() is network
    network.train(False)
    assert not any(module.training for module in network.submodules())


def test_freezing_stops_gradients_and_unfreezing_brings_them_back():
    network, x = Network(), ndl.init.randn(5, 3)
    network.body.requires_grad_(False)
    sum(y.sum() for y in network(x)).backward()
    assert network.body.modules[0].weight.grad is None
    assert network.scale.grad is not None
    network.requires_grad_()
    sum(y.sum() for y in network(x)).backward()
    assert network.body.modules[0].weight.grad is not None


def test_zero_grad_forgets_gradients():
    network = Network()
    sum(y.sum() for y in network(ndl.init.randn(5, 3))).backward()
    network.zero_grad()
    assert all(p.grad is None for p in network.parameters())


def test_apply_visits_each_module_once_in_order_children_first():
    network, seen = Network(), []
    assert network.apply(seen.append) is network
    body, heads = network.body, network.heads
    assert seen == [*body.modules, body, heads["a"], heads["b"][0], network]
    circle, seen = Circle(), []
    circle.apply(seen.append)
    assert seen == [circle.child, circle.endless[0], circle]


def test_apply_serves_for_initialising():
    def to_zero(module):
        if isinstance(module, nn.Linear):
            module.weight.data = ndl.init.zeros_like(module.weight)

    network = Network().apply(to_zero)
    assert not network.heads["a"].weight.numpy().any()


# -- state -------------------------------------------------------------------------------------


def assert_equal_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name].numpy(), other[name].numpy(), err_msg=name)


def test_state_is_what_it_was_though_training_goes_on():
    network = Network()
    state = network.state_dict()
    before = {name: tensor.numpy() for name, tensor in state.items()}
    sum(y.sum() for y in network(ndl.init.randn(5, 3))).backward()
    ndl.optim.SGD(network.parameters(), lr=0.1).step()
    for name, value in state.items():
        assert value.is_leaf()
        assert not value.requires_grad
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)


def test_state_goes_from_one_network_to_another():
    source, target = Network(), Network()
    source(ndl.init.randn(5, 3))
    report = target.load_state_dict(source.state_dict())
    assert report == ([], [])
    assert_equal_state(source, target)
    x = ndl.init.randn(4, 3)
    for one, other in zip(source.eval()(x), target.eval()(x), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_loaded_storage_is_not_shared():
    source, target = Network(), Network()
    state = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    target.load_state_dict(state)
    other = Network()
    other.load_state_dict(source.state_dict())
    state["scale"][0] = 77
    source.scale.cached_data[0] = 99
    assert target.scale.item() == other.scale.item() == 2.0


def test_loading_keeps_the_dtype_of_each_tensor_and_the_identity_of_parameters():
    network = Network()
    scale = network.scale
    state = {
        name: tensor.numpy().astype("float64") for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(state)
    assert network.scale is scale
    assert network.scale.dtype == "float32"
    assert network.steps.dtype == "int64"


def test_loading_takes_lists_and_numbers():
    linear = nn.Linear(2, 1)
    linear.load_state_dict({"weight": [[1], [2]], "bias": [[3]]})
    assert linear(tensor([[1.0, 1.0]])).item() == 6.0


def test_strict_loading_names_every_key_at_fault():
    network = Network()
    state = network.state_dict()
    del state["scale"], state["heads.a.bias"]
    state["foreign"] = state["more"] = tensor([1.0])
    state["heads.a.weight"] = tensor(np.zeros((2, 4)))
    state["steps"] = np.array(["x"])
    with pytest.raises(StateDictError) as error:
        network.load_state_dict(state)
    message = str(error.value)
    assert message.startswith(
        "load_state_dict: expected the keys and shapes of Network, got 6 at fault: "
    )
    assert "heads.a.weight: expected shape (4, 2), got (2, 4)" in message
    assert "steps: Tensor: expected an array of numbers, got <U1[1]" in message
    for part in ("scale: missing", "heads.a.bias: missing", "foreign: unexpected"):
        assert part in message
    assert "more: unexpected" in message
    assert "\n" not in message


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "fault", [np.zeros((7, 7)), np.array(["x"] * 8).reshape(4, 2), [[1], [1, 2]], None]
)
def test_nothing_has_changed_after_a_failed_load(fault, strict):
    network, twin = Network(), Network()
    twin.load_state_dict(network.state_dict())
    state = {name: tensor.numpy() + 1 for name, tensor in network.state_dict().items()}
    state["heads.a.weight"] = fault
    with pytest.raises(StateDictError, match=r"heads\.a\.weight: "):
        network.load_state_dict(state, strict=strict)
    assert_equal_state(network, twin)


def test_loading_that_is_not_strict_reports_what_did_not_fit():
    network = Network()
    report = network.load_state_dict({"scale": [5.0], "foreign": [1.0]}, strict=False)
    assert report.unexpected == ["foreign"]
    assert report.missing == [name for name in NAMES if name != "scale"]
    assert network.scale.item() == 5.0


def test_state_that_is_no_dict_is_refused():
    with pytest.raises(DTypeError, match="load_state_dict: expected a dict of names and Tensors"):
        Network().load_state_dict([("scale", 1.0)])


def test_a_module_in_place_of_its_state_dict_is_told_in_one_line():
    with pytest.raises(DTypeError) as error:
        nn.Linear(3, 2).load_state_dict(nn.Sequential(nn.Linear(3, 2)))
    assert str(error.value) == (
        "load_state_dict: expected a dict of names and Tensors, got a Sequential. "
        "Hand over its .state_dict()."
    )


@pytest.mark.parametrize("order", ["C", "F"])
def test_loaded_values_lie_in_memory_as_drawn_ones_do(order):
    """Otherwise sums go another way, and a run that is saved and resumed goes another way too."""
    linear = nn.Linear(3, 2)
    drawn = linear.weight.realize_cached_data().strides
    linear.load_state_dict({"weight": np.ones((3, 2), order=order), "bias": [[1.0, 2.0]]})
    assert linear.weight.realize_cached_data().strides == drawn
    scalar = nn.Module()
    scalar.value = tensor(1.0)
    scalar.load_state_dict({"value": 2.0})
    assert scalar.value.shape == ()


def test_shared_parameters_save_under_each_name_and_stay_shared():
    network = Network()
    network.tied = network.scale
    state = network.state_dict()
    assert {"scale", "tied"} <= set(state)
    network.load_state_dict({**state, "scale": [3.0], "tied": [3.0]})
    assert network.tied is network.scale
    assert network.tied.item() == 3.0


# -- to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", np.float64])
def test_to_casts_floats_and_leaves_integers(dtype):
    network = Network()
    assert network.to(dtype) is network
    wanted = tensor([0.0], dtype=dtype).dtype
    for name, value in network.state_dict().items():
        assert value.dtype == ("int64" if name == "steps" else wanted), name
    result = network(tensor(np.ones((5, 3)), dtype=dtype))
    assert result[0].dtype == wanted
    assert network.body.modules[1].running_mean.dtype == wanted


def test_to_keeps_parameters_and_forgets_gradients():
    network = Network()
    sum(y.sum() for y in network(ndl.init.randn(5, 3))).backward()
    before = network.parameters()
    network.to(dtype="float64")
    assert all(one is other for one, other in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in before)
    sum(y.sum() for y in network(ndl.init.randn(5, 3, dtype="float64"))).backward()
    assert all(p.grad.dtype == "float64" for p in before)


def test_to_takes_the_device_that_exists():
    network = Network()
    assert network.to(ndl.cpu()) is network
    assert network.to(ndl.cpu(), "float64").scale.dtype == "float64"
    with pytest.raises(DeviceError, match=r"to: expected a device that is enabled.*got cuda\(\)"):
        network.to(ndl.cuda())


@pytest.mark.parametrize("dtype", ["int64", "bool", np.uint8])
def test_to_refuses_what_is_no_float(dtype):
    network = Network()
    with pytest.raises(DTypeError, match="to: expected a float dtype, got"):
        network.to(dtype)
    assert network.scale.dtype == "float32"


def test_to_names_an_unknown_dtype():
    with pytest.raises(DTypeError, match="got 'gpu'"):
        Network().to("gpu")


# -- printing and copying ----------------------------------------------------------------------


def test_printing_shows_the_tree_and_the_options():
    assert repr(Network()) == (
        "Network(\n"
        "  (body): Sequential(\n"
        "    (modules.0): Linear(in_features=3, out_features=4, bias=True)\n"
        "    (modules.1): BatchNorm1d(4, eps=1e-05, momentum=0.1)\n"
        "    (modules.2): ReLU()\n"
        "  )\n"
        "  (heads.a): Linear(in_features=4, out_features=2, bias=True)\n"
        "  (heads.b.0): Linear(in_features=4, out_features=1, bias=False)\n"
        ")"
    )


def test_printing_of_options():
    assert repr(nn.Dropout(0.25)) == "Dropout(p=0.25)"
    assert repr(nn.LayerNorm1d(3)) == "LayerNorm1d(3, eps=1e-05)"
    assert repr(nn.GELU("tanh")) == "GELU(approximate='tanh')"
    assert repr(nn.Softmax(1)) == "Softmax(axis=1)"
    assert repr(nn.LogSoftmax()) == "LogSoftmax(axis=-1)"
    assert repr(nn.MSELoss("sum")) == "MSELoss(reduction='sum')"
    assert repr(nn.HuberLoss(2.0)) == "HuberLoss(delta=2.0, reduction='mean')"
    assert repr(nn.BCEWithLogitsLoss(3.0)) == "BCEWithLogitsLoss(pos_weight=3.0, reduction='mean')"
    assert repr(nn.CrossEntropyLoss(0.1)) == (
        "CrossEntropyLoss(label_smoothing=0.1, ignore_index=-100, reduction='mean')"
    )
    assert repr(nn.CrossEntropyLoss(weight=tensor([1.0, 2.0]))) == (
        "CrossEntropyLoss(label_smoothing=0.0, ignore_index=-100, weight=float64[2], "
        "reduction='mean')"
    )


def test_deep_copy_is_independent_and_keeps_sharing():
    network = Network()
    network.tied = network.scale
    sum(y.sum() for y in network(ndl.init.randn(5, 3))).backward()
    twin = copy.deepcopy(network)
    assert_equal_state(network, twin)
    assert twin.tied is twin.scale
    assert twin.scale is not network.scale
    assert isinstance(twin.scale, nn.Parameter)
    ndl.optim.SGD(twin.parameters(), lr=1.0).step()
    assert network.scale.item() == 2.0
    twin.zero_grad()
    sum(y.sum() for y in twin(ndl.init.randn(5, 3))).backward()
    assert twin.scale.grad is not None


def test_network_and_its_gradients_go_without_the_cyclic_collector():
    gc.collect()
    before = live_values()
    gc.disable()
    try:
        network = Network()
        for _ in range(3):
            sum(y.sum() for y in network(ndl.init.randn(5, 3))).backward()
        del network
        assert live_values() == before
    finally:
        gc.enable()


# -- names that collide, sharing, and values that do not fit -----------------------------------


def test_a_name_that_two_tensors_have_is_refused():
    module = nn.Module()
    module.d = {1: nn.Parameter([1.0]), "1": nn.Parameter([2.0])}
    for act in (module.state_dict, lambda: module.load_state_dict({})):
        with pytest.raises(StateDictError) as error:
            act()
        assert str(error.value) == "state_dict: expected names that differ, got 'd.1' twice."


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "a NoneType"), ("7", "a str"), (1j, "complex128")]
)
def test_values_that_are_no_real_numbers_are_refused(value, shown):
    module = nn.Module()
    module.w = nn.Parameter(np.float32(1.0))
    with pytest.raises(StateDictError, match=r"w: Tensor: expected .*got ") as error:
        module.load_state_dict({"w": value})
    assert shown in str(error.value)
    assert module.w.item() == 1.0


def test_deeply_shared_modules_take_linear_time():
    leaf = nn.Linear(1, 1)
    model = leaf
    for _ in range(200):
        model = nn.Sequential(model, model)
    assert len(model.submodules()) == 201
    assert [parameter for _, parameter in model.named_parameters()] == [leaf.weight, leaf.bias]
    model.eval().to("float64").requires_grad_(False).zero_grad()
    assert not leaf.training
    assert leaf.weight.dtype == "float64"
    assert not leaf.weight.requires_grad


def test_sharing_within_lists_keeps_the_first_name():
    block = nn.Linear(1, 1, bias=False)
    model = nn.Module()
    model.a, model.b = [block], {"again": block, "more": nn.ReLU()}
    assert [name for name, _ in model.named_modules()] == ["", "a.0", "b.more"]
    assert [name for name, _ in model.named_parameters()] == ["a.0.weight"]
    assert len(model.parameters()) == 2
    assert list(model.state_dict()) == ["a.0.weight", "b.again.weight"]
