"""Layers beyond the contract: bad input, dtypes, modes, statistics, and odd shapes."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DeviceError, DTypeError, OptionError, ShapeError
from needle.testing import check_grads


def drawn(*shape, dtype="float64", seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape), dtype=dtype)


# -- bad input ---------------------------------------------------------------------------------

LAYERS = [
    nn.Linear(3, 2),
    nn.Flatten(),
    nn.BatchNorm1d(3),
    nn.LayerNorm1d(3),
    nn.Dropout(0.5),
    nn.ReLU(),
    nn.GELU(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("x", [np.ones((2, 3)), [[1.0, 2.0, 3.0]], 1.0, None])
def test_layer_takes_tensors_only(layer, x):
    with pytest.raises(DTypeError, match=r"expected Tensors, got .* Wrap it first: ndl.Tensor"):
        layer(x)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Linear(3, 2), (5, 4), r"Linear: expected x \[..., 3\], got float64\[5,4\]"),
        (nn.Linear(3, 2), (), r"Linear: expected x \[..., 3\], got float64\[\]"),
        (nn.Flatten(), (), r"Flatten: expected x \[B, ...\], got float64\[\]"),
        (nn.BatchNorm1d(3), (5, 4), r"BatchNorm1d: expected x \[B, 3\], got float64\[5,4\]"),
        (nn.BatchNorm1d(3), (5, 4, 3), r"BatchNorm1d: expected x \[B, 3\], got float64\[5,4,3\]"),
        (nn.BatchNorm1d(3), (0, 3), r"BatchNorm1d: expected 1 or more elements in each channel"),
        (nn.LayerNorm1d(3), (5, 4), r"LayerNorm1d: expected x \[..., 3\], got float64\[5,4\]"),
        (nn.LayerNorm1d(3), (), r"LayerNorm1d: expected x \[..., 3\], got float64\[\]"),
    ],
)
def test_layer_names_the_shape_it_expects(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer(tensor(np.zeros(shape)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3), "Linear: expected in_features of 1 or more, got 0"),
        (lambda: nn.Linear(3, -1), "Linear: expected out_features of 1 or more, got -1"),
        (lambda: nn.Linear(2.5, 3), "Linear: expected in_features of 1 or more, got 2.5"),
        (lambda: nn.Linear("3", 3), "Linear: expected in_features of 1 or more, got '3'"),
        (lambda: nn.BatchNorm1d(0), "BatchNorm1d: expected dim of 1 or more, got 0"),
        (lambda: nn.BatchNorm1d(3, momentum=2), r"expected momentum in \[0, 1\], got 2"),
        (lambda: nn.LayerNorm1d(None), "LayerNorm1d: expected dim of 1 or more, got None"),
        (lambda: nn.Dropout(1.5), r"Dropout: expected p in \[0, 1\], got 1.5"),
        (lambda: nn.Dropout(-0.1), r"Dropout: expected p in \[0, 1\], got -0.1"),
        (lambda: nn.Dropout(float("nan")), r"Dropout: expected p in \[0, 1\], got nan"),
        (lambda: nn.GELU("fast"), "gelu: expected approximate 'none' or 'tanh', got 'fast'"),
    ],
)
def test_option_outside_its_values_is_refused_at_construction(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_linear_refuses_integer_weights_and_unknown_devices():
    with pytest.raises(DTypeError, match="kaiming_uniform: expected a float dtype, got int32"):
        nn.Linear(2, 3, dtype="int32")
    with pytest.raises(DeviceError, match="got 'cuda'"):
        nn.Linear(2, 3, device="cuda")


@pytest.mark.parametrize("container", [nn.Sequential, nn.Residual])
@pytest.mark.parametrize("module", [nn.ReLU, [nn.ReLU()], 3, None])
def test_containers_refuse_what_is_no_module(container, module):
    with pytest.raises(DTypeError, match=f"{container.__name__}: expected modules, got"):
        container(module)


SEQUENTIAL, RESIDUAL = "Sequential: expected modules, got ", "Residual: expected modules, got "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential([nn.Sequential(nn.ReLU())]),
            f"{SEQUENTIAL}a list. Hand over what it holds: Sequential(*modules).",
        ),
        (
            lambda: nn.Sequential(nn.ReLU() for _ in range(2)),
            f"{SEQUENTIAL}a generator. Hand over what it holds: Sequential(*modules).",
        ),
        (
            lambda: nn.Sequential({"a": nn.ReLU()}),
            f"{SEQUENTIAL}a dict. Hand over what it holds: Sequential(*modules.values()).",
        ),
        (
            lambda: nn.Residual((nn.ReLU(), nn.ReLU())),
            f"{RESIDUAL}a tuple. Hand over one: Residual(Sequential(*modules)).",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU),
            f"{SEQUENTIAL}the class ReLU. Make one of it: ReLU(...).",
        ),
        (lambda: nn.Sequential(3), f"{SEQUENTIAL}int 3."),
    ],
)
def test_containers_say_how_to_hand_over_modules(make, message):
    with pytest.raises(DTypeError) as caught:
        make()
    assert str(caught.value) == message


# -- Linear, Sequential, Dropout ---------------------------------------------------------------


def test_linear_keeps_a_vector_a_vector():
    layer, x = nn.Linear(4, 3, dtype="float64"), drawn(4)
    y = layer(x)
    assert y.shape == (3,)
    y.sum().backward()
    assert layer.bias.grad.shape == (1, 3)
    np.testing.assert_allclose(y.numpy(), layer(x.reshape((1, 4))).numpy()[0])


def test_linear_of_an_empty_batch():
    layer = nn.Linear(4, 3)
    y = layer(tensor(np.zeros((0, 4)), dtype="float32"))
    assert y.shape == (0, 3)
    y.sum().backward()
    assert not layer.weight.grad.numpy().any()


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_layers_keep_the_dtype_they_were_built_with(dtype):
    options = {"dtype": dtype}
    model = nn.Sequential(
        nn.Linear(4, 3, **options), nn.BatchNorm1d(3, **options), nn.GELU(), nn.Dropout(0.5),
        nn.LayerNorm1d(3, **options), nn.Softplus(), nn.Residual(nn.SiLU()), nn.Softmax(),
    )  # fmt: skip
    x = drawn(5, 4, dtype=dtype)
    for mode in (True, False):
        y = model.train(mode)(x)
        assert y.dtype == x.dtype
        y.sum().backward()
        assert all(p.grad.dtype == x.dtype for p in model.parameters())
    assert all(buffer.dtype == x.dtype for _, buffer in model.named_buffers())


def test_sequential_is_a_sequence():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert len(model) == 3
    assert model[1] is model.modules[1]
    assert model[-1] is model.modules[2]
    assert list(model) == list(model.modules)
    head = model[:2]
    assert isinstance(head, nn.Sequential)
    assert head.modules == model.modules[:2]
    with pytest.raises(IndexError):
        model[3]


def test_empty_sequential_is_the_identity():
    x = drawn(2)
    assert nn.Sequential()(x) is x


def test_sequential_takes_plain_functions():
    assert nn.Sequential(ndl.ops.relu, lambda x: x * 2)(tensor([-1.0, 3.0])).tolist() == [0, 6]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_share(p):
    y = nn.Dropout(p)(tensor(np.ones((300, 300)))).numpy()
    assert abs((y == 0).mean() - p) < 0.01
    assert abs(y.mean() - 1) < 0.05
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p))


@pytest.mark.parametrize(("p", "draws"), [(0.0, 0), (0.5, 5), (1.0, 5)])
def test_dropout_draws_a_number_for_each_element_unless_it_keeps_them_all(p, draws):
    np.random.seed(3)
    y = nn.Dropout(p)(tensor(np.ones(5)))
    following = np.random.rand()
    np.random.seed(3)
    np.random.rand(draws)
    assert following == np.random.rand()
    if p != 0.5:
        np.testing.assert_array_equal(y.numpy(), np.full(5, 1 - p))


def test_dropout_gradient_is_the_mask():
    x = tensor(np.ones(50))
    y = nn.Dropout(0.3)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_repeats_its_draws_under_checkpoint():
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())
    x = drawn(8, 6, dtype="float32")
    grads = []
    for run in (model, lambda x: ndl.checkpoint(model, x)):
        np.random.seed(5)
        run(x).sum().backward()
        grads.append(model[0].weight.grad.numpy())
    np.testing.assert_array_equal(*grads)


# -- normalisation -----------------------------------------------------------------------------


def test_batch_norm_counts_a_batch_once_under_checkpoint():
    plain, recomputed = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = drawn(5, 3, dtype="float32")
    plain(x).sum().backward()
    ndl.checkpoint(recomputed, x).sum().backward()
    np.testing.assert_array_equal(plain.running_mean.numpy(), recomputed.running_mean.numpy())
    np.testing.assert_array_equal(plain.running_var.numpy(), recomputed.running_var.numpy())


def test_running_statistics_keep_their_dtype_whatever_comes():
    norm = nn.BatchNorm1d(3)
    norm(drawn(5, 3, dtype="float64"))
    assert norm.running_mean.dtype == norm.running_var.dtype == "float32"


def test_running_statistics_hold_no_graph():
    norm = nn.BatchNorm1d(3)
    for _ in range(3):
        norm(drawn(5, 3, dtype="float32"))
    assert norm.running_mean.is_leaf()
    assert not norm.running_mean.requires_grad


def test_running_statistics_move_under_no_grad_and_in_lazy_mode():
    x = drawn(5, 3, dtype="float32")
    expected = nn.BatchNorm1d(3)
    expected(x)
    for mode in (ndl.no_grad, ndl.lazy):
        norm = nn.BatchNorm1d(3)
        with mode():
            norm(x)
        np.testing.assert_allclose(norm.running_mean.numpy(), expected.running_mean.numpy())
        np.testing.assert_allclose(norm.running_var.numpy(), expected.running_var.numpy())


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_at_its_ends(momentum):
    norm, x = nn.BatchNorm1d(3, momentum=momentum), drawn(5, 3, dtype="float32")
    norm(x)
    mean = x.numpy().mean(0) if momentum else np.zeros(3)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-7)


def test_batch_norm_of_one_row_is_the_bias():
    norm = nn.BatchNorm1d(3)
    norm.bias.data = tensor([1.0, 2.0, 3.0], dtype="float32")
    np.testing.assert_array_equal(norm(drawn(1, 3, dtype="float32")).numpy(), [[1.0, 2.0, 3.0]])


def test_batch_norm_state_holds_the_running_statistics():
    norm, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    norm(drawn(5, 3, dtype="float32"))
    twin.load_state_dict(norm.state_dict())
    np.testing.assert_array_equal(twin.running_var.numpy(), norm.running_var.numpy())


def test_normalisation_of_large_offsets_is_accurate():
    x = tensor(1e4 + np.arange(8.0).reshape(4, 2), dtype="float32")
    expected = np.array([[-1.3416, -1.3416], [-0.4472, -0.4472], [0.4472] * 2, [1.3416] * 2])
    np.testing.assert_allclose(nn.BatchNorm1d(2)(x).numpy(), expected, atol=1e-3)


def test_layer_norm_works_on_any_number_of_axes():
    norm, x = nn.LayerNorm1d(5, dtype="float64"), drawn(2, 3, 4, 5)
    y = norm(x).numpy()
    np.testing.assert_allclose(y.mean(-1), np.zeros((2, 3, 4)), atol=1e-12)
    np.testing.assert_allclose(y.var(-1), np.ones((2, 3, 4)), rtol=1e-3)


# -- gradients by finite differences -----------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(4, 4, dtype="float64"),
        lambda: nn.BatchNorm1d(4, dtype="float64"),
        lambda: nn.BatchNorm1d(4, dtype="float64").eval(),
        lambda: nn.LayerNorm1d(4, dtype="float64"),
        lambda: nn.Residual(nn.Tanh()),
        nn.Softmax,
        nn.LogSoftmax,
        nn.GELU,
        lambda: nn.GELU("tanh"),
        nn.SiLU,
        nn.Softplus,
        nn.Sigmoid,
    ],
)
def test_layer_gradient_to_second_order(make):
    check_grads(make(), drawn(5, 4))


# -- half precision and options of the norms ---------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_normalisation_in_half_precision_does_not_overflow(dtype):
    x = tensor([[300.0, -300.0], [-300.0, 300.0]], dtype=dtype)
    for norm in (nn.LayerNorm1d(2, dtype=dtype), nn.BatchNorm1d(2, dtype=dtype)):
        y = norm(x)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y.numpy().astype(float), [[1, -1], [-1, 1]])
        (y * y).sum().backward()
        assert np.isfinite(norm.weight.grad.numpy().astype(float)).all()
    assert norm.running_var.dtype == norm.running_mean.dtype == x.dtype


def test_running_statistics_in_half_precision_are_used_in_float32():
    norm = nn.BatchNorm1d(1, dtype="float16").eval()
    norm.running_var.data = tensor([0.0], dtype="float16")
    x = tensor([[1e-3]], dtype="float16")
    expected = float(x.numpy()[0, 0]) / np.sqrt(norm.eps)
    assert norm(x).item() == pytest.approx(expected, rel=1e-3)


def test_half_precision_input_of_a_float32_norm_gives_float32():
    x = tensor([[300.0, -300.0], [-300.0, 300.0]], dtype="float16")
    for norm in (nn.LayerNorm1d(2), nn.BatchNorm1d(2)):
        assert norm(x).dtype == "float32"


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.LayerNorm1d])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_norms_refuse_dtypes_that_are_no_floats(kind, dtype):
    with pytest.raises(DTypeError) as error:
        kind(3, dtype=dtype)
    assert str(error.value) == f"{kind.__name__}: expected a float dtype, got {dtype}."


@pytest.mark.parametrize("value", ["a", None, -0.1, float("nan"), [0.1]])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda value: nn.BatchNorm1d(3, eps=value), "BatchNorm1d: expected eps of 0 or more"),
        (lambda value: nn.LayerNorm1d(3, eps=value), "LayerNorm1d: expected eps of 0 or more"),
        (lambda value: nn.BatchNorm1d(3, momentum=value), "BatchNorm1d: expected momentum in [0"),
        (nn.Dropout, "Dropout: expected p in [0, 1]"),
        (nn.HuberLoss, "HuberLoss: expected delta above 0"),
        (nn.CrossEntropyLoss, "CrossEntropyLoss: expected label_smoothing in [0, 1]"),
    ],
)
def test_options_that_are_no_fitting_numbers_are_refused(make, expected, value):
    with pytest.raises(OptionError) as error:
        make(value)
    assert str(error.value).startswith(expected)
    assert str(error.value).endswith(f", got {value!r}.")


def test_residual_refuses_a_module_that_changes_the_shape():
    with pytest.raises(ShapeError) as error:
        nn.Residual(nn.Linear(4, 1, dtype="float64"))(drawn(3, 4))
    assert str(error.value) == (
        "Residual: expected fn(x) of x's shape, got float64[3,1] and float64[3,4]."
    )
