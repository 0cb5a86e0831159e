"""`apps/simple_ml.py` against the same written in NumPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import write_mnist
from tensors import tensor

import needle as ndl
from needle.errors import FileFormatError, GradientError, OptionError, ShapeError
from needle.testing import check_grads

APPS = Path(__file__).resolve().parent.parent / "apps"
sys.path.append(str(APPS))

import simple_ml  # noqa: E402
from simple_ml import loss_err, nn_epoch, parse_mnist, softmax_loss  # noqa: E402


def one_hot(y, classes, dtype="float64"):
    return np.eye(classes, dtype=dtype)[y]


def loss_in_numpy(z, y):
    return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])


def epoch_in_numpy(x, y, w1, w2, lr, batch):
    for start in range(0, len(y), batch):
        xb, yb = x[start : start + batch], y[start : start + batch]
        hidden = np.maximum(xb @ w1, 0)
        powers = np.exp(hidden @ w2)
        dz = (powers / powers.sum(1, keepdims=True) - one_hot(yb, w2.shape[1])) / len(yb)
        dw1, dw2 = xb.T @ ((dz @ w2.T) * (hidden > 0)), hidden.T @ dz
        w1, w2 = w1 - lr * dw1, w2 - lr * dw2
    return w1, w2


# -- parse_mnist ---------------------------------------------------------------------------------


def test_images_become_rows_of_floats_and_labels_a_vector(tmp_path):
    images, labels = write_mnist(tmp_path, 12)
    x, y = parse_mnist(images, labels)
    assert (x.shape, x.dtype) == ((12, 784), np.float32)
    assert (y.shape, y.dtype) == ((12,), np.uint8)
    assert x.min() == 0
    assert x.max() == 1
    assert y.tolist() == [*range(10), 0, 1]


def test_mnist_itself(shared_mnist):
    x, y = parse_mnist(
        str(shared_mnist / "t10k-images-idx3-ubyte.gz"),
        str(shared_mnist / "t10k-labels-idx1-ubyte.gz"),
    )
    assert x.shape == (10000, 784)
    assert y[:5].tolist() == [7, 2, 1, 0, 4]


def test_images_in_place_of_labels_are_refused(tmp_path):
    images, _ = write_mnist(tmp_path)
    with pytest.raises(FileFormatError, match="expected an IDX file of labels"):
        parse_mnist(images, images)


# -- softmax_loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("z_dtype", ["float32", "float64"])
@pytest.mark.parametrize("y_dtype", ["float32", "float64"])
def test_the_loss_is_the_mean_cross_entropy_and_0_d(z_dtype, y_dtype):
    z, y = np.random.randn(6, 4).astype(z_dtype), np.array([0, 3, 1, 2, 2, 0])
    loss = softmax_loss(tensor(z), tensor(one_hot(y, 4, y_dtype)))
    assert loss.shape == ()
    np.testing.assert_allclose(loss.numpy(), loss_in_numpy(z, y), rtol=1e-6)


def test_the_loss_of_large_logits_is_finite():
    z = tensor([[1000.0, 0.0], [0.0, -1000.0]])
    assert softmax_loss(z, tensor([[1.0, 0.0], [1.0, 0.0]])).item() == 0


def test_the_loss_has_the_right_gradients():
    y = tensor(one_hot(np.array([0, 2, 1]), 3), requires_grad=False)
    check_grads(lambda z: softmax_loss(z, y), tensor(np.random.randn(3, 3)))


def test_class_ids_in_place_of_one_hot_rows_are_refused():
    with pytest.raises(ShapeError, match=r"got float64\[2,3\] and float64\[2\]\."):
        softmax_loss(tensor(np.ones((2, 3))), tensor([0.0, 1.0]))


# -- nn_epoch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 7, 16, 50, 100])
def test_an_epoch_is_gradient_descent_batch_after_batch(dtype, batch):
    draw = np.random.RandomState(0)
    x, y = draw.rand(50, 5).astype("float32"), draw.randint(3, size=50).astype(np.uint8)
    w1, w2 = draw.randn(5, 8).astype(dtype), draw.randn(8, 3).astype(dtype)
    expected = epoch_in_numpy(x.astype("float64"), y, w1, w2, 0.2, batch)
    results = nn_epoch(x, y, tensor(w1), tensor(w2), lr=0.2, batch=batch)
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result.numpy(), reference, rtol=1e-5, atol=1e-5)


def test_an_epoch_leaves_the_data_alone():
    x, y = np.random.rand(10, 4), np.arange(10) % 3
    before = x.copy()
    nn_epoch(x, y, tensor(np.random.randn(4, 5)), tensor(np.random.randn(5, 3)))
    assert (x == before).all()


def test_weights_of_two_dtypes_keep_theirs():
    x, y = np.random.rand(10, 4).astype("float32"), np.arange(10) % 3
    w1 = tensor(np.random.randn(4, 5).astype("float32"))
    w2 = tensor(np.random.randn(5, 3))
    w1, w2 = nn_epoch(x, y, w1, w2, batch=4)
    assert (w1.dtype, w2.dtype) == ("float32", "float64")


def test_epochs_learn(shared_mnist):
    x, y = parse_mnist(
        shared_mnist / "t10k-images-idx3-ubyte.gz", shared_mnist / "t10k-labels-idx1-ubyte.gz"
    )
    draw = np.random.RandomState(0)
    w1 = tensor(draw.randn(784, 50).astype("float32") / np.sqrt(50))
    w2 = tensor(draw.randn(50, 10).astype("float32") / np.sqrt(10))
    for _ in range(3):
        w1, w2 = nn_epoch(x[:8000], y[:8000], w1, w2, lr=0.2)
    loss, error = loss_err(ndl.relu(tensor(x[8000:]) @ w1) @ w2, y[8000:])
    assert error < 0.12
    assert loss < 0.4


# -- loss_err ------------------------------------------------------------------------------------


def test_loss_and_error_rate():
    z, y = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 0, 1])
    loss, error = loss_err(tensor(z), y)
    np.testing.assert_allclose(loss, loss_in_numpy(z, y))
    assert error == 0.25
    assert np.shape(loss) == np.shape(error) == ()


# -- imports -------------------------------------------------------------------------------------


def test_a_star_import_brings_the_exercises_and_nothing_that_shadows():
    names: dict = {}
    exec("from simple_ml import *", names)
    names.pop("__builtins__")
    wanted = "parse_mnist softmax_loss nn_epoch loss_err epoch_general_cifar10 train_cifar10 "
    wanted += "evaluate_cifar10 epoch_general_ptb train_ptb evaluate_ptb"
    assert set(names) == set(wanted.split())
    assert set(names) == set(simple_ml.__all__)


def test_both_apps_import_flat_and_as_a_package_in_one_process():
    code = (
        "import sys; sys.path += ['apps', '.']\n"
        "from simple_ml import *\nfrom mlp_resnet import *\n"
        "import apps.simple_ml, apps.mlp_resnet\n"
        "assert apps.mlp_resnet.MLPResNet is MLPResNet\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=APPS.parent, check=True)


# -- bad input -----------------------------------------------------------------------------------


def test_the_loss_of_no_rows_is_refused():
    nothing = tensor(np.zeros((0, 3)))
    with pytest.raises(ShapeError, match=r"softmax_loss: expected one row or more, got float64"):
        softmax_loss(nothing, nothing)


@pytest.mark.parametrize("batch", [0, -5, 2.5, None])
def test_a_batch_that_is_no_size_is_refused(batch):
    w1, w2 = tensor(np.ones((4, 5))), tensor(np.ones((5, 3)))
    with pytest.raises(OptionError) as error:
        nn_epoch(np.ones((10, 4)), np.zeros(10, dtype=int), w1, w2, batch=batch)
    assert str(error.value) == f"nn_epoch: expected batch of 1 or more, got {batch}."


@pytest.mark.parametrize("frozen", [0, 1])
def test_weights_that_require_no_gradient_are_refused_and_stay(frozen):
    weights = [tensor(np.ones((4, 5))), tensor(np.ones((5, 3)))]
    weights[frozen].requires_grad = False
    with pytest.raises(GradientError) as error:
        nn_epoch(np.ones((10, 4)), np.zeros(10, dtype=int), *weights)
    assert str(error.value) == (
        "nn_epoch: expected W1 and W2 that require gradients, got requires_grad=False in "
        f"W{frozen + 1}."
    )
    assert all((weight.numpy() == 1).all() for weight in weights)
