"""What a compiled step reads and changes: parameters, optimisers, statistics, counters, draws."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
from jit.twins import (
    assert_same_state,
    batch,
    network,
    state_of,
    training_step,
    variants,
)

import needle as ndl

pytestmark = pytest.mark.nd_mode

OPTIMIZERS = {
    "SGD": lambda params: ndl.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda params: ndl.optim.Adam(params, lr=0.01),
    "AdamW": lambda params: ndl.optim.AdamW(params, lr=0.01),
}


def train_both(make_opt, steps, between=lambda step, model, opt: None, **options):
    """Train the same network both ways; returns the compiled step, and checks after each step."""
    pairs = []
    for way in (lambda f: f, ndl.jit):
        model = network(**options)
        opt = make_opt(model.parameters())
        step = way(training_step(model, opt))
        np.random.seed(7)
        seen = []
        for i in range(steps):
            between(i, model, opt)
            loss = step(*batch(i % 3))
            seen.append({"loss": loss.numpy(), **state_of(model, opt)})
        pairs.append(seen)
    for expected, given in zip(*pairs, strict=True):
        assert_same_state(given, expected)
    return step


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_training_step_leaves_what_the_written_one_leaves(make):
    assert variants(train_both(make, 5, dropout=0.3, norm=True)) == 1


def test_rates_change_between_calls_without_compiling():
    def between(i, model, opt):
        opt.lr = 0.01 * (i + 1)

    assert variants(train_both(OPTIMIZERS["Adam"], 5, between)) == 1


def test_schedules_step_outside_and_inside():
    results = []
    for way in (lambda f: f, ndl.jit):
        for inside in (True, False):
            model = network()
            opt = ndl.optim.SGD(model.parameters(), lr=0.5)
            schedule = ndl.optim.WarmupCosine(opt, 2, 8)
            plain = training_step(model, opt)

            def step(x, y, plain=plain, schedule=schedule, inside=inside):
                loss = plain(x, y)
                if inside:
                    schedule.step()
                return loss

            step = way(step)
            for i in range(6):
                step(*batch(i))
                if not inside:
                    schedule.step()
            results.append({**state_of(model, opt), "step": schedule.last_step})
            assert way is not ndl.jit or variants(step) == 1
    for other in results[1:]:
        assert_same_state(other, results[0])


def test_training_and_evaluation_are_two_forms_and_both_are_kept():
    model = network(dropout=0.5, norm=True)
    call = ndl.jit(lambda x: model(x))
    x, _ = batch(0)
    for _ in range(3):
        model.train()
        before = model.modules[1].running_mean.numpy()
        call(x)
        assert (model.modules[1].running_mean.numpy() != before).any()
        model.eval()
        np.testing.assert_allclose(call(x).numpy(), model(x).numpy(), rtol=1e-5)
    assert variants(call) == 2


def test_dropout_follows_the_seed_as_written_to_the_bit():
    drop = ndl.nn.Dropout(0.4)
    call = ndl.jit(lambda x: drop(x))
    x = ndl.ones(50, 20)
    for seed in (3, 4):
        np.random.seed(seed)
        expected = [drop(x).numpy() for _ in range(3)]
        after = np.random.get_state()[1]
        np.random.seed(seed)
        given = [call(x).numpy() for _ in range(3)]
        assert all(np.array_equal(a, b) for a, b in zip(given, expected, strict=True))
        assert np.array_equal(np.random.get_state()[1], after)
        assert not np.array_equal(given[0], given[1])


def test_draws_that_nothing_uses_move_the_stream_all_the_same():
    def function(x):
        ndl.init.rand(7)
        return x + ndl.init.rand(3)

    call = ndl.jit(function)
    for _ in range(2):
        np.random.seed(0)
        expected = function(ndl.zeros(3)).numpy()
        np.random.seed(0)
        assert np.array_equal(call(ndl.zeros(3)).numpy(), expected)


def test_counters_of_ones_own_count_without_compiling_each_time():
    class Counting(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.scale = 0, 1.0

        def forward(self, x):
            self.calls += 1
            self.scale = self.scale * 0.5
            return x * self.scale + self.calls

    module = Counting()
    call = ndl.jit(module)
    seen = [call(ndl.ones(2)).numpy()[0] for _ in range(4)]
    assert seen == [1.5, 2.25, 3.125, 4.0625]
    assert (module.calls, module.scale) == (4, 0.0625)
    assert variants(call) == 1


def test_a_decision_by_a_counter_is_made_anew():
    class Every(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * 10 if self.calls % 3 == 0 else x

    call = ndl.jit(Every())
    assert [call(ndl.ones(1)).item() for _ in range(7)] == [1, 1, 10, 1, 1, 10, 1]
    assert variants(call) == 2


def test_a_number_that_changes_between_calls_is_compiled_at_most_twice():
    class Scaled(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            self.beta = 1.0

        def forward(self, x):
            return x * self.beta

    module = Scaled()
    call = ndl.jit(module)
    for i in range(6):
        module.beta = 0.25 * i
        assert call(ndl.ones(1)).item() == 0.25 * i
    assert variants(call) <= 2


def test_a_flag_that_the_first_call_sets():
    class Lazy(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            self.ready = False

        def forward(self, x):
            if not self.ready:
                self.ready = True
                return x * 0
            return x

    module = Lazy()
    call = ndl.jit(module)
    assert [call(ndl.ones(1)).item() for _ in range(3)] == [0, 1, 1]
    assert module.ready is True


@pytest.mark.parametrize("kind", ["attribute", "dict", "list", "tuple", "namedtuple"])
def test_tensors_kept_for_the_next_call(kind):
    Pair = namedtuple("Pair", "a b")

    class Memory(ndl.nn.Module):
        def __init__(self):
            super().__init__()
            zero = ndl.zeros(2)
            self.kept = {
                "attribute": zero,
                "dict": {"h": zero},
                "list": [zero, 1],
                "tuple": (zero, ndl.zeros(2)),
                "namedtuple": Pair(zero, ndl.zeros(2)),
            }[kind]

        def forward(self, x):
            if kind == "attribute":
                self.kept = self.kept * 2 + x
                return self.kept
            if kind in ("dict", "list"):
                key = "h" if kind == "dict" else 0
                self.kept[key] = self.kept[key] * 2 + x
                return self.kept[key]
            h, other = self.kept
            self.kept = type(self.kept)(*[h * 2 + x, other + h]) if kind == "namedtuple" else (
                h * 2 + x, other + h
            )  # fmt: skip
            return self.kept[0] + self.kept[1]

    eager, module = Memory(), Memory()
    call = ndl.jit(module)
    for i in range(4):
        x = ndl.ones(2) * i
        assert np.array_equal(call(x).numpy(), eager(x).numpy())
    assert variants(call) == 1


def test_a_parameter_made_inside_is_one_that_can_be_trained():
    model = ndl.nn.Linear(3, 2)

    @ndl.jit
    def halve():
        model.bias = ndl.nn.Parameter(model.bias.detach() * 0.5)

    model.bias = ndl.nn.Parameter(ndl.ones(2))
    for half in (0.5, 0.25):
        halve()
        assert type(model.bias) is ndl.nn.Parameter and len(model.parameters()) == 2
        assert model.bias.requires_grad and model.bias.op is None
        assert model.bias.numpy().tolist() == [half, half]
    model(ndl.ones(1, 3)).sum().backward()
    assert model.bias.grad.numpy().tolist() == [1, 1]


def test_gradients_accumulate_where_the_step_lets_them():
    losses = []
    for way in (lambda f: f, ndl.jit):
        model = network()

        def step(x, y, model=model):
            loss = ndl.nn.SoftmaxLoss()(model(x), y)
            loss.backward(accumulate=True)
            return loss

        step = way(step)
        for i in range(4):
            if i == 2:
                model.zero_grad()
            step(*batch(i))
        losses.append(state_of(model))
    assert_same_state(losses[1], losses[0])


def test_gradients_of_arguments_are_left_on_them():
    def function(x):
        (x * x).sum().backward()

    call = ndl.jit(function)
    for i in range(3):
        x = ndl.Tensor([1.0 + i, 2.0])
        assert call(x) is None
        assert np.array_equal(x.grad.numpy(), [2.0 + 2 * i, 4.0])


def test_a_state_in_two_places_stays_one():
    model = network()
    model.modules[2].bias = model.modules[0].bias  # too long, and used nowhere
    tied = ndl.nn.Parameter(ndl.ones(3))
    holder, other = {"w": tied}, {"w": tied}
    opt = ndl.optim.SGD([tied], lr=1.0)

    @ndl.jit
    def step():
        opt.reset_grad()
        (holder["w"] * 2 + other["w"]).sum().backward()
        opt.step()

    step()
    step()
    assert np.array_equal(tied.numpy(), [-5.0] * 3)
    other["w"] = ndl.nn.Parameter(ndl.ones(3))
    step()
    assert np.array_equal(tied.numpy(), [-7.0] * 3)


def test_parameters_are_updated_where_they_lie_unless_somebody_holds_them():
    model = network()
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)
    step = ndl.jit(training_step(model, opt))
    p = model.parameters()[0]
    step(*batch(0))
    array = p.cached_data
    del array
    lies_at = id(p.cached_data)
    step(*batch(1))
    assert id(p.cached_data) == lies_at
    held, seen = p.data, p.numpy()
    view = p.reshape((-1,)).detach()
    step(*batch(2))
    assert np.array_equal(held.numpy(), seen) and np.array_equal(view.numpy(), seen.reshape(-1))
    assert (p.numpy() != seen).any()


HOLDS = {
    "Tensor": lambda grad: grad,
    "array": lambda grad: grad.cached_data,
    "view": lambda grad: grad.reshape((-1,)).detach(),
    "DLPack": lambda grad: np.from_dlpack(grad),
}


def numbers_in(held):
    return np.array(held.numpy() if hasattr(held, "numpy") else held).reshape(-1)


@pytest.mark.parametrize("kind", HOLDS)
def test_gradients_go_where_the_last_ones_lie_unless_somebody_holds_them(kind):
    model = network(norm=True)
    opt = ndl.optim.Adam(model.parameters(), lr=0.1)
    step = ndl.jit(training_step(model, opt))
    lie_at = []
    for seed in range(3):
        step(*batch(seed))
        lie_at.append([id(p.grad.cached_data._memory) for p in model.parameters()])
    assert lie_at[0] == lie_at[1] == lie_at[2]
    assert [built.allocations for built in step.compiled] == [1]  # the loss
    held = [HOLDS[kind](p.grad) for p in model.parameters()]
    seen = [numbers_in(x).copy() for x in held]
    step(*batch(3))
    step(*batch(4))
    assert all(np.array_equal(numbers_in(x), old) for x, old in zip(held, seen, strict=True))
    assert all(
        (p.grad.numpy().reshape(-1) != x).any() for p, x in zip(opt.params, seen, strict=True)
    )


def test_gradients_that_others_brought_stay_as_they_are():
    model = ndl.nn.Linear(3, 2)
    opt = ndl.optim.SGD(model.parameters(), lr=0.1)

    @ndl.jit
    def step(x):
        opt.reset_grad()
        (model(x) ** 2).sum().backward()
        opt.step()

    shared, wide = np.ones((3, 2), np.float32), ndl.ones(4, 2)
    model.weight.data = ndl.from_dlpack(shared)
    step(ndl.ones(1, 3))
    model.weight.grad, model.bias.grad = ndl.from_dlpack(shared), model.bias.grad
    step(ndl.ones(1, 3))
    assert (shared == 1).all()
    model.weight.grad = wide[:3].detach()
    del wide
    step(ndl.ones(1, 3))
    assert model.weight.grad.cached_data.is_compact()


@pytest.mark.parametrize("kind", ["attribute", "slot", "cell", "list", "key", "argument"])
def test_what_is_replaced_unread_stays_for_who_holds_it(kind):
    class Slots:
        __slots__ = ("kept",)

    class Kept:
        def __init__(self):
            self.items, self.by_key, self.slots = [None], {(1, 2): None}, Slots()
            self.kept = self.slots.kept = None

    kept, cell = Kept(), None

    def call(x, given):
        nonlocal cell
        found = x * 2
        if kind == "attribute":
            kept.kept = found
        elif kind == "slot":
            kept.slots.kept = found
        elif kind == "list":
            kept.items[0] = found
        elif kind == "key":
            kept.by_key[1, 2] = found
        elif kind == "argument":
            given.grad = found
        else:
            cell = found

    def now(given):
        items, key = kept.items[0], kept.by_key[1, 2]
        return next(
            x for x in (kept.kept, kept.slots.kept, items, key, given.grad, cell) if x is not None
        )

    step, given = ndl.jit(call), ndl.ones(2)
    lie_at = []
    for i in range(5):
        step(ndl.ones(2) * i, given)
        lie_at.append(id(now(given).cached_data._memory))
    assert len(set(lie_at[1:])) == 1
    held = now(given)
    step(ndl.ones(2) * 7, given)
    assert held.numpy().tolist() == [8, 8] and now(given).numpy().tolist() == [14, 14]
