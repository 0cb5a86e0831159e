"""Contract, section 4: the operators of convolutional and recurrent networks."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from contract.course_references import (
    TOLERANCE,
    arrays,
    assert_like,
    conv,
    conv_slopes,
    slopes,
    softmax,
)

import needle as ndl
from needle.autograd import Tensor, TensorTuple


def tensor(array, device=None):
    return Tensor(array, device=device, dtype="float32")


def direct_check(out, inputs, reference):
    """The op's own gradient, asked for directly: a TensorTuple in slot 0, or the tensors."""
    out_grad = np.random.RandomState(3).randn(*out.shape)
    found = out.op.gradient_as_tuple(tensor(out_grad, out.device), out)
    assert type(found) is tuple
    found = found[0].tuple() if isinstance(found[0], TensorTuple) else found
    expected = slopes(reference, [x.numpy() for x in inputs], out_grad)
    for grad, slope in zip(found, expected, strict=True):
        np.testing.assert_allclose(grad.numpy(), slope, **TOLERANCE)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dilate", "undilate", "conv", "Dilate", "UnDilate", "Conv"])
def test_names_of_convolution_are_on_the_package_and_in_ops(name):
    assert getattr(ndl, name) is getattr(ndl.ops, name)
    assert name in ndl.__all__


def defaults(callable_):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(callable_).parameters.items()
        if name != "self"
    }


def test_trap_14_the_functions_padding_is_1_and_the_classs_is_0():
    function, class_ = defaults(ndl.conv), defaults(ndl.Conv)
    assert list(function)[:4] == ["a", "b", "stride", "padding"]
    assert list(class_)[:2] == ["stride", "padding"]
    assert (function["stride"], function["padding"]) == (1, 1)
    assert (class_["stride"], class_["padding"]) == (1, 0)
    x, w = (tensor(array) for array in arrays((1, 5, 5, 2), (3, 3, 2, 3)))
    assert ndl.conv(x, w).shape == (1, 5, 5, 3)
    assert ndl.Conv()(x, w).shape == (1, 3, 3, 3)
    assert isinstance(ndl.conv(x, w).op, ndl.Conv)


# -- dilate, undilate --------------------------------------------------------------------------


def dilated(x, axes, dilation):
    for axis in axes:
        if axis < x.ndim:
            wide = np.zeros((*x.shape[:axis], x.shape[axis] * (dilation + 1), *x.shape[axis + 1 :]))
            wide[(slice(None),) * axis + (slice(None, None, dilation + 1),)] = x
            x = wide
    return x


def undilated(x, axes, dilation):
    for axis in axes:
        x = x[(slice(None),) * axis + (slice(None, None, dilation + 1),)]
    return x


def test_trap_14_dilate_leaves_trailing_zeros(each_device):
    y = ndl.dilate(tensor([[1.0, 2.0], [3.0, 4.0]]), dilation=1, axes=(0, 1))
    expected = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(y.numpy(), expected)
    assert y.device == each_device


DILATIONS = [((0,), 1), ((1, 2), 1), ((1, 2), 2), ((0, 1, 2, 3), 1), ((2,), 3), ((0, 1), 0)]


@pytest.mark.parametrize(("axes", "dilation"), DILATIONS)
def test_dilate_and_its_gradient(each_device, axes, dilation):
    (x,) = arrays((2, 3, 2, 2))
    assert_like(
        lambda x: ndl.dilate(x, axes=axes, dilation=dilation),
        lambda x: dilated(x, axes, dilation),
        x,
    )
    out = ndl.dilate(t := tensor(x), axes, dilation)
    direct_check(out, [t], lambda x: dilated(x, axes, dilation))


@pytest.mark.parametrize(("axes", "dilation"), DILATIONS)
def test_undilate_takes_every_element_that_dilate_put_there(each_device, axes, dilation):
    (x,) = arrays((4, 6, 4, 5))
    assert_like(
        lambda x: ndl.undilate(x, axes=axes, dilation=dilation),
        lambda x: undilated(x, axes, dilation),
        x[:, :2],
    )
    back = ndl.undilate(ndl.dilate(tensor(x), axes, dilation), axes, dilation)
    np.testing.assert_array_equal(back.numpy(), x)


