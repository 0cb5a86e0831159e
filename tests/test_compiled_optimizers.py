"""Optimisers, schedules, clipping, averages, checkpointed blocks and draws in compiled steps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled_runs import both_ways, kinds

import needle as ndl
from needle import errors, init, nn, optim
from needle.jit import jit
from needle.testing import assert_close

pytestmark = pytest.mark.nd_mode

OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}],
    "Adam": [{}, {"weight_decay": 0.1}],
    "AdamW": [{"weight_decay": 0.1}],
    "RMSprop": [{}, {"momentum": 0.9, "weight_decay": 0.1, "centered": True}],
    "Adagrad": [{"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.1}],
    "Lion": [{"weight_decay": 0.1}],
}
EVERY = [(name, options) for name, rows in OPTIMIZERS.items() for options in rows]

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: optim.StepLR(o, 2),
    "MultiStepLR": lambda o: optim.MultiStepLR(o, [1, 3]),
    "ExponentialLR": lambda o: optim.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: optim.CosineAnnealingLR(o, 4),
    "LinearWarmup": lambda o: optim.LinearWarmup(o, 2, after=optim.ExponentialLR(o, 0.9)),
    "SequentialLR": lambda o: optim.SequentialLR(
        o, [optim.ExponentialLR(o, 0.9), optim.StepLR(o, 1)], [2]
    ),
    "WarmupCosine": lambda o: optim.WarmupCosine(o, 2, 5),
    "OneCycleLR": lambda o: optim.OneCycleLR(o, [0.1, 0.2], 10),
    "LambdaLR": lambda o: optim.LambdaLR(o, lambda step: 1 / (1 + float(np.exp(step)))),
}


def public(base: type) -> set[str]:
    found = {name: getattr(optim, name) for name in optim.__all__}
    return {
        name
        for name, value in found.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


def test_every_optimizer_and_schedule_has_a_row():
    assert public(optim.Optimizer) == set(OPTIMIZERS)
    assert public(optim.Schedule) == set(SCHEDULES)


class Training:
    """A network, an optimiser of two groups and a parameter that no gradient reaches."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        self.unused = nn.Parameter(init.ones(2))
        groups = [
            {"params": self.model[0].parameters()},
            {"params": [*self.model[2].parameters(), self.unused], "lr": 0.02},
        ]
        self.optimizer = getattr(optim, name)(groups, lr=0.05, **options)
        self.unused.requires_grad = False

    def losses(self, x: ndl.Tensor) -> ndl.Tensor:
        self.optimizer.reset_grad()
        loss: ndl.Tensor = (self.model(x) ** 2).mean()
        loss.backward()
        return loss

    def state(self) -> list[Any]:
        numbers = [np.asarray(value, np.float64) for value in self.optimizer.state_dict().values()]
        return [p.numpy() for p in (*self.model.parameters(), self.unused)] + numbers


def batches(count: int) -> list[ndl.Tensor]:
    rng = np.random.RandomState(1)
    return [ndl.Tensor(rng.randn(5, 4), requires_grad=False) for _ in range(count)]


@pytest.mark.parametrize(("name", "options"), EVERY, ids=str)
def test_optimizer_takes_the_same_steps_compiled(name: str, options: dict[str, Any]):
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        training = Training(name, options)
        schedule = optim.ExponentialLR(training.optimizer, 0.8)

        @wrap
        def step(x: ndl.Tensor) -> ndl.Tensor:
            loss = training.losses(x)
            training.optimizer.step()
            return loss

        found = []
        for x in batches(5):  # the schedule outside: rates change from call to call
            found.append(step(x).numpy())
            schedule.step()
        return found + training.state()

    (step,) = both_ways(run, name)
    # counts that are equal at first are one number, but that of the unused parameter stays behind
    counts = name in ("Adam", "AdamW", "Adagrad")
    assert kinds(step) <= 1 + counts, "other rates are no other program"


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_steps_inside_a_compiled_function(name: str):
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        training = Training("SGD", {"momentum": 0.5})
        schedule = SCHEDULES[name](training.optimizer)
        rates = []

        @wrap
        def step(x: ndl.Tensor) -> ndl.Tensor:
            loss = training.losses(x)
            training.optimizer.step()
            schedule.step()
            return loss

        found = []
        for x in batches(5):
            found.append(step(x).numpy())
            rates += [group["lr"] for group in training.optimizer.param_groups]
        return [*found, np.array(rates), np.array(schedule.last_step), *training.state()]

    (step,) = both_ways(run, name)
    assert kinds(step) == 1


