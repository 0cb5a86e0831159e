"""How operators are called and what they refuse: names of axes, bounds, devices, results."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle.errors import AxisError, DeviceError, DTypeError, GradientError

X = tensor(np.arange(6.0).reshape(2, 3), "float64")

REDUCTIONS = [
    ("sum", ndl.summation),
    ("mean", ndl.mean),
    ("var", ndl.var),
    ("std", ndl.std),
    ("max", ndl.max),
    ("min", ndl.min),
    ("all", ndl.all),
    ("any", ndl.any),
    ("logsumexp", ndl.logsumexp),
]


# -- axes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "function"), REDUCTIONS)
def test_axis_says_what_axes_says(method, function):
    expected = function(X, axes=0, keepdims=True).numpy()
    for result in (
        function(X, axis=0, keepdims=True),
        getattr(X, method)(axis=0, keepdims=True),
        getattr(X, method)(axis=(0,), keepdims=True),
    ):
        np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize(("method", "function"), REDUCTIONS)
def test_axis_and_axes_together_are_refused(method, function):
    for call in (function, getattr(ndl.Tensor, method)):
        with pytest.raises(AxisError, match=r": expected axes or axis, got both, 0 and 1\.$"):
            call(X, axes=0, axis=1)


@pytest.mark.parametrize(("method", "function"), REDUCTIONS)
def test_other_options_of_numpys_reductions_are_refused_by_name(method, function):
    for call in (function, getattr(ndl.Tensor, method)):
        with pytest.raises(TypeError, match=r": expected axes \(or axis\) and keepdims.*got where"):
            call(X, where=True)


@pytest.mark.parametrize("function", [np.sum, np.mean, np.max, np.min])
def test_numpys_reductions_take_tensors(function):
    result = function(X, axis=1)
    assert isinstance(result, ndl.Tensor)
    np.testing.assert_array_equal(result.numpy(), function(X.numpy(), axis=1))


# -- reductions in 16 bits ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_std_in_16_bits_is_rounded_once(dtype):
    values = np.array([0.0, 60000.0, 3.0, 129.0])
    x = ndl.Tensor(values, dtype=dtype)
    exact = np.std(x.numpy().astype("float64"))
    assert x.std().item() == np.asarray(exact).astype(x.dtype).item()


def test_std_in_float16_has_a_finite_gradient():
    x = ndl.Tensor([0.0, 60000.0] * 8, dtype="float16")
    x.std().backward()
    np.testing.assert_allclose(x.grad.numpy().astype("float64"), [-1 / 16, 1 / 16] * 8, rtol=1e-2)


# -- bounds and borders ------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(X, None), (None, X), (0, X)])
def test_clip_refuses_tensors_as_bounds(bounds):
    with pytest.raises(DTypeError) as caught:
        ndl.clip(X, *bounds)
    assert str(caught.value) == (
        "clip: expected numbers as bounds, got float64[2,3]. Use ndl.maximum and ndl.minimum."
    )


def test_pad_refuses_a_fraction_beside_integers():
    ints = ndl.Tensor([1, 2], dtype="int64")
    with pytest.raises(
        DTypeError, match=r"^pad: expected a whole number beside int64\[2\], got 0\.5\.$"
    ):
        ndl.pad(ints, ((1, 1),), 0.5)
    assert ndl.pad(ints, ((1, 1),), 7.0).tolist() == [7, 1, 2, 7]


def test_pad_refuses_a_number_that_the_dtype_does_not_hold():
    with pytest.raises(DTypeError, match=r"^pad: expected a number in 0\.\.255, got 300"):
        ndl.pad(ndl.Tensor([1, 2], dtype="uint8"), ((1, 1),), 300)


@pytest.mark.nd_mode
def test_a_number_that_the_dtype_does_not_hold_is_what_the_message_begins_with():
    with pytest.raises(DTypeError, match=r"^add_scalar: expected a number in 0\.\.255, got 300\b"):
        ndl.Tensor([1, 2], dtype="uint8") + 300


@pytest.mark.np_mode
def test_np_mode_names_the_dtype_that_does_not_hold_a_number():
    with pytest.raises(DTypeError, match=r"^add_scalar: expected numbers that fit, got uint8\[2\]"):
        ndl.Tensor([1, 2], dtype="uint8") + 300


# -- backward ----------------------------------------------------------------------------------


@pytest.mark.nd_mode
def test_backward_refuses_an_adjoint_on_another_device():
    x = ndl.Tensor([1.0, 2.0])
    elsewhere = ndl.Tensor([1.0, 1.0], device=ndl.cpu_numpy())
    with pytest.raises(DeviceError) as caught:
        (x * 2).backward(elsewhere)
    assert str(caught.value) == (
        "backward: expected out_grad on the output's device, cpu(), got float32[2] on cpu_numpy()."
        " Use to(device)."
    )
    assert x.grad is None


@pytest.mark.nd_mode
def test_a_hook_may_not_move_the_gradient():
    x = ndl.Tensor([1.0, 2.0])
    x.register_hook(lambda grad: grad.to(ndl.cpu_numpy()))
    with pytest.raises(
        GradientError, match=r"^hook: expected a gradient on cpu\(\), got .*numpy\(\)"
    ):
        (x * 2).sum().backward()


def test_a_hook_that_returns_no_tensor_is_told_so():
    x = ndl.Tensor([1.0, 2.0])
    x.register_hook(lambda grad: grad.numpy())
    with pytest.raises(GradientError, match=r"^hook: expected a Tensor, got an ndarray\.$"):
        (x * 2).sum().backward()


# -- ops of one's own --------------------------------------------------------------------------


class InNumPy(ndl.TensorOp):
    """What computes by NumPy and hands back NumPy's array."""

    def compute(self, x):
        return np.exp(np.asarray(x))


class UfuncOnArray(ndl.TensorOp):
    expects = "floats"

    def compute(self, x):
        return np.exp(x)


class TwoInNumPy(ndl.TensorTupleOp):
    def compute(self, x):
        return np.asarray(x), np.asarray(x) * 2


@pytest.mark.nd_mode
def test_a_numpy_array_that_an_op_computes_goes_to_the_device_of_its_inputs(each_device):
    for device in (ndl.cpu(), ndl.cpu_numpy()):
        x = ndl.Tensor([0.0, 1.0], device=device)
        assert InNumPy()(x).device == device
        assert (InNumPy()(x) + x).device == device
        assert [item.device for item in TwoInNumPy()(x)] == [device, device]


@pytest.mark.nd_mode
def test_numpys_functions_on_raw_arrays_are_what_the_message_is_about():
    with pytest.raises(DTypeError) as caught:
        UfuncOnArray()(ndl.Tensor([0.0, 1.0]))
    assert str(caught.value).startswith(
        "ufunconarray: expected functions of ndl.array_api in compute(), got one of NumPy's, which "
        "takes no NDArrays. Use ndl.array_api, as in ndl.array_api.exp(x)."
    )


class Constant(ndl.TensorOp):
    """What does not look at its input."""

    def compute(self, x):
        return np.ones(3, dtype="float32")


@pytest.mark.nd_mode
def test_a_numpy_array_that_a_lazy_op_computes_is_on_the_device_of_its_inputs():
    with ndl.lazy():
        x = ndl.Tensor([0.0, 1.0, 2.0], device=ndl.cpu_numpy())
        y = Constant()(x) + x
        assert y.device == ndl.cpu_numpy()
        assert y.tolist() == [1.0, 2.0, 3.0]
