"""What a compiled function could not do again is refused, by line, and nothing has changed then."""

from __future__ import annotations

import datetime
import io
import logging
import os
import pprint
import random
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from jit.twins import assert_same_state, batch, network, state_of, training_step

import needle as ndl

pytestmark = pytest.mark.nd_mode

COUNT = 0
TABLE = np.array([1.0, 2.0])


def marked_line(function):
    """The number of the line that ends in `# here`."""
    code = function.__code__
    lines = Path(code.co_filename).read_text(encoding="utf-8").splitlines()
    first = code.co_firstlineno
    return next(n for n in range(first, first + 30) if lines[n - 1].endswith("# here"))


def refusal(function, *arguments, line=True):
    """The message, which names the marked line."""
    with pytest.raises(ndl.JitError) as raised:
        ndl.jit(function)(*arguments)
    message = str(raised.value)
    assert message.startswith("jit: expected ")
    if line:
        assert f'test_jit_refusals.py", line {marked_line(function)}' in message
    return message


# -- values looked at -------------------------------------------------------------------------


def item(x):
    y = x * 2
    return y * y.sum().item()  # here


def as_numpy(x):
    return ndl.ops.exp(x) + x.numpy()[0]  # here


def as_float(x):
    return x * float(x.sum())  # here


def branch(x):
    if x.sum() > 3:  # here
        return x
    return -x


def loop(x):
    while (x.sum() < 3).all():  # here
        x = x + 1
    return x


def shown(x):
    str(x)  # here
    return x


def formatted(x):
    if f"{x.sum():.3f}" == "1.000":  # here
        return -x
    return x


def listed(x):
    return x * x.tolist()[0]  # here


def contained(x):
    return x * (1.0 in x)  # here


def as_index(x):
    return x[int(x.sum())]  # here


@pytest.mark.parametrize(
    "function",
    [item, as_numpy, as_float, branch, loop, shown, formatted, listed, contained, as_index],
)
def test_values_cannot_be_looked_at(function):
    x = ndl.Tensor([1.0, 2.0])
    message = refusal(function, x)
    assert "asks for those of a Tensor" in message and "ndl.where" in message
    assert np.array_equal(x.numpy(), [1.0, 2.0])


# -- what comes from elsewhere ----------------------------------------------------------------


def numpy_draw(x):
    scale = 1 + 1
    scale += np.random.rand()  # here
    return x * scale


def python_draw(x):
    y = x + 1
    return y * random.random()  # here


def array_literal(x):
    return x + ndl.Tensor(np.array([1.0, 2.0]))  # here


def array_global(x):
    return x + ndl.Tensor(TABLE)  # here


def clock(x):
    return x * time.perf_counter()  # here


def date(x):
    return x * datetime.datetime.now().year  # here


def printed(x):
    print("step")  # here
    return x


def opened(x):
    with open(os.devnull):  # noqa: PTH123  # here
        return x


@pytest.mark.parametrize("function", [numpy_draw, python_draw])
def test_random_numbers_of_others_are_refused_and_not_used_up(function):
    np.random.seed(3)
    random.seed(3)
    states = np.random.get_state()[1].copy(), random.getstate()
    assert "random" in refusal(function, ndl.ones(2))
    assert np.array_equal(np.random.get_state()[1], states[0]) and random.getstate() == states[1]


def test_random_numbers_of_a_generator_of_ones_own():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state

    def function(x):
        return x * rng.random()  # here

    assert "rng" in refusal(function, ndl.ones(2))
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("function", [array_literal, array_global])
def test_tensors_made_of_arrays_are_refused(function):
    assert "other data" in refusal(function, ndl.ones(2))


def slept(x):
    time.sleep(0)  # here
    return x


@pytest.mark.parametrize("function", [clock, date, printed, opened, slept])
def test_the_world_outside_is_refused(function):
    assert "disable_jit" in refusal(function, ndl.ones(2))


def to_stdout(x):
    sys.stdout.write("step")  # here
    return x


def to_a_descriptor(x):
    os.write(1, b"step")  # here
    return x


def pretty(x):
    pprint.pprint({"shape": x.shape})  # here
    return x


def logged(x):
    logging.getLogger("needle.tests").warning("a step of %s", x.shape)  # here
    return x


@pytest.mark.parametrize("function", [printed, to_stdout, to_a_descriptor, pretty, logged])
def test_output_is_refused_by_whatever_way_it_is_written(function, capfd, caplog):
    message = refusal(function, ndl.ones(2))
    assert "Return what it is about, and do it outside" in message
    assert capfd.readouterr().out == "" and not caplog.records


