"""The trace device: shapes and dtypes as real devices have them, and a record that can be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ndarray.replay import Replay

import needle.backend_ndarray as nd
from needle.backend_ndarray import access, devices, primitives
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import (
    NoValueError,
    recorded,
    result_layouts,
    trace,
    traced,
)
from needle.errors import AxisError, DeviceError, NeedleError, ShapeError

NUMPY = nd.cpu_numpy()
IDS = np.array([2, 0, 1])


def ids(x: nd.NDArray) -> nd.NDArray:
    return nd.array(IDS, "int64", x.device)


# Functions of an array float32[3,4], which between them use every primitive.
FUNCTIONS: dict[str, Callable[[nd.NDArray], Any]] = {
    "numbers on either side": lambda x: 1 - x * 2 / (x**2 + 3.0),
    "comparison": lambda x: x > 0.5,
    "whole and real": lambda x: x.astype("int8") + x.astype("float16"),
    "where": lambda x: nd.where(x > 0, x, 0),
    "functions": lambda x: nd.erf(nd.sigmoid(nd.tanh(x))),
    "clip": lambda x: nd.clip(x, -0.5, 0.5),
    "sum": lambda x: nd.sum(x, (0,)),
    "sum of whole numbers": lambda x: nd.sum(x.astype("int8"), axis=1, keepdims=True),
    "mean": lambda x: nd.mean(x.astype("float16"), axis=(1,)),
    "max": lambda x: nd.max(x.permute((1, 0)), axis=0),
    "all": lambda x: nd.all(x > 0, axis=1),
    "argmax": lambda x: nd.argmax(x, axis=1),
    "argmin of all": lambda x: nd.argmin(x),
    "cumsum": lambda x: nd.cumsum(x, axis=1),
    "matmul": lambda x: nd.matmul(x, x.permute((1, 0))),
    "matmul with a vector": lambda x: nd.matmul(x, nd.sum(x, 0)),
    "einsum": lambda x: nd.einsum("ab,cb,b->ac", x, x + 1, nd.sum(x, 0)),
    "diagonal": lambda x: nd.einsum("aa->a", nd.matmul(x, x.permute((1, 0)))),
    "views": lambda x: x[1:, ::-2].permute((1, 0)).expand_dims(1).broadcast_to((2, 5, 2)),
    "reshape with a copy": lambda x: x.permute((1, 0)).reshape((2, 6)),
    "flip": lambda x: nd.flip(x, (0, 1)),
    "pad": lambda x: nd.pad(x, ((1, 0), (0, 2)), constant_values=7),
    "concatenate": lambda x: nd.concatenate([x, x.astype("float64")], axis=1),
    "stack": lambda x: nd.stack([x, x * 2], axis=1),
    "tril": lambda x: nd.tril(x, 1),
    "triu": lambda x: nd.triu(x),
    "array of NumPy": lambda x: x + np.arange(4, dtype=np.float32),
    "index": lambda x: primitives.index(x, (slice(None), ids(x), None)),
    "index of NumPy": lambda x: primitives.index(x, (IDS, [0, 0, 3])),
    "put": lambda x: primitives.put((5, 4), (slice(1, 4),), x),
    "scatter_add": lambda x: primitives.scatter_add((5, 4), (ids(x),), x),
    "take_along": lambda x: primitives.take_along(x, ids(x).reshape((3, 1)), 1),
    "add_along": lambda x: primitives.add_along(x, ids(x).reshape((3, 1)), 1, -1.0),
    "arange": lambda x: nd.arange(4, device=x.device) + x,
    "eye": lambda x: nd.matmul(nd.eye(3, device=x.device), x),
    "writes": lambda x: written(x),
}
every_function = pytest.mark.parametrize("name", sorted(FUNCTIONS))
layouts = {
    "compact": lambda values: values,
    "permuted": lambda values: values.T.copy().T,
    "flipped": lambda values: values[::-1, ::-1].copy()[::-1, ::-1],
    "repeated": lambda values: np.broadcast_to(values[:1], values.shape),
}


def written(x: nd.NDArray) -> nd.NDArray:
    """A copy that is written into through a view, between two reads."""
    copy = x.astype("float32")
    row = copy[1]
    before = row * 1
    row.fill(5)
    copy[:, 2:] = x[:, :2]
    return nd.concatenate([before, copy, row], 0)


def values(kind: str = "compact") -> np.ndarray:
    rng = np.random.RandomState(0)
    return layouts[kind](rng.standard_normal((3, 4)).astype(np.float32))


def real(array: np.ndarray, device: Any = NUMPY) -> nd.NDArray:
    """The array on a device, in its own layout."""
    strides = tuple([step // array.itemsize for step in array.strides])
    rising = array[tuple([slice(None, None, -1 if step < 0 else 1) for step in strides])]
    length = 1 + sum((n - 1) * abs(step) for n, step in zip(array.shape, strides, strict=True))
    memory = np.lib.stride_tricks.as_strided(rising, (length,), (array.itemsize,))
    first = -sum((n - 1) * min(step, 0) for n, step in zip(array.shape, strides, strict=True))
    row = nd.array(memory, array.dtype, device)
    return row._view((Layout.of(device, array.dtype, array.shape, strides), first))


@pytest.mark.parametrize("kind", sorted(layouts))
@every_function
def test_traced_arrays_have_the_layout_of_real_ones(name, kind):
    x = real(values(kind))
    y, expected = FUNCTIONS[name](traced(x)), FUNCTIONS[name](x)
    assert (y.shape, y.dtype, y.strides) == (expected.shape, expected.dtype, expected.strides)
    assert not y.device.has_memory and y.device.real == NUMPY


@pytest.mark.parametrize("kind", sorted(layouts))
@every_function
def test_the_record_run_on_a_device_gives_what_the_function_gives(name, kind):
    x = real(values(kind))
    t = traced(x)
    y, expected = FUNCTIONS[name](t), FUNCTIONS[name](x)
    node, layout, offset = recorded(t)
    memory = np.array(x._memory)
    assert (node.primitive, layout.strides, offset) == ("input", x.strides, x._offset)
    assert node.layout.size == memory.size
    assert np.array_equal(Replay(NUMPY, {node: memory}).value(y), expected.numpy())


def test_nodes_print_as_calls():
    x = traced(real(values()))
    column = nd.sum(x, (1,), True)
    assert repr(recorded(x).node) == "input() -> float32[3,4]"
    assert repr(recorded(1 - x).node) == "subtract(1, float32[3,4]) -> float32[3,4]"
    assert repr(recorded(column).node) == "sum(float32[3,4], axes=(1,)) -> float32[3,1]"
    # operands are shown as they are read
    assert repr(recorded(x / column).node) == ("divide(float32[3,4], float32[3,4]) -> float32[3,4]")
    filled = nd.full((2, 2), 1.5, device=x.device)
    assert repr(recorded(filled).node) == "assign(float32[2,2], 1.5) -> float32[2,2]"
    product = recorded(nd.matmul(x, x.permute((1, 0)))).node
    assert repr(product) == (
        "contract(float32[3,4], float32[4,3], groups=(0, 1, 1, 1)) -> float32[3,3]"
    )


def test_a_view_is_the_same_node():
    x = traced(real(values()))
    y = x + 1
    assert recorded(y[1:].permute((1, 0))).node is recorded(y).node
    assert recorded(y[1:]).offset == 4


def test_a_write_makes_a_version_and_leaves_what_was_read_before():
    out = nd.zeros((2, 3), device=trace(NUMPY))
    first = recorded(out).node
    before = out + 1
    out[0] = 2
    last = recorded(out).node
    assert last is not first and last.primitive == "assign" and last.numbers == (2,)
    assert recorded(before).node.inputs[0].node is first
    assert last.inputs[0].node is first and last.inputs[0].layout.shape == (1, 3)


ASKING: dict[str, Callable[[nd.NDArray], Any]] = {
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "item": lambda x: nd.sum(x).item(),
    "truth": lambda x: bool(nd.all(x > 0)),
    "float": lambda x: float(nd.sum(x)),
    "list": lambda x: x.tolist(),
    "mask": lambda x: primitives.index(x, (x > 0,)),
    "mask of NumPy": lambda x: primitives.index(x, (np.array([True, False, True]),)),
    "write by a mask": lambda x: access.setitem(x, (x > 0,), 0),
    "write into a real array": lambda x: access.setitem(real(values()), (0,), x[0]),
    "one_hot": lambda x: nd.one_hot(3, x),
}


@pytest.mark.parametrize("name", sorted(ASKING))
def test_asking_for_values_says_that_there_are_none_and_what_to_write(name):
    with pytest.raises(NoValueError, match=r"expected an array with values, got \w+\[.*\] without"):
        ASKING[name](traced(real(values())))
    assert issubclass(NoValueError, NeedleError)
    with pytest.raises(NoValueError, match=r"where\(\) for an if"):
        traced(real(values())).numpy()


def test_a_traced_array_shows_its_dtype_and_shape():
    x = traced(real(values()))
    assert str(x) == "float32[3,4]"
    assert repr(x) == "NDArray(float32[3,4], device=trace(cpu_numpy()))"


def test_what_is_required_of_data_is_not_asked_of_traced_arrays():
    x = traced(real(values()))
    primitives.require(x > 0, lambda: AssertionError("looked"))
    with pytest.raises(AssertionError, match="looked"):
        primitives.require(real(values()) > 9, lambda: AssertionError("looked"))


def test_errors_about_shapes_are_raised_while_tracing():
    x = traced(real(values()))
    with pytest.raises(ShapeError, match=r"matmul: .* got float32\[3,4\] and float32\[3,4\]"):
        nd.matmul(x, x)
    with pytest.raises(AxisError, match="sum: expected axes"):
        nd.sum(x, 2)


def test_real_arrays_of_the_device_stand_beside_traced_ones_as_constants():
    x, weights = traced(real(values())), real(values())
    for y in (
        x + weights,
        weights + x,
        nd.concatenate([weights, x]),
        nd.einsum("ab,ab->a", weights, x),
    ):
        assert y.device == trace(NUMPY)
    node = recorded(x * weights).node.inputs[1].node
    assert node.primitive == "constant" and node.parameters["memory"] is weights._memory
    table = primitives.index(weights, (nd.array(IDS, "int64", x.device),))
    assert table.shape == (3, 4) and table.device == trace(NUMPY)


def test_arrays_of_two_devices_do_not_mix_and_the_message_names_the_real_ones():
    x = traced(Layout.of(nd.cpu(), np.dtype("float32"), (2,)))
    other = Layout.of(NUMPY, np.dtype("float32"), (2,))
    for y in (traced(other), nd.zeros((2,), device=NUMPY)):
        with pytest.raises(DeviceError, match=r"add: .* got cpu\(\) and cpu_numpy\(\)\. Use to"):
            x + y


def test_moving_a_traced_array_traces_on_the_other_device():
    x = traced(real(values()))
    assert x.to(NUMPY) is x
    moved = x[1:].to(nd.cpu())
    assert moved.device == trace(nd.cpu()) and moved.shape == (2, 4)
    assert repr(recorded(moved).node) == "to(float32[2,4], device=cpu()) -> float32[2,4]"


def test_there_is_one_trace_of_each_device():
    assert trace(NUMPY) is trace(NUMPY)
    assert trace(trace(NUMPY)) is trace(NUMPY)
    assert trace(NUMPY) != trace(nd.cpu()) and trace(NUMPY) != NUMPY
    assert devices.trace() == trace(nd.cpu())
    assert repr(devices.trace()) == "trace(cpu())"
    assert devices.trace() not in nd.all_devices()


def test_memory_is_missed_when_computing_and_not_when_tracing():
    column = nd.zeros((1 << 22, 1), device=NUMPY)
    row = column.reshape((1, 1 << 22))
    y = traced(column) + traced(row)
    assert y.nbytes == 4 << 44
    with pytest.raises(MemoryError, match=r"add: expected a result within .* got one of 70,368,"):
        column + row


def test_result_layouts_are_those_on_the_real_device():
    x = Layout.of(NUMPY, np.dtype("float32"), (2, 3))
    found = result_layouts(lambda arrays: arrays[0].permute((1, 0)), [x])
    assert found is Layout.of(NUMPY, np.dtype("float32"), (3, 2), (1, 3))
    pair = result_layouts(lambda arrays: (arrays[0][0], arrays[0][1] > 0), [(x, x)])
    assert [(layout.shape, layout.dtype) for layout in pair] == [((2, 3), "f4"), ((2, 3), "?")]
    assert result_layouts(lambda arrays: primitives.index(arrays[0], arrays[0] > 0), [x]) is None


def test_nothing_is_computed():
    big = traced(Layout.of(NUMPY, np.dtype("float64"), (1 << 20, 1 << 20)))
    y = nd.sum(nd.matmul(big + 1, nd.concatenate([big, big], 1)), 0)
    assert y.shape == (1 << 21,)
