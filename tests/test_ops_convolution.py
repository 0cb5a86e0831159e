"""Convolution beyond the table of operators: random options, edges, dtypes, errors."""

from __future__ import annotations

import numpy as np
import picture_references as references
import pytest
from tensors import tensor

import needle as ndl
from needle import errors, nn, ops
from needle.backend_selection import primitives
from needle.testing import check_grads

pytestmark = pytest.mark.usefixtures("each_device")


def array(*shape, seed=0):
    return np.asarray(np.random.RandomState(seed).randn(*shape))


def drawn(*shape, dtype="float64", seed=0):
    return tensor(array(*shape, seed=seed), dtype)


def require_derivatives(function, reference, a, b):
    """Of a function that is linear in a and in b: those of first order, and of second.

    All follow from its values: along v, that of ⟨f(a, b), g⟩ by a is ⟨f(v, b), g⟩.
    """
    v, u = (np.random.RandomState(1).randn(*x.shape) for x in (a, b))
    ta, tb = tensor(a), tensor(b)
    y = function(ta, tb)
    np.testing.assert_allclose(y.numpy(), reference(a, b), atol=1e-12)
    g = tensor(np.random.RandomState(2).randn(*y.shape))
    da, db = ndl.grad(y, (ta, tb), g)
    assert (da.shape, db.shape) == (a.shape, b.shape)
    along_a, along_b = (da * tensor(v)).sum(), (db * tensor(u)).sum()
    np.testing.assert_allclose(along_a.item(), (reference(v, b) * g.numpy()).sum(), atol=1e-10)
    np.testing.assert_allclose(along_b.item(), (reference(a, u) * g.numpy()).sum(), atol=1e-10)
    by_g, by_b = ndl.grad(along_a, (g, tb))
    np.testing.assert_allclose(by_g.numpy(), reference(v, b), atol=1e-12)
    both = (reference(v, u) * g.numpy()).sum()
    np.testing.assert_allclose((by_b.numpy() * u).sum(), both, atol=1e-10)
    by_g, by_a = ndl.grad(along_b, (g, ta))
    np.testing.assert_allclose(by_g.numpy(), reference(a, u), atol=1e-12)
    np.testing.assert_allclose((by_a.numpy() * v).sum(), both, atol=1e-10)