def test_dilate_ignores_axes_outside_the_rank(each_device):
    x = tensor([[1.0, 2.0]])
    y = ndl.dilate(x, axes=(1, 2, 7), dilation=1)
    np.testing.assert_array_equal(y.numpy(), [[1, 0, 2, 0]])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 1]])
    np.testing.assert_array_equal(ndl.undilate(y, axes=(1, 5), dilation=1).numpy(), [[1, 2]])


def test_dilation_0_is_the_identity(each_device):
    x = tensor(arrays((3, 2))[0])
    np.testing.assert_array_equal(ndl.dilate(x, (0, 1), 0).numpy(), x.numpy())
    np.testing.assert_array_equal(ndl.undilate(x, (0, 1), 0).numpy(), x.numpy())


def test_the_classes_take_axes_and_dilation():
    x = tensor([1.0, 2.0])
    np.testing.assert_array_equal(ndl.Dilate((0,), 2)(x).numpy(), [1, 0, 0, 2, 0, 0])
    np.testing.assert_array_equal(ndl.UnDilate((0,), 1)(x).numpy(), [1])


# -- flip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2, 3), (2, 0)])
def test_flip_reverses_the_axes_and_is_its_own_gradient(each_device, axes):
    (x,) = arrays((2, 3, 2, 4))
    assert_like(lambda x: ndl.flip(x, axes=axes), lambda x: np.flip(x, axes), x)
    direct_check(ndl.flip(t := tensor(x), axes), [t], lambda x: np.flip(x, axes))


# -- stack, split, tuples ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stack_joins_on_a_new_axis(each_device, axis, count):
    parts = arrays(*[(3, 2)] * count)
    assert_like(
        lambda *parts: ndl.stack(list(parts), axis), lambda *parts: np.stack(parts, axis), *parts
    )
    tensors = [tensor(part) for part in parts]
    from_tuple = ndl.stack(tuple(tensors), axis=axis)
    direct_check(from_tuple, tensors, lambda *parts: np.stack(parts, axis))


def test_stack_goes_through_make_tuple():
    a, b = (tensor(x) for x in arrays((2,), (2,)))
    out = ndl.stack([a, b], axis=0)
    assert isinstance(out.op, ndl.Stack)
    (joined,) = out.inputs
    assert isinstance(joined, TensorTuple)
    assert isinstance(joined.op, ndl.MakeTensorTuple)
    assert [x is y for x, y in zip(joined.inputs, (a, b), strict=True)] == [True, True]
    (grad,) = out.op.gradient_as_tuple(tensor(np.ones((2, 2))), out)
    assert isinstance(grad, TensorTuple) and len(grad) == 2
    np.testing.assert_array_equal(ndl.Stack(0)(ndl.make_tuple(a, b)).numpy(), out.numpy())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_split_gives_a_tuple_of_slices_without_the_axis(each_device, axis):
    (x,) = arrays((3, 2, 4))
    parts = ndl.split(tensor(x), axis=axis)
    assert isinstance(parts, ndl.TensorTuple)
    assert len(parts) == x.shape[axis] == len(parts.tuple())
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part.numpy(), x.take(i, axis))


@pytest.mark.parametrize("used", [[0], [2], [0, 2], [0, 1, 2]])
def test_the_gradient_of_split_is_zero_where_a_slice_was_not_used(each_device, used):
    (x,) = arrays((2, 3))

    def weighted(x):
        parts = ndl.split(x, 1)
        return ndl.stack([parts[i] * (i + 1) for i in used], 0)

    assert_like(weighted, lambda x: np.stack([x[:, i] * (i + 1) for i in used]), x)


def test_stack_and_split_undo_each_other_and_have_second_derivatives():
    x = tensor(arrays((2, 3))[0])
    y = ndl.stack([part**3 for part in ndl.split(x, 1)], 1)
    y.sum().backward()
    first = x.grad
    np.testing.assert_allclose(first.numpy(), 3 * x.numpy() ** 2, rtol=1e-5)
    first.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.numpy(), rtol=1e-5)


def test_an_item_of_a_tuple_just_made_is_the_input_itself():
    a, b = (tensor(x) for x in arrays((2,), (3,)))
    made = ndl.make_tuple(a, b)
    assert ndl.tuple_get_item(made, 1) is b
    assert made[0] is a


