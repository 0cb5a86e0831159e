"""Arguments and results: trees of them, Tensors that are returned as they came, and gradients."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from jit.twins import batch, network, training_step, variants

import needle as ndl

pytestmark = pytest.mark.nd_mode

Pair = namedtuple("Pair", "a b")


@dataclass
class Answer:
    loss: Any
    name: str = "answer"


def memory(tensor):
    return tensor.cached_data._memory


def test_arguments_of_all_kinds():
    def function(x, pair, *more, scale=2, named=None, flag=None):
        total = x * scale + pair.a + pair.b + named["y"][0]
        for item in more:
            total = total + item
        return total if flag is None else -total

    call = ndl.jit(function)
    one = ndl.ones(2)
    given = (one, Pair(one, one * 2), one, one * 4)
    for options in ({}, {"scale": 3}, {"flag": "yes"}, {"scale": 3.5, "flag": True}):
        named = {"y": [one * 8, "not a Tensor"]}
        for _ in range(2):
            expected = function(*given, named=named, **options)
            assert np.array_equal(call(*given, named=named, **options).numpy(), expected.numpy())
    assert variants(call) == 4


def test_python_values_are_told_apart_by_type_and_sign():
    call = ndl.jit(lambda x, n: x / n if n else x * 7)
    x = ndl.ones(1)
    for n in (1, 1.0, True, 0.0, -0.0, 2, 2.0):
        expected = 1 / n if n else 7.0
        assert call(x, n).item() == expected


def test_dtypes_and_layouts_of_arguments_are_told_apart():
    call = ndl.jit(lambda x: x + x)
    for x in (
        ndl.ones(3),
        ndl.ones(3, dtype="float64"),
        ndl.ones(2, 3),
        ndl.ones(3, 2).transpose(),
    ):
        y = call(x)
        assert (y.dtype, y.shape) == (x.dtype, x.shape) and (y.numpy() == 2).all()


def test_results_of_all_kinds():
    model = ndl.nn.Linear(2, 2)

    def function(x):
        y = x * 2
        return {
            "same": x,
            "twice": (y, y),
            "views": [y.reshape((4,)), y.T],
            "parameter": model.weight,
            "pair": Pair(y, None),
            "ordered": OrderedDict(a=y, b=3),
            "dataclass": Answer(y),
            "text": "text",
        }

    x = ndl.ones(2, 2)
    found = ndl.jit(function)(x)
    assert found["text"] == "text" and found["pair"].b is None
    assert isinstance(found["ordered"], OrderedDict) and found["ordered"]["b"] == 3
    assert isinstance(found["dataclass"], Answer) and found["dataclass"].name == "answer"
    tensors = [
        found["same"], *found["twice"], *found["views"], found["parameter"], found["pair"].a,
        found["ordered"]["a"], found["dataclass"].loss,
    ]  # fmt: skip
    held = [memory(t) for t in (*tensors, x, model.weight)]
    assert len({id(one) for one in held}) == len(held), "results share memory with nothing"
    for tensor in (*found["twice"], found["views"][1], found["dataclass"].loss):
        assert np.array_equal(tensor.numpy(), np.full((2, 2), 2))
    assert np.array_equal(found["parameter"].numpy(), model.weight.numpy())


def test_results_of_later_calls_leave_those_of_earlier_ones():
    call = ndl.jit(lambda x: x + 1)
    first = call(ndl.zeros(4))
    call(ndl.ones(4))
    assert np.array_equal(first.numpy(), np.ones(4))


def test_nothing_is_returned():
    seen = ndl.nn.Parameter(ndl.ones(2))

    @ndl.jit
    def function(x):
        seen.data = x

    x = ndl.ones(2) * 3
    assert function(x) is None
    assert np.array_equal(seen.numpy(), [3, 3]) and memory(seen) is not memory(x)


def test_numbers_of_the_optimiser_can_be_returned():
    model = network()
    opt = ndl.optim.SGD(model.parameters(), lr=0.5)
    plain = training_step(model, opt)
    step = ndl.jit(lambda x, y: (plain(x, y), opt.lr, opt.t))
    for i in range(3):
        opt.lr = 0.5 - 0.1 * i
        _, lr, t = step(*batch(i))
        assert (lr, t) == (opt.lr, i + 1)
        assert type(lr) is float and type(t) is int
    assert variants(step) == 1


def test_the_same_tensor_twice_is_another_form_than_two():
    def function(x, y):
        (x * y).sum().backward()

    call = ndl.jit(function)
    for _ in range(2):
        x, y = ndl.Tensor([2.0]), ndl.Tensor([3.0])
        call(x, y)
        assert (x.grad.item(), y.grad.item()) == (3, 2)
        call(x, x)
        assert x.grad.item() == 4


def test_a_parameter_among_the_arguments():
    w = ndl.nn.Parameter(ndl.ones(1) * 3)
    call = ndl.jit(lambda x: w * x)
    assert call(w).item() == 9
    assert call(ndl.ones(1)).item() == 3
    other = ndl.nn.Parameter(ndl.ones(1) * 5)
    assert call(other).item() == 15 and call(w).item() == 9


def test_methods_are_compiled_per_object():
    class Net(ndl.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale
            self.weight = ndl.nn.Parameter(ndl.ones(2) * scale)

        @ndl.jit
        def forward(self, x):
            """The docstring."""
            return x * self.weight

    a, b = Net(2.0), Net(3.0)
    for _ in range(2):
        assert a(ndl.ones(2)).numpy()[0] == 2 and b(ndl.ones(2)).numpy()[0] == 3
    assert len(a.forward.compiled) == 1
    assert Net.forward.__doc__ == "The docstring."


def test_the_package_is_the_decorator():
    @ndl.jit(check=True)
    def f(x):
        return x + 1

    assert f(ndl.zeros(1)).item() == 1
    assert f.__name__ == "f"
    with pytest.raises(TypeError, match="jit: expected a function"):
        ndl.jit(3)


def test_a_jitted_function_in_another():
    inner = ndl.jit(lambda x: x * 2)
    outer = ndl.jit(lambda x: inner(x) + inner(x + 1))
    assert outer(ndl.ones(1)).item() == 6 and variants(inner) == 0


def test_disabled_it_runs_as_written():
    seen = []

    @ndl.jit
    def f(x):
        seen.append(x.numpy())
        return x

    with ndl.disable_jit():
        f(ndl.ones(1))
    assert len(seen) == 1


# -- gradients through what is returned -------------------------------------------------------


def gradients(way, between):
    model = network(norm=True)
    forward = way(lambda x: model(x))
    x, y = batch(3)
    x = ndl.Tensor(x.numpy() * 1.0)
    found = []
    for _ in range(2):
        between(forward, x, y)
        found += [x.grad.numpy(), *[p.grad.numpy() for p in model.parameters()]]
    return [*found, *[value.numpy() for value in model.state_dict().values()]]


def backward_of_loss(forward, x, y):
    ndl.nn.SoftmaxLoss()(forward(ndl.ops.tanh(x)), y).backward()


def backward_through_two_calls(forward, x, y):
    ((forward(x) * forward(x * 2)).sum() * 0.1).backward()


@pytest.mark.parametrize("between", [backward_of_loss, backward_through_two_calls])
def test_gradients_flow_through_a_compiled_forward_pass(between):
    for given, expected in zip(
        gradients(ndl.jit, between), gradients(lambda f: f, between), strict=True
    ):
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_gradients_go_by_the_values_that_the_call_read():
    w = ndl.nn.Parameter(ndl.ones(2) * 3)
    call = ndl.jit(lambda x: w * x * x)
    x = ndl.Tensor([1.0, 2.0])
    y = call(x)
    w.data = ndl.ones(2) * 100
    y.sum().backward()
    assert np.array_equal(x.grad.numpy(), [6, 12]) and np.array_equal(w.grad.numpy(), [1, 4])


def test_gradients_go_by_state_as_it_was_though_the_call_has_changed_it():
    box = {"scale": ndl.ones(2)}

    @ndl.jit
    def call(x):
        y = x * box["scale"]
        box["scale"] = box["scale"] * 2
        return y

    x = ndl.Tensor([1.0, 1.0])
    for i in range(4):
        call(x).sum().backward()
        assert np.array_equal(x.grad.numpy(), [2.0**i] * 2)


def test_gradients_of_several_results_one_of_which_nobody_uses():
    call = ndl.jit(lambda x: (x * x, x * 3, x > 0))
    x = ndl.Tensor([1.0, 2.0])
    a, b, positive = call(x)
    assert a.requires_grad and b.requires_grad and not positive.requires_grad
    (b * 2).sum().backward()
    assert np.array_equal(x.grad.numpy(), [6, 6])
    a, b, _ = call(x)
    (a + b).sum().backward()
    assert np.array_equal(x.grad.numpy(), [5, 7])


def test_gradients_repeat_the_dropout_of_their_call():
    drop = ndl.nn.Dropout(0.5)
    call = ndl.jit(lambda x: drop(x))
    x = ndl.Tensor(np.ones(100))
    y, other = call(x), call(x)
    y.sum().backward()
    assert np.array_equal(x.grad.numpy(), y.numpy())
    assert not np.array_equal(other.numpy(), y.numpy())


def test_a_gradient_of_another_layout_and_of_an_argument_with_a_graph():
    call = ndl.jit(lambda x: x * x)
    x = ndl.Tensor(np.arange(6.0).reshape(2, 3))
    call(x * 2).T.sum().backward()
    assert np.array_equal(x.grad.numpy(), 8 * x.numpy())
    x.grad = None
    (call(x).T * ndl.ones(3, 2)).sum().backward()
    assert np.array_equal(x.grad.numpy(), 2 * x.numpy())


def test_without_recording_there_is_no_graph():
    call = ndl.jit(lambda x: x * x)
    x = ndl.Tensor([1.0])
    with ndl.no_grad():
        assert not call(x).requires_grad
    assert call(x).requires_grad
    assert variants(call) == 2


def test_a_step_that_differentiates_hands_no_graph_on():
    model = network()
    step = ndl.jit(training_step(model, ndl.optim.SGD(model.parameters(), lr=0.1)))
    loss = step(*batch(0))
    assert loss.requires_grad
    with pytest.raises(ndl.errors.GradientError, match="jitted function"):
        (loss * 2).backward()
    with pytest.raises(ndl.errors.GradientError, match="jitted function"):
        (model.parameters()[0].grad * 2).sum().backward()


def test_second_derivatives_are_refused_by_name():
    call = ndl.jit(lambda x: (x * x * x).sum())
    x = ndl.Tensor([2.0])
    call(x).backward()
    assert x.grad.item() == 12
    with pytest.raises(ndl.errors.GradientError, match="disable_jit"):
        (x.grad * 1).sum().backward()


def test_derivatives_taken_inside_are_results_like_others():
    def function(x):
        return ndl.grad(lambda x: ndl.grad(lambda x: (x * x * x).sum())(x).sum())(x)

    x = ndl.Tensor([2.0])
    assert ndl.jit(function)(x).item() == function(x).item() == 12


def test_backward_inside_through_the_graph_of_an_argument_is_refused():
    x = ndl.Tensor([2.0])

    @ndl.jit
    def function(y):
        (y * y).sum().backward()

    with pytest.raises(ndl.JitError, match="detach"):
        function(x * 3)
    assert x.grad is None


def test_devices_are_those_of_the_run():
    def function(x):
        y = x * 2
        assert y.device == ndl.cpu() and y.grad is None
        return y.device, y.to(y.device) + ndl.init.ones(2, device=y.device)

    x = ndl.ones(2)
    device, y = ndl.jit(function)(x)
    assert device is x.device and y.device is x.device
    assert np.array_equal(y.numpy(), [3, 3])