def random_options(seed):
    """Of a convolution along one or two axes, with each option per axis."""
    rng = np.random.RandomState(seed)

    def row(low, high):
        return tuple(rng.randint(low, high + 1, ndim).tolist())

    ndim = rng.randint(1, 3)
    return rng, row, {
        "stride": row(1, 4), "dilation": row(1, 3), "groups": int(rng.choice([1, 1, 2, 3])),
        "padding": tuple(zip(row(0, 4), row(0, 4), strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_conv_and_its_derivatives_over_random_options(seed):
    rng, row, options = random_options(seed)
    kernel, groups = row(1, 4), options["groups"]
    spans = zip(kernel, options["padding"], options["dilation"], strict=True)
    least = [max((k - 1) * d + 1 - sum(pad), 1) for k, pad, d in spans]
    spatial = [int(n + rng.randint(5)) for n in least]
    c, f = rng.randint(1, 3, 2)

    def reference(a, b):
        return references.conv(a, b, **options)

    x, w = array(2, *spatial, c * groups), array(*kernel, c, f * groups)
    require_derivatives(lambda a, b: ops.conv(a, b, **options), reference, x, w)


@pytest.mark.parametrize("seed", range(40))
def test_conv_transpose_and_its_derivatives_over_random_options(seed):
    rng, row, options = random_options(seed)
    options["stride"] = row(1, 3)
    kernel, groups, spatial = row(1, 4), options["groups"], row(1, 4)
    numbers = list(zip(options["stride"], options["dilation"], strict=True))
    extra = tuple(rng.randint(max(s, d)) for s, d in numbers)
    most = [  # padding that leaves a place at least
        ((n - 1) * s + d * (k - 1) + e) // 2
        for n, k, e, (s, d) in zip(spatial, kernel, extra, numbers, strict=True)
    ]
    pads = zip(options["padding"], most, strict=True)
    options["padding"] = tuple((min(a, m), min(b, m)) for (a, b), m in pads)
    options["output_padding"] = extra
    c, f = rng.randint(1, 3, 2)

    def reference(a, b):
        return references.conv_transpose(a, b, **options)

    y, w = array(2, *spatial, f * groups), array(*kernel, c, f * groups)
    require_derivatives(lambda a, b: ops.conv_transpose(a, b, **options), reference, y, w)


@pytest.mark.parametrize(
    "n, kernel, stride, extra, dilation", [(1, 2, 1, 1, 3), (2, 3, 2, 2, 3), (2, 2, 1, 3, 4)]
)
def test_output_padding_may_make_room_for_more_windows(n, kernel, stride, extra, dilation):
    """Conv has more windows on the result than a has places: they see nothing of it."""
    options = {"stride": stride, "output_padding": extra, "dilation": dilation}
    x, w = array(1, n, 2), array(kernel, 3, 2)
    require_derivatives(
        lambda a, b: ops.conv_transpose(a, b, **options),
        lambda a, b: references.conv_transpose(a, b, **options), x, w,
    )  # fmt: skip
    ones = tensor(np.ones((1, n, 2))), tensor(np.ones((kernel, 3, 2)))
    y = ops.conv_transpose(*ones, **options)
    y.sum().backward()
    assert (ones[1].grad.numpy() == n).all()


def test_a_kernel_sees_the_windows_that_y_has_places_for():
    x = drawn(2, 7, 3)
    some = ops.ConvWeight((3,), 2)(x, drawn(2, 2, 4))
    whole = ops.ConvWeight((3,))(x[:, :5], ops.dilate(drawn(2, 2, 4), (1,), 1)[:, :3])
    np.testing.assert_allclose(some.numpy(), whole.numpy(), rtol=1e-12)
    check_grads(ops.ConvWeight((3,), 2), x, drawn(2, 2, 4))
    first = ops.Conv(2, places=(2,))(x, drawn(3, 3, 4))
    np.testing.assert_array_equal(first.numpy(), ops.conv(x, drawn(3, 3, 4), 2, 0).numpy()[:, :2])


@pytest.mark.parametrize("op", [ops.ConvWeight((2,)), ops.ConvTranspose((3,))])
def test_y_has_no_more_places_than_there_are_windows(op):
    y = drawn(1, 3, 1)
    arrays = (drawn(1, 3, 1), y) if type(op) is ops.ConvWeight else (y, drawn(2, 1, 1))
    with pytest.raises(errors.ShapeError, match=r"as many places of y .* windows, \(2,\), got \(3"):
        op(*arrays)


def test_one_place_of_y_does_not_stand_for_several():
    """In a sum of products an extent of 1 would broadcast."""
    x, y = tensor(np.ones((1, 4, 1))), tensor(np.ones((1, 1, 1)))
    assert ops.ConvWeight((2,))(x, y).numpy().ravel().tolist() == [1, 1]
    with pytest.raises(errors.ShapeError, match=r"got float64\[2,4,1\] and float64\[1,1,1\]"):
        ops.ConvWeight((2,))(tensor(np.ones((2, 4, 1))), y)


# -- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2])
def test_padding_may_leave_nothing(ndim):
    y, w = drawn(2, *[3] * ndim, 3), drawn(*[2] * ndim, 5, 3)
    x = ops.conv_transpose(y, w, 1, 2)
    assert x.shape == (2, *[0] * ndim, 5)
    x.sum().backward()
    assert not y.grad.numpy().any() and not w.grad.numpy().any()


def test_an_empty_picture_may_be_padded():
    x = drawn(1, 1, 0, 4)
    layer = nn.Conv2d(1, 2, 3, padding=3, device=x.device, dtype="float64")
    y = layer(x)
    np.testing.assert_array_equal(y.numpy()[0, :, 0, 0], layer.bias.numpy())
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.weight.grad.numpy().any()


@pytest.mark.parametrize("stride", [2**40, 2**62, 2**70])
def test_a_stride_beyond_the_picture_costs_nothing(stride):
    x, w = drawn(1, 3, 2), drawn(2, 2, 1)
    y = ops.conv(x, w, stride, 0)
    y.sum().backward()
    np.testing.assert_allclose(y.numpy(), ops.conv(x, w, 1, 0).numpy()[:, :1])
    np.testing.assert_allclose(x.grad.numpy()[0, :2], w.numpy().sum(2))
    assert ops.conv_transpose(drawn(1, 1, 1), drawn(2, 1, 1), stride).shape == (1, 2, 1)
    assert ops.conv(x, drawn(1, 2, 1), 1, 0, dilation=stride).shape == (1, 3, 1)


def test_eight_spatial_axes_and_no_more():
    x, w = drawn(*[2] * 10), drawn(*[2] * 10)
    assert ops.conv(x, w, padding=0).shape == (2, *[1] * 8, 2)
    assert ops.conv_transpose(x, w).shape == (2, *[3] * 8, 2)
    one = drawn(*[1] * 11)
    for function in (ops.conv, ops.conv_transpose):
        with pytest.raises(errors.ShapeError, match="at most 8 spatial axes, got float64"):
            function(one, one)


def test_places_that_no_tap_meets_are_zero():
    x = ops.conv_transpose(tensor(np.ones((1, 2, 1))), tensor(np.ones((1, 1, 1))), 2, 1)
    assert x.numpy().tolist() == [[[0.0]]]
    x = ops.conv_transpose(tensor(np.ones((1, 2, 1))), tensor(np.ones((1, 1, 1))), 3)
    assert x.numpy().ravel().tolist() == [1, 0, 0, 1]


# -- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride, padding", [(1, 0), (2, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize(
    "of_y, of_w, expected",
    [("int32", "float64", "float64"), ("float16", "float32", "float32"),
     ("float64", "float32", "float64"), ("float16", "float16", "float16")],
)  # fmt: skip
def test_conv_transpose_has_the_dtype_of_the_products(stride, padding, of_y, of_w, expected):
    y, w = tensor(np.full((1, 2, 1), 3), of_y), tensor(np.full((1, 1, 1), 0.5), of_w)
    x = ops.conv_transpose(y, w, stride, padding)
    assert x.dtype == expected
    assert x.numpy().sum() == (0 if padding else 3)


@pytest.mark.parametrize("function", [ops.conv, ops.conv_transpose])
@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float32", "float64")])
def test_gradients_have_the_dtypes_of_the_inputs(function, dtypes):
    a, b = drawn(1, 4, 2, dtype=dtypes[0]), drawn(3, 2, 2, dtype=dtypes[1])
    y = function(a, b, 1, 1)
    y.sum().backward()
    assert y.dtype == "float64"
    assert (a.grad.dtype, b.grad.dtype) == dtypes
    x, dy = drawn(1, 4, 2, dtype=dtypes[0]), drawn(1, 2, 2, dtype=dtypes[1])
    ops.ConvWeight((3,))(x, dy).sum().backward()
    assert (x.grad.dtype, dy.grad.dtype) == dtypes


def test_a_layer_of_float32_keeps_its_gradients_so_on_pictures_of_float64():
    x = drawn(1, 2, 4, 4)
    layer = nn.Conv(2, 3, 3, device=x.device, dtype="float32")
    layer(x).sum().backward()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == "float32"


# -- errors --------------------------------------------------------------------------------------


def test_conv_transpose_takes_tensors():
    with pytest.raises(
        errors.DTypeError, match=r"conv_transpose: expected Tensors, got .*1\.0.* Wrap it"
    ):
        ops.conv_transpose([[[1.0]]], drawn(2, 1, 1))


def test_conv_transpose_takes_padding_that_leaves_a_result():
    with pytest.raises(errors.ShapeError, match=r"padding that leaves a result, .* leaves \(-2,\)"):
        ops.conv_transpose(drawn(2, 3, 3), drawn(2, 5, 3), padding=3)


def test_conv_transpose_takes_no_picture_without_places():
    with pytest.raises(
        errors.ShapeError, match=r"1 or more of each spatial axis, got float64\[2,0"
    ):
        ops.conv_transpose(drawn(2, 0, 3), drawn(2, 5, 3))


# -- the primitives ------------------------------------------------------------------------------


def test_parts_lie_at_their_places_and_zeros_elsewhere():
    a, b = (tensor(values).realize_cached_data() for values in ([1.0, 2.0], [3.0, 4.0]))
    keys = [(slice(0, None, 2),), (slice(1, None, 2),)]
    found = primitives.put_parts((4,), keys, [a, b], a)
    assert primitives.to_numpy(found).tolist() == [1, 3, 2, 4]
    found = primitives.put_parts((4,), keys[:1], [a], a)
    assert primitives.to_numpy(found).tolist() == [1, 0, 2, 0]


def test_primitives_refuse_negative_extents():
    x = tensor(np.ones(2)).realize_cached_data()
    with pytest.raises(ValueError, match=r"extents of 0 or more, got \(-1,\)|negative dimensions"):
        primitives.put_parts((-1,), [(slice(0, 0),)], [x], x)
    with pytest.raises(ValueError, match=r"extents of 0 or more, got \(-1,\)|negative dimensions"):
        primitives.put((-1,), (slice(0, 0),), x)
    with pytest.raises(ValueError, match=r"expected windows that fit along axis 0 of|negative dim"):
        primitives.windows(x, [0], [5], [1], [1])
