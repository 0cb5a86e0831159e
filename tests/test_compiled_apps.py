"""The steps of `apps/`: compiled as they are written, once for all epochs, and let go of."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.compiler import build
from needle.data import DataLoader, NDArrayDataset, batchify
from needle.jit.steps import lasting_step
from needle.models import LanguageModel, MLPResNet

sys.path.append(str(Path(__file__).resolve().parent.parent / "apps"))

import mlp_resnet
import simple_ml


def step_of(owner):
    """The compiled function that is kept with an optimiser or a model."""
    return vars(owner)["_compiled_step"].step.jitted


def digits(count=70, shape=(8, 8, 1)):
    draw = np.random.RandomState(0)
    x, y = draw.rand(count, *shape).astype("float32"), draw.randint(10, size=count)
    return NDArrayDataset(x, y)


def columns():
    return batchify(np.random.RandomState(1).randint(9, size=200).tolist(), 4)


def pictures():
    return nn.Sequential(
        nn.Conv(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 10)
    )


def train_mlp_resnet():
    np.random.seed(0)
    model = MLPResNet(64, 12, drop_prob=0.2)
    opt = ndl.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
    loader = DataLoader(digits(), 20, shuffle=True)
    results = [mlp_resnet.epoch(loader, model, opt) for _ in range(3)]
    return model, opt, [*results, mlp_resnet.epoch(loader, model)]


def train_pictures():
    np.random.seed(0)
    model = pictures()
    opt = ndl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(digits(50, (3, 5, 5)), 20, shuffle=True)
    results = [simple_ml.epoch_general_cifar10(loader, model, opt=opt) for _ in range(3)]
    return model, opt, [*results, simple_ml.evaluate_cifar10(model, loader)]


def train_words(kind):
    np.random.seed(0)
    model = LanguageModel(6, 9, 7, num_layers=2, seq_model=kind, seq_len=8, dropout=0.1)
    opt, data = ndl.optim.SGD(model.parameters(), lr=0.5, momentum=0.5), columns()
    results = [simple_ml.epoch_general_ptb(data, model, 8, opt=opt, clip=0.5) for _ in range(3)]
    return model, opt, [*results, simple_ml.evaluate_ptb(model, data, 8)]


RUNS = {
    "mlp-resnet": train_mlp_resnet,
    "pictures": train_pictures,
    "lstm": lambda: train_words("lstm"),
    "rnn": lambda: train_words("rnn"),
    "transformer": lambda: train_words("transformer"),
}


@pytest.mark.parametrize("name", RUNS)
def test_compiled_epochs_are_those_of_the_functions_as_they_are_written(name):
    model, _, results = RUNS[name]()
    after = np.random.rand()
    with ndl.disable_jit():
        plain, _, expected = RUNS[name]()
    assert np.random.rand() == after  # the masks of dropout are drawn alike
    np.testing.assert_allclose(results, expected, rtol=1e-4)
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[key].numpy(), value.numpy(), 1e-3, 1e-4)


def test_a_two_layer_network_is_compiled_for_all_learning_rates():
    draw = np.random.RandomState(0)
    x, y = draw.rand(50, 5).astype("float32"), draw.randint(3, size=50)
    made = []
    for lr in (0.1, 0.2, 0.05):
        weights = [tensor(draw.randn(*shape).astype("float32")) for shape in ((5, 8), (8, 3))]
        copies = [tensor(weight.numpy()) for weight in weights]
        simple_ml.nn_epoch(x, y, *weights, lr=lr, batch=20)
        made.append(len(simple_ml._descend.compiled))
        with ndl.disable_jit():
            simple_ml.nn_epoch(x, y, *copies, lr=lr, batch=20)
        for weight, other in zip(weights, copies, strict=True):
            np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    assert len(set(made)) == 1


# -- once ----------------------------------------------------------------------------------------


@pytest.mark.nd_mode
@pytest.mark.parametrize(
    ("name", "signatures"),
    [("mlp-resnet", 2), ("pictures", 2), ("lstm", 3), ("transformer", 3)],
)
def test_epochs_of_one_optimiser_compile_once(name, signatures):
    """Batches, the last one, which is shorter, and the first of a text, which has no state yet."""
    _, opt, _ = RUNS[name]()
    assert len(step_of(opt).compiled) == signatures


@pytest.mark.nd_mode
def test_the_last_batch_of_an_epoch_needs_no_machine_code_of_its_own(monkeypatch):
    written = []
    object_code = build.object_code
    monkeypatch.setattr(
        build, "object_code", lambda key, write: written.append(key) or object_code(key, write)
    )
    np.random.seed(0)
    model = MLPResNet(64, 12)
    opt = ndl.optim.Adam(model.parameters(), lr=0.01)
    mlp_resnet.epoch(DataLoader(digits(40), 20), model, opt)
    written.clear()
    mlp_resnet.epoch(DataLoader(digits(70), 20), model, opt)  # the last batch has 10
    assert len(step_of(opt).compiled) == 2
    assert written == []


@pytest.mark.nd_mode
def test_another_loss_or_bound_is_another_step():
    model, data = LanguageModel(6, 9, 7), columns()
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    for options in ({}, {}, {"clip": 0.1}, {"clip": 0.1, "loss_fn": nn.CrossEntropyLoss}):
        simple_ml.epoch_general_ptb(data, model, opt=opt, **options)
        steps.append(step_of(opt))
    assert steps[0] is steps[1]
    assert len(set(map(id, steps))) == 3


# -- what is kept, and what goes -----------------------------------------------------------------


def pickled(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301  # of our own making


def test_a_model_and_its_optimiser_go_with_their_steps():
    model, opt, _ = train_mlp_resnet()
    gone = [weakref.ref(model), weakref.ref(opt), weakref.ref(model.parameters()[0])]
    del model, opt
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


@pytest.mark.nd_mode
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_copies_of_a_model_have_steps_of_their_own(copied):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loader = DataLoader(digits(40), 20)
    before = mlp_resnet.epoch(loader, model)
    other = copied(model)
    assert mlp_resnet.epoch(loader, other) == before
    assert step_of(other) is not step_of(model)


def test_steps_are_no_part_of_what_a_model_and_an_optimiser_save():
    model, opt, _ = train_mlp_resnet()
    with ndl.disable_jit():
        plain, other, _ = train_mlp_resnet()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert opt.state_dict().keys() == other.state_dict().keys()
    assert repr(model) == repr(plain)


# -- what cannot be compiled ---------------------------------------------------------------------


class Looks(nn.Module):
    """Doubles what is small, with Python's own eyes."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(64, 10), nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(self.linear(x.reshape((x.shape[0], 64))))
        return x * 2 if np.abs(x.numpy()).max() < 1e6 else x


@pytest.mark.nd_mode
def test_what_cannot_be_compiled_runs_as_it_is_written_and_the_log_says_so_once(caplog):
    def run():
        np.random.seed(0)
        model = Looks()
        opt = ndl.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(digits(40), 20, shuffle=True)
        return [mlp_resnet.epoch(loader, model, opt) for _ in range(2)]

    with caplog.at_level(logging.WARNING, "needle.jit"):
        results = run()
    (record,) = caplog.records
    assert record.message.startswith(
        "One operator runs after the other, as a step is not compiled. jit: expected "
    )
    assert "line " in record.message
    with ndl.disable_jit():
        assert run() == results


def test_errors_of_the_users_own_are_raised_as_they_are():
    model = nn.Linear(3, 10)
    step = lasting_step(mlp_resnet._classifier, model, nn.SoftmaxLoss)
    with pytest.raises(ndl.errors.ShapeError, match="Linear: expected"):
        step(tensor(np.ones((2, 4), dtype="float32")), tensor([0.0, 1.0]))
