"""Layers between convolutions: resolution, borders, channels, kinks; draws, dtypes, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn, ops
from needle.backend_selection import BACKEND
from needle.errors import DTypeError, OptionError, ShapeError
from needle.testing import assert_close, check_grads


def drawn(*shape, dtype="float64", seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape), dtype=dtype)


PICTURES = {
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(size=(5, 3), mode="bilinear"),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "ZeroPad2d": lambda: nn.ZeroPad2d((1, 2, -1, 0)),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d(2),
    "ReplicationPad2d": lambda: nn.ReplicationPad2d((0, 5, 1, 0)),
    "CircularPad2d": lambda: nn.CircularPad2d(1),
    "PReLU": lambda: nn.PReLU(4),
    "LeakyReLU": lambda: nn.LeakyReLU(),
    "ELU": lambda: nn.ELU(),
    "ReLU6": lambda: nn.ReLU6(),
    "Hardswish": lambda: nn.Hardswish(),
    "Hardsigmoid": lambda: nn.Hardsigmoid(),
    "Flatten": lambda: nn.Flatten(start_dim=1, end_dim=2),
    "Unflatten": lambda: nn.Unflatten(1, (2, -1)),
    "Dropout2d": lambda: nn.Dropout2d(0.5),
}
every_layer = pytest.mark.parametrize("make", PICTURES.values(), ids=list(PICTURES))


# -- all of them -------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_layer_keeps_the_dtype(make, dtype):
    layer, x = make(), drawn(2, 4, 4, 6, dtype=dtype)
    if isinstance(layer, nn.PReLU):
        layer = nn.PReLU(4, dtype=dtype)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.dtype == x.grad.dtype


@every_layer
def test_layer_of_no_pictures(make):
    x = tensor(np.zeros((0, 4, 4, 6)), dtype="float32")
    y = make()(x)
    y.sum().backward()
    assert y.shape[0] == 0 and x.grad.shape == x.shape


@every_layer
def test_layer_refuses_arrays(make):
    with pytest.raises(DTypeError, match=r"expected Tensors, got .* Wrap it first: ndl.Tensor"):
        make()(np.ones((2, 4, 4, 6)))


@pytest.mark.skipif(BACKEND == "np", reason="asks Needle's arrays for their strides")
@pytest.mark.parametrize("name", ["Upsample", "bilinear", "PixelShuffle", "ZeroPad2d", "Dropout2d"])
def test_pictures_with_channels_last_in_memory_stay_so(name):
    x = drawn(2, 4, 6, 4).permute((0, 3, 1, 2))
    y = PICTURES[name]()(x)
    assert y.cached_data.strides[1] == 1 or y.shape[1] == 1


# -- kinks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0, 3.0, -1.0])
def test_leaky_relu_of_infinity_is_infinite_on_the_right(slope):
    x = tensor([-np.inf, np.inf, np.nan])
    low, high, nan = nn.LeakyReLU(slope)(x).numpy()
    assert low == (0.0 if slope == 0 else -np.inf * slope)
    assert high == np.inf and np.isnan(nan)


def test_activations_far_out_are_finite_and_warn_of_nothing():
    x = tensor([-1e4, -1.0, 0.0, 1e4], dtype="float32")
    for layer in (nn.ELU(), nn.LeakyReLU(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")):
        y = layer(x)
        (slope,) = ndl.grad([y], [x], [ndl.ones_like(y)])
        assert np.isfinite(y.numpy()).all()
        assert np.isfinite(slope.numpy()).all()


@pytest.mark.parametrize("function", [ops.silu, ops.gelu, lambda x: ops.gelu(x, "tanh"), ops.elu])
def test_the_gradient_of_a_smooth_activation_is_one_op(function):
    x = drawn(3)
    (slope,) = ndl.grad([function(x)], [x], [ndl.ones_like(x)])
    assert slope.op.name.endswith("_gradient")
    assert slope.inputs[1] is x


def test_third_derivatives_of_smooth_activations_agree_with_finite_differences():
    def second(function):
        def of(x):
            (once,) = ndl.grad([function(x)], [x], [ndl.ones_like(x)])
            (twice,) = ndl.grad([once], [x], [ndl.ones_like(x)])
            return twice

        return of

    for function in (ops.silu, ops.gelu, lambda x: ops.gelu(x, "tanh")):
        check_grads(second(function), drawn(2, 3), order=1)


def test_prelu_learns_a_slope_for_each_channel():
    layer, x = nn.PReLU(2, dtype="float64"), tensor([[-1.0, -2.0], [3.0, -4.0]])
    assert layer.num_parameters() == 2
    layer(x).sum().backward()
    assert_close(layer.weight.grad, [-1.0, -6.0])
    assert_close(x.grad, [[0.25, 0.25], [1.0, 0.25]])
    with pytest.raises(ShapeError, match=r"PReLU: expected x \[B, 2, ...\], got float64\[2,3\]"):
        layer(drawn(2, 3))


# -- Dropout of channels -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "spatial"), [(nn.Dropout1d(0.3), (5,)), (nn.Dropout2d(0.3), (4, 5))]
)
def test_dropout_of_channels_draws_one_number_for_each(layer, spatial):
    x = drawn(6, 7, *spatial)
    np.random.seed(3)
    y = layer(x)
    np.random.seed(3)
    mask = (np.random.rand(6, 7) <= 0.7) / 0.7
    assert_close(y, x.numpy() * mask.reshape(6, 7, *[1] * len(spatial)))
    assert layer.eval()(x) is x


def test_dropout_of_channels_at_its_ends():
    x = drawn(2, 3, 4, 5)
    np.random.seed(0)
    assert nn.Dropout2d(0)(x) is x
    assert np.random.rand() == np.random.RandomState(0).rand()  # nothing was drawn
    assert not nn.Dropout2d(1.0)(x).numpy().any()


# -- resolution --------------------------------------------------------------------------------


def test_nearest_by_a_whole_factor_repeats_each_element():
    x = drawn(2, 3, 4, 5)
    expected = x.numpy().repeat(2, axis=2).repeat(3, axis=3)
    y = nn.Upsample(scale_factor=(2, 3))(x)
    np.testing.assert_array_equal(y.numpy(), expected)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(x.shape, 6.0))


def test_lines_touch_only_their_two_ends():
    x = tensor([[[0.0, np.nan, 2.0, 3.0, 4.0]]])
    y = nn.Upsample(size=9, mode="linear", align_corners=True)(x).numpy()[0, 0]
    np.testing.assert_array_equal(np.isnan(y), [True] * 4 + [False] * 5)
    np.testing.assert_array_equal(y[4:], [2.0, 2.5, 3.0, 3.5, 4.0])


def test_resampling_of_integers_by_places_keeps_them():
    x = ndl.Tensor(np.arange(6).reshape(1, 1, 6), dtype="int64", requires_grad=False)
    y = nn.Upsample(4)(x)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y.numpy()[0, 0], [0, 1, 3, 4])


def test_pixel_unshuffle_undoes_pixel_shuffle():
    x = drawn(2, 8, 3, 4)
    np.testing.assert_array_equal(nn.PixelUnshuffle(2)(nn.PixelShuffle(2)(x)).numpy(), x.numpy())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Upsample(), OptionError, "Upsample: expected size or scale_factor, got None"),
        (lambda: nn.Upsample(2, 2), OptionError, "expected size or scale_factor, got 2 and 2"),
        (lambda: nn.Upsample(0), OptionError, "interpolate: expected size of 1 or more"),
        (lambda: nn.Upsample((2, 3, 4)), OptionError, r"size of 1 or more.*got \(2, 3, 4\)"),
        (lambda: nn.Upsample(scale_factor=-1), OptionError, "scale_factor above 0.*got -1"),
        (lambda: nn.Upsample(scale_factor=(2, "3")), OptionError, "scale_factor above 0"),
        (lambda: nn.Upsample(scale_factor=0.1), ShapeError, r"1 place or more.*\(0, 0\)"),
        (lambda: nn.Upsample(2, mode="linear"), OptionError,
         "mode of nearest, nearest-exact, bilinear for 2 spatial axes, got 'linear'"),
        (lambda: nn.Upsample(2, align_corners=True), OptionError,
         "align_corners=False with mode 'nearest'"),
        (lambda: nn.PixelShuffle(3), ShapeError, "channels that 9 divides, got float64"),
        (lambda: nn.PixelUnshuffle(3), ShapeError, "height and width that 3 divides, got float64"),
        (lambda: nn.PixelShuffle(0), OptionError, "upscale_factor of 1 or more, got 0"),
        (lambda: nn.ZeroPad2d((1, 2)), OptionError, "ZeroPad2d: expected padding of an int or 4"),
        (lambda: nn.ZeroPad2d(1.5), OptionError, "an int or 4 of them, got 1.5"),
        (lambda: nn.ZeroPad2d((-3, -4, 0, 0)), ShapeError, "crop no more than there is"),
        (lambda: nn.ReflectionPad2d(4), ShapeError,
         r"ReflectionPad2d: expected axes long enough for reflect padding by \(4, 4\), got a "
         "length of 4"),
        (lambda: nn.CircularPad2d(5), ShapeError, "CircularPad2d: expected axes long enough"),
        (lambda: nn.ZeroPad1d(1), ShapeError, r"ZeroPad1d: expected x \[B, C, L\], got float64"),
        (lambda: nn.Dropout2d(1.5), OptionError, r"Dropout2d: expected p in \[0, 1\], got 1.5"),
        (lambda: nn.Dropout1d(), ShapeError, r"Dropout1d: expected x \[B, C, L\]"),
        (lambda: nn.LeakyReLU("steep"), OptionError, "slope to be a finite number, got 'steep'"),
        (lambda: nn.ELU(None), OptionError, "alpha to be a finite number, got None"),
        (lambda: nn.Hardtanh(2, 1), OptionError, "low below high, got 2 and 1"),
        (lambda: nn.PReLU(0), OptionError, "num_parameters of 1 or more, got 0"),
        (lambda: nn.Flatten(start_dim=2, end_dim=1), ShapeError,
         r"Flatten: expected x with axes 2..1, got float64"),
        (lambda: nn.Flatten(end_dim=4), ShapeError, r"with axes 1..4, got float64\[2,4,4,5\]"),
        (lambda: nn.Flatten(start_dim="1"), OptionError,
         "Flatten: expected start_dim to be an int, got '1'"),
        (lambda: nn.Unflatten(1, (3, -1)), ShapeError, r"as many places as \(3, -1\) has"),
        (lambda: nn.Unflatten(4, (3, -1)), ShapeError, "Unflatten: expected x with axis 4"),
        (lambda: nn.Unflatten(1, (-1, -1)), OptionError, "at most one -1"),
        (lambda: nn.SmoothL1Loss(-1), OptionError, "SmoothL1Loss: expected beta of 0 or more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()(drawn(2, 4, 4, 5))
    assert "\n" not in str(caught.value)


# -- axes, losses, how they are shown ----------------------------------------------------------


def test_flatten_without_options_keeps_the_batch():
    shapes = [(2, 3, 4), (2, 3), (2,), (0, 3, 2)]
    flat = [nn.Flatten()(drawn(*shape)).shape for shape in shapes]
    assert flat == [(2, 12), (2, 3), (2, 1), (0, 6)]


def test_smooth_l1_is_huber_by_beta():
    x, y = drawn(3, 4), drawn(3, 4, seed=1)
    assert_close(nn.SmoothL1Loss(0.5)(x, y), nn.HuberLoss(0.5)(x, y).numpy() / 0.5)
    assert_close(nn.SmoothL1Loss(0)(x, y), nn.L1Loss()(x, y).numpy())


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (nn.Upsample(scale_factor=2), "Upsample(scale_factor=2, mode='nearest')"),
        (nn.Upsample((3, 4), mode="bilinear", align_corners=True),
         "Upsample(size=(3, 4), mode='bilinear', align_corners=True)"),
        (nn.PixelShuffle(2), "PixelShuffle(upscale_factor=2)"),
        (nn.ReflectionPad2d(1), "ReflectionPad2d((1, 1, 1, 1))"),
        (nn.ConstantPad1d((1, -1), 2), "ConstantPad1d((1, -1), value=2)"),
        (nn.Dropout2d(0.2), "Dropout2d(p=0.2)"),
        (nn.Flatten(), "Flatten()"),
        (nn.Flatten(start_dim=0, end_dim=1), "Flatten(start_dim=0, end_dim=1)"),
        (nn.Unflatten(1, (2, -1)), "Unflatten(dim=1, unflattened_size=(2, -1))"),
        (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"),
        (nn.PReLU(3), "PReLU(num_parameters=3)"),
        (nn.SmoothL1Loss(), "SmoothL1Loss(beta=1.0, reduction='mean')"),
    ],
)  # fmt: skip
def test_layers_show_their_options(layer, shown):
    assert repr(layer) == shown
