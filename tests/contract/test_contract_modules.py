"""Contract, section 6.1: Parameter and Module."""

from __future__ import annotations

import numpy as np

import needle as ndl
from needle import nn
from needle.autograd import Tensor


class Holder(nn.Module):
    """Parameters, modules and plain Tensors in every kind of place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(Tensor([1.0]))
        self.plain = Tensor([0.0])
        self.child = nn.Linear(2, 3)
        self.listed = [nn.Parameter(Tensor([2.0])), nn.Linear(1, 1, bias=False)]
        self.paired = (nn.ReLU(), nn.Parameter(Tensor([3.0])))
        self.named = {"a": nn.Parameter(Tensor([4.0])), "b": [nn.Dropout(0.5), {"c": nn.ReLU()}]}
        self.number = 3

    def forward(self, x):
        return x + self.first


def test_parameter_is_a_leaf_that_requires_grad():
    parameter = nn.Parameter(Tensor([1.0], requires_grad=False) * 2)
    assert isinstance(parameter, Tensor)
    assert parameter.is_leaf()
    assert parameter.requires_grad is True
    assert nn.Parameter(Tensor([1.0]) * 2).is_leaf()


def test_training_is_true_at_first():
    assert nn.Module().training is True


def test_parameters_are_found_in_the_order_of_attributes():
    holder = Holder()
    linear = holder.listed[1]
    expected = [
        holder.first,
        holder.child.weight,
        holder.child.bias,
        holder.listed[0],
        linear.weight,
        holder.paired[1],
        holder.named["a"],
    ]
    found = holder.parameters()
    assert isinstance(found, list)
    assert len(found) == len(expected)
    assert all(one is other for one, other in zip(found, expected, strict=True))


def test_a_parameter_reached_twice_is_listed_twice():
    holder = Holder()
    holder.again = holder.first
    assert holder.parameters().count(holder.first) == 2


def test_plain_tensors_are_no_parameters():
    holder = Holder()
    assert holder.plain not in holder.parameters()


def test_children_are_found_in_containers():
    kinds = [type(module).__name__ for module in Holder()._children()]
    assert kinds == ["Linear", "Linear", "ReLU", "Dropout", "ReLU"]


def test_train_and_eval_reach_nested_modules():
    holder = Holder()
    everything = [holder, *holder._children()]
    holder.eval()
    assert not any(module.training for module in everything)
    holder.train()
    assert all(module.training for module in everything)


def test_calling_a_module_calls_forward():
    assert Holder()(Tensor([2.0])).item() == 3.0


def test_forward_reads_attributes_at_call_time():
    linear = nn.Linear(2, 2)
    weight = Tensor([[1.0, 0.0], [0.0, 1.0]])
    linear.weight, linear.bias = weight, Tensor([[10.0, 20.0]])
    y = linear(Tensor([[1.0, 2.0]]))
    np.testing.assert_array_equal(y.numpy(), [[11.0, 22.0]])
    y.sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy(), [[1.0, 1.0], [2.0, 2.0]])


def test_every_parameter_has_a_gradient_after_backward():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2),
        nn.Residual(nn.Sequential(nn.Linear(5, 5), nn.LayerNorm1d(5))), nn.Linear(5, 3, bias=False),
    )  # fmt: skip
    x = ndl.init.randn(4, 2, 3)
    nn.SoftmaxLoss()(model(x), Tensor([0, 1, 2, 0])).backward()
    assert len(model.parameters()) == 9
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.dtype == "float32"