def test_the_gradient_of_an_item_has_it_in_its_slot_and_zeros_elsewhere():
    x = tensor(arrays((3, 2))[0])
    parts = ndl.split(x, 0)
    item = ndl.tuple_get_item(parts, 1)
    (grad,) = item.op.gradient_as_tuple(tensor([5.0, 7.0]), item)
    slots = grad.tuple() if isinstance(grad, TensorTuple) else grad
    np.testing.assert_array_equal([slot.numpy() for slot in slots], [[0, 0], [5, 7], [0, 0]])


def test_the_gradient_of_make_tuple_unpacks():
    a, b = (tensor(x) for x in arrays((2,), (3,)))
    made = ndl.make_tuple(a, b)
    grads = made.op.gradient_as_tuple(ndl.make_tuple(a * 2, b * 3), made)
    assert len(grads) == 2
    np.testing.assert_allclose(grads[0].numpy(), 2 * a.numpy())
    np.testing.assert_allclose(grads[1].numpy(), 3 * b.numpy())


# -- logsumexp, logsoftmax ---------------------------------------------------------------------


@pytest.mark.parametrize("axes", [None, 0, 1, 2, (0,), (1, 2), (2, 0), (0, 1, 2)])
def test_logsumexp_drops_the_axes(each_device, axes):
    (x,) = arrays((3, 2, 4))
    assert_like(
        lambda x: ndl.logsumexp(x, axes=axes), lambda x: np.log(np.exp(x).sum(axis=axes)), x
    )


@pytest.mark.parametrize("size", [100.0, 1e4, 1e10])
def test_logsumexp_subtracts_the_largest_of_each_slice(each_device, size):
    x = tensor([[size, size], [-size, -size], [1.0, size]])
    y = ndl.logsumexp(x, axes=(1,))
    np.testing.assert_allclose(y.numpy(), [size + np.log(2), np.log(2) - size, size], rtol=1e-6)
    y.sum().backward()
    expected = np.exp(x.numpy() - y.numpy()[:, None])  # the contract's formula, rounding included
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-6)


def test_logsoftmax_of_rows(each_device):
    assert_like(ndl.logsoftmax, lambda x: np.log(softmax(x, 1)), *arrays((4, 5)))


def test_logsoftmax_of_huge_logits_is_finite(each_device):
    x = tensor([[5e5, 0.0, -5e5], [-5e5, -5e5, -5e5]])
    y = ndl.logsoftmax(x)
    third = -np.log(3)
    np.testing.assert_allclose(y.numpy(), [[0, -5e5, -1e6], [third] * 3], rtol=1e-6)
    y.backward(tensor([[1.0, 0, 0], [1.0, 0, 0]]))
    np.testing.assert_allclose(x.grad.numpy(), [[0] * 3, [2 / 3, -1 / 3, -1 / 3]], atol=1e-6)


# -- conv --------------------------------------------------------------------------------------

CONVOLUTIONS = [
    # image, kernel, stride, padding
    ((3, 14, 14, 8), (3, 3, 8, 16), 1, 0),
    ((3, 14, 14, 8), (3, 3, 8, 16), 1, 1),
    ((3, 16, 16, 8), (3, 3, 8, 16), 1, 2),
    ((3, 16, 16, 8), (3, 3, 8, 14), 2, 1),
    ((3, 16, 16, 2), (3, 3, 2, 14), 2, 1),
    ((3, 17, 17, 8), (3, 3, 8, 16), 2, 0),
    ((3, 17, 17, 8), (3, 3, 8, 1), 1, 0),
    ((1, 14, 14, 2), (3, 3, 2, 2), 1, 0),
    ((2, 8, 8, 3), (5, 5, 3, 16), 1, 1),
    ((2, 9, 6, 3), (5, 5, 3, 4), 2, 2),
    ((2, 6, 6, 1), (1, 1, 1, 1), 1, 0),
    ((2, 6, 7, 3), (1, 1, 3, 4), 2, 0),
    ((2, 32, 32, 3), (7, 7, 3, 16), 4, 3),
    ((1, 9, 9, 2), (7, 7, 2, 3), 1, 3),
    ((1, 7, 7, 2), (7, 7, 2, 3), 1, 0),
    ((2, 8, 8, 2), (3, 3, 2, 2), 3, 1),
    ((1, 8, 9, 2), (2, 2, 2, 3), 2, 0),
]


