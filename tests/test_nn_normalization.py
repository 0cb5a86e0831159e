"""Normalising layers: what they compute, what they keep, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, ShapeError
from needle.testing import check_grads

RANDOM = np.random.RandomState(0)


def drawn(*shape, dtype="float64"):
    return tensor(RANDOM.randn(*shape), dtype=dtype)


LAYERS = [
    (lambda dtype: nn.BatchNorm1d(4, dtype=dtype), (5, 4)),
    (lambda dtype: nn.BatchNorm1d(4, dtype=dtype), (3, 4, 5)),
    (lambda dtype: nn.BatchNorm2d(4, dtype=dtype), (2, 4, 3, 2)),
    (lambda dtype: nn.GroupNorm(2, 4, dtype=dtype), (3, 4, 5)),
    (lambda dtype: nn.InstanceNorm1d(4, affine=True, dtype=dtype), (3, 4, 5)),
    (lambda dtype: nn.InstanceNorm2d(4, affine=True, dtype=dtype), (2, 4, 3, 2)),
    (lambda dtype: nn.LayerNorm((4, 3), dtype=dtype), (2, 4, 3)),
    (lambda dtype: nn.LayerNorm1d(4, dtype=dtype), (2, 3, 4)),
    (lambda dtype: nn.RMSNorm(4, dtype=dtype), (2, 3, 4)),
]
every_layer = pytest.mark.parametrize(
    ("make", "shape"), LAYERS, ids=[f"{type(m('float32')).__name__}{s}" for m, s in LAYERS]
)


# -- what they compute -----------------------------------------------------------------------------


@every_layer
def test_gradients_of_input_and_weights_to_second_order(make, shape):
    layer, x = make("float64"), drawn(*shape)
    weights = [drawn(*p.shape) for p in layer.parameters()]

    def function(x, *weights):
        layer.weight = weights[0]
        if len(weights) > 1:
            layer.bias = weights[1]
        return layer(x)

    check_grads(function, x, *weights)


@every_layer
def test_float32_agrees_with_float64(make, shape):
    x = drawn(*shape) + 3
    exact, y = make("float64")(x), make("float32")(x.astype("float32"))
    assert y.dtype == "float32"
    np.testing.assert_allclose(y.numpy(), exact.numpy(), rtol=1e-5, atol=1e-5)


@every_layer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32_and_comes_back_as_it_was(make, shape, dtype):
    x = tensor(RANDOM.choice([-300.0, 300.0], shape), dtype=dtype)
    layer = make(dtype)
    y = layer(x)
    assert y.dtype == x.dtype
    exact = make("float32")(x.astype("float32"))
    assert abs(y.numpy().astype(float) - exact.numpy()).max() < 0.02
    (y * y).sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == x.dtype
    assert np.isfinite(layer.weight.grad.numpy().astype(float)).all()


@every_layer
def test_lazy_gives_what_eager_gives(make, shape):
    x = drawn(*shape)
    eager, lazy = make("float64"), make("float64")
    eager(x).sum().backward()
    expected = [eager(x).numpy(), eager.weight.grad.numpy()]
    with ndl.lazy():
        y = lazy(x)
        y.sum().backward()
        found = [y.numpy(), lazy.weight.grad.numpy()]
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


@every_layer
def test_checkpoint_gives_the_same_gradient_and_counts_the_batch_once(make, shape):
    x, plain, again = drawn(*shape), make("float64"), make("float64")
    plain(x).sum().backward()
    ndl.checkpoint(again, x).sum().backward()
    for name, value in plain.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy())
    np.testing.assert_allclose(again.weight.grad.numpy(), plain.weight.grad.numpy(), rtol=1e-12)


def test_batch_norm_2d_is_batch_norm_1d_of_all_places():
    x, images, rows = drawn(2, 3, 4, 5), nn.BatchNorm2d(3), nn.BatchNorm1d(3)
    flat = x.permute((0, 2, 3, 1)).reshape((40, 3))
    expected = rows(flat).reshape((2, 4, 5, 3)).permute((0, 3, 1, 2))
    np.testing.assert_allclose(images(x).numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)
    for name in ("running_mean", "running_var"):
        found, wanted = getattr(images, name), getattr(rows, name)
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6)


@pytest.mark.nd_mode("looks at strides")
def test_channels_last_memory_stays_so():
    x = drawn(2, 4, 5, 3).permute((0, 3, 1, 2))
    for layer in (nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.BatchNorm2d(3).eval()):
        assert layer(x).realize_cached_data().strides == x.realize_cached_data().strides


@pytest.mark.nd_mode("looks at strides")
def test_gradient_of_channels_last_memory_lies_so_too():
    x = drawn(2, 4, 5, 3).permute((0, 3, 1, 2))
    y = nn.BatchNorm2d(3, dtype="float64")(x)
    (dx,) = ndl.grad([y], [x], [y.detach()])
    assert dx.realize_cached_data().strides == x.realize_cached_data().strides


def test_group_norm_of_one_group_is_a_layer_norm_without_weights():
    x = drawn(2, 4, 3)
    expected = nn.LayerNorm((4, 3), elementwise_affine=False)(x)
    np.testing.assert_allclose(nn.GroupNorm(1, 4)(x).numpy(), expected.numpy(), rtol=1e-6)


def test_group_norm_of_single_channels_is_an_instance_norm():
    x = drawn(2, 4, 3)
    expected = nn.InstanceNorm1d(4)(x)
    np.testing.assert_allclose(nn.GroupNorm(4, 4)(x).numpy(), expected.numpy(), rtol=1e-6)


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    y = nn.RMSNorm(2, eps=0.0, dtype="float64")(tensor([[3.0, 4.0], [-6.0, 8.0]]))
    expected = np.sqrt(2) * np.array([[0.6, 0.8], [-0.6, 0.8]])
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("layer", [nn.LayerNorm1d(3), nn.RMSNorm(3), nn.GroupNorm(3, 3)])
def test_no_samples_give_no_samples(layer):
    x = tensor(np.zeros((0, 3, 3)), dtype="float32")
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3, 3)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.zeros(3))


def test_weights_given_to_one_axis_of_samples_only_get_their_own_gradients():
    layer, x = nn.LayerNorm(3, bias=False, dtype="float64"), drawn(2, 3)
    layer(x).sum().backward()
    assert layer.bias is None
    assert layer.weight.grad.shape == (3,)


def test_normalize_takes_weight_and_bias_of_different_shapes():
    x, weight, bias = drawn(3, 4), drawn(4), drawn(3, 1)
    check_grads(lambda *inputs: ndl.normalize(inputs[0], -1, *inputs[1:]), x, weight, bias)
    check_grads(lambda x, bias: ndl.normalize(x, 0, bias=bias), x, bias)


def test_integers_are_normalised_in_float64():
    x = tensor(np.array([[100, 120], [-100, 20]]), dtype="int8")
    for centre, expected in ((True, [[-1, 1], [-1, 1]]), (False, [[100, 120], [-100, 20]])):
        root = np.sqrt(np.mean(np.square(expected), 1, keepdims=True))
        y = ndl.normalize(x, eps=0.0, centre=centre)
        assert y.dtype == "float64"
        np.testing.assert_allclose(y.numpy(), expected / root)


def test_backward_without_a_graph_gives_the_same_gradient():
    grads = []
    for create_graph in (True, False):
        layer, x = nn.LayerNorm1d(4, dtype="float64"), tensor(np.arange(12.0).reshape(3, 4) ** 2)
        (layer(x) ** 2).sum().backward(create_graph=create_graph)
        grads.append(x.grad)
    np.testing.assert_array_equal(grads[0].numpy(), grads[1].numpy())
    assert (grads[0].requires_grad, grads[1].requires_grad) == (True, False)


# -- running statistics ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(3, dtype="float64"), (4, 3, 2, 2)),
        (nn.InstanceNorm2d(3, track_running_stats=True, dtype="float64"), (4, 3, 2, 2)),
    ],
)
def test_evaluation_uses_running_statistics_and_leaves_them(layer, shape):
    layer(drawn(*shape))
    mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
    x = drawn(*shape)
    y = layer.eval()(x)
    expected = (x.numpy() - mean[:, None, None]) / np.sqrt(var[:, None, None] + layer.eps)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)


def test_instance_norm_without_statistics_evaluates_as_it_trains():
    layer, x = nn.InstanceNorm1d(3), drawn(2, 3, 5)
    assert layer.running_mean is None
    np.testing.assert_array_equal(layer(x).numpy(), layer.eval()(x).numpy())


def test_running_statistics_are_in_the_state_and_are_no_parameters():
    layer = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert len(layer.parameters()) == 2
    assert nn.InstanceNorm1d(3).state_dict() == {}


@pytest.mark.parametrize("affine", [True, False])
def test_evaluation_can_be_differentiated(affine):
    layer = nn.BatchNorm2d(3, dtype="float64", affine=affine)
    layer(drawn(2, 3, 4, 4))
    layer.eval()

    def function(x, *affine):
        if affine:
            layer.weight, layer.bias = affine
        return layer(x)

    check_grads(function, drawn(2, 3, 2, 2), *[drawn(3) for _ in layer.parameters()])


def test_evaluation_far_from_zero_does_not_cancel():
    layer = nn.BatchNorm1d(1).eval()
    layer.running_mean.data = tensor([1e4], dtype="float32")
    layer.running_var.data = tensor([1e-6], dtype="float32")
    x = (1e4 + np.array([[0.0], [0.01], [0.02]])).astype("float32")
    exact = (x.astype(float) - 1e4) / np.sqrt(1e-6 + layer.eps)
    np.testing.assert_allclose(layer(tensor(x)).numpy(), exact, rtol=1e-6)


def test_batch_norm_without_weights_and_statistics_evaluates_as_it_trains():
    layer, x = nn.BatchNorm1d(3, affine=False, track_running_stats=False), drawn(5, 3)
    assert layer.state_dict() == {} and layer.parameters() == []
    y = layer(x)
    np.testing.assert_allclose(y.numpy().mean(0), 0, atol=1e-6)
    np.testing.assert_array_equal(layer.eval()(x).numpy(), y.numpy())


def test_statistics_of_no_samples_are_left_out():
    layer = nn.InstanceNorm1d(3, track_running_stats=True)
    assert layer(drawn(0, 3, 5)).shape == (0, 3, 5)
    np.testing.assert_array_equal(layer.running_mean.numpy(), np.zeros(3))


# -- what they say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.BatchNorm1d(3), (2, 4), "expected x [B, 3], got float64[2,4]. Or [B, 3, L]."),
        (nn.BatchNorm1d(3), (3,), "expected x [B, 3], got float64[3]. Or [B, 3, L]."),
        (nn.BatchNorm2d(3), (2, 3), "expected x [N, 3, H, W], got float64[2,3]."),
        (nn.BatchNorm2d(3), (2, 3, 0, 4),
         "expected 1 or more elements in each channel, got float64[2,3,0,4]."),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), (0, 3),
         "expected 1 or more elements in each channel, got float64[0,3]."),
        (nn.InstanceNorm1d(3), (2, 4, 5), "expected x [N, 3, L] or [3, L], got float64[2,4,5]."),
        (nn.InstanceNorm1d(3), (2, 3, 1),
         "expected 2 or more elements in each channel, got float64[2,3,1]."),
        (nn.InstanceNorm2d(3), (3, 4),
         "expected x [N, 3, H, W] or [3, H, W], got float64[3,4]."),
        (nn.GroupNorm(3, 6), (2, 4),
         "expected x [N, 6, ...] with elements in each group, got float64[2,4]."),
        (nn.GroupNorm(3, 6), (2, 6, 0),
         "expected x [N, 6, ...] with elements in each group, got float64[2,6,0]."),
        (nn.LayerNorm((2, 3)), (2, 4), "expected x [..., 2, 3], got float64[2,4]."),
        (nn.LayerNorm1d(3), (), "expected x [..., 3], got float64[]."),
        (nn.RMSNorm(3), (3, 2), "expected x [..., 3], got float64[3,2]."),
    ],
)  # fmt: skip
def test_input_of_another_shape_is_refused(layer, shape, message):
    with pytest.raises(ShapeError) as error:
        layer(drawn(*shape))
    assert str(error.value) == f"{type(layer).__name__}: {message}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.GroupNorm(4, 6),
         "GroupNorm: expected num_channels divisible by num_groups, got 6 channels and 4 groups."),
        (lambda: nn.GroupNorm(0, 6), "GroupNorm: expected num_groups of 1 or more, got 0."),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: expected dim of 1 or more, got 0."),
        (lambda: nn.BatchNorm2d(3, momentum=2),
         "BatchNorm2d: expected momentum in [0, 1], got 2."),
        (lambda: nn.BatchNorm2d(8, 1e-5, 0.1, False),
         "BatchNorm2d: expected a device, got False. PyTorch has affine in this place; "
         "here: affine=False."),
        (lambda: nn.BatchNorm1d(8, device=True),
         "BatchNorm1d: expected a device, got True. PyTorch has affine in this place; "
         "here: affine=True."),
        (lambda: nn.InstanceNorm1d(3, eps=-1),
         "InstanceNorm1d: expected eps of 0 or more, got -1."),
        (lambda: nn.LayerNorm((3, 0)), "LayerNorm: expected normalized_shape of 1 or more, got 0."),
        (lambda: nn.LayerNorm(()), "LayerNorm: expected normalized_shape of 1 or more, got None."),
        (lambda: nn.LayerNorm1d(0), "LayerNorm1d: expected dim of 1 or more, got 0."),
        (lambda: nn.RMSNorm("3"), "RMSNorm: expected normalized_shape of 1 or more, got '3'."),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(make, message):
    with pytest.raises(OptionError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ndl.normalize(x.numpy()), DTypeError, "expected Tensors, got float64[2,3]. "
         "Wrap it first: ndl.Tensor(...)."),
        (lambda x: ndl.normalize([1.0]), DTypeError, "expected Tensors, got (float 1.0). "
         "Wrap it first: ndl.Tensor(...)."),
        (lambda x: ndl.normalize(x, -1, [1, 2, 3]), DTypeError,
         "expected Tensors, got (int 1, int 2, int 3). Wrap it first: ndl.Tensor(...)."),
        (lambda x: ndl.normalize(x, eps=None), OptionError, "expected eps of 0 or more, got None."),
        (lambda x: ndl.normalize(x, eps=-1), OptionError, "expected eps of 0 or more, got -1."),
    ],
)  # fmt: skip
def test_normalize_names_what_it_expects(call, error, message):
    with pytest.raises(error) as raised:
        call(drawn(2, 3))
    assert str(raised.value) == f"normalize: {message}"


@every_layer
def test_arrays_are_refused(make, shape):
    layer = make("float32")
    with pytest.raises(DTypeError, match=f"^{type(layer).__name__}: expected Tensors, got"):
        layer(np.zeros(shape))


def test_layers_show_their_options():
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3, eps=1e-05, momentum=0.1)"
    assert repr(nn.BatchNorm1d(3, affine=False, track_running_stats=False)) == (
        "BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)"
    )
    assert repr(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)) == (
        "InstanceNorm1d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )
    assert repr(nn.GroupNorm(2, 4, affine=False)) == "GroupNorm(2, 4, eps=1e-05, affine=False)"
    assert repr(nn.LayerNorm(4, bias=False)) == "LayerNorm(4, eps=1e-05, bias=False)"
    assert repr(nn.RMSNorm(4, elementwise_affine=False)) == (
        "RMSNorm(4, eps=1e-05, elementwise_affine=False)"
    )
    assert repr(nn.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05)"
    assert repr(nn.LayerNorm((2, 4))) == "LayerNorm((2, 4), eps=1e-05)"
    assert repr(nn.LayerNorm1d(4)) == "LayerNorm1d(4, eps=1e-05)"
    assert repr(nn.RMSNorm(4, eps=1e-6)) == "RMSNorm(4, eps=1e-06)"
