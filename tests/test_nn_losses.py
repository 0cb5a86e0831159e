"""Losses: bad input, dtypes, ignored places, and the options together."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError
from needle.testing import check_grads

PAIRWISE = [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss]


def drawn(*shape, dtype="float64", seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape), dtype=dtype)


def constant(array, dtype=None):
    return tensor(array, dtype=dtype, requires_grad=False)


# -- losses of two arrays of one shape ---------------------------------------------------------


@pytest.mark.parametrize("kind", PAIRWISE)
@pytest.mark.parametrize(
    ("shape", "other"), [((3, 1), (3,)), ((3,), (1,)), ((2, 3), (3, 2)), ((3,), ()), ((1, 3), (3,))]
)
def test_shapes_that_differ_raise_and_never_broadcast(kind, shape, other):
    with pytest.raises(ShapeError) as error:
        kind()(tensor(np.ones(shape)), tensor(np.ones(other)))
    assert str(error.value).startswith(
        f"{kind.__name__}: expected target of the prediction's shape, got float64["
    )


@pytest.mark.parametrize("kind", PAIRWISE)
@pytest.mark.parametrize("target", [1.0, np.ones(3), [1.0, 1.0, 1.0], None])
def test_targets_that_are_no_tensors_raise(kind, target):
    with pytest.raises(DTypeError, match=f"{kind.__name__}: expected Tensors, got"):
        kind()(tensor(np.ones(3)), target)


@pytest.mark.parametrize("kind", [*PAIRWISE, nn.CrossEntropyLoss])
@pytest.mark.parametrize("reduction", ["Mean", "average", None, True])
def test_unknown_reduction_is_refused_at_construction(kind, reduction):
    with pytest.raises(OptionError, match=f"{kind.__name__}: expected reduction mean, sum, none"):
        kind(reduction=reduction)


@pytest.mark.parametrize("kind", PAIRWISE)
def test_mean_of_nothing_raises_and_sum_of_nothing_is_zero(kind):
    nothing = tensor(np.zeros((0, 3)))
    with pytest.raises(ShapeError, match=f"{kind.__name__}: expected one element or more"):
        kind()(nothing, nothing)
    assert kind(reduction="sum")(nothing, nothing).item() == 0
    assert kind(reduction="none")(nothing, nothing).shape == (0, 3)


@pytest.mark.parametrize("kind", PAIRWISE)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("target_dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_as_targets_leave_the_dtype_of_the_prediction(kind, dtype, target_dtype):
    prediction = tensor([0.5, 2.0, -1.0], dtype=dtype)
    loss = kind()(prediction, tensor([0, 1, 1], dtype=target_dtype))
    expected = kind()(prediction, tensor([0.0, 1.0, 1.0], dtype=dtype))
    assert loss.dtype == prediction.dtype
    assert loss.item() == expected.item()
    loss.backward()
    assert prediction.grad.dtype == prediction.dtype


@pytest.mark.parametrize("kind", PAIRWISE)
def test_unsigned_targets_do_not_wrap_around(kind):
    loss = kind("none") if kind in (nn.MSELoss, nn.L1Loss) else kind(reduction="none")
    found = loss(tensor([0.25], dtype="float32"), tensor([1], dtype="uint8")).item()
    expected = loss(tensor([0.25], dtype="float32"), tensor([1.0], dtype="float32")).item()
    assert found == expected < 1


@pytest.mark.parametrize("kind", PAIRWISE)
def test_pairwise_loss_gradients_to_second_order(kind):
    target = tensor(0.3 + 0.4 * np.random.RandomState(1).rand(4, 3))
    check_grads(kind(), drawn(4, 3) * 2, target)


def test_huber_is_quadratic_within_delta_and_linear_beyond():
    loss = nn.HuberLoss(delta=2.0, reduction="none")
    errors = np.array([-5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0])
    x = tensor(errors)
    y = loss(x, constant(np.zeros(7)))
    np.testing.assert_array_equal(y.numpy(), [8, 2, 0.5, 0, 0.5, 2, 8])
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [-2, -2, -1, 0, 1, 2, 2])


@pytest.mark.parametrize("delta", [0, -1.0, float("nan")])
def test_huber_needs_a_positive_delta(delta):
    with pytest.raises(OptionError, match="HuberLoss: expected delta above 0, got"):
        nn.HuberLoss(delta)


def test_huber_with_infinite_delta_is_half_the_squared_error():
    x, y = drawn(5), drawn(5, seed=1)
    assert nn.HuberLoss(float("inf"))(x, y).item() == pytest.approx(nn.MSELoss()(x, y).item() / 2)


# -- binary cross-entropy ----------------------------------------------------------------------


@pytest.mark.parametrize("target", [[0.0, 2.0], [-1.0, 1.0], [0.5, float("nan")]])
def test_binary_targets_outside_0_and_1_raise(target):
    with pytest.raises(OutOfRangeError, match=r"BCEWithLogitsLoss: expected targets in \[0, 1\]"):
        nn.BCEWithLogitsLoss()(tensor([0.0, 0.0]), tensor(target))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_is_exact_where_it_is_almost_certain(dtype):
    logits = tensor([-30.0, 30.0, -30.0, 30.0], dtype=dtype)
    losses = nn.BCEWithLogitsLoss(reduction="none")(logits, constant([0.0, 1.0, 1.0, 0.0], dtype))
    tiny = np.log1p(np.exp(-30.0))
    np.testing.assert_allclose(losses.numpy(), [tiny, tiny, 30, 30], rtol=1e-6)


def test_binary_cross_entropy_does_not_overflow():
    logits = tensor([-1e4, 1e4, -1e4, 1e4], dtype="float32")
    loss = nn.BCEWithLogitsLoss(reduction="none")
    losses = loss(logits, constant([0.0, 1.0, 1.0, 0.0], "float32"))
    np.testing.assert_array_equal(losses.numpy(), [0, 0, 1e4, 1e4])
    losses.backward()
    np.testing.assert_array_equal(logits.grad.numpy(), [0, 0, -1, 1])


@pytest.mark.parametrize("weight", [3, 3.0, np.float32(3.0), [3.0, 3.0], np.array([3.0])])
def test_pos_weight_counts_positives_more_and_keeps_the_dtype(weight):
    logits = tensor([[0.3, -0.7]], dtype="float32")
    positive, negative = constant([[1, 1]]), constant([[0, 0]])
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    plain = nn.BCEWithLogitsLoss()
    assert loss(logits, positive).dtype == "float32"
    assert loss(logits, positive).item() == pytest.approx(3 * plain(logits, positive).item())
    assert loss(logits, negative).item() == plain(logits, negative).item()


def test_pos_weight_of_another_shape_raises_and_never_broadcasts_the_loss():
    with pytest.raises(ShapeError, match="expected pos_weight to broadcast to the logits, got"):
        nn.BCEWithLogitsLoss(np.ones((4, 1)))(tensor([0.0, 0.0]), tensor([1.0, 1.0]))


# -- cross-entropy: bad input ------------------------------------------------------------------

CLASS_LOSSES = [nn.SoftmaxLoss(), nn.CrossEntropyLoss()]


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("ids", [[0, 3], [-1, 0], [0.0, 3.0], [0, 2**40], [0.0, float("nan")]])
def test_ids_that_are_no_classes_raise(loss, ids):
    kind = type(loss).__name__
    with pytest.raises(OutOfRangeError, match=rf"{kind}: expected class ids in 0..2, got"):
        loss(drawn(2, 3), tensor(ids))


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(
    ("logits", "ids"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((2, 3), ()), ((2, 3), (1,)), ((), ())]
)
def test_ids_of_another_shape_raise(loss, logits, ids):
    with pytest.raises(ShapeError, match=r"Loss: expected logits \[N, C"):
        loss(tensor(np.zeros(logits)), tensor(np.zeros(ids, dtype=int)))


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("ids", [[0, 1], np.array([0, 1]), None])
def test_ids_that_are_no_tensor_raise(loss, ids):
    with pytest.raises(DTypeError, match="expected Tensors, got"):
        loss(drawn(2, 3), ids)


def test_softmax_loss_of_no_rows_raises():
    with pytest.raises(ShapeError, match="SoftmaxLoss: expected one row or more"):
        nn.SoftmaxLoss()(tensor(np.zeros((0, 3))), tensor(np.zeros(0)))


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan")])
def test_label_smoothing_outside_0_and_1_is_refused(smoothing):
    with pytest.raises(OptionError, match=r"expected label_smoothing in \[0, 1\]"):
        nn.CrossEntropyLoss(label_smoothing=smoothing)


@pytest.mark.parametrize("weight", [np.ones(4), np.ones((1, 3)), 2.0])
def test_weight_of_another_length_raises(weight):
    with pytest.raises(ShapeError, match=r"expected weight \[3\], one per class, got float(32|64)"):
        nn.CrossEntropyLoss(weight=weight)(drawn(2, 3), tensor([0, 1]))


# -- cross-entropy: values ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint64", "float32", "bfloat16"])
def test_ids_of_any_dtype(dtype):
    logits, ids = drawn(4, 3), [2, 0, 1, 1]
    expected = nn.CrossEntropyLoss()(logits, tensor(ids)).item()
    for loss in CLASS_LOSSES:
        assert loss(logits, tensor(ids, dtype=dtype)).item() == expected


def test_bool_ids_are_classes_0_and_1():
    logits = drawn(2, 2)
    expected = nn.SoftmaxLoss()(logits, tensor([1, 0])).item()
    assert nn.SoftmaxLoss()(logits, tensor([True, False])).item() == expected
    assert nn.CrossEntropyLoss()(logits, tensor([True, False])).item() == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_loss_has_the_dtype_of_the_logits(dtype):
    logits = drawn(4, 3, dtype=dtype)
    weighted = nn.CrossEntropyLoss(0.1, 1, weight=[1.0, 2.0, 3.0])
    for loss in [*CLASS_LOSSES, weighted]:
        result = loss(logits, tensor([2, 0, 1, 1]))
        assert result.dtype == logits.dtype
        result.backward()
        assert logits.grad.dtype == logits.dtype


def test_ignored_places_count_for_nothing():
    logits, ids = drawn(5, 3), np.array([2, -100, 0, -100, 1])
    kept = ids != -100
    for options in ({}, {"label_smoothing": 0.2}, {"weight": [1.0, 2.0, 3.0]}):
        loss = nn.CrossEntropyLoss(**options)
        rows = constant(logits.numpy()[kept])
        found = loss(logits, tensor(ids))
        assert found.item() == pytest.approx(loss(rows, tensor(ids[kept])).item())
        found.backward()
        assert not logits.grad.numpy()[~kept].any()
        assert logits.grad.numpy()[kept].any()


def test_every_place_ignored_gives_0_and_gradient_0():
    logits = drawn(3, 4)
    loss = nn.CrossEntropyLoss()(logits, tensor([-100, -100, -100]))
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(logits.grad.numpy(), np.zeros((3, 4)))


def test_ignore_index_may_be_a_class():
    logits = drawn(3, 4)
    found = nn.CrossEntropyLoss(ignore_index=0)(logits, tensor([0, 2, 3])).item()
    rows = constant(logits.numpy()[1:])
    assert found == pytest.approx(nn.CrossEntropyLoss()(rows, tensor([2, 3])).item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infinite_logits_in_ignored_places_do_no_harm(smoothing):
    logits = tensor([[-np.inf, 0.0, 0.0], [1.0, 2.0, 3.0]])
    loss = nn.CrossEntropyLoss(smoothing)(logits, tensor([-100, 1]))
    alone = nn.CrossEntropyLoss(smoothing)(constant([[1.0, 2.0, 3.0]]), tensor([1]))
    assert loss.item() == alone.item()
    loss.backward()
    np.testing.assert_array_equal(logits.grad.numpy()[0], [0, 0, 0])


def test_masked_classes_may_be_minus_infinity():
    logits = tensor([[-np.inf, 0.0, 0.0]])
    loss = nn.SoftmaxLoss()(logits, tensor([1]))
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), [[0, -0.5, 0.5]])


def test_class_weights_are_saved_and_cast_with_the_loss():
    loss = nn.CrossEntropyLoss(weight=[1.0, 2.0])
    assert list(loss.state_dict()) == ["weight"]
    assert loss.parameters() == []
    assert loss.to("float32").weight.dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_double_precision_are_not_rounded(dtype):
    weight = np.array([0.1, 0.7, 0.3]).astype(dtype)
    logits, y = drawn(4, 3), constant([0, 1, 2, 1], "int64")
    loss = nn.CrossEntropyLoss(weight=weight)
    log_p = logits.numpy() - np.log(np.exp(logits.numpy()).sum(1, keepdims=True))
    of_row = weight.astype("float64")[y.numpy()]
    expected = -(of_row * log_p[np.arange(4), y.numpy()]).sum() / of_row.sum()
    np.testing.assert_allclose(loss(logits, y).item(), expected, rtol=1e-14)
    assert loss.weight.dtype == dtype
    target = constant(np.ones((4, 3)))
    found = nn.BCEWithLogitsLoss(weight, reduction="none")(logits, target)
    plain = nn.BCEWithLogitsLoss(reduction="none")(logits, target)
    np.testing.assert_allclose(found.numpy(), plain.numpy() * weight, rtol=1e-15)


def test_a_weight_that_changes_afterwards_does_not_change_the_loss():
    weight = np.array([1.0, 3.0])
    loss = nn.CrossEntropyLoss(weight=weight, reduction="sum")
    logits, y = drawn(2, 2), constant([0, 1], "int64")
    before = loss(logits, y).item()
    weight[:] = 0
    assert loss(logits, y).item() == before


@pytest.mark.parametrize("rows", [5000, 200_000])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mean_of_many_rows_in_half_precision_neither_overflows_nor_stalls(rows, dtype):
    logits = tensor(np.zeros((rows, 2)), dtype=dtype)
    ids = np.zeros(rows, dtype=int)
    ids[::2] = -100
    for loss in CLASS_LOSSES:
        found = loss(logits, tensor(np.zeros(rows, dtype=int))).item()
        assert found == pytest.approx(np.log(2), rel=5e-3)
    assert nn.CrossEntropyLoss()(logits, tensor(ids)).item() == pytest.approx(np.log(2), rel=5e-3)


def test_label_smoothing_of_one_is_the_mean_over_classes():
    logits = drawn(3, 4)
    found = nn.CrossEntropyLoss(label_smoothing=1.0)(logits, tensor([0, 1, 2])).item()
    expected = -ndl.logsoftmax(logits).numpy().mean()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_gradient_to_second_order(smoothing, reduction):
    loss = nn.CrossEntropyLoss(smoothing, -1, reduction, weight=[1.0, 0.5, 2.0])
    ids = constant([[0, 2], [1, -1]])
    check_grads(lambda z: loss(z, ids), drawn(2, 3, 2))


def test_losses_work_in_lazy_mode():
    logits, ids = drawn(4, 3), tensor([2, 0, 1, 1])
    for loss in CLASS_LOSSES:
        expected = loss(logits, ids).item()
        with ndl.lazy():
            assert loss(logits, ids).item() == expected


# -- predictions, options and class ids that are refused ---------------------------------------


@pytest.mark.parametrize("kind", PAIRWISE)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "bool"])
def test_predictions_that_are_no_floats_are_refused(kind, dtype):
    with pytest.raises(DTypeError) as error:
        kind()(constant([1], dtype), constant([0], dtype))
    assert str(error.value) == (f"{kind.__name__}: expected a floating prediction, got {dtype}[1].")


@pytest.mark.parametrize("weight", ["a", None, -1.0, float("nan"), [1.0, -2.0], ["a"], 1j])
def test_pos_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(OptionError) as error:
        nn.BCEWithLogitsLoss(weight)
    assert str(error.value) == (
        f"BCEWithLogitsLoss: expected pos_weight of 0 or more, got {weight!r}."
    )


def test_mean_cross_entropy_of_no_rows_raises():
    nothing, ids = tensor(np.zeros((0, 3))), tensor(np.zeros(0, dtype=int))
    with pytest.raises(ShapeError, match="CrossEntropyLoss: expected one element or more"):
        nn.CrossEntropyLoss()(nothing, ids)
    assert nn.CrossEntropyLoss(reduction="sum")(nothing, ids).item() == 0
    assert nn.CrossEntropyLoss(reduction="none")(nothing, ids).shape == (0,)


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("odd", ["nan", "inf", "-inf"])
def test_ids_that_are_not_finite_are_described_as_given(loss, odd):
    with pytest.raises(OutOfRangeError) as error:
        loss(drawn(2, 3), tensor([0.0, float(odd)]))
    assert str(error.value).endswith(
        "expected class ids in 0..2, got float64 ids with NaN or Inf, which are not whole numbers."
    )


# -- cross-entropy of class probabilities ------------------------------------------------------


def test_probabilities_of_one_class_are_its_id():
    logits, ids = drawn(4, 3), [2, 0, 1, 1]
    for smoothing in (0.0, 0.2):
        loss = nn.CrossEntropyLoss(smoothing)
        expected = loss(logits, tensor(ids)).item()
        assert loss(logits, constant(np.eye(3)[ids])).item() == pytest.approx(expected)


def test_probabilities_keep_the_dtype_of_the_logits():
    logits = drawn(4, 3, dtype="float32")
    loss = nn.CrossEntropyLoss(weight=[1.0, 2.0, 3.0])(logits, constant(np.eye(3)[[0, 1, 2, 0]]))
    assert loss.dtype == "float32"


def test_probability_gradients_to_second_order():
    p = constant(np.random.RandomState(1).dirichlet(np.ones(3), size=4))
    check_grads(lambda z: nn.CrossEntropyLoss(0.1)(z, p), drawn(4, 3))


def test_probabilities_may_pass_1_by_a_rounding_error():
    over = np.nextafter(np.float32(1), np.float32(2))
    loss = nn.CrossEntropyLoss()(drawn(1, 2, dtype="float32"), constant([[over, 0]], "float32"))
    assert np.isfinite(loss.item())


def test_probabilities_outside_0_and_1_raise():
    with pytest.raises(OutOfRangeError, match=r"CrossEntropyLoss: expected targets in \[0, 1\]"):
        nn.CrossEntropyLoss()(drawn(1, 2), constant([[2.0, -1.0]]))


def test_integers_of_the_shape_of_the_logits_are_no_probabilities():
    with pytest.raises(ShapeError, match=r"CrossEntropyLoss: expected logits \[N, C, ...\]"):
        nn.CrossEntropyLoss()(drawn(1, 2), constant([[1, 0]]))
