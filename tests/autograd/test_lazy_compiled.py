"""Lazy mode in nd mode: what is asked for becomes one native program, found again next time."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import nullcontext
from math import isqrt

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import DTypeError, OutOfRangeError
from needle.testing import assert_close

pytestmark = pytest.mark.nd_mode

if ndl.BACKEND == "nd":
    from needle.realization import together
    from needle.realization.programs import Compiled, Programs, programs


class Runs:
    """What the programs that ran consist of: how often each primitive was computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.primitives: Counter[str] = Counter()
        self.programs = 0
        run = Compiled.run

        def counted(compiled, spelling):
            self.programs += 1
            self.primitives.update(node.primitive for node in spelling.graph.nodes)
            return run(compiled, spelling)

        monkeypatch.setattr(Compiled, "run", counted)


@pytest.fixture
def runs(monkeypatch):
    return Runs(monkeypatch)


def random(*shape, **options):
    return ndl.Tensor(np.random.randn(*shape), **options)


# -- realize ------------------------------------------------------------------------------------


def test_what_is_asked_for_together_is_one_program(runs):
    x, w = random(3, 4), random(4, 5)
    with ndl.lazy():
        h = ndl.tanh(x @ w)
        total, most = (h * h).sum(), ndl.max(h)
    a, b = ndl.realize(total, most)
    assert a is total and b is most and runs.programs == 1
    assert total.cached_data is not None and most.cached_data is not None
    e = np.tanh(x.numpy() @ w.numpy())
    assert_close(total, (e * e).sum(), rtol=1e-5)
    assert_close(most, e.max(), rtol=1e-6)
    ndl.realize(total, most)
    assert runs.programs == 1


def test_realize_of_one_is_that_and_of_none_is_nothing():
    x = ndl.Tensor([1.0])
    assert ndl.realize(x) is x
    assert ndl.realize() == ()
    with pytest.raises(DTypeError, match=r"^realize: expected Tensors, got .*1.0"):
        ndl.realize(x, 1.0)


def test_an_op_by_itself_needs_no_program(runs):
    with ndl.lazy():
        y = ndl.exp(ndl.Tensor([0.0]))
    assert y.item() == 1.0
    assert runs.programs == 0


def test_tuples_are_realised(runs):
    x = random(3, 4)
    with ndl.lazy():
        rows = ndl.split(x * 2 + 1, 0)
        first = rows[0] + rows[2]
    ndl.realize(rows, first)
    assert runs.programs == 1
    e = x.numpy() * 2 + 1
    assert_close(first, e[0] + e[2])
    for row, expected in zip(rows, e, strict=True):
        assert_close(row, expected)


# -- what is kept -------------------------------------------------------------------------------


def mlp(optimizer=optim.SGD, **options):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, optimizer(model.parameters(), **options), nn.SoftmaxLoss()


def batch():
    x = ndl.Tensor(np.random.randn(8, 6), requires_grad=False)
    return x, ndl.Tensor(np.arange(8) % 3, requires_grad=False)


def train(order, model, opt, loss_of, x, y, lazy=True):
    """One step, the loss looked at when `order` says."""
    with ndl.lazy() if lazy else nullcontext():
        opt.reset_grad()
        loss = loss_of(model(x), y)
        seen = loss.item() if order == "first" else None
        loss.backward()
        seen = loss.item() if order == "between" else seen
        opt.step()
        assert loss.cached_data is not None
        return loss.item() if order == "last" else seen


@pytest.mark.parametrize(("order", "ran"), [("first", 2), ("between", 2), ("last", 1)])
def test_a_step_computes_nothing_twice_whenever_the_loss_is_looked_at(order, ran, runs):
    parts = (*mlp(lr=0.1), *batch())
    train(order, *parts)
    assert runs.programs == ran
    assert runs.primitives["contract"] == 2 + 3  # forward; of the first layer only the weight's