@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_conv_is_cross_correlation_with_gradients_for_both(
    each_device, image, kernel, stride, padding
):
    draws = arrays(image, kernel)
    x, w = (tensor(array) for array in draws)
    a, b = (array.astype("float64") for array in draws)
    y = ndl.conv(x, w, padding=padding, stride=stride)
    rows, columns = ((n + 2 * padding - kernel[0]) // stride + 1 for n in image[1:3])
    assert y.shape == (image[0], rows, columns, kernel[3])
    np.testing.assert_allclose(y.numpy(), conv(a, b, stride, padding), rtol=1e-4, atol=1e-4)
    g = np.random.RandomState(1).randn(*y.shape)
    y.backward(tensor(g))
    for found, slope in zip((x.grad, w.grad), conv_slopes(a, b, g, stride, padding), strict=True):
        assert found.shape == slope.shape
        assert found.device == each_device and found.dtype == "float32"
        np.testing.assert_allclose(found.numpy(), slope, rtol=1e-4, atol=1e-4)


def test_long_sums_of_conv_are_as_exact_as_float32_allows(each_device):
    """Section 15: about 1e4 products of size 1e2 each; compared as torch and the course do."""
    a, b = (10 * array for array in arrays((3, 16, 16, 64), (3, 3, 64, 4)))
    w = tensor(b)
    y = ndl.conv(tensor(a), w, padding=1)
    exact = conv(a.astype("float64"), b.astype("float64"), 1, 1)
    terms = conv(abs(a).astype("float64"), abs(b).astype("float64"), 1, 1)
    assert np.max(abs(y.numpy() - exact) / terms) < 1e-6
    (y * y).sum().backward()
    _, slope = conv_slopes(a.astype("float64"), b, 2 * exact, 1, 1)
    np.testing.assert_allclose(w.grad.numpy(), slope, rtol=1e-4, atol=1e-4 * abs(slope).max())


def test_conv_of_a_strided_view_is_conv_of_its_copy(each_device):
    a, b = arrays((2, 4, 9, 9), (3, 3, 4, 5))
    x = tensor(a)
    seen = x.transpose((1, 2)).transpose((2, 3))  # NCHW to NHWC, a view
    y = ndl.conv(seen, tensor(b), stride=2, padding=1)
    expected = conv(a.transpose(0, 2, 3, 1).astype("float64"), b, 2, 1)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert x.grad.shape == a.shape


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_conv_has_second_derivatives(stride, padding):
    a, b = arrays((1, 5, 5, 2), (3, 3, 2, 2))
    x, w = tensor(a), tensor(b)
    ndl.conv(x, w, stride, padding).backward()
    assert x.grad.requires_grad and w.grad.requires_grad
    (w.grad * w.grad).sum().backward()  # depends on x alone

    def squares(x):
        ones = np.ones(conv(x, b, stride, padding).shape)
        return np.sum(conv_slopes(x, b, ones, stride, padding)[1] ** 2)

    (slope,) = slopes(squares, [a], 1.0)
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-4, atol=1e-4)


def test_conv_can_be_checked_directly_and_by_edits_in_place(each_device):
    """Trap 13: the course's check adds eps to `realize_cached_data().flat[j]`."""
    x, w = (tensor(array) for array in arrays((1, 4, 4, 1), (3, 3, 1, 1)))
    out = ndl.conv(x, w, padding=1)
    direct_check(out, [x, w], lambda x, w: conv(x, w, 1, 1))
    before = out.numpy().sum()
    w.realize_cached_data().flat[4] += 1.0
    after = ndl.conv(x, w, padding=1).numpy().sum()
    np.testing.assert_allclose(after - before, x.numpy().sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.nd_mode
def test_trap_17_results_and_gradients_are_ndarrays_at_once(each_device):
    x, w = (tensor(array) for array in arrays((1, 4, 4, 1), (3, 3, 1, 1)))
    y = ndl.conv(x, w)
    y.sum().backward()
    parts = ndl.split(ndl.stack([x, x], 0), 0)
    for value in (y, x.grad, w.grad, ndl.dilate(x, (1,), 1), ndl.flip(x, (1,)), parts[0]):
        assert isinstance(value.cached_data, ndl.NDArray)
        assert value.device == each_device
