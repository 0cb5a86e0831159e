"""Recurrences: the step is recorded and compiled once, and runs as often as there are places."""

from __future__ import annotations

import numpy as np
import pytest
from program.agreement import assert_compiled_as_eager, normal
from recorded import graph_of, layout

import needle as ndl
from needle import nn, optim
from needle.autograd import TensorTupleOp
from needle.backend_selection import primitives
from needle.compiler import build
from needle.jit import jit
from needle.program.pipeline import compile_graph
from needle.program.simplify import simplify

pytestmark = pytest.mark.nd_mode
nd = ndl.array_api

KINDS = ["RNN", "LSTM", "GRU"]


class Recur(TensorTupleOp):
    """`primitives.recur` as an op: the states after the last step, then the outputs."""

    def __init__(self, step, states, reverse=False):
        self.step, self.states, self.reverse = step, states, reverse

    def compute(self, *arrays):
        states, inputs = arrays[: self.states], arrays[self.states :]
        after, outputs = primitives.recur(self.step, states, inputs, self.reverse)
        return (*after, *outputs)


def recurrences(compiled):
    """The steps of a program that are recurrences."""
    return [step for step in compiled.lowered.steps if step.repeat is not None]


def compiled_of(function):
    return function._latest.executable.compiled


def assert_loops(step, states, *arrays, reverse=False, count=1):
    """Compiled it is what it is eager, and as many recurrences."""
    op = Recur(step, states, reverse)
    function = assert_compiled_as_eager(lambda *tensors: tuple(op(*tensors)), *arrays)
    assert len(recurrences(compiled_of(function))) == count


def decay(states, inputs):
    (h,), (x,) = states, inputs
    h = nd.tanh(h * 0.5 + x)
    return (h,), (h, h * h)


# -- what steps may do -----------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_steps_go_on_from_what_the_one_before_left(count, reverse):
    assert_loops(decay, 1, normal(2, 3), normal(count, 2, 3, seed=1), reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_step_by_itself_where_it_changes_the_dtype(reverse):
    x = normal(4, 2, 3, dtype="float64")
    assert_loops(decay, 1, normal(2, 3), x, reverse=reverse)


def test_states_trade_places():
    def step(states, inputs):
        a, b = states
        return (b, a), (a + inputs[0], b)

    for count in (2, 5):
        assert_loops(step, 2, normal(3), normal(3, seed=1), normal(count, 3, seed=2))


def test_a_state_that_stays_and_an_output_that_is_a_view():
    def step(states, inputs):
        h, c = states
        return (h.T.T, c + 1), (inputs[0][::-1], nd.broadcast_to(c[:1], (4, 3)))

    assert_loops(step, 2, normal(2, 3), normal(2, 3, seed=1), normal(4, 5, seed=2))


@pytest.mark.parametrize(
    "view", [lambda x: x[::2], lambda x: x[::-1], lambda x: x.transpose((0, 1))]
)
def test_inputs_are_views(view):
    op = Recur(lambda s, i: ((s[0] + i[0],), (s[0],)), 1)
    assert_compiled_as_eager(lambda h, x: tuple(op(h, view(x))), normal(4), normal(4, 4, seed=1))


def test_what_does_not_change_is_computed_once_before():
    def function(x, w, h):
        def step(states, inputs):
            h = inputs[0] + states[0] @ nd.exp(w)
            return (h,), (h,)

        return primitives.recur(step, [h], [x])[1][0]

    graph = graph_of(function, layout(6, 2, 3), layout(3, 3), layout(2, 3))
    names = [node.parameters.get("name", node.primitive) for node in graph.nodes]
    assert names.count("exp") == 1
    (node,) = [node for node in graph.nodes if node.primitive == "recur"]
    inside = [x.node.primitive for x in node.parameters["recurrence"].inputs]
    assert inside == ["input"] * 3


def test_outputs_that_nobody_reads_are_not_made():
    op = Recur(lambda s, i: ((s[0] + i[0],), (nd.exp(s[0]), nd.sin(s[0]))), 1)
    function = jit(lambda h, x: op(h, x)[1])
    function(ndl.ones(4), ndl.ones(3, 4))
    (step,) = recurrences(compiled_of(function))
    names = {node.parameters.get("name") for node in step.repeat.lowered.graph.nodes}
    assert "exp" in names
    assert "sin" not in names


def test_an_input_filled_with_a_number_is_that_number():
    op = Recur(lambda s, i: ((s[0] + i[0] * i[1],), (s[0],)), 1)
    function = jit(lambda h, x: op(h, x, ndl.ones_like(x))[1])
    function(ndl.ones(4), ndl.ones(3, 4))
    (step,) = recurrences(compiled_of(function))
    assert len(step.repeat.lowered.graph.inputs) == 2


def bounded(states, inputs):
    primitives.require(nd.abs(inputs[0]) < 9, lambda: OverflowError("too large"))
    return (states[0] + inputs[0],), (states[0],)


def test_steps_with_conditions_are_one_after_the_other():
    assert_loops(bounded, 1, normal(3), normal(4, 3, seed=1), count=0)


def picked(states, inputs):
    (h, table), (ids,) = states, inputs
    rows = primitives.index(table, (ids,))
    return (h + rows, table), (rows,)


def test_steps_that_pick_rows():
    ids = np.array([[0, 4], [1, 1], [2, 0]], "int64")
    assert_loops(picked, 2, normal(2, 3), normal(5, 3, seed=1), ids)


def test_a_fault_in_any_step_changes_nothing():
    op = Recur(picked, 2)
    held = nn.Parameter(ndl.ones(2, 3))

    @jit
    def step(table, ids):
        rows = op(ndl.zeros(2, 3), table, ids)[2]
        held.data = held * 2
        return rows

    table, ids = ndl.ones(5, 3), np.zeros((3, 2), "int64")
    step(table, ndl.Tensor(ids, dtype="int64", requires_grad=False))
    for place in (0, 2):
        bad = ids.copy()
        bad[place] = 7
        with pytest.raises(IndexError, match="7"):
            step(table, ndl.Tensor(bad, dtype="int64", requires_grad=False))
        np.testing.assert_array_equal(held.numpy(), 2)


def test_a_recurrence_inside_of_a_step():
    inner = lambda s, i: ((s[0] + i[0],), (s[0],))  # noqa: E731

    def step(states, inputs):
        (h,), (y,) = primitives.recur(inner, states, inputs)
        return (h,), (y,)

    assert_loops(step, 1, normal(3), normal(4, 2, 3, seed=1), count=4)


# -- layers ----------------------------------------------------------------------------------------


def trained(kind, sizes, count, batch, dtype="float32", **options):
    """Losses of some steps of a layer, eager or compiled."""

    def run(wrap):
        np.random.seed(0)
        layer = getattr(nn, kind)(*sizes, dtype=dtype, **options)
        opt = optim.SGD(layer.parameters(), lr=0.1)

        def update(x):
            opt.reset_grad()
            y, state = layer(x)
            states = state if isinstance(state, tuple) else (state,)
            loss = (y * y).mean() + sum(each.mean() for each in states)
            loss.backward(create_graph=False)
            opt.step()
            return loss

        step = wrap(update)
        x = ndl.Tensor(normal(count, batch, sizes[0]), dtype=dtype, requires_grad=False)
        return [step(x).item() for _ in range(4)], step

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sizes", "count", "batch", "options"),
    [
        ((5, 7), 6, 3, {}),
        ((64, 64), 9, 12, {"num_layers": 2}),  # weights in panels
        ((5, 8), 4, 1, {"bidirectional": True}),
        ((5, 8), 12, 2, {"bidirectional": True, "num_layers": 2, "bias": False}),
        ((5, 8), 2, 4, {"dtype": "float64"}),
    ],
)
def test_layers_learn_as_they_do_eagerly(kind, sizes, count, batch, options):
    run = trained(kind, sizes, count, batch, **options)
    (eager, _), (compiled, step) = run(lambda update: update), run(jit)
    np.testing.assert_allclose(compiled, eager, rtol=2e-5)
    ways = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    assert len(recurrences(compiled_of(step))) == 2 * ways  # and the way back


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_sequence_is_no_more_to_compile(kind):
    sizes = {}
    for count in (20, 60):
        _, step = trained(kind, (32, 32), count, 8)(jit)
        made = compiled_of(step)
        inside = [len(one.repeat.lowered.steps) for one in recurrences(made)]
        sizes[count] = (len(made.graph.nodes), inside)
    assert sizes[20] == sizes[60]
    before = build.made.compiled, build.made.loaded
    trained(kind, (32, 32), 47, 8)(jit)
    assert (build.made.compiled, build.made.loaded) == before


