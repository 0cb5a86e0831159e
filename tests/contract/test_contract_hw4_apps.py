"""Contract, sections 1 and 10: how `simple_ml.py` and `models.py` are reached, and their seeds."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import needle as ndl
from needle import nn

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [str(ROOT / "apps"), str(ROOT)]

import models  # noqa: E402
import simple_ml  # noqa: E402

SIGNATURES = {
    "epoch_general_cifar10": "dataloader, model, loss_fn=SoftmaxLoss(), opt=None",
    "train_cifar10": "model, dataloader, n_epochs=1, optimizer=Adam, lr=0.001, weight_decay=0.001, "
    "loss_fn=SoftmaxLoss",
    "evaluate_cifar10": "model, dataloader, loss_fn=SoftmaxLoss",
    "epoch_general_ptb": "data, model, seq_len=40, loss_fn=SoftmaxLoss(), opt=None, clip=None, "
    "device=None, dtype='float32'",
    "train_ptb": "model, data, seq_len=40, n_epochs=1, optimizer=SGD, lr=4.0, weight_decay=0.0, "
    "loss_fn=SoftmaxLoss, clip=None, device=None, dtype='float32'",
    "evaluate_ptb": "model, data, seq_len=40, loss_fn=SoftmaxLoss, device=None, dtype='float32'",
}


def shown(parameter):
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    if inspect.isclass(default):
        return f"{parameter.name}={default.__name__}"
    if isinstance(default, nn.Module):
        return f"{parameter.name}={type(default).__name__}()"
    return f"{parameter.name}={default!r}"


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_take_the_contracts_arguments(name):
    parameters = inspect.signature(getattr(simple_ml, name)).parameters.values()
    assert ", ".join(map(shown, parameters)) == SIGNATURES[name]


MODELS = {
    "ResNet9": "device=None, dtype='float32'",
    "LanguageModel": "embedding_size, output_size, hidden_size, num_layers=1, seq_model='rnn', "
    "seq_len=40, device=None, dtype='float32'",
}


@pytest.mark.parametrize("name", MODELS)
def test_models_take_the_contracts_arguments_first(name):
    parameters = inspect.signature(getattr(models, name)).parameters.values()
    expected = MODELS[name].split(", ")
    assert [*map(shown, parameters)][: len(expected)] == expected


# -- 1, 10.0: imports --------------------------------------------------------------------------


def run(code, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_trap_16_models_is_imported_flat_and_packaged_in_one_process(tmp_path):
    """From a folder that holds `apps`, with `./python` and `./apps` appended to the path."""
    (tmp_path / "apps").symlink_to(ROOT / "apps")
    result = run(
        "import sys; sys.path += ['./python', './apps']\n"
        "import numpy as np, needle as ndl, needle.nn as nn, pytest, itertools\n"
        "before = ndl.autograd.TENSOR_COUNTER\n"
        "from simple_ml import *\n"
        "from models import LanguageModel\n"
        "from mlp_resnet import *\n"
        "sys.path.append('.')\n"
        "np.random.seed(5)\n"
        "from apps.models import ResNet9, LanguageModel as Packaged\n"
        "assert np.random.rand() == np.random.RandomState(0).rand()\n"
        "assert ndl.autograd.TENSOR_COUNTER == before\n"
        "from apps.simple_ml import train_cifar10\n"
        "ResNet9(device=ndl.cpu(), dtype='float32')\n"
        "for model in (LanguageModel, Packaged):\n"
        "    model(4, 5, 3, 1, 'lstm', device=ndl.cpu(), dtype='float32')\n",
        cwd=tmp_path,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_models_flat_seeds_with_0():
    np.random.seed(77)
    importlib.reload(models)
    assert np.random.rand() == np.random.RandomState(0).rand()


STARS = {
    "simple_ml": "parse_mnist softmax_loss nn_epoch loss_err epoch_general_cifar10 train_cifar10 "
    "evaluate_cifar10 epoch_general_ptb train_ptb evaluate_ptb",
    "mlp_resnet": "ResidualBlock MLPResNet epoch train_mnist",
    "models": "ResNet9 LanguageModel",
    "simple_training": "train_cifar10 evaluate_cifar10 train_ptb evaluate_ptb",
}


@pytest.mark.parametrize("module", STARS)
def test_star_imports_bring_the_names_and_shadow_no_module(module):
    import itertools

    kept = {"np": np, "ndl": ndl, "nn": nn, "pytest": pytest, "itertools": itertools,
            "torch": "torch", "mugrade": "mugrade"}  # fmt: skip
    names = dict(kept)
    exec(f"from {module} import *", names)
    assert all(callable(names[name]) for name in STARS[module].split())
    assert all(names[name] is value for name, value in kept.items())


# -- 10.1: what is the same for all six --------------------------------------------------------


def calls(loss=None):
    """Each function, on 6 pictures or 8 rows of words."""
    draw = np.random.RandomState(0)
    pictures = draw.rand(6, 3, 2, 2).astype("float32"), draw.randint(4, size=6)
    loader = ndl.data.DataLoader(ndl.data.NDArrayDataset(*pictures), 4, shuffle=True)
    rows = ndl.data.batchify(list(draw.randint(7, size=24)), 3, device=ndl.cpu(), dtype="float32")
    model, words = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), models.LanguageModel(3, 7, 4)
    by = {} if loss is None else {"loss_fn": loss}
    return {
        "epoch_general_cifar10": lambda: simple_ml.epoch_general_cifar10(loader, model, **by),
        "train_cifar10": lambda: simple_ml.train_cifar10(model, loader, **by),
        "evaluate_cifar10": lambda: simple_ml.evaluate_cifar10(model, loader, **by),
        "epoch_general_ptb": lambda: simple_ml.epoch_general_ptb(rows, words, **by),
        "train_ptb": lambda: simple_ml.train_ptb(words, rows, lr=0.1, **by),
        "evaluate_ptb": lambda: simple_ml.evaluate_ptb(words, rows, **by),
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_function_seeds_with_4_first(name):
    call = calls()[name]
    np.random.seed(4)
    if "cifar10" in name:
        np.random.permutation(6)
    expected = np.random.rand()
    np.random.seed(99)
    call()
    assert np.random.rand() == expected


@pytest.mark.parametrize("name", SIGNATURES)
def test_each_function_gives_accuracy_and_loss(name):
    found = calls()[name]()
    assert type(found) is tuple and np.array(found).shape == (2,)
    accuracy, loss = found
    assert 0 <= accuracy <= 1 and loss > 0


@pytest.mark.parametrize("name", SIGNATURES)
def test_losses_may_be_classes_or_instances(name):
    results = []
    for loss in (nn.SoftmaxLoss, nn.SoftmaxLoss()):
        np.random.seed(1)
        results.append(calls(loss)[name]())
    assert results[0] == results[1]
