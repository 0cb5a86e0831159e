"""One of everything, in a few seconds: run it before each commit."""

from __future__ import annotations

import numpy as np

import needle as ndl
from needle import nn, optim


def test_forward_and_backward_of_an_expression():
    x1, x2 = ndl.Tensor([2.0]), ndl.Tensor([5.0])
    y = x1 * x2 + ndl.sin(x1)
    y.backward()
    np.testing.assert_allclose(y.numpy(), 10 + np.sin(2.0))
    np.testing.assert_allclose(x1.grad.numpy(), 5 + np.cos(2.0))
    np.testing.assert_allclose(x2.grad.numpy(), 2.0)


def test_gradient_of_a_gradient():
    x = ndl.Tensor([3.0])
    (x**3).sum().backward()
    x.grad.backward()
    np.testing.assert_allclose(x.grad.numpy(), 18.0)


def test_lazy_equals_eager():
    a, b = ndl.Tensor(np.random.rand(3, 4)), ndl.Tensor(np.random.rand(4, 2))
    eager = ndl.relu(a @ b - 1).sum()
    with ndl.lazy():
        lazy = ndl.relu(a @ b - 1).sum()
        assert lazy.cached_data is None
    np.testing.assert_array_equal(lazy.numpy(), eager.numpy())


def test_a_network_learns_to_tell_two_clouds_apart():
    x = np.concatenate([np.random.randn(50, 2) - 2, np.random.randn(50, 2) + 2]).astype("float32")
    y = np.repeat([0, 1], 50)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    loss_of = nn.SoftmaxLoss()
    for _ in range(30):
        optimizer.reset_grad()
        loss = loss_of(model(ndl.Tensor(x)), ndl.Tensor(y))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert (model(ndl.Tensor(x)).numpy().argmax(1) == y).mean() > 0.95


def test_weights_survive_the_disk(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    ndl.save(model, tmp_path / "model.safetensors")
    other.load_state_dict(ndl.load(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(other.weight.numpy(), model.weight.numpy())