def test_the_same_bits_for_any_number_of_threads():
    threads, losses = ndl.get_num_threads(), []
    try:
        for count in (1, 2):
            ndl.set_num_threads(count)
            losses.append(trained("LSTM", (64, 64), 9, 12)(jit)[0])
    finally:
        ndl.set_num_threads(threads)
    assert losses[0] == losses[1]


def test_weights_are_laid_out_once_before_the_first_step():
    def function(x, w, h):
        def step(states, inputs):
            h = inputs[0] + states[0] @ w
            return (h,), (h,)

        return primitives.recur(step, [h], [x])[1][0]

    made = compile_graph(graph_of(function, layout(9, 12, 64), layout(64, 64), layout(12, 64)))
    (step,) = recurrences(made)
    (product,) = [n for n in step.repeat.lowered.graph.nodes if n.primitive == "contract"]
    panels = product.inputs[1].layout
    count, rows, width = panels.shape
    assert panels.compact
    assert (rows, count * width) == (64, 64)
    assert count > 1


# -- what is told of them --------------------------------------------------------------------------


def test_the_record_and_the_steps_show_what_is_inside(golden):
    def function(x, w, h):
        def step(states, inputs):
            h = nd.tanh(inputs[0] + states[0] @ w)
            return (h,), (h,)

        return primitives.recur(step, [h], [x], reverse=True)[1][0]

    graph = graph_of(function, layout(5, 4, 8), layout(8, 8), layout(4, 8))
    golden("recurrence", f"{simplify(graph)}\n-- becomes\n{compile_graph(graph).lowered}")


def test_kernels_inside_are_told_with_how_often_they_run(tmp_path):
    _, step = trained("LSTM", (8, 8), 6, 2)(jit)
    explanation = step.explain()
    inside = [kernel.facts for kernel in explanation.kernels if kernel.facts.times > 1]
    assert {facts.times for facts in inside} == {6}
    products = [facts for facts in inside if "contraction" in facts.kind]
    assert [facts.flops >= 6 * 2 * 2 * 8 * 32 for facts in products] == [True, True]
    assert "lstm_scan" in str(explanation)
    assert "lstm_scan" in explanation.save(tmp_path / "page.html").read_text()
    with ndl.profile() as profile:
        step(ndl.ones(6, 2, 8))
    (kernels,) = profile.kernels().values()
    assert len(kernels) == len(explanation.kernels)