def test_a_file_is_not_written(tmp_path):
    path = tmp_path / "notes"
    path.write_text("as before", encoding="utf-8")

    def function(x):
        path.write_text("step", encoding="utf-8")  # here
        return x

    assert "a file is opened" in refusal(function, ndl.ones(2))
    assert path.read_text(encoding="utf-8") == "as before"


def test_a_stream_of_ones_own_in_the_place_of_stdout(monkeypatch):
    class Notes:
        def __init__(self):
            self.lines = []

        def write(self, text):
            self.lines.append(text)

    notes = Notes()
    monkeypatch.setattr(sys, "stdout", notes)
    assert "something is written" in refusal(to_stdout, ndl.ones(2))
    assert notes.lines == []


def test_text_that_goes_nowhere_is_no_output():
    def function(x):
        text = io.StringIO()
        text.write("step")
        pprint.pprint(x.shape, stream=text)
        logging.getLogger("needle.tests").debug("a step of %s", x.shape)
        return x * len(text.getvalue())

    assert np.array_equal(ndl.jit(function)(ndl.ones(2)).numpy(), [9.0, 9.0])


def test_a_warning_is_shown_once_as_it_is_without_compiling():
    def function(x):
        warnings.warn("old", FutureWarning, stacklevel=1)
        return x * 2

    call = ndl.jit(function)
    with pytest.warns(FutureWarning):
        call(ndl.ones(2))
    assert np.array_equal(call(ndl.ones(2)).numpy(), [2.0, 2.0])


def test_numbers_of_python_make_constants_that_follow_their_source():
    numbers = [1.0, 2.0]
    call = ndl.jit(lambda x: x + ndl.Tensor([10.0, 20.0]) + ndl.Tensor(numbers))
    assert np.array_equal(call(ndl.zeros(2)).numpy(), [11, 22])
    numbers[1] = 3.0
    assert np.array_equal(call(ndl.zeros(2)).numpy(), [11, 23])


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: x[[0, 1, 0]],
        lambda x: x[:, [1, -1]],
        lambda x: x[[[0, 1], [2, 2]], [0, 1]],
        lambda x: x[range(2)],
        lambda x: x[[i for i in range(3) if i != 1]],
        lambda x: x[[True, False, True]],
        lambda x: x[[[True, False], [False, True], [True, True]]],
        lambda x: ndl.take(x, [0, 1], 0),
        lambda x: ndl.take_along(x, [[0], [1], [0]], 1),
    ],
)
def test_indices_written_out_are_constants(pick):
    x = ndl.Tensor(np.arange(6.0).reshape(3, 2))
    expected = pick(x)
    found = ndl.jit(pick)(x)
    assert np.array_equal(found.numpy(), expected.numpy())
    (expected * expected).sum().backward()
    slope = x.grad.numpy()
    (found * found).sum().backward()
    assert np.array_equal(x.grad.numpy(), slope)


def test_lists_of_indices_from_elsewhere_are_looked_at_again():
    rows, x = [0, 1], ndl.Tensor(np.arange(6.0).reshape(3, 2))
    call = ndl.jit(lambda x, columns: x[rows][:, columns])
    assert np.array_equal(call(x, [0]).numpy(), [[0], [2]])
    rows[1] = 2
    assert np.array_equal(call(x, [0]).numpy(), [[0], [4]])
    assert np.array_equal(call(x, [1]).numpy(), [[1], [5]])
    assert np.array_equal(call(x, [True, True]).numpy(), [[0, 1], [4, 5]])


def test_indices_out_of_an_array_are_refused():
    def function(x):
        return x[np.array([0, 1])]  # here

    assert "other data" in refusal(function, ndl.ones(3))


def test_what_an_iterator_gives_is_refused():
    batches = (ndl.ones(2) * i for i in range(10))
    numbers = (float(i) for i in range(10))

    def of_tensors(x):
        return x + next(batches)  # here

    def of_numbers(x):
        return x * next(numbers)  # here

    def in_a_loop(x):
        for number in numbers:  # here
            return x * number
        return x

    for function in (of_tensors, of_numbers, in_a_loop):
        assert "next item" in refusal(function, ndl.ones(2))
    assert next(batches).shape == (2,)
    items = iter([ndl.ones(2), ndl.ones(2)])
    message = refusal(lambda x: x + next(items), ndl.ones(2), line=False)
    assert "next item" in message and next(items).shape == (2,)


def test_an_array_of_numpy_as_argument():
    message = refusal(lambda x, y: x, ndl.ones(2), TABLE, line=False)
    assert "float64[2]" in message and "ndl.Tensor" in message


# -- results that outlast the call ------------------------------------------------------------


class Pair:
    def __init__(self, first):
        self.first = first


def yielding(x):
    yield x * 2


