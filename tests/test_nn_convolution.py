"""Convolutional and pooling layers: draws, options, messages, and what they look like."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, ShapeError
from needle.testing import check_grads


def drawn(*shape, dtype="float64"):
    return tensor(np.random.RandomState(0).randn(*shape), dtype=dtype)


# -- weights -----------------------------------------------------------------------------------


def test_the_contracts_conv_draws_its_weight_then_its_bias():
    np.random.seed(3)
    layer = nn.Conv(2, 5, 3)
    np.random.seed(3)
    bound = np.sqrt(6 / 18)
    weight = np.random.rand(3, 3, 2, 5) * 2 * bound - bound
    bias = (np.random.rand(5) * 2 - 1) / np.sqrt(18)
    np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.bias.numpy(), bias, rtol=1e-5, atol=1e-7)


def test_the_contracts_conv_takes_the_first_of_a_tuple():
    layer = nn.Conv(2, 3, (3, 5), (2, 7))
    assert layer.weight.shape == (3, 3, 2, 3)
    assert layer(drawn(1, 2, 8, 8, dtype="float32")).shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("layer", "weight", "fan_in"),
    [
        (lambda: nn.Conv1d(4, 6, 3), (3, 4, 6), 12),
        (lambda: nn.Conv2d(4, 6, (3, 2), groups=2), (3, 2, 2, 6), 12),
        (lambda: nn.ConvTranspose1d(4, 6, 3), (3, 6, 4), 18),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (3, 3, 3, 4), 27),
    ],
)
def test_weights_are_drawn_first_and_within_their_bounds(layer, weight, fan_in):
    np.random.seed(1)
    made = layer()
    np.random.seed(1)
    bound = 1 / np.sqrt(fan_in)
    first = np.random.rand(*weight) * 2 * bound - bound
    np.testing.assert_allclose(made.weight.numpy(), first, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        made.bias.numpy(), np.random.rand(6) * 2 * bound - bound, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (nn.Conv2d, "stride padding dilation groups bias padding_mode device dtype"),
        (nn.ConvTranspose2d, "stride padding output_padding groups bias dilation device dtype"),
    ],
)
def test_options_have_names_in_pytorchs_order(kind, names):
    found = [*signature(kind).parameters]
    assert found == ["in_channels", "out_channels", "kernel_size", *names.split()]


def test_options_of_a_transpose_may_be_given_by_place():
    layer = nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2)
    shown = "ConvTranspose2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), "
    shown += "dilation=(2, 2), groups=2, output_padding=(1, 1), bias=False)"
    assert repr(layer) == shown


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (nn.Conv2d, {"padding_mode": "wrap"}, "Conv2d: expected padding_mode of"),
        (nn.ConvTranspose2d, {"output_padding": 1}, "ConvTranspose2d: expected output_padding"),
    ],
)
def test_refused_options_leave_the_random_stream_alone(kind, options, message):
    before = np.random.get_state()[2]
    with pytest.raises(OptionError, match=message):
        kind(4, 6, 3, **options)
    assert np.random.get_state()[2] == before


@pytest.mark.parametrize(
    "kind", [nn.Conv, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d]
)
def test_without_bias_there_is_no_second_parameter(kind):
    layer = kind(2, 3, 3, bias=False, dtype="float64")
    assert layer.bias is None
    assert len(layer.parameters()) == 1
    assert layer.weight.dtype == np.float64


# -- what they compute -------------------------------------------------------------------------


def test_a_kernel_of_one_is_a_linear_layer_on_each_place():
    layer, x = nn.Conv2d(3, 4, 1, dtype="float64"), drawn(2, 3, 4, 5)
    expected = np.einsum("bchw,cf->bfhw", x.numpy(), layer.weight.numpy()[0, 0])
    y = layer(x).numpy()
    np.testing.assert_allclose(y, expected + layer.bias.numpy()[:, None, None], rtol=1e-12)


def test_a_transposed_convolution_is_the_gradient_of_the_convolution():
    options = {"stride": 2, "padding": 1, "groups": 2, "dtype": "float64"}
    forth, back = nn.Conv2d(4, 6, 3, bias=False, **options), nn.ConvTranspose2d(
        6, 4, 3, bias=False, output_padding=(1, 0), **options
    )  # fmt: skip
    back.weight = forth.weight
    x = drawn(2, 4, 6, 5)
    y = forth(x)
    y.backward(y.detach())
    np.testing.assert_allclose(back(y).numpy(), x.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_depthwise_channels_do_not_mix():
    layer, x = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), drawn(1, 3, 5, 5)
    whole = layer(x.astype("float32")).numpy()
    x = x.numpy()
    x[:, 1] = 0
    part = layer(tensor(x, dtype="float32")).numpy()
    np.testing.assert_array_equal(part[:, [0, 2]], whole[:, [0, 2]])
    assert not part[:, 1].any()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_pictures_are_continued_by_their_own_elements(mode):
    layer = nn.Conv1d(1, 1, 1, padding=2, padding_mode=mode, bias=False)
    layer.weight = nn.Parameter(np.ones((1, 1, 1)))
    x = tensor(np.arange(4.0).reshape(1, 1, 4), dtype="float32")
    numpys = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    expected = np.pad(np.arange(4.0), 2, mode=numpys)
    np.testing.assert_array_equal(layer(x).numpy().reshape(-1), expected)


PAIRS = ((3, 0), (1, 2))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_each_axis_may_be_padded_otherwise_before_and_behind(mode):
    layer = nn.Conv2d(2, 3, 3, 2, PAIRS, padding_mode=mode, dtype="float64")
    bare = nn.Conv2d(2, 3, 3, 2, dtype="float64")
    bare.load_state_dict(layer.state_dict())
    x = drawn(2, 2, 6, 5)
    numpys = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    padded = tensor(np.pad(x.numpy(), ((0, 0), (0, 0), *PAIRS), mode=numpys[mode]))
    np.testing.assert_allclose(layer(x).numpy(), bare(padded).numpy(), rtol=1e-12, atol=1e-12)


def test_a_causal_convolution_sees_nothing_of_what_follows():
    layer = nn.Conv1d(2, 3, 3, padding=((4, 0),), dilation=2)
    x = drawn(1, 2, 8, dtype="float32").numpy()
    before = layer(tensor(x)).numpy()
    x[:, :, 5:] = 9
    after = layer(tensor(x)).numpy()
    assert before.shape == (1, 3, 8)
    np.testing.assert_array_equal(before[:, :, :5], after[:, :, :5])
    assert not np.allclose(before[:, :, 5:], after[:, :, 5:])


def test_a_transposed_convolution_takes_off_otherwise_before_and_behind():
    layer, whole = (nn.ConvTranspose2d(2, 3, 4, 2, p, dtype="float64") for p in (PAIRS, 0))
    whole.load_state_dict(layer.state_dict())
    x = drawn(2, 2, 4, 4)
    expected = whole(x).numpy()[:, :, 3:, 1:-2]
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding="valid", padding_mode="circular", dtype="float64"),
        nn.Conv2d(2, 2, (2, 3), padding=1, groups=2, padding_mode="reflect", dtype="float64"),
        nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2, dtype="float64"),
    ],
    ids=repr,
)
def test_derivatives_are_right_to_the_second_order(layer):
    check_grads(lambda x: layer(x) * layer(x), drawn(2, 2, 5, 6))


def test_layers_learn():
    """A convolution finds the kernel that made its targets."""
    np.random.seed(0)
    truth, layer = (nn.Conv2d(2, 3, 3, padding="same") for _ in range(2))
    x = drawn(8, 2, 6, 6, dtype="float32")
    target = truth(x).detach()
    optimizer = ndl.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        loss = nn.MSELoss()(layer(x), target)
        optimizer.reset_grad()
        loss.backward()
        optimizer.step()
    assert loss.numpy() < 1e-3
    np.testing.assert_allclose(layer.weight.numpy(), truth.weight.numpy(), atol=0.05)


def test_a_state_dict_carries_the_weights_over():
    one, other = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    other.load_state_dict(one.state_dict())
    x = drawn(1, 2, 5, 5, dtype="float32")
    np.testing.assert_array_equal(one(x).numpy(), other(x).numpy())


def test_narrow_floats_stay_narrow():
    x = drawn(1, 2, 6, 6, dtype="float16")
    network = nn.Sequential(nn.Conv2d(2, 3, 3, dtype="float16"), nn.AvgPool2d(2), nn.MaxPool2d(2))
    assert network(x).dtype == np.float16


def test_global_pooling_takes_any_number_of_spatial_axes():
    for shape in [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)]:
        x = drawn(*shape)
        axes = tuple(range(2, len(shape)))
        np.testing.assert_allclose(nn.GlobalAvgPool()(x).numpy(), x.numpy().mean(axes))
        np.testing.assert_array_equal(nn.GlobalMaxPool()(x).numpy(), x.numpy().max(axes))
        assert nn.GlobalMaxPool(keepdims=True)(x).shape == (2, 3, *[1] * len(axes))
        assert nn.GlobalAvgPool(keepdims=True)(x).shape == (2, 3, *[1] * len(axes))


def test_an_empty_batch_stays_empty():
    x = tensor(np.zeros((0, 2, 6, 6)), dtype="float32")
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(3, 2, 2), nn.AdaptiveAvgPool2d(2)
    )
    assert network(x).shape == (0, 2, 2, 2)


# -- how they are shown ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (nn.Conv(3, 8, 3), "Conv(3, 8, kernel_size=3, stride=1, bias=True)"),
        (nn.Conv2d(3, 8, 3), "Conv2d(3, 8, kernel_size=(3, 3))"),
        (
            nn.Conv2d(4, 8, (3, 1), 2, "valid", groups=2, bias=False, padding_mode="reflect"),
            "Conv2d(4, 8, kernel_size=(3, 1), stride=(2, 2), padding='valid', groups=2, "
            "padding_mode='reflect', bias=False)",
        ),
        (
            nn.ConvTranspose1d(4, 8, 3, 2, 1, 1),
            "ConvTranspose1d(4, 8, kernel_size=(3,), stride=(2,), padding=(1,), "
            "output_padding=(1,))",
        ),
        (
            nn.Conv1d(4, 8, 3, padding=[[2, 0]]),
            "Conv1d(4, 8, kernel_size=(3,), padding=((2, 0),))",
        ),
        (
            nn.Conv2d(4, 8, 3, padding=[(1, 1), (2, 2)]),
            "Conv2d(4, 8, kernel_size=(3, 3), padding=(1, 2))",
        ),
        (nn.MaxPool2d(2), "MaxPool2d((2, 2), stride=(2, 2), padding=(0, 0))"),
        (
            nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True),
            "MaxPool1d((3,), stride=(2,), padding=(1,), dilation=(2,), ceil_mode=True)",
        ),
        (
            nn.AvgPool2d(2, None, 1, True, False, 3),
            "AvgPool2d((2, 2), stride=(2, 2), padding=(1, 1), ceil_mode=True, "
            "count_include_pad=False, divisor_override=3)",
        ),
        (nn.AdaptiveAvgPool2d((None, 3)), "AdaptiveAvgPool2d((None, 3))"),
        (nn.GlobalAvgPool(), "GlobalAvgPool()"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_layer_shows_its_options(layer, shown):
    assert repr(layer) == shown


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv(0, 3, 3), "Conv: expected in_channels of 1 or more, got 0"),
        (lambda: nn.Conv(3, 3, 2.5), "Conv: expected kernel_size of 1 or more, got 2.5"),
        (lambda: nn.Conv(3, 3, ()), r"Conv: expected kernel_size of 1 or more, got \(\)"),
        (lambda: nn.Conv2d(3, 0, 3), "Conv2d: expected out_channels of 1 or more, got 0"),
        (lambda: nn.Conv2d(3, 4, 3, groups=0), "Conv2d: expected groups of 1 or more, got 0"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            "Conv2d: expected channels that 2 groups divide, got in_channels=3 and out_channels=4",
        ),
        (lambda: nn.Conv2d(3, 4, 3, 0), "Conv2d: expected stride of 1 or more, .* got 0"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "Conv2d: expected kernel_size .* 2 of them"),
        (lambda: nn.Conv1d(3, 4, (3, 3)), "Conv1d: expected kernel_size .*, an int, got"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "Conv2d: expected padding of 0 or more, .* -1"),
        (
            lambda: nn.Conv1d(3, 4, 3, padding=(2, 0)),
            r"Conv1d: expected padding .*, an int or \[\(before, behind\)\], got \(2, 0\)",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding=((2, 0), 1)),
            r"Conv2d: expected padding .* 2 pairs \[\(before, behind\), ...\], got \(\(2, 0\), 1\)",
        ),
        (lambda: nn.Conv2d(3, 4, 3, padding=((2, 0), (1, -1))), "Conv2d: expected padding of 0 or"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, padding="same"), "an int or .* got 'same'"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "padding 'same' or 'valid', got 'full'"),
        (lambda: nn.Conv2d(3, 4, 3, 2, "same"), "stride 1 with padding 'same', got"),
        (lambda: nn.Conv2d(3, 4, 3, dilation=0), "Conv2d: expected dilation of 1 or more"),
        (
            lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"),
            "padding_mode of zeros, reflect, replicate, circular, got 'mirror'",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding_mode=["zeros"]),
            r"padding_mode of zeros, reflect, replicate, circular, got \['zeros'\]",
        ),
        (
            lambda: nn.ConvTranspose2d(3, 4, 3, 2, output_padding=2),
            "ConvTranspose2d: expected output_padding below stride or dilation, got 2 with",
        ),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: expected kernel_size of 1 or more"),
        (lambda: nn.AvgPool1d(2, 0), "AvgPool1d: expected stride of 1 or more"),
        (
            lambda: nn.MaxPool2d(3, padding=2),
            "MaxPool2d: expected padding of at most half the kernel, got padding 2 for a kernel "
            "of 3",
        ),
        (lambda: nn.MaxPool2d(3, 2, 2, dilation=2), "MaxPool2d: .* padding 2 for a kernel of 3"),
        (
            lambda: nn.AvgPool2d(2, divisor_override=0),
            "AvgPool2d: expected divisor_override of 1 or more, got 0",
        ),
        (lambda: nn.AdaptiveMaxPool2d((2, 0)), "AdaptiveMaxPool2d: expected output_size of 1 or"),
        (lambda: nn.AdaptiveAvgPool1d((2, 2)), "AdaptiveAvgPool1d: expected output_size .* an int"),
    ],
)
def test_option_outside_its_values_is_refused_at_construction(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv(3, 4, 3), (2, 8, 8, 3), r"Conv: expected x \[B, 3, H, W\], got float64\[2,8,8,3"),
        (nn.Conv2d(3, 4, 3), (3, 8, 8), r"Conv2d: expected x \[B, 3, H, W\], got float64\[3,8,8"),
        (nn.Conv1d(3, 4, 3), (2, 3, 8, 8), r"Conv1d: expected x \[B, 3, L\], got float64"),
        (nn.Conv2d(3, 4, 5), (2, 3, 4, 8), r"kernel .* fits into the padded picture, got"),
        (nn.ConvTranspose2d(3, 4, 3), (2, 4, 8, 8), r"ConvTranspose2d: expected x \[B, 3, H, W\]"),
        (
            nn.Conv2d(3, 4, 3, padding=4, padding_mode="reflect"),
            (2, 3, 4, 8),
            "axes long enough for reflect padding by \\(4, 4\\), got a length of 4",
        ),
        (nn.MaxPool2d(2), (2, 3, 4), r"MaxPool2d: expected x \[B, C, H, W\], got float64\[2,3,4\]"),
        (nn.AvgPool2d(5), (2, 3, 4, 8), "fits into the padded picture, got one that spans 5 for 4"),
        (
            nn.MaxPool2d(9),
            (1, 3, 8, 8),
            r"^MaxPool2d: expected a kernel that fits into the padded picture, got one that spans "
            r"9 for 8 padded by 0\. x is float64\[1,3,8,8\]\.$",
        ),
        (
            nn.AdaptiveAvgPool2d(2),
            (1, 3, 0, 8),
            r"^AdaptiveAvgPool2d: expected pictures of 1 place or more, .* x is float64\[1,3,0,8\]",
        ),
        (nn.AdaptiveAvgPool2d(1), (2, 3, 4), r"AdaptiveAvgPool2d: expected x \[B, C, H, W\]"),
        (nn.GlobalAvgPool(), (2, 3), r"GlobalAvgPool: expected x \[B, C, 1 or more, ...\]"),
        (nn.GlobalMaxPool(), (2, 3, 0), r"GlobalMaxPool: expected x \[B, C, 1 or more, ...\]"),
    ],
    ids=lambda value: None if isinstance(value, (str, tuple)) else type(value).__name__,
)
def test_layer_names_the_shape_it_expects(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer(tensor(np.zeros(shape)))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.GlobalAvgPool()])
def test_layer_takes_tensors_only(layer):
    with pytest.raises(DTypeError, match=r"expected Tensors, got .* Wrap it first"):
        layer(np.zeros((2, 3, 4, 4)))


def test_the_courses_file_has_the_same_layers():
    from needle.nn import nn_conv

    assert nn_conv.Conv is nn.Conv
