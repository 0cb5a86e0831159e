"""Layers and losses against PyTorch: values, gradients, second order, float64 and float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from parity.side_by_side import compare, torch
from tensors import tensor

from needle import nn

tnn = torch.nn
F = torch.nn.functional


def combinations(*options):
    return list(itertools.product(*options))


RANDOM = np.random.RandomState(7)


def array(*shape):
    return np.asarray(RANDOM.randn(*shape))


# -- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 5, 4), (0, 4), (2, 1, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    layer = nn.Linear(4, 3, bias=bias, dtype="float64")

    def ours(x, weight, *rest):
        layer.weight, layer.bias = weight, (rest[0] if bias else None)
        return layer(x)

    def theirs(x, weight, *rest):
        return F.linear(x, weight.T, rest[0][0] if bias else None)

    inputs = [array(*shape), array(4, 3)] + ([array(1, 3)] if bias else [])
    compare(ours, theirs, *inputs)


def batch_norm(training):
    layer = nn.BatchNorm1d(3, eps=1e-3, dtype="float64").train(training)
    layer.running_mean = tensor([0.5, -1.0, 2.0], requires_grad=False)
    layer.running_var = tensor([1.5, 0.25, 3.0], requires_grad=False)

    def ours(x, weight, bias):
        layer.weight, layer.bias = weight, bias
        return layer(x)

    def theirs(x, weight, bias):
        mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        var = torch.tensor([1.5, 0.25, 3.0], dtype=torch.float64)
        return F.batch_norm(x, mean, var, weight, bias, training, eps=1e-3)

    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [2, 7])
def test_batch_norm(training, batch):
    compare(*batch_norm(training), array(batch, 3), array(3), array(3))


def test_batch_norm_of_a_single_row_in_evaluation():
    compare(*batch_norm(False), array(1, 3), array(3), array(3))


def test_running_statistics_are_torchs_but_for_the_biased_variance():
    ours, theirs = nn.BatchNorm1d(3, momentum=0.3), tnn.BatchNorm1d(3, momentum=0.3)
    n, biased = 5, np.ones(3)
    for _ in range(4):
        x = array(n, 3).astype("float32")
        ours(tensor(x))
        theirs(torch.tensor(x))
        biased = 0.7 * biased + 0.3 * x.var(0)
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.running_var.numpy(), biased, rtol=1e-5)
    unbiased = 0.7**4 + (theirs.running_var.numpy() - 0.7**4) * (n - 1) / n
    np.testing.assert_allclose(ours.running_var.numpy(), unbiased, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (3,), (2, 4, 3), (5, 1), (0, 3)])
def test_layer_norm(shape):
    dim = shape[-1]
    layer = nn.LayerNorm1d(dim, eps=1e-3, dtype="float64")

    def ours(x, weight, bias):
        layer.weight, layer.bias = weight, bias
        return layer(x)

    compare(
        ours,
        lambda x, weight, bias: F.layer_norm(x, (dim,), weight, bias, 1e-3),
        array(*shape),
        array(dim),
        array(dim),
    )


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_scales_as_torch_does(p):
    x = np.ones((200, 200))
    np.random.seed(0)
    torch.manual_seed(0)
    ours, theirs = nn.Dropout(p)(tensor(x)).numpy(), F.dropout(torch.tensor(x), p).numpy()
    assert set(np.unique(ours)) == set(np.unique(theirs))
    assert abs((ours == 0).mean() - (theirs == 0).mean()) < 0.02


ACTIVATIONS = {
    "ReLU": (nn.ReLU(), F.relu),
    "Tanh": (nn.Tanh(), torch.tanh),
    "Sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "SiLU": (nn.SiLU(), F.silu),
    "Softplus": (nn.Softplus(), lambda x: F.softplus(x, threshold=1000)),
    "GELU": (nn.GELU(), F.gelu),
    "GELU tanh": (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "Softmax": (nn.Softmax(), lambda x: F.softmax(x, -1)),
    "Softmax 0": (nn.Softmax(0), lambda x: F.softmax(x, 0)),
    "LogSoftmax": (nn.LogSoftmax(), lambda x: F.log_softmax(x, -1)),
    "LogSoftmax 0": (nn.LogSoftmax(0), lambda x: F.log_softmax(x, 0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(4, 5), (3,), (2, 3, 4)])
def test_activation(name, shape):
    compare(*ACTIVATIONS[name], array(*shape) * 3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_far_out(name):
    compare(*ACTIVATIONS[name], np.array([-700.0, -40.0, -1e-8, 1e-8, 40.0, 700.0]))


# -- losses of two arrays ----------------------------------------------------------------------

REDUCTIONS = ["mean", "sum", "none"]
SHAPES = [(), (4,), (3, 2), (2, 1, 3)]


@pytest.mark.parametrize(("reduction", "shape"), combinations(REDUCTIONS, SHAPES))
def test_mean_squared_error(reduction, shape):
    compare(nn.MSELoss(reduction), tnn.MSELoss(reduction=reduction), array(*shape), array(*shape))


@pytest.mark.parametrize(("reduction", "shape"), combinations(REDUCTIONS, SHAPES))
def test_absolute_error(reduction, shape):
    inputs = [array(*shape), array(*shape)]
    compare(nn.L1Loss(reduction), tnn.L1Loss(reduction=reduction), *inputs)


@pytest.mark.parametrize(
    ("reduction", "delta", "scale"), combinations(REDUCTIONS, [0.1, 1.0, 2.5], [0.1, 1, 10])
)
def test_huber_loss(reduction, delta, scale):
    inputs = [array(4, 3) * scale, array(4, 3) * scale]
    ours, theirs = nn.HuberLoss(delta, reduction), tnn.HuberLoss(reduction, delta)
    compare(ours, theirs, *inputs)


@pytest.mark.parametrize(
    ("reduction", "weight"), combinations(REDUCTIONS, [None, 0.3, [1.0, 2.0, 0.5], [[4.0]]])
)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_binary_cross_entropy(reduction, weight, scale):
    target = RANDOM.rand(4, 3)
    target[0], target[1] = 0.0, 1.0
    ours = nn.BCEWithLogitsLoss(1.0 if weight is None else weight, reduction)
    pos_weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    theirs = tnn.BCEWithLogitsLoss(reduction=reduction, pos_weight=pos_weight)
    compare(ours, theirs, array(4, 3) * scale, target, rtol=1e-8)


# -- cross-entropy -----------------------------------------------------------------------------

LOGITS_AND_IDS = [
    (array(6, 5), np.array([0, 4, 2, 2, 1, 3])),
    (array(5), np.array(3)),
    (array(3, 5, 2), np.array([[0, 1], [4, 2], [3, 3]])),
    (array(2, 5, 2, 3), RANDOM.randint(5, size=(2, 2, 3))),
    (array(4, 5) * 300, np.array([0, 1, 2, 3])),
]
WEIGHT = np.array([1.0, 0.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("case", range(len(LOGITS_AND_IDS)))
@pytest.mark.parametrize(
    ("reduction", "smoothing", "weighted", "ignored"),
    combinations(REDUCTIONS, [0.0, 0.1, 1.0], [False, True], [-100, 2]),
)
def test_cross_entropy(case, reduction, smoothing, weighted, ignored):
    logits, ids = LOGITS_AND_IDS[case]
    weight = WEIGHT if weighted else None
    ours = nn.CrossEntropyLoss(smoothing, ignored, reduction, weight)
    theirs = tnn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight),
        ignore_index=ignored,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    y, u = tensor(ids, requires_grad=False), torch.tensor(ids)
    compare(lambda z: ours(z, y), lambda z: theirs(z, u), logits)


@pytest.mark.parametrize("shape", [(6, 5), (5,), (2, 5, 3)])
@pytest.mark.parametrize(
    ("reduction", "smoothing", "weighted"),
    combinations(REDUCTIONS, [0.0, 0.1, 1.0], [False, True]),
)
def test_cross_entropy_of_probabilities(shape, reduction, smoothing, weighted):
    probabilities = np.abs(array(*shape))
    probabilities /= probabilities.sum(0 if len(shape) == 1 else 1, keepdims=True)
    weight = WEIGHT if weighted else None
    ours = nn.CrossEntropyLoss(smoothing, reduction=reduction, weight=weight)
    theirs = tnn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight),
        reduction=reduction,
        label_smoothing=smoothing,
    )
    compare(ours, theirs, array(*shape), probabilities)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_cross_entropy_with_every_place_ignored(reduction):
    logits, ids = array(3, 4), np.full(3, -100)
    ours, theirs = (
        nn.CrossEntropyLoss(reduction=reduction),
        tnn.CrossEntropyLoss(reduction=reduction),
    )
    x, z = tensor(logits), torch.tensor(logits, requires_grad=True)
    y, u = ours(x, tensor(ids)), theirs(z, torch.tensor(ids))
    np.testing.assert_array_equal(y.numpy(), u.detach().numpy())
    y.sum().backward()
    u.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), z.grad.numpy())


def test_softmax_loss():
    logits, ids = LOGITS_AND_IDS[0]
    y, u = tensor(ids, requires_grad=False), torch.tensor(ids)
    loss = nn.SoftmaxLoss()
    compare(lambda z: loss(z, y), lambda z: F.cross_entropy(z, u), logits)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("loss", [nn.SoftmaxLoss(), nn.CrossEntropyLoss()])
def test_float32_losses_agree_to_the_last_bits(seed, loss):
    random = np.random.RandomState(seed)
    logits, ids = random.randn(3, 4).astype("float32"), random.randint(4, size=3)
    ours = loss(tensor(logits), tensor(ids)).numpy()
    theirs = F.cross_entropy(torch.tensor(logits), torch.tensor(ids)).numpy()
    assert ours.dtype == "float32"
    assert abs(float(ours) - float(theirs)) < 2.5e-7


@pytest.mark.parametrize("size", [5e5, 1e10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [nn.SoftmaxLoss(), nn.CrossEntropyLoss()])
def test_extreme_logits(size, dtype, loss):
    logits = (np.array([[1.0, -1, 0.5], [-1, 1, 1], [0, 0, -1]]) * size).astype(dtype)
    ids = np.array([1, 0, 2])
    x, z = tensor(logits), torch.tensor(logits, requires_grad=True)
    y, u = loss(x, tensor(ids)), F.cross_entropy(z, torch.tensor(ids))
    np.testing.assert_allclose(y.numpy(), u.detach().numpy(), rtol=1e-6)
    y.backward()
    u.backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-7)


# -- a whole network ---------------------------------------------------------------------------


def test_network_in_float32_gives_torchs_outputs_and_gradients():
    ours = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm1d(8), nn.GELU())), nn.Linear(8, 5),
    )  # fmt: skip
    layers = [tnn.Linear(12, 8), tnn.BatchNorm1d(8), tnn.Linear(8, 8), tnn.LayerNorm(8),
              tnn.Linear(8, 5)]  # fmt: skip
    theirs = [p for layer in layers for p in layer.parameters()]
    for mine, their in zip(ours.parameters(), theirs, strict=True):
        their.data = torch.tensor(mine.numpy().T if mine.shape[0] != 1 else mine.numpy()[0])
    x, ids = array(6, 3, 4).astype("float32"), np.array([0, 1, 2, 3, 4, 0])
    loss = nn.SoftmaxLoss()(ours(tensor(x)), tensor(ids))
    loss.backward()
    hidden = F.relu(layers[1](layers[0](torch.tensor(x).flatten(1))))
    hidden = hidden + F.gelu(layers[3](layers[2](hidden)))
    expected = F.cross_entropy(layers[4](hidden), torch.tensor(ids))
    expected.backward()
    np.testing.assert_allclose(loss.numpy(), expected.detach().numpy(), rtol=1e-5)
    for mine, their in zip(ours.parameters(), theirs, strict=True):
        grad = their.grad.numpy()
        wanted = grad.T if grad.ndim == 2 else grad.reshape(mine.shape)
        np.testing.assert_allclose(mine.grad.numpy(), wanted, rtol=1e-4, atol=1e-6)