@pytest.mark.parametrize(
    "function",
    [
        yielding,
        lambda x: map(ndl.exp, [x]),
        lambda x: Pair(x * 2),
        lambda x: (x, [Pair([x])]),
        lambda x: frozenset([x * 2]),
        lambda x: lambda: x * 2,
    ],
)
def test_results_that_hide_tensors_of_the_call(function):
    assert "Return the Tensors themselves" in refusal(function, ndl.ones(2), line=False)


def test_objects_without_tensors_of_the_call_may_be_returned():
    model, scale = network(), ndl.ones(2)
    found = ndl.jit(lambda x: (model, Pair(3), lambda: scale * 2, range(3)))(ndl.ones(2))
    assert found[0] is model and found[1].first == 3
    assert found[2]().numpy().tolist() == [2, 2] and found[3] == range(3)


# -- what the function changes ----------------------------------------------------------------


class Holder:
    def __init__(self):
        self.items = []
        self.thing = None
        self.seen = set()
        self.table = {}


def appended(holder):
    def function(x):
        y = x * 2
        holder.items.append(1.0)  # here
        return y

    return function


def appended_tensor(holder):
    def function(x):
        holder.items.append(x * 2)  # here
        return x

    return function


def put(holder):
    def function(x):
        holder.thing = Holder()  # here
        return x

    return function


def added(holder):
    def function(x):
        y = x + 1
        holder.seen.add(3)  # here
        return y

    return function


@pytest.mark.parametrize("make", [appended, appended_tensor, put, added])
def test_objects_of_python_cannot_be_changed(make):
    holder = Holder()
    items = holder.items
    assert "would not do again" in refusal(make(holder), ndl.ones(2))
    assert holder.items is items and holder.items == []
    assert holder.thing is None and holder.seen == set()


def test_a_loss_that_a_training_step_appends_is_refused_at_its_line():
    model, losses = network(dropout=0.5), []
    plain = training_step(model, ndl.optim.Adam(model.parameters(), lr=0.1))

    def step(x, y):
        losses.append(plain(x, y))  # here

    assert "it gave losses, which had 0 items" in refusal(step, *batch(0))
    assert losses == []


def test_numbers_that_are_drawn_after_a_step_are_refused_at_their_line():
    model = network(dropout=0.5)
    plain = training_step(model, ndl.optim.Adam(model.parameters(), lr=0.1))

    def step(x, y):
        loss = plain(x, y)
        return loss * np.random.rand()  # here

    assert "random numbers of NumPy" in refusal(step, *batch(0))


def test_lists_among_the_arguments_stay_as_they_are():
    given = [ndl.ones(2)]

    def function(xs):
        xs.append(xs[0] * 2)
        return xs[0]

    assert "arguments" in refusal(function, given, line=False)
    assert len(given) == 1


def counting(x):
    global COUNT
    COUNT += 1
    return x * COUNT


def test_a_global_that_counts_is_state():
    global COUNT
    COUNT = 0
    call = ndl.jit(counting)
    assert [call(ndl.ones(1)).item() for _ in range(3)] == [1, 2, 3]
    assert COUNT == 3
    COUNT = 10
    assert call(ndl.ones(1)).item() == 11


def test_a_refused_step_leaves_everything_as_it_was():
    model = network(norm=True)
    opt = ndl.optim.Adam(model.parameters(), lr=0.1)
    plain = training_step(model, opt)
    plain(*batch(0))
    before = state_of(model, opt)
    grads = [p.grad for p in model.parameters()]

    def step(x, y):
        return plain(x, y).item()

    with pytest.raises(ndl.JitError):
        ndl.jit(step)(*batch(1))
    assert_same_state(state_of(model, opt), before, rtol=0)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert plain(*batch(1)).numpy() > 0


def test_an_error_of_the_function_itself_comes_through_and_leaves_everything():
    model = network()
    opt = ndl.optim.Adam(model.parameters(), lr=0.1)

    @ndl.jit
    def step(x, y):
        training_step(model, opt)(x, y)
        raise KeyError("mine")

    before = state_of(model, opt)
    with pytest.raises(KeyError, match="mine"):
        step(*batch(0))
    assert_same_state(state_of(model, opt), before, rtol=0)


def test_a_shape_error_is_raised_at_the_users_line():
    with pytest.raises(ndl.errors.ShapeError, match=re.escape("float32[2,3]")):
        ndl.jit(lambda a, b: a @ b)(ndl.ones(2, 3), ndl.ones(2, 3))


def test_a_second_name_for_a_parameter_is_refused():
    model = ndl.nn.Linear(3, 3)
    weight = model.weight

    def tie():
        model.tied = model.weight

    with pytest.raises(ndl.JitError, match=r"tied to be given Tensors of its own, got .*weight"):
        ndl.jit(tie)()
    assert not hasattr(model, "tied") and model.weight is weight
