"""no_grad, lazy, detect_anomaly, hooks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tensors import has_data

import needle as ndl
from needle import autograd
from needle.errors import GradientError, NonFiniteError


def test_no_grad_records_nothing():
    x = ndl.Tensor([1.0])
    with ndl.no_grad():
        y = x * 2
        with ndl.enable_grad():
            z = x * 3
    assert y.is_leaf()
    assert not y.requires_grad
    assert z.requires_grad


def test_no_grad_is_a_decorator_and_ends_on_an_error():
    @ndl.no_grad()
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert (ndl.Tensor([1.0]) * 2).requires_grad


def test_modes_belong_to_one_thread():
    found = []
    with ndl.no_grad():
        thread = threading.Thread(
            target=lambda: found.append((ndl.Tensor([1.0]) * 2).requires_grad)
        )
        thread.start()
        thread.join()
    assert found == [True]


class Counting(ndl.TensorOp):
    """Counts how often it computes."""

    runs = 0

    def compute(self, x):
        Counting.runs += has_data(x)
        return x + 1

    def gradient(self, out_grad, node):
        return out_grad


def test_lazy_computes_on_demand_and_once():
    Counting.runs = 0
    device = ndl.cpu() if ndl.BACKEND == "np" else ndl.cpu_numpy()  # where ops run one by one
    with ndl.lazy():
        y = Counting()(ndl.Tensor([1.0], device=device))
        z = y * y
        assert Counting.runs == 0
        assert z.cached_data is None
    np.testing.assert_array_equal(z.numpy(), [4.0])
    z.numpy()
    y.numpy()
    assert Counting.runs == 1


def test_the_module_global_switches_laziness_on(monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", True)
    y = ndl.Tensor([1.0]) * 2
    assert y.cached_data is None
    with ndl.lazy(False):
        assert (ndl.Tensor([1.0]) * 2).cached_data is not None
    np.testing.assert_array_equal(y.realize_cached_data(), [2.0])


def test_lazy_reads_a_parameter_as_it_was():
    w = ndl.Tensor([2.0])
    with ndl.lazy():
        y = w * 10
    w.data = ndl.Tensor([5.0])
    np.testing.assert_array_equal(y.numpy(), [20.0])


def test_lazy_backward_gives_the_same_gradients():
    a, b = ndl.Tensor(np.random.rand(3, 4)), ndl.Tensor(np.random.rand(4, 2))

    def loss():
        return ndl.logsumexp(ndl.tanh(a @ b), axes=1).sum()

    loss().backward()
    eager = a.grad.numpy(), b.grad.numpy()
    with ndl.lazy():
        loss().backward()
    np.testing.assert_array_equal(a.grad.numpy(), eager[0])
    np.testing.assert_array_equal(b.grad.numpy(), eager[1])


def test_a_training_loop_under_lazy_equals_eager():
    from needle import nn, optim

    def losses():
        np.random.seed(1)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        found = []
        for _ in range(5):
            x = ndl.Tensor(np.random.randn(6, 4).astype("float32"))
            optimizer.reset_grad()
            loss = nn.SoftmaxLoss()(model(x), ndl.Tensor(np.arange(6) % 3))
            loss.backward()
            optimizer.step()
            found.append(loss)
        return [loss.item() for loss in found]

    eager = losses()
    with ndl.lazy():
        assert losses() == eager


def test_anomaly_names_the_op_and_the_line_of_a_nan():
    with (
        np.errstate(invalid="ignore"),
        ndl.detect_anomaly(),
        pytest.raises(NonFiniteError, match=r"log: .*NaN.*inputs were finite.*test_modes\.py:\d+"),
    ):
        ndl.log(ndl.Tensor([-1.0]))


def test_anomaly_names_the_input_that_was_bad_already():
    bad = ndl.Tensor([np.inf])
    with ndl.detect_anomaly(), pytest.raises(NonFiniteError, match=r"add: .*already in input 1"):
        ndl.Tensor([1.0]) + bad


def test_anomaly_in_backward_names_the_forward_op_and_its_line():
    with np.errstate(divide="ignore"), ndl.detect_anomaly():
        y = ndl.sqrt(ndl.Tensor([0.0]) * 1)
        with pytest.raises(
            NonFiniteError, match=r"in the gradient of sqrt, called at .*test_modes\.py:\d+: divide"
        ):
            y.sum().backward()


def test_anomaly_is_found_when_a_lazy_value_is_computed():
    with np.errstate(invalid="ignore"), ndl.detect_anomaly(), ndl.lazy():
        y = ndl.log(ndl.Tensor([-1.0]))
        with pytest.raises(NonFiniteError, match=r"log: .*test_modes\.py"):
            y.numpy()


def test_a_hook_sees_and_replaces_the_gradient():
    x = ndl.Tensor([2.0])
    seen = []
    handle = x.register_hook(lambda grad: seen.append(grad.item()))
    double = x.register_hook(lambda grad: grad * 2)
    (x * x).backward()
    assert seen == [4.0]
    assert x.grad.item() == 8.0
    handle.remove()
    double.remove()
    double.remove()
    (x * x).backward()
    assert seen == [4.0]
    assert x.grad.item() == 4.0


def test_a_hook_on_an_intermediate_value_acts_upstream():
    x = ndl.Tensor([2.0])
    middle = x * 3
    middle.register_hook(lambda grad: grad * 10)
    (middle * 1).backward()
    assert x.grad.item() == 30.0


def test_a_hook_on_a_constant_raises():
    with pytest.raises(GradientError, match="register_hook: expected a tensor that requires grad"):
        ndl.Tensor([1.0], requires_grad=False).register_hook(print)


def test_retain_grad_keeps_the_gradient_of_an_intermediate_value():
    x = ndl.Tensor([2.0])
    middle = x * 3
    other = x * 4
    middle.retain_grad()
    (middle * middle + other).backward()
    assert middle.grad.item() == 12.0
    assert other.grad is None


def test_requires_grad_can_be_set_on_leaves_only():
    x = ndl.Tensor([2.0])
    assert not x.requires_grad_(False).requires_grad
    with pytest.raises(GradientError, match="requires_grad_: expected a leaf"):
        (ndl.Tensor([1.0]) * 2).requires_grad_(False)


def test_hooks_whose_handles_are_dropped_all_run():
    x = ndl.Tensor([2.0])
    seen = []
    x.register_hook(lambda grad: seen.append("first"))
    x.register_hook(lambda grad: seen.append("second"))
    (x * x).backward()
    assert seen == ["first", "second"]


def test_anomaly_is_found_in_what_a_hook_returns():
    x = ndl.Tensor([2.0])
    x.register_hook(lambda grad: ndl.Tensor([np.nan]))
    with ndl.detect_anomaly(), pytest.raises(NonFiniteError, match="NaN"):
        (x * x).backward()


def test_a_hook_on_a_leaf_that_was_read_with_two_values_runs_once():
    x = ndl.Tensor([2.0])
    seen = []
    x.register_hook(lambda grad: seen.append(grad.item()))
    y = x * x
    x.data = ndl.Tensor([3.0])
    (y + x * x).backward()
    assert seen == [10.0]
