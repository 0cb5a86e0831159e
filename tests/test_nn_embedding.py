"""Embeddings of ids and of positions."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError
from needle.testing import check_grads

pytestmark = pytest.mark.usefixtures("each_device")


def drawn(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


def embedding(*sizes, **options):
    return nn.Embedding(*sizes, device=ndl.default_device(), **options)


# -- ids ---------------------------------------------------------------------------------------


def test_embedding_draws_its_table_from_a_normal_distribution():
    np.random.seed(3)
    table = nn.Embedding(5, 4, dtype="float64").weight.numpy()
    np.random.seed(3)
    np.testing.assert_array_equal(table, np.random.randn(5, 4))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8"])
def test_embedding_takes_whole_numbers_of_any_dtype(dtype):
    layer = embedding(5, 4, dtype="float64")
    ids = np.array([[0, 4, 2], [2, 2, 1]])
    y = layer(tensor(ids.astype(dtype)))
    assert y.dtype == "float64"
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[ids])


def test_embeddings_gradient_adds_up_where_an_id_comes_twice():
    layer = embedding(4, 2, dtype="float64")
    layer(tensor(np.array([1.0, 3.0, 1.0]))).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[0, 0], [2, 2], [0, 0], [1, 1]])


def test_embedding_reads_its_table_when_it_is_called():
    layer = embedding(3, 2)
    layer.weight = tensor(np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(layer(tensor(np.array([2]))).numpy(), [[4, 5]])


@pytest.mark.parametrize("padding_idx", [1, -3])
def test_padding_row_is_zeros_and_gets_no_gradient(padding_idx):
    layer = embedding(4, 2, dtype="float64", padding_idx=padding_idx)
    assert not layer.weight.numpy()[1].any()
    assert layer.weight.numpy()[[0, 2, 3]].all()
    y = layer(tensor(np.array([1.0, 0.0, 1.0])))
    (y * y + y).sum().backward()
    assert not layer.weight.grad.numpy()[1].any()
    assert layer.weight.grad.numpy()[0].all()
    assert isinstance(layer.weight, nn.Parameter)


def test_embedding_can_be_differentiated_twice():
    ids = tensor(np.array([[0, 2], [2, 1]]))
    check_grads(lambda w: ndl.embedding(w, ids) ** 3, drawn(3, 2), order=2)
    y = ndl.embedding(table := drawn(3, 2), ids, padding_idx=2) ** 3
    (grad,) = ndl.grad([y.sum()], [table])
    (second,) = ndl.grad([grad.sum()], [table])
    expected = 6 * table.numpy() * np.array([[1], [1], [0]])
    np.testing.assert_allclose(second.numpy(), expected)


@pytest.mark.parametrize(
    ("ids", "shown"), [([5], "5"), ([0, -1], "-1"), ([1.5], "1.5"), ([np.nan], "nan"),
                       ([np.inf], "inf"), ([1e30], "1e")]
)  # fmt: skip
def test_id_without_a_row_is_refused(ids, shown):
    message = rf"^embedding: expected .* whole numbers in 0\.\.n-1, got .*There is no row {shown}"
    with pytest.raises(OutOfRangeError, match=message) as caught:
        embedding(5, 2)(tensor(np.array(ids)))
    assert "\n" not in str(caught.value)


def test_embedding_of_bad_options_or_input():
    with pytest.raises(OptionError, match="Embedding: expected num_embeddings of 1 or more, got 0"):
        nn.Embedding(0, 2)
    with pytest.raises(OptionError, match=r"Embedding: expected padding_idx in \[-3, 3\), got 3"):
        nn.Embedding(3, 2, padding_idx=3)
    with pytest.raises(OptionError, match=r"expected padding_idx in \[-3, 3\), got 0.5"):
        nn.Embedding(3, 2, padding_idx=0.5)
    with pytest.raises(DTypeError, match="Embedding: expected a float dtype, got int32"):
        nn.Embedding(3, 2, dtype="int32")
    with pytest.raises(DTypeError, match="Embedding: expected Tensors, got"):
        nn.Embedding(3, 2)([0, 1])


@pytest.mark.parametrize("padding_idx", [7, 5, -9, 1.5, "a"])
def test_padding_row_that_is_not_there_is_refused_by_the_op(padding_idx):
    message = rf"^embedding: expected padding_idx in \[-5, 5\), got {padding_idx!r}\.$"
    with pytest.raises(OptionError, match=message):
        ndl.embedding(drawn(5, 2), np.array([0, 1]), padding_idx=padding_idx)


@pytest.mark.parametrize("freeze", [True, False])
def test_embedding_of_a_table_that_there_is(freeze):
    table = drawn(5, 2)
    layer = nn.Embedding.from_pretrained(table, freeze=freeze, padding_idx=-1)
    np.testing.assert_array_equal(layer.weight.numpy(), table.numpy())
    assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (5, 2, 4)
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.dtype == "float64"
    x = drawn(3, 2)
    (layer(tensor(np.array([1, 4, 4]))) * x).sum().backward()
    if freeze:
        assert layer.weight.grad is None
    else:
        np.testing.assert_array_equal(layer.weight.grad.numpy()[[1, 4]], [x.numpy()[0], [0, 0]])
    with pytest.raises(ShapeError, match=r"from_pretrained: .* floats \[n, d\], got float64\[5\]"):
        nn.Embedding.from_pretrained(drawn(5))
    with pytest.raises(OptionError, match=r"Embedding: expected padding_idx in \[-5, 5\), got 5"):
        nn.Embedding.from_pretrained(table, padding_idx=5)


def test_embedding_of_no_ids_has_a_gradient_of_zeros():
    layer = embedding(3, 2)
    y = layer(tensor(np.zeros((0, 4))))
    assert y.shape == (0, 4, 2)
    y.sum().backward()
    assert not layer.weight.grad.numpy().any()


# -- positions ---------------------------------------------------------------------------------


def test_sinusoids_are_those_of_the_paper():
    y = nn.SinusoidalEmbedding(6)(tensor(np.zeros((2, 9, 6)))).numpy()
    for t in range(9):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(y[:, t, 2 * i], np.sin(angle), rtol=1e-12)
            np.testing.assert_allclose(y[:, t, 2 * i + 1], np.cos(angle), rtol=1e-12)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_turns_each_pair_by_the_angle_of_its_position(interleaved):
    x = drawn(2, 5, 6)
    y = nn.RotaryEmbedding(6, base=100.0, interleaved=interleaved)(x, start=2).numpy()
    first = x.numpy()[..., 0::2] if interleaved else x.numpy()[..., :3]
    second = x.numpy()[..., 1::2] if interleaved else x.numpy()[..., 3:]
    angle = np.arange(2, 7)[:, None] / 100.0 ** (np.arange(3) / 3)
    turned = (first + 1j * second) * np.exp(1j * angle)
    expected = np.stack([turned.real, turned.imag], -1 if interleaved else -2).reshape(y.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_products_of_rotated_vectors_depend_on_their_distance_only():
    rotary, q, k = nn.RotaryEmbedding(8), drawn(1, 8), drawn(1, 8, seed=1)
    near = (rotary(q, start=7) * rotary(k, start=4)).sum().item()
    far = (rotary(q, start=103) * rotary(k, start=100)).sum().item()
    np.testing.assert_allclose(near, far, rtol=1e-10)


@pytest.mark.parametrize("layer", [nn.SinusoidalEmbedding(4), nn.RotaryEmbedding(4)])
def test_positions_continue_where_the_start_says(layer):
    x = drawn(2, 3, 7, 4)
    whole = layer(x).numpy()
    np.testing.assert_array_equal(layer(x[:, :, 5:], start=5).numpy(), whole[:, :, 5:])
    check_grads(lambda x: layer(x) ** 2, x)
    assert layer(x[:, :, :0]).shape == (2, 3, 0, 4)


@pytest.mark.parametrize("kind", [nn.SinusoidalEmbedding, nn.RotaryEmbedding])
def test_positions_of_bad_options_or_input(kind):
    name = kind.__name__
    with pytest.raises(OptionError, match=f"{name}: expected an even dim, got 5"):
        kind(5)
    with pytest.raises(OptionError, match=f"{name}: expected base above 0, got 0"):
        kind(4, base=0)
    with pytest.raises(ShapeError, match=rf"{name}: expected x \[..., t, 4\], got float64\[2,3\]"):
        kind(4)(drawn(2, 3))
    with pytest.raises(OutOfRangeError, match=f"{name}: expected start to be .* got -1"):
        kind(4)(drawn(2, 4), start=-1)
    with pytest.raises(OutOfRangeError, match=rf"{name}: expected start .* got float64\[\]\."):
        kind(4)(drawn(2, 4), start=tensor(1.0))
    with pytest.raises(DTypeError, match=rf"{name}: expected x of floats, got int64\[2,4\]"):
        kind(4)(tensor(np.ones((2, 4), "int64")))