def test_step_beyond_a_schedule_raises_what_eager_raises_and_changes_nothing():
    training = Training("SGD", {})
    schedule = optim.OneCycleLR(training.optimizer, 0.1, 2)

    @jit
    def step(x: ndl.Tensor) -> None:
        training.losses(x)
        training.optimizer.step()
        schedule.step()

    for x in batches(2):
        step(x)
    before = training.state()
    with pytest.raises(errors.OptionError, match="at most total_steps=2 steps, got 3"):
        step(batches(1)[0])
    for was, now in zip(before, training.state(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_learning_rate_set_inside_follows_the_count_of_steps():
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        training = Training("Lion", {})

        @wrap
        def step(x: ndl.Tensor) -> ndl.Tensor:
            training.optimizer.lr = 0.1 * 0.5**training.optimizer.t
            loss = training.losses(x)
            training.optimizer.step()
            return loss

        return [step(x).numpy() for x in batches(4)] + training.state()

    (step,) = both_ways(run, "lr")
    assert kinds(step) == 1


CLIPPING: dict[str, Callable[[Training], Any]] = {
    "to a norm": lambda t: optim.clip_grad_norm(t.model, 0.1, error_if_nonfinite=True),
    "to a norm that is not reached": lambda t: t.optimizer.clip_grad_norm(1e3),
    "measured only": lambda t: optim.clip_grad_norm(t.model, np.inf),
    "to a value": lambda t: optim.clip_grad_value(t.model, 0.01),
}


@pytest.mark.parametrize("clip", CLIPPING.values(), ids=CLIPPING.keys())
def test_gradients_are_clipped_in_compiled_steps(clip: Callable[[Training], Any]):
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        training = Training("SGD", {})

        @wrap
        def step(x: ndl.Tensor) -> Any:
            loss, norm = training.losses(x), clip(training)
            training.optimizer.step()
            return loss, norm

        found = [step(x) for x in batches(3)]
        return [y.numpy() for pair in found for y in pair if y is not None] + training.state()

    both_ways(run, "clipping")


def test_norm_that_is_not_finite_raises_what_eager_raises_and_changes_nothing():
    training = Training("SGD", {})

    @jit
    def step(x: ndl.Tensor) -> None:
        training.losses(x)
        optim.clip_grad_norm(training.model, 1.0, error_if_nonfinite=True)
        training.optimizer.step()

    before = training.model[0].weight.numpy()
    step(batches(1)[0] * 0)
    bad = ndl.Tensor(np.full((5, 4), np.nan), requires_grad=False)
    with pytest.raises(errors.NonFiniteError, match="expected a finite norm, got nan"):
        step(bad)
    np.testing.assert_array_equal(training.model[0].weight.numpy(), before)


@pytest.mark.parametrize("warmup", [False, True])
def test_average_follows_compiled_steps(warmup: bool):
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        training = Training("SGD", {"momentum": 0.9})
        average = optim.EMA(training.model, decay=0.25, warmup=warmup)

        @wrap
        def step(x: ndl.Tensor) -> Any:
            loss = training.losses(x)
            training.optimizer.step()
            average.update()
            with ndl.no_grad(), average.average_parameters():
                return loss, training.model(x)

        found = [y.numpy() for x in batches(5) for y in step(x)]
        return [*found, *average.state_dict().values(), *training.state()]

    (step,) = both_ways(run, "average")
    assert kinds(step) == (2 if warmup else 1), "another once the warm-up is over"


# -- draws -----------------------------------------------------------------------------------------


def test_draws_in_compiled_functions_are_those_of_the_seed():
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        @wrap
        def draws(x: ndl.Tensor) -> Any:
            weight = init.kaiming_uniform(4, 3) + init.xavier_normal(4, 3)
            noise = init.rand(2, 4, low=-1.0, dtype="float64") + init.randn(2, 4, mean=1.0, std=2)
            return x @ weight, noise, init.randb(3, 4, p=0.3), nn.Dropout(0.5)(x)

        return [y.numpy() for x in batches(3) for y in draws(x)]

    (draws,) = both_ways(run, "draws")
    assert kinds(draws) == 1


def test_one_hot_of_ids_that_are_not_known_yet():
    encode = jit(lambda ids: init.one_hot(4, ids, dtype="float64"))
    for ids in ([[0, 3], [2, 1]], [[1, 1], [1, 0]]):
        for dtype in ("int64", "float32"):
            given = ndl.Tensor(ids, dtype=dtype)
            assert_close(encode(given), init.one_hot(4, given, dtype="float64"), same_dtype=True)


@pytest.mark.parametrize("value", [4.0, -1.0, np.nan, np.inf])
def test_one_hot_of_no_class_raises_what_eager_raises(value: float):
    ids = ndl.Tensor([0.0, value])
    with pytest.raises(errors.OutOfRangeError) as eager:
        init.one_hot(4, ids)
    with pytest.raises(errors.OutOfRangeError, match=re.escape(str(eager.value))):
        jit(lambda ids: init.one_hot(4, ids))(ids)


# -- checkpoint ------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Blocks that draw and count, each checkpointed or not; `nested` puts one into another."""

    def __init__(self, checkpointed: bool, nested: bool = False) -> None:
        super().__init__()
        self.checkpointed, self.nested = checkpointed, nested
        self.blocks = [
            nn.Sequential(
                nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(32), nn.Linear(32, 8)
            )
            for _ in range(3)
        ]

    def forward(self, x: ndl.Tensor) -> ndl.Tensor:
        for block in self.blocks:
            x = ndl.checkpoint(self.twice(block), x) if self.checkpointed else block(x)
        return x

    def twice(self, block: nn.Module) -> Callable[[ndl.Tensor], ndl.Tensor]:
        if not self.nested:
            return block
        return lambda x: block(ndl.checkpoint(ndl.tanh, x))


def train_blocks(wrap: Callable[[Any], Any], **how: bool) -> list[Any]:
    model = Blocks(**how)
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    @wrap
    def step(x: ndl.Tensor) -> ndl.Tensor:
        optimizer.reset_grad()
        loss: ndl.Tensor = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    found = [step(init.randn(64, 8)).numpy() for _ in range(3)]
    return found + [array.numpy() for array in tensors_of(model)]


def tensors_of(model: nn.Module) -> list[ndl.Tensor]:
    statistics = [block[3] for block in model.blocks]
    running = [t for norm in statistics for t in (norm.running_mean, norm.running_var)]
    return [*model.parameters(), *running]


@pytest.mark.parametrize("nested", [False, True])
def test_checkpointed_blocks_train_compiled_as_eager_ones(nested: bool):
    both_ways(lambda wrap: train_blocks(wrap, checkpointed=True, nested=nested), "checkpoint")


def test_checkpointed_blocks_are_computed_again_and_need_less_memory():
    (plain,) = both_ways(lambda wrap: train_blocks(wrap, checkpointed=False), "plain")
    (again,) = both_ways(lambda wrap: train_blocks(wrap, checkpointed=True), "checkpoint")

    def compiled(function: Any) -> Any:
        ((variant,),) = function._variants.values()
        return variant.executable.compiled

    def products(function: Any) -> int:
        return sum(node.primitive == "contract" for node in compiled(function).graph.nodes)

    # both products of a block but its last, whose result nobody reads
    assert products(again) == products(plain) + 3
    assert compiled(again).memory.peak < 0.7 * compiled(plain).memory.peak


def test_checkpoint_of_embeddings_and_captured_tensors():
    table, scale = nn.Parameter(init.randn(5, 3)), nn.Parameter(init.randn(3))

    @jit
    def slopes(ids: ndl.Tensor) -> Any:
        table.grad = scale.grad = None
        y = ndl.checkpoint(lambda ids: (ndl.embedding(table, ids) * scale) ** 3, ids)
        y.sum().backward()
        return y, table.grad, scale.grad

    ids = ndl.Tensor([0, 2, 2], dtype="int64")
    compiled = slopes(ids)
    for c, e in zip(compiled, slopes.function(ids), strict=True):
        assert_close(c, e)
