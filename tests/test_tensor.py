"""`Tensor` as a Python object: construction, NumPy beside it, Python's protocols, copies."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.autograd import Tensor, TensorTuple
from needle.errors import DeviceError, DTypeError, GradientError, OutOfRangeError, ShapeError


def live_values():
    return ndl.autograd.TENSOR_COUNTER


# -- construction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        [1.0, 2.0],
        (1, 2),
        range(3),
        [[1, 2], [3, 4]],
        [np.array([1.0]), np.array([2.0])],
        np.arange(12).reshape(3, 4)[::2, ::-1].T,
        np.broadcast_to(np.arange(3), (2, 3)),
        np.array([1.0, 2.0], dtype=">f4"),
        np.zeros((2, 0, 3)),
        np.array(5),
        memoryview(b"\x01\x02"),
        True,
        pytest.param(1 + 2j, marks=pytest.mark.np_mode("NDArrays hold no complex numbers")),
    ],
)
def test_tensor_of_whatever_numpy_takes(source):
    np.testing.assert_array_equal(Tensor(source).numpy(), np.array(source))


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "int8", "int16", "int32",
     "int64", "uint8", "uint16", "uint32", "uint64", "bool"],
)  # fmt: skip
def test_tensor_in_every_dtype(dtype):
    x = Tensor([0, 1, 1], dtype=dtype)
    assert x.dtype.name == dtype
    assert x.tolist() == [0, 1, 1]


def test_dtype_may_come_from_ml_dtypes():
    assert Tensor([1.0], dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "got a NoneType"),
        ("abc", "got a str"),
        (["a", "b"], "got a list"),
        (object(), "got an object"),
        ({1: 2}, "got a dict"),
        ({1, 2}, "got a set"),
        ((i for i in range(3)), "got a generator"),
        ([[1], [1, 2]], "got a list"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), r"got datetime64\[D\]\[1\]"),
        (np.array([1, None], dtype=object), r"got object\[2\]"),
    ],
    ids=lambda x: type(x).__name__ if " at 0x" in repr(x) else str(x),
)
def test_what_holds_no_numbers_is_refused(source, message):
    with pytest.raises(DTypeError, match=f"Tensor: expected an array of numbers, {message}"):
        Tensor(source)


def test_values_that_do_not_fit_the_dtype_are_refused():
    with pytest.raises(DTypeError, match="Tensor: expected values of dtype float32, got a str"):
        Tensor("abc", dtype="float32")


def test_list_of_tensors_names_stack():
    x = Tensor([1.0])
    with pytest.raises(DTypeError, match=r"got a list of Tensors. Use ndl.stack\(list, 0\)"):
        Tensor([x, x])


def test_unknown_dtype_is_named():
    with pytest.raises(
        DTypeError, match=r"dtype: expected a name such as 'float32'.*got 'float31'"
    ):
        Tensor([1.0], dtype="float31")


def test_unknown_device_is_named():
    with pytest.raises(DeviceError, match=r"device: expected .*cpu\(\), got 'tpu'"):
        Tensor([1.0], device="tpu")


def test_misspelt_option_is_named():
    with pytest.raises(TypeError, match=r"Tensor: expected device, dtype.*got \['require_grad'\]"):
        Tensor([1.0], require_grad=True)


# -- NumPy beside it ---------------------------------------------------------------------------

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_numpy_array_on_the_left_gives_a_tensor_with_a_graph(function):
    array, x = np.array([2.0, 3.0, 4.0]), Tensor([1.0, 2.0, 3.0])
    result = function(array, x)
    assert isinstance(result, Tensor)
    np.testing.assert_allclose(result.numpy(), function(array, x.numpy()))
    result.backward()
    assert x.grad.shape == (3,)


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_numpy_array_on_the_right_gives_a_tensor(function):
    array, x = np.array([[2.0, 3.0, 4.0]]), Tensor([1.0, 2.0, 3.0])
    result = function(x, array)
    assert isinstance(result, Tensor)
    np.testing.assert_allclose(result.numpy(), function(x.numpy(), array))


@pytest.mark.parametrize("number", [np.float64(2.0), np.float32(2.0), np.int64(2), 2, 2.0, True])
@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_numbers_on_either_side_keep_float32(function, number):
    x = Tensor([1.0, 2.0, 3.0], dtype="float32")
    for result, expected in (
        (function(x, number), function(x.numpy(), np.float32(number))),
        (function(number, x), function(np.float32(number), x.numpy())),
    ):
        assert result.dtype == "float32"
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (2,), (2, 3)])
def test_matrix_product_with_numpy_on_either_side(shape):
    right = np.arange(np.prod(shape), dtype=float).reshape(shape) + 1
    left = Tensor(np.ones((4, shape[0])))
    np.testing.assert_array_equal((left @ right).numpy(), left.numpy() @ right)
    other = np.ones((5, 4))
    np.testing.assert_array_equal((other @ left).numpy(), other @ left.numpy())
    assert np.array_equal((np.ones(1) @ Tensor(np.ones((1, 3)))).numpy(), np.ones(3))


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2.0)])
def test_matrix_product_with_a_number_is_a_type_error(number):
    x = Tensor(np.ones((2, 2)))
    for product in (lambda: x @ number, lambda: number @ x):
        with pytest.raises(TypeError):
            product()


@pytest.mark.parametrize("other", ["a", None, [1.0], {}])
@pytest.mark.parametrize("function", [*BINARY, operator.matmul], ids=lambda f: f.__name__)
def test_operators_refuse_what_is_no_number_or_array(function, other):
    with pytest.raises(TypeError):
        function(Tensor([1.0]), other)


def test_fractions_are_numbers():
    half = Tensor([3.0], dtype="float32") * Fraction(1, 2)
    assert (half.dtype, half.item()) == ("float32", 1.5)


def test_numpy_reads_tensors_as_copies():
    x = Tensor([1.0, 2.0])
    for array in (np.asarray(x), np.array(x)):
        assert isinstance(array, np.ndarray)
        array[0] = 9
    assert x.tolist() == [1.0, 2.0]
    assert np.asarray(x, dtype="float32").dtype == "float32"
    np.testing.assert_array_equal(np.stack([x, x]), [[1, 2], [1, 2]])
    np.testing.assert_allclose(x, [1.0, 2.0])


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy= is NumPy 2's")
def test_numpy_can_ask_for_the_storage_itself():
    x = tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x, copy=False), np.asarray(x.cached_data))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype="float32", copy=False)


def test_numpy_functions_say_that_they_do_not_apply():
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.exp(Tensor([1.0]))


# -- Python's protocols ------------------------------------------------------------------------


def test_length_and_iteration_run_over_the_first_axis():
    x = Tensor(np.arange(6.0).reshape(3, 2))
    assert len(x) == 3
    rows = list(x)
    assert [row.tolist() for row in rows] == x.tolist()
    rows[1].sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [1, 1], [0, 0]])
    assert len(Tensor(np.zeros((0, 3)))) == 0
    assert list(Tensor(np.zeros((0, 3)))) == []


@pytest.mark.parametrize("function", [len, iter, list])
def test_a_number_has_no_length_and_no_items(function):
    with pytest.raises(TypeError, match="expected at least one axis, got a 0-d Tensor"):
        function(Tensor(1.0))


def test_truth_of_a_comparison_is_its_value():
    x = Tensor([1.0, 2.0])
    assert bool(x.sum() > 2) is True
    assert bool(x.sum() < 2) is False
    assert bool(x[0] > 5) is False


def test_truth_of_several_comparisons_is_ambiguous():
    with pytest.raises(ShapeError, match=r"truth value: expected one element, got bool\[2\]"):
        bool(Tensor([1.0, 2.0]) > 1)


def test_comparisons_are_elementwise_but_equality_is_identity():
    x = Tensor([1.0, 2.0, 3.0])
    assert (x > 2).tolist() == [False, False, True]
    assert (x >= 2).tolist() == [False, True, True]
    assert operator.gt(2, x).tolist() == [True, False, False]
    assert (np.array([2.0, 2.0, 2.0]) <= x).tolist() == [False, True, True]
    assert (x == 1.0) is False
    assert (x == x.numpy()) is False
    assert ndl.equal(x, 1.0).tolist() == [True, False, False]


def test_containment_looks_at_the_elements():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert 3.0 in x
    assert 5 not in x
    assert Tensor(2.0) in x


def test_conversion_to_python_numbers():
    assert float(Tensor([2.5])) == 2.5
    assert int(Tensor(2.9)) == 2
    assert Tensor([[7]]).item() == 7
    assert type(Tensor([1.5], dtype="float32").item()) is float
    assert type(tensor([1]).item()) is int
    for function in (float, int, Tensor.item):
        with pytest.raises(ShapeError, match=r"item: expected one element, got float64\[2\]"):
            function(tensor([1.0, 2.0]))


def test_integers_index():
    assert [10, 20, 30][tensor(1)] == 20
    assert list(range(tensor([3]))) == [0, 1, 2]
    with pytest.raises(DTypeError, match=r"index: expected an integer Tensor, got float64\[\]"):
        [10, 20][tensor(1.0)]


def test_formatting_shows_one_element():
    assert f"{Tensor(3.14159):.2f}" == "3.14"
    assert f"{tensor([42]):05d}" == "00042"
    assert f"{Tensor([1.0, 2.0])}" == "[1. 2.]"
    with pytest.raises(ShapeError, match="expected one element"):
        f"{Tensor([1.0, 2.0]):.2f}"


def test_absolute_value_and_transposition():
    x = Tensor([[-1.0, 2.0, -3.0]])
    assert abs(x).tolist() == [[1.0, 2.0, 3.0]]
    assert x.T.shape == (3, 1)


def test_items_cannot_be_assigned():
    with pytest.raises(TypeError, match="does not support item assignment"):
        Tensor([1.0])[0] = 2.0


def test_index_out_of_range_is_named():
    with pytest.raises(OutOfRangeError, match=r"getitem: expected an index within its shape"):
        Tensor([1.0])[1]


def test_size_ndim_and_tolist():
    x = Tensor(np.zeros((2, 0, 3)))
    assert (x.size, x.ndim, x.tolist()) == (0, 3, [[], []])
    assert (Tensor(1.0).size, Tensor(1.0).ndim) == (1, 0)


def test_reading_members_computes_what_is_lazy():
    with ndl.lazy():
        y = Tensor([1.0, 2.0]) * 2
    assert y.cached_data is None
    assert y.shape == (2,)
    assert repr(y) == "needle.Tensor([2. 4.])"


# -- to, astype --------------------------------------------------------------------------------


def test_to_returns_itself_where_nothing_changes():
    x = Tensor([1.0])
    assert x.to(ndl.cpu()) is x
    assert x.to() is x


@pytest.mark.parametrize(
    "call",
    [lambda x: x.to("float32"), lambda x: x.to(dtype=np.float32), lambda x: x.astype("float32"),
     lambda x: x.to(ndl.cpu(), "float32")],
)  # fmt: skip
def test_casts_carry_gradients_back_in_the_source_dtype(call):
    x = tensor([1.0, 2.0])
    y = call(x)
    assert y.dtype == "float32"
    (y * 3).backward()
    assert x.grad.dtype == "float64"
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_to_an_unknown_device_is_refused():
    with pytest.raises(DeviceError, match=r"to: expected a device that is enabled.* got cuda\(\)"):
        Tensor([1.0]).to(ndl.cuda())


def test_to_an_unknown_dtype_is_refused():
    with pytest.raises(DTypeError, match="got 'cuda'"):
        Tensor([1.0]).to("cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_narrow_floats_go_on_growing(dtype):
    x = Tensor(np.ones((4096, 2)), dtype=dtype)
    for total in (x.sum(0), x.cumsum(0)[-1], ndl.logsumexp(x, 0).exp() / np.e):
        assert total.dtype == x.dtype
        np.testing.assert_allclose(total.numpy().astype("float64"), [4096, 4096], rtol=0.05)
    assert x.mean(0).tolist() == [1.0, 1.0]
    assert x.var(0).tolist() == [0.0, 0.0]
    assert (ndl.softmax(x, 0)[0] * 4096).tolist() == [1.0, 1.0]


# -- copies ------------------------------------------------------------------------------------


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301  our own bytes


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", [Tensor, nn.Parameter])
def test_copy_of_a_leaf_is_independent(duplicate, kind):
    x = kind([1.0, 2.0], dtype="float32")
    (x * 3).backward()
    twin = duplicate(x)
    assert type(twin) is kind
    assert (twin.dtype, twin.requires_grad) == (x.dtype, True)
    assert not np.shares_memory(twin.cached_data, x.cached_data)
    np.testing.assert_array_equal(twin.grad.numpy(), [3.0, 3.0])
    x.cached_data[0] = 9
    assert twin.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_gradients_of_a_copy_go_to_the_copy(duplicate):
    x = Tensor([1.0, 2.0])
    (x * 3).backward()
    twin = duplicate(x)
    (twin * 5).backward()
    np.testing.assert_array_equal(twin.grad.numpy(), [5.0, 5.0])
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_shallow_copy_shares_the_storage():
    x = Tensor([1.0, 2.0])
    assert copy.copy(x).cached_data is x.cached_data


def test_copy_keeps_requires_grad_and_own_attributes_but_no_hooks():
    x = Tensor([1.0], requires_grad=False)
    x.label = ["first"]
    assert copy.deepcopy(x).requires_grad is False
    assert copy.deepcopy(x).label == ["first"]
    assert copy.deepcopy(x).label is not x.label
    hooked, calls = Tensor([1.0]), []
    hooked.register_hook(calls.append)
    (copy.deepcopy(hooked) * 2).backward()
    assert calls == []


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copy_of_a_result_is_refused(duplicate):
    with pytest.raises(GradientError, match="copy: expected a leaf, got the result of mul_scalar"):
        duplicate(Tensor([1.0]) * 2)


def test_constant_results_are_leaves_and_copy():
    with ndl.lazy():
        lazy = Tensor([1.0], requires_grad=False) * 2
    assert copy.deepcopy(lazy).tolist() == [2.0]
    assert copy.deepcopy((Tensor([1.0]) * 2).detach()).tolist() == [2.0]


def test_copies_are_counted_as_values():
    gc.collect()
    before = live_values()
    x = Tensor([1.0])
    twins = [copy.copy(x), copy.deepcopy(x)]
    assert live_values() == before + 3
    del x, twins
    assert live_values() == before


def test_tuple_of_constants_copies():
    both = ndl.make_tuple(Tensor([1.0]), Tensor([2.0])).detach()
    twin = copy.deepcopy(both)
    assert isinstance(twin, TensorTuple)
    assert [t.item() for t in twin] == [1.0, 2.0]


# -- messages ----------------------------------------------------------------------------------


def test_requires_grad_is_set_on_leaves_only():
    x = Tensor([1.0])
    assert x.requires_grad_(False) is x
    assert (x * 2).requires_grad is False
    x.requires_grad_()
    with pytest.raises(GradientError, match="requires_grad_: expected a leaf, got the result of"):
        (x * 2).requires_grad_(False)


def test_ops_on_what_is_no_tensor_say_how_to_wrap_it():
    message = r"relu: expected Tensors, got float64\[3\]. Wrap it first: ndl.Tensor\(...\)"
    with pytest.raises(DTypeError, match=message):
        ndl.relu(np.ones(3))


def test_dlpack_shares_the_data_with_numpy():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    shared = np.from_dlpack(x)
    np.testing.assert_array_equal(shared, x.numpy())
    assert np.shares_memory(shared, np.asarray(x.cached_data))
