"""The public battery in nd mode: on every device, in every layout, with and without data."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle.testing import check_grads, check_op
from needle.testing.layouts import LAYOUTS, raw_array

pytestmark = pytest.mark.nd_mode


class Doubled(ndl.TensorOp):
    def compute(self, x):
        return x * 2

    def gradient(self, out_grad, node):
        return out_grad * 2


def test_an_op_is_run_on_every_device_and_a_function_on_that_of_its_inputs():
    seen: list[str] = []

    class Watched(Doubled):
        def compute(self, x):
            seen.append(repr(x.device.real))
            return super().compute(x)

    check_op(Watched(), np.ones((2, 3)))
    assert set(seen) == {"cpu()", "cpu_numpy()"}
    seen.clear()
    there = ndl.Tensor(np.ones((2, 3)), device=ndl.cpu_numpy())
    check_op(lambda x: Watched()(x), there)
    check_grads(Watched(), there)
    assert set(seen) == {"cpu_numpy()"}


def test_a_result_that_differs_between_devices_is_found():
    class Uneven(Doubled):
        def compute(self, x):
            return x * (2 if x.device.real == ndl.cpu() else 2.0000001)

    with pytest.raises(AssertionError, match=r"uneven, against cpu\(\): .* \(On cpu_numpy\(\)\.\)"):
        check_op(Uneven(), np.ones((2, 3)), order=0)


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:1], lambda x: x.astype("float32")], ids=["shape", "dtype"]
)
def test_a_compute_that_is_another_without_data_is_found(wrong):
    class Fickle(Doubled):
        def compute(self, x):
            return x if x.device.has_memory else wrong(x)

    message = r"fickle, lazily: expected float64\[2,3\], got float\d\d\[.,3\] from compute\(\)"
    with pytest.raises(AssertionError, match=message):
        check_op(Fickle(), np.ones((2, 3)), order=0)


def test_a_compute_that_needs_data_passes():
    class Median(Doubled):
        def compute(self, x):
            return ndl.array_api.array(np.median(x.numpy()), x.dtype, x.device)

    check_op(Median(), np.ones((2, 3)), reference=np.median, order=0)


def test_an_op_that_writes_into_its_input_is_found():
    class Greedy(Doubled):
        def compute(self, x):
            x.fill(3)
            return x * 2

    with pytest.raises(AssertionError, match="greedy: expected input 0 to stay as it was"):
        check_op(Greedy(), np.ones((2, 3)), order=0)


@pytest.mark.parametrize("device", ["cpu", "cpu_numpy"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "bool"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_raw_arrays_lie_as_numpys_do(layout, dtype, device):
    array = LAYOUTS[layout](np.arange(12).reshape(3, 4).astype(dtype))
    raw = raw_array(array, getattr(ndl, device)())
    assert raw.strides == tuple([step // array.itemsize for step in array.strides])
    assert raw.dtype == array.dtype and raw.device == getattr(ndl, device)()
    assert np.array_equal(raw.numpy(), array)


def test_raw_arrays_of_no_elements_and_of_no_axes():
    for array in (np.ones((0, 3)), np.ones((2, 3))[:, 5:], np.float64(2) + np.zeros(())):
        assert np.array_equal(raw_array(np.asarray(array)).numpy(), array)