@pytest.mark.parametrize("order", ["first", "between", "last"])
@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.Lion, optim.RMSprop])
def test_a_loop_takes_the_steps_of_eager_mode_and_compiles_once(order, optimizer):
    x, y = batch()
    np.random.seed(3)
    eager = mlp(optimizer, lr=0.01)
    np.random.seed(3)
    lazy = mlp(optimizer, lr=0.01)
    counts = []
    for _ in range(4):
        expected = train(order, *eager, x, y, lazy=False)
        assert_close(train(order, *lazy, x, y), expected, rtol=1e-5)
        counts.append(programs.compiled)
    assert counts[0] == counts[-1]
    for p, e in zip(lazy[0].parameters(), eager[0].parameters(), strict=True):
        assert_close(p, e, rtol=1e-4, atol=1e-5)


def test_learning_rates_and_bias_corrections_are_no_reason_to_compile():
    model, opt, loss_of = mlp(optim.AdamW, lr=0.3, weight_decay=0.01)
    x, y = batch()
    for step in range(5):
        opt.lr = 0.3 / (step + 1.5)
        train("last", model, opt, loss_of, x, y)
        if step == 0:
            before = programs.compiled
    assert programs.compiled == before


def test_what_a_name_holds_is_stored_on_the_way(runs):
    x = random(4, 4)
    with ndl.lazy(), ndl.no_grad():
        middle = ndl.exp(x) * 2
        top = ndl.log(middle) + 1
    top.numpy()
    assert middle.cached_data is not None and runs.programs == 1
    assert_close(middle, np.exp(x.numpy()) * 2, rtol=1e-6)


def test_what_nobody_holds_is_not_stored():
    x = random(4, 4)
    with ndl.lazy(), ndl.no_grad():
        top = ndl.log(ndl.exp(x) * 2) + 1
    hidden = top.inputs[0]
    del hidden
    edge = top._edges[0]
    number = id(edge)
    del edge
    stored = []
    settle = together.settle
    together.settle = lambda value, data: (stored.append(id(value)), settle(value, data))
    try:
        top.numpy()
    finally:
        together.settle = settle
    assert stored == [id(top)] and number not in stored


def test_activations_are_kept_until_a_backward_pass_went_through(runs):
    x = random(3, 3)
    with ndl.lazy():
        h = ndl.tanh(x @ x)
        loss = (ndl.exp(h) * h).sum()
        del h
        loss.numpy()
        assert loss.inputs[0].cached_data is not None
        runs.primitives.clear()
        loss.backward()
        x.grad.numpy()
    assert runs.primitives["contract"] == 2  # x appears twice; the product itself is there
    lazily = x.grad
    h = ndl.tanh(x @ x)
    (ndl.exp(h) * h).sum().backward()
    assert_close(lazily, x.grad, rtol=1e-5)


def test_running_statistics_come_with_the_step_and_pile_up_nothing():
    layer = nn.BatchNorm1d(5)
    same = nn.BatchNorm1d(5)
    opt = optim.SGD(layer.parameters(), lr=0.1)
    for step in range(4):
        x = random(6, 5)
        same(x)
        with ndl.lazy():
            (layer(x) ** 2).sum().backward()
            opt.step()
            opt.reset_grad()
        assert layer.running_mean.cached_data is not None
        assert layer.running_mean.is_leaf()
        live = ndl.autograd.TENSOR_COUNTER if step == 1 else None
        if step > 1:
            assert live is None or live == ndl.autograd.TENSOR_COUNTER
    assert_close(layer.running_mean, same.running_mean, rtol=1e-5)
    assert_close(layer.running_var, same.running_var, rtol=1e-5)


def test_what_is_unrelated_waits_on():
    with ndl.lazy():
        other = (random(3) * 2 + 1).detach()
        y = (random(3) + 1) * 3
        y.numpy()
        assert other.cached_data is None
        other.numpy()


# -- values: as in eager mode -------------------------------------------------------------------


