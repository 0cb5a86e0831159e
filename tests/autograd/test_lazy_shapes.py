"""Lazy Tensors of nd mode know shape, dtype and device, and refuse what does not fit, at once."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import needle as ndl
from needle.errors import AxisError, DeviceError, ShapeError
from needle.testing import assert_close

pytestmark = pytest.mark.nd_mode


@pytest.fixture
def x() -> ndl.Tensor:
    return ndl.Tensor(np.arange(6.0).reshape(2, 3), device=ndl.cpu_numpy(), dtype="float64")


def test_shape_dtype_and_device_do_not_compute(x):
    with ndl.lazy():
        y = (x @ x.transpose()).sum(0).astype("float32")
        z = y > 0
    assert (y.shape, y.ndim, y.size, y.dtype) == ((2,), 1, 2, np.float32)
    assert y.device == ndl.cpu_numpy() and z.device == ndl.cpu_numpy()
    assert (z.shape, z.dtype) == ((2,), np.bool_)
    assert len(y) == 2 and ndl.errors.describe(y) == "float32[2]"
    assert y.cached_data is None and z.cached_data is None
    assert_close(y.numpy(), np.array([19.0, 64.0], np.float32))
    assert y._layout is None and y.shape == (2,)


def test_what_is_foreseen_is_the_layout_that_comes(x):
    with ndl.lazy():
        results = [x.transpose(), x.broadcast_to((4, 2, 3)), x[:, ::-1], x.transpose() + 1]
    for y in results:
        layout = y._layout
        assert y.realize_cached_data()._layout is layout


def test_a_wrong_call_is_refused_on_the_callers_line(x):
    with ndl.lazy():
        y = ndl.exp(x)
        with pytest.raises(ShapeError, match=r"matmul: .* got float64\[2,3\] and float64\[2,3\]"):
            y @ y
        with pytest.raises(AxisError, match=r"summation: expected axes in \[-2, 2\)"):
            y.sum(2)
        with pytest.raises(ShapeError, match=r"add: .* got float64\[2,3\] and float64\[3,2\]"):
            y + y.reshape((3, 2))
    assert y.cached_data is None


def test_tensors_of_two_devices_are_refused_on_the_callers_line(x):
    with ndl.lazy(), pytest.raises(DeviceError, match=r"add: .* got cpu_numpy\(\) and cpu\(\)"):
        ndl.exp(x) + ndl.Tensor(np.ones((2, 3)), device=ndl.cpu())


def test_moving_to_another_device_is_foreseen(x):
    with ndl.lazy():
        y = ndl.exp(x).to(ndl.cpu())
    assert y.device == ndl.cpu() and y.shape == (2, 3) and y.cached_data is None


def test_tuples_know_their_length_and_items(x):
    with ndl.lazy():
        rows = ndl.ops.split(ndl.exp(x), 1)
        last = rows[-1]
    assert len(rows) == 3 and rows.cached_data is None
    assert (last.shape, last.dtype) == ((2,), np.float64) and last.cached_data is None
    assert_close(last, np.exp([2.0, 5.0]))


def test_a_result_whose_shape_depends_on_data_is_computed_for_it(x):
    with ndl.lazy():
        picked = x[x > 2]
        doubled = picked * 2
    assert picked.cached_data is None and doubled.cached_data is None
    assert doubled.shape == (3,) and picked.cached_data is not None
    assert_close(doubled, [6.0, 8.0, 10.0])


def test_an_op_that_looks_at_data_is_left_until_then(x):
    class Median(ndl.TensorOp):
        def compute(self, a):
            return ndl.array_api.array(np.median(a.numpy(), axis=0), a.dtype, a.device)

    with ndl.lazy():
        y = Median()(x)
    assert y.cached_data is None and y.shape == (3,)
    assert_close(y, np.median(x.numpy(), axis=0))


def test_an_op_with_arrays_of_its_own_is_foreseen(x):
    class Scaled(ndl.TensorOp):
        def __init__(self):
            self.factor = ndl.array_api.full((3,), 2, "float64", ndl.cpu_numpy())

        def compute(self, a):
            return a * self.factor

    with ndl.lazy():
        y = Scaled()(x)
    assert y.shape == (2, 3) and y.cached_data is None
    assert_close(y, x.numpy() * 2)


def test_conditions_on_data_are_checked_when_there_is_data():
    base = ndl.Tensor([2, 3], dtype="int64")
    with ndl.lazy():
        y = ndl.power(base, ndl.Tensor([-1, 1], dtype="int64"))
    assert y.shape == (2,) and y.dtype == np.int64
    with pytest.raises(ndl.errors.DTypeError, match=r"^power: expected floats for negative"):
        y.numpy()


def test_nothing_is_kept_of_a_chain_but_layouts(x):
    with ndl.lazy(), ndl.no_grad():
        y = x
        for _ in range(3000):
            y = y + 1
    assert isinstance(y._layout, type(x.cached_data._layout))
    assert sys.getrefcount(y._layout) > 3000  # one layout for all of them
    assert y.shape == (2, 3)
    assert_close(y, x.numpy() + 3000)


def test_gradients_of_a_lazy_graph_are_foreseen_and_right(x):
    with ndl.lazy():
        y = (ndl.exp(x) * x).sum()
        y.backward()
        assert y.cached_data is None and x.grad.cached_data is None
        assert (x.grad.shape, x.grad.dtype, x.grad.device) == (x.shape, x.dtype, x.device)
    e = np.exp(x.numpy())
    assert_close(x.grad, e * x.numpy() + e)


def test_a_twin_knows_its_shape_too(x):
    with ndl.lazy():
        y = ndl.exp(x)
        twin = y.twin()
    assert twin.shape == (2, 3) and twin.cached_data is None
