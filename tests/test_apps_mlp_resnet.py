"""`apps/mlp_resnet.py` and the networks of `needle.models`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import write_idx

import needle as ndl
from needle import nn
from needle.errors import FileFormatError, OptionError
from needle.models import TwoLayerNet

sys.path.append(str(Path(__file__).resolve().parent.parent / "apps"))

import mlp_resnet
from mlp_resnet import MLPResNet, ResidualBlock, epoch, train_mnist


def linear_size(inputs, outputs):
    return inputs * outputs + outputs


def block_size(dim, hidden):
    return linear_size(dim, hidden) + 2 * hidden + linear_size(hidden, dim) + 2 * dim


@pytest.fixture
def tiny_mnist(tmp_path):
    """A folder with MNIST's four files, of a few images each."""
    draw = np.random.RandomState(3)
    for part, count in (("train", 50), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = draw.randint(0, 80, size=(count, 28, 28))
        images[np.arange(count), 2 * labels] += 150  # a bright row tells the digit
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def loader(count=10, batch=4, features=6):
    x = np.random.RandomState(0).randn(count, features).astype("float32")
    return ndl.data.DataLoader(ndl.data.NDArrayDataset(x, np.arange(count) % 3), batch)


# -- the networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm1d])
def test_a_residual_block_has_two_linear_layers_and_two_norms(norm):
    block = ResidualBlock(15, 4, norm, 0.2)
    assert block.num_parameters() == block_size(15, 4)
    kinds = [type(module).__name__ for _, module in block.named_modules()][3:]
    linear_norm = ["Linear", norm.__name__]
    assert kinds == [*linear_norm, "ReLU", "Dropout", *linear_norm, "ReLU"]


def test_a_residual_block_computes_what_it_says():
    block = ResidualBlock(5, 3, nn.LayerNorm1d)
    block.eval()
    first, norm1, _, _, second, norm2 = block.modules[0].fn.modules
    x = ndl.Tensor(np.random.randn(4, 5).astype("float32"))
    inner = norm2(second(ndl.relu(norm1(first(x)))))
    np.testing.assert_allclose(block(x).numpy(), ndl.relu(inner + x).numpy(), rtol=1e-6)


def test_a_residual_networks_size_follows_from_its_widths():
    model = MLPResNet(20, 16, 2, 7, nn.LayerNorm1d, 0.0)
    size = linear_size(20, 16) + 2 * block_size(16, 8) + linear_size(16, 7)
    assert model.num_parameters() == size


@pytest.mark.parametrize("shape", [(3, 784), (3, 28, 28, 1), (3, 28, 28)])
def test_networks_flatten_what_they_are_given(shape):
    x = ndl.Tensor(np.random.rand(*shape).astype("float32"))
    assert MLPResNet(784, 8)(x).shape == (3, 10)
    assert TwoLayerNet(784, 8, 5)(x).shape == (3, 5)


def test_the_two_layer_network_computes_what_it_says():
    model = TwoLayerNet(4, 3, 2)
    x = np.random.randn(5, 4).astype("float32")
    w1, b1, w2, b2 = (parameter.numpy() for parameter in model.parameters())
    expected = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(model(ndl.Tensor(x)).numpy(), expected, rtol=1e-5)


# -- epoch ---------------------------------------------------------------------------------------


def test_an_epoch_gives_error_rate_and_mean_loss_over_examples():
    model, batches = nn.Linear(6, 3), loader(10, 4)  # the last batch has two examples
    error, loss = epoch(batches, model)
    x, y = batches.dataset[:]
    logits = model(ndl.Tensor(x))
    expected = nn.SoftmaxLoss()(logits, ndl.Tensor(y)).item()
    assert error == np.mean(logits.numpy().argmax(1) != y)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert np.array((error, loss)).shape == (2,)


def test_an_epoch_without_optimiser_changes_nothing_and_keeps_no_graph():
    model = MLPResNet(6, 4, 1, 3)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    epoch(loader(), model)
    assert all((model.state_dict()[name].numpy() == value).all() for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_follows_from_the_optimiser():
    model = MLPResNet(6, 4, 1, 3)
    epoch(loader(), model)
    assert not any(module.training for module in model.submodules())
    epoch(loader(), model, ndl.optim.SGD(model.parameters()))
    assert all(module.training for module in model.submodules())


def test_training_lowers_the_loss():
    model = MLPResNet(6, 16, 1, 3)
    opt = ndl.optim.Adam(model.parameters(), lr=0.01)
    losses = [epoch(loader(30, 10), model, opt)[1] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_every_epoch_draws_the_same_numbers():
    np.random.seed(77)
    epoch(loader(), nn.Linear(6, 3))
    assert np.random.rand() == np.random.RandomState(4).rand()


def test_importing_seeds_numpy():
    np.random.seed(77)
    importlib.reload(mlp_resnet)
    assert np.random.rand() == np.random.RandomState(0).rand()


# -- train_mnist ---------------------------------------------------------------------------------


def test_train_mnist_gives_errors_and_losses_of_both_parts(tiny_mnist):
    arguments = (10, 6, ndl.optim.Adam, 0.01, 0.001, 16)
    result = train_mnist(*arguments, data_dir=str(tiny_mnist))
    assert len(result) == 4
    assert result == train_mnist(*arguments, data_dir=str(tiny_mnist))
    train_error, train_loss, test_error, test_loss = result
    assert 0 <= train_error <= 0.2
    assert 0 <= test_error <= 0.5
    assert train_loss > 0
    assert test_loss > 0


def test_train_mnist_without_its_files_names_the_missing_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz"):
        train_mnist(data_dir=str(tmp_path))


def test_train_mnist_refuses_no_epochs(tiny_mnist):
    with pytest.raises(OptionError, match="expected epochs of 1 or more, got 0"):
        train_mnist(epochs=0, data_dir=str(tiny_mnist))


def test_train_mnist_refuses_truncated_files(tiny_mnist):
    path = tiny_mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match="expected a whole gzip file"):
        train_mnist(data_dir=str(tiny_mnist))


def test_a_star_import_brings_the_exercise_and_nothing_that_shadows():
    names: dict = {}
    exec("from mlp_resnet import *", names)
    names.pop("__builtins__")
    assert set(names) == {"ResidualBlock", "MLPResNet", "epoch", "train_mnist"}


@pytest.mark.nd_mode
def test_an_epoch_moves_its_batches_to_the_device_of_the_model():
    here, there = MLPResNet(6, 8, num_classes=3), MLPResNet(6, 8, num_classes=3)
    there.load_state_dict(here.state_dict())
    there.to(ndl.cpu_numpy())
    assert epoch(loader(), there) == pytest.approx(epoch(loader(), here))