def same_as_eager(function, *inputs, **bounds):
    """Results and gradients of a function of Tensors; returns the lazy results."""
    given = [np.asarray(x) for x in inputs]
    found = []
    for mode in (ndl.lazy(False), ndl.lazy()):
        tensors = [ndl.Tensor(x, dtype=x.dtype) for x in given]
        with mode:
            results = function(*tensors)
            results = results if isinstance(results, tuple) else (results,)
            found.append([y.numpy() for y in results])
    for y, e in zip(found[1], found[0], strict=True):
        assert_close(y, e, same_dtype=True, **bounds)
    return found[1]


def second_derivative(x, w):
    (first,) = (ndl.grad((ndl.tanh(x @ w) ** 2).sum(), [x]),)
    return ndl.grad((first[0] * first[0]).sum(), [x, w])


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (second_derivative, [(3, 4), (4, 2)]),
        (lambda x: (x[:, ::-1] * 2)[::-1] + x[::-1, 1:2], [(3, 4)]),
        (lambda x: (x * 2).transpose().reshape((6, 2)) + 1, [(3, 4)]),
        (lambda x: ndl.broadcast_to((x + 1) * 2, (5, 3)), [(3,)]),
        (lambda x: ((x + 1) * 2)[0, :1], [(30, 40)]),
        (lambda x: ((x + 1) * 2, x.reshape((12,)), x), [(3, 4)]),
        (lambda x: (ndl.exp(x) * 2).sum(0), [(0, 3)]),
        (lambda x: ndl.exp(x) * 2, [(0, 3)]),
        (lambda x, y: ndl.concatenate([x * 2, y + 1], 0).sum(1), [(2, 3), (0, 3)]),
        (lambda x: ndl.where(x > 0, x, ndl.exp(x) - 1), [(5, 7)]),
        (lambda x: ndl.softmax(x * 3) + ndl.logsumexp(x, 1).reshape((-1, 1)), [(5, 7)]),
        (lambda x: (x.astype("float16") * 2 + 1).astype("bfloat16") + 1, [(5, 7)]),
        (lambda x: ((x > 0).astype("int64") * 7 - 3) * 2, [(5, 7)]),
        (lambda x: (ndl.argmax(x, 1) + 1, ndl.equal(x > 0, x < 1)), [(5, 7)]),
        (lambda x: ndl.hvp(lambda y: (y**4).sum(), x, x), [(5,)]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_those_of_eager_mode(function, shapes, dtype):
    same_as_eager(function, *[np.random.randn(*shape).astype(dtype) for shape in shapes])


def test_leaves_that_are_views_are_read_where_they_lie(runs):
    memory = ndl.Tensor(np.arange(24.0).reshape(4, 6), dtype="float64")
    for key in [np.s_[::-1], np.s_[1:3, ::-2], np.s_[:, 2:5], np.s_[3:1:-1, 4:0:-3]]:
        leaf = memory[key].detach()
        with ndl.lazy(), ndl.no_grad():
            y, view = leaf * 2 + 1, (leaf * 1).transpose()
        ndl.realize(y, view)
        assert_close(y, memory.numpy()[key] * 2 + 1)
        assert_close(view, memory.numpy()[key].T)
    assert runs.programs == 4


def test_views_share_memory_as_in_eager_mode_and_results_are_fresh():
    x = random(3, 4)
    with ndl.lazy(), ndl.no_grad():
        y = x * 2
        turned, row = y.transpose(), (y + 0)[0]
    ndl.realize(y, turned, row)
    y.realize_cached_data()[0, 0] = 100.0
    assert turned.numpy()[0, 0] == 100.0 and row.numpy()[0] != 100.0
    again = x * 2
    assert_close(again.numpy()[1:], y.numpy()[1:])
    with ndl.lazy(), ndl.no_grad():
        other = x * 2
        pair = other.transpose(), other + 0
    ndl.realize(other, *pair)
    assert other.numpy()[0, 0] != 100.0  # the same program, other memory


def test_dropout_draws_what_eager_mode_draws():
    layer, x = nn.Dropout(0.5), random(20, 30)
    np.random.seed(4)
    eager = [(layer(x) * 2 + 1).numpy() for _ in range(3)]
    np.random.seed(4)
    with ndl.lazy():
        lazy = [layer(x) * 2 + 1 for _ in range(3)]
    before = programs.compiled
    for a, b in zip(lazy, eager, strict=True):
        assert_close(a, b, rtol=1e-6)
    assert programs.compiled - before <= 1


def test_arrays_that_ops_hold_are_read_afresh():
    class Shifted(ndl.TensorOp):
        def __init__(self, by):
            self.by = by

        def compute(self, a):
            return a + ndl.array_api.array(self.by, a.dtype, a.device)

    x = random(3)
    before = None
    for step in range(3):
        with ndl.lazy(), ndl.no_grad():
            y = Shifted(np.arange(3.0) * step)(x) * 2
        assert_close(y, (x.numpy() + np.arange(3.0) * step) * 2, rtol=1e-6)
        before = before or programs.compiled
    assert programs.compiled == before


def test_numbers_may_change_and_the_few_that_matter_are_told_apart():
    x = random(3, 4)
    counts = set()
    for number in (0.3, 7, 1, 0, -1, 2, -0.0, np.inf, 1e-3, 3.5, 100):
        with ndl.lazy(), ndl.no_grad():
            y = (x + 1) * number + number
        assert_close(y, (x.numpy() + 1) * np.float32(number) + np.float32(number), rtol=1e-6)
        counts.add(programs.compiled)
    assert len(counts) <= 9
    with ndl.lazy(), ndl.no_grad():
        zero = ndl.Tensor([0.0]) * 1 * -0.0
    assert np.signbit(zero.numpy()[0])


def test_a_lazy_graph_10_000_deep_differentiates():
    x = ndl.Tensor([0.5])
    with ndl.lazy():
        y = x
        for _ in range(5000):
            y = y * 1.0001 + 0.001
        y.backward()
    ndl.realize(y, x.grad)
    assert_close(x.grad, [1.0001**5000], rtol=1e-3)


# -- what is not compiled -----------------------------------------------------------------------


class Median(ndl.TensorOp):
    """Looks at its elements."""

    def compute(self, a):
        return ndl.array_api.array(np.median(a.numpy(), axis=0), a.dtype, a.device)

    def gradient(self, out_grad, node):
        return out_grad.reshape((1, -1)).broadcast_to(node.inputs[0].shape)


def test_an_op_that_looks_at_elements_stands_between_two_programs(runs):
    x = random(5, 3)
    with ndl.lazy(), ndl.no_grad():
        shared = ndl.exp(x) * 2
        middle = Median()(shared)
        y = (middle * 3 + 1).sum() + shared.sum()
        del shared, middle
    e = np.exp(x.numpy()) * 2
    assert_close(y, (np.median(e, 0) * 3 + 1).sum() + e.sum(), rtol=1e-5)
    assert runs.programs == 2
    exponentials = runs.primitives["elementwise"]
    assert exponentials < 12  # exp and its product once


def test_results_whose_shape_depends_on_values_are_computed_on_the_way():
    x = ndl.Tensor([1.0, -2.0, 3.0])
    with ndl.lazy():
        y = ((x * 2)[x > 0] + 1) * 2
        y.sum().backward()
    assert_close(y, [6.0, 14.0])
    assert_close(x.grad, [4.0, 0.0, 4.0])


def test_other_devices_compute_op_by_op(runs):
    x = random(3, 4, device=ndl.cpu_numpy())
    with ndl.lazy(), ndl.no_grad():
        there = ndl.exp(x) * 2
        here = there.to(ndl.cpu())
        y = (here + 1) * 3
    assert_close(y, (np.exp(x.numpy()) * 2 + 1) * 3, rtol=1e-6)
    assert y.device == ndl.cpu() and there.device == ndl.cpu_numpy() and runs.programs == 1


def test_detect_anomaly_computes_op_by_op(runs):
    with np.errstate(invalid="ignore"), ndl.detect_anomaly(), ndl.lazy():
        y = ndl.log(ndl.Tensor([-1.0])) + 1
        with pytest.raises(ndl.errors.NonFiniteError, match=r"^log: .*test_lazy_compiled\.py"):
            y.numpy()
    assert runs.programs == 0


# -- errors -------------------------------------------------------------------------------------


def test_a_value_at_fault_is_named_by_the_op():
    base = ndl.Tensor([2, 3], dtype="int64")
    with ndl.lazy():
        y = ndl.power(base, ndl.Tensor([-1, 1], dtype="int64")) * 2 + 1
    with pytest.raises(DTypeError, match=r"^power: expected floats for negative"):
        y.numpy()
    assert y.cached_data is None


@pytest.mark.parametrize("bad", [7, -8])
def test_a_place_out_of_range_is_named_by_the_op(bad):
    x = random(7, 2)
    with ndl.lazy():
        y = (x * 2)[ndl.Tensor([0, bad], dtype="int64")] + 1
    with pytest.raises(OutOfRangeError, match=r"^getitem: .*-?\d"):
        y.numpy()


def test_after_an_error_the_same_program_serves_good_values():
    x = random(7, 2)
    for place in (9, 3):
        with ndl.lazy():
            y = (x * 2)[ndl.Tensor([0, place], dtype="int64")] + 1
        if place == 9:
            with pytest.raises(OutOfRangeError):
                y.numpy()
    assert_close(y, x.numpy()[[0, 3]] * 2 + 1, rtol=1e-6)


def test_a_fault_in_a_step_leaves_the_parameters_as_they_were():
    x, table = ndl.Tensor([0, 9], dtype="int64"), random(4, 2)
    opt = optim.SGD([table], lr=0.1)
    before = table.numpy()
    with ndl.lazy(), pytest.raises(OutOfRangeError):
        (table[x] ** 2).sum().backward()
        opt.step()
    np.testing.assert_array_equal(table.numpy(), before)


def test_a_constant_that_waits_can_become_a_leaf():
    with ndl.lazy():
        x = (random(3) * 2).detach().requires_grad_()
        assert x.is_leaf() and x.requires_grad
        (x * x).sum().backward()
    assert_close(x.grad, 2 * x.numpy())


def test_a_model_moves_in_lazy_mode():
    model = nn.Linear(2, 3)
    with ndl.lazy():
        model.to("float64")
        assert model.weight.numpy().dtype == np.float64


# -- threads ------------------------------------------------------------------------------------


def test_threads_may_ask_at_the_same_time():
    x = random(40, 40)
    with ndl.lazy():
        shared = ndl.tanh(x @ x) + 1
        results = [(shared * k).sum() for k in range(3, 9)]
    found = {}

    def ask(number):
        found[number] = results[number].item()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = (np.tanh(x.numpy() @ x.numpy()) + 1).sum()
    for number, value in found.items():
        assert_close(value, total * (number + 3), rtol=1e-4)


# -- the programs -------------------------------------------------------------------------------


def test_programs_are_let_go_oldest_first(monkeypatch):
    own = Programs(most=3)
    monkeypatch.setattr(together, "programs", own)

    def run(width):
        with ndl.lazy(), ndl.no_grad():
            y = (random(2, width) + 1) * 2
        y.numpy()

    for width in (3, 4, 5, 3, 6, 3, 4):
        run(width)
    assert (len(own), own.compiled) == (3, 5)
    own.clear()
    assert len(own) == 0


def test_programs_that_need_a_large_arena_go_with_the_next_that_does_not(monkeypatch):
    own = Programs(most_bytes=100_000)
    monkeypatch.setattr(together, "programs", own)

    def kept_after(width):
        x = random(width, width)
        with ndl.lazy(), ndl.no_grad():
            y = ndl.tanh(x @ x) @ x
        y.numpy()
        return sorted(isqrt(program.nbytes // 4) for program in own._known.values())

    small = list(range(100, 110))
    for width in small:
        found = kept_after(width)
    assert found == small  # they share one arena, so there is room for all
    assert kept_after(200) == [*small, 200]
    assert kept_after(300) == [*small, 200, 300]
    assert kept_after(200) == [*small, 200, 300]  # nothing new
    assert kept_after(250) == [*small, 200, 250]
    assert kept_after(99) == [99, *small]
