"""Contract, section 17: the traps of np mode that no other file of this folder springs."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.autograd import Tensor


def parameter_with_gradient(dtype="float32"):
    """p = (1, -2) with gradient (0.5, 3)."""
    parameter = nn.Parameter(Tensor([1.0, -2.0], dtype=dtype))
    (parameter * Tensor([0.5, 3.0], dtype=dtype)).sum().backward()
    return parameter


def test_trap_6_sgd_damps_the_gradient_by_one_minus_momentum():
    p = parameter_with_gradient()
    optimiser = ndl.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01)
    expected, u = np.array([1.0, -2.0]), 0.0
    for _ in range(3):
        u = 0.9 * u + 0.1 * (np.array([0.5, 3.0]) + 0.01 * expected)
        expected = expected - 0.1 * u
        optimiser.step()
    np.testing.assert_allclose(p.numpy(), expected, rtol=1e-6)
    assert p.dtype == "float32"


def test_trap_6_adam_decays_weights_through_the_gradient():
    p = parameter_with_gradient()
    optimiser = ndl.optim.Adam([p], lr=0.1, weight_decay=0.5)
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for t in range(1, 4):
        g = np.array([0.5, 3.0]) + 0.5 * expected
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected = expected - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        optimiser.step()
    np.testing.assert_allclose(p.numpy(), expected, rtol=1e-5)
    assert p.dtype == "float32"


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_optimisers_leave_gradients_as_they_are(kind):
    p = parameter_with_gradient()
    before = p.grad.numpy()
    getattr(ndl.optim, kind)([p], lr=0.1, weight_decay=0.1).step()
    np.testing.assert_array_equal(p.grad.numpy(), before)


def test_trap_7_loader_permutes_after_a_reseed_between_construction_and_iteration():
    loader = ndl.data.DataLoader(ndl.data.NDArrayDataset(np.arange(8.0)), 8, shuffle=True)
    orders = []
    for _ in range(2):
        np.random.seed(4)
        orders.append(next(iter(loader))[0].numpy())
    np.testing.assert_array_equal(*orders)


def test_trap_8_np_mode_batches_matrix_products():
    a, b = Tensor(np.ones((6, 6, 5, 4))), Tensor(np.ones((4, 3)))
    (a @ b).backward()
    assert a.grad.shape == a.shape
    assert b.grad.shape == b.shape
    np.testing.assert_array_equal(b.grad.numpy(), np.full((4, 3), 180.0))


def test_trap_9_float64_weights_stay_float64_beside_float32_data():
    w = Tensor(
        np.random.RandomState(0).randn(3, 2).astype("float32") / np.sqrt(100), dtype="float64"
    )
    x = Tensor(np.ones((4, 3)), dtype="float32", requires_grad=False)
    assert w.dtype == "float64"
    (x @ w).sum().backward()
    w.data = w.data - 0.1 * w.grad.data
    assert w.dtype == "float64"


def test_trap_12_cpu_prints_exactly():
    assert str(ndl.cpu()) == "cpu()"


def test_trap_15_identity_is_not_turned_elementwise():
    x = Tensor([1.0, 2.0])
    assert (x in [Tensor([1.0, 2.0]), x]) is True
    assert (x in [Tensor([1.0, 2.0])]) is False


def test_trap_17_cached_data_is_there_right_after_an_op_and_on_grads():
    x = Tensor([1.0, 2.0])
    y = (x * x).sum()
    assert isinstance(y.cached_data, ndl.NDArray)
    y.backward()
    assert isinstance(x.grad.cached_data, ndl.NDArray)


def test_trap_18_shapes_of_losses_and_reductions_are_exact():
    z = Tensor(np.zeros((4, 3)))
    assert nn.SoftmaxLoss()(z, Tensor([0, 1, 2, 0])).shape == ()
    assert z.sum((0,)).shape == (3,)
    assert ndl.logsumexp(z, (1,)).shape == (4,)
    assert nn.BatchNorm1d(3)(z).shape == (4, 3)


SIGNATURES = {
    nn.Linear: "in_features, out_features, bias=True, device=None, dtype='float32'",
    nn.BatchNorm1d: "dim, eps=1e-05, momentum=0.1, device=None, dtype='float32'",
    nn.LayerNorm1d: "dim, eps=1e-05, device=None, dtype='float32'",
    nn.Dropout: "p=0.5",
    nn.Residual: "fn",
    nn.Sequential: "*modules",
    nn.Identity: "",
    nn.Flatten: "",
    nn.ReLU: "",
    nn.SoftmaxLoss: "",
    ndl.init.rand: "*shape, low=0.0, high=1.0, device=None, dtype='float32', requires_grad=False",
    ndl.init.randn: "*shape, mean=0.0, std=1.0, device=None, dtype='float32', requires_grad=False",
    ndl.init.randb: "*shape, p=0.5, device=None, dtype='bool', requires_grad=False",
    ndl.init.one_hot: "n, i, device=None, dtype='float32', requires_grad=False",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__name__)
def test_signature_is_the_contracts(function):
    """Options of our own come behind, and by name only."""
    signature = inspect.signature(function)
    theirs = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if "*" in SIGNATURES[function]:  # all that follows is by name only
        theirs = list(signature.parameters.values())
    plain = [p.replace(annotation=p.empty) for p in theirs]
    shown = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    assert shown == f"({SIGNATURES[function]})"
