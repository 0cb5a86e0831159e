"""What stands beside a Tensor in an operator, and arrays of other libraries that become one."""

from __future__ import annotations

import operator
from types import SimpleNamespace

import numpy as np
import pytest

import needle as ndl
from needle.errors import DeviceError, DTypeError

ARRAY = np.array([0.1, 0.2])
ARITHMETIC = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.matmul,
    ndl.maximum,
    ndl.minimum,
    lambda a, b: ndl.where(np.array([True, False]), a, b),
]


def ones(dtype: str) -> ndl.Tensor:
    return ndl.Tensor([1.0, 1.0], dtype=dtype)


# -- NumPy's arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_a_float64_tensor_beside_a_numpy_array_computes_in_float64(operation):
    result = operation(ones("float64"), ARRAY)
    expected = operation(ones("float64"), ndl.Tensor(ARRAY, dtype="float64"))
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


@pytest.mark.parametrize("operation", [operator.mul, operator.sub, operator.matmul])
def test_a_numpy_array_beside_a_float64_tensor_computes_in_float64(operation):
    result = operation(ARRAY, ones("float64"))
    expected = operation(ndl.Tensor(ARRAY, dtype="float64"), ones("float64"))
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


@pytest.mark.nd_mode
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "array", [ARRAY, ARRAY.astype("float32"), np.array([1, 2]), np.array([True, False])]
)
@pytest.mark.parametrize("operation", ARITHMETIC)
def test_beside_a_tensor_of_floats_a_numpy_array_takes_its_dtype(operation, array, dtype):
    assert operation(ones(dtype), array).dtype == ones(dtype).dtype
    assert operation(ones(dtype), array[:1].repeat(2)).dtype == ones(dtype).dtype


@pytest.mark.nd_mode
@pytest.mark.parametrize("size", [1, 2])
def test_an_array_of_one_element_counts_as_one_of_several_does(size):
    assert (ones("float16")[:size] * np.ones(size)).dtype == np.float16
    assert (np.ones(size, dtype="int64") - ones("float16")[:size]).dtype == np.float16


@pytest.mark.nd_mode
def test_integers_keep_their_dtype_beside_integers_and_in_comparisons():
    ints = ndl.Tensor([1, 2], dtype="int8")
    assert (ints + np.array([1, 2], dtype="int16")).dtype == np.int16
    odd = np.array([2**24 + 1])
    large = ndl.Tensor([2.0**24], dtype="float32")
    assert not ndl.equal(large, odd).item()  # they are one number in float32


# -- lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: operator.add(x, [1, 2]), "add"),
        (lambda x: x * [0.1], "multiply"),
        (lambda x: x - [1, 2], "subtract"),
        (lambda x: [1, 2] - x, "subtract"),
        (lambda x: x / (1, 2), "divide"),
        (lambda x: [1, 2] / x, "divide"),
        (lambda x: x ** [1, 2], "power"),
        (lambda x: [1, 2] ** x, "power"),
        (lambda x: x @ [1, 2], "matmul"),
        (lambda x: [1, 2] @ x, "matmul"),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_operators_refuse_lists_with_the_name_of_the_op(operation, name, dtype):
    with pytest.raises(DTypeError) as caught:
        operation(ones(dtype))
    assert str(caught.value).startswith(f"{name}: expected a Tensor, array or number, got a ")
    assert "ndl.Tensor(" in str(caught.value)


def test_operators_leave_what_they_do_not_know_to_python():
    class Other:
        def __radd__(self, other: object) -> str:
            return "mine"

    assert ones("float32") + Other() == "mine"
    with pytest.raises(TypeError, match="unsupported operand"):
        ones("float32") + "text"


# -- the array library of the other mode -------------------------------------------------------


@pytest.mark.np_mode
@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul, operator.matmul])
def test_np_mode_refuses_arrays_of_nd_mode(operation):
    import needle.backend_ndarray as nd

    with pytest.raises(DTypeError, match=r"got an NDArray of nd mode\. .*numpy\(\)"):
        operation(ones("float32"), nd.ones(2))


@pytest.mark.np_mode
def test_np_mode_refuses_devices_of_nd_mode_and_says_which_they_are():
    import needle.backend_ndarray as nd

    with pytest.raises(DeviceError, match=r"expected np mode's cpu\(\), got cpu\(\) of nd mode"):
        ndl.Tensor([1.0], device=nd.cpu())


# -- DLPack ------------------------------------------------------------------------------------


def test_from_dlpack_shares_memory():
    numbers = np.array([1.0, 2.0])
    x = ndl.from_dlpack(numbers)
    numbers[0] = 5
    assert isinstance(x, ndl.Tensor)
    assert not x.requires_grad
    assert x.dtype == np.float64
    assert x.tolist() == [5.0, 2.0]


def test_from_dlpack_refuses_what_has_none():
    with pytest.raises(DTypeError, match=r"^from_dlpack: expected an object with __dlpack__, got"):
        ndl.from_dlpack([1.0])


class Producer:
    """An object of a library that hands out arrays by DLPack alone."""

    def __init__(self, array: np.ndarray, error: Exception | None = None, **extra: object) -> None:
        self.array, self.error = array, error
        self.__dict__.update(extra)

    def __dlpack__(self, **options: object) -> object:
        if self.error is not None:
            raise self.error
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_tensors_are_made_of_what_has_dlpack():
    x = ndl.Tensor(Producer(np.array([1.0, 2.0], dtype="float32")))
    assert x.tolist() == [1.0, 2.0]
    assert x.dtype == np.float32


def test_tensors_are_made_of_what_has_to_be_detached_first():
    graph = Producer(ARRAY, BufferError("requires grad"), detach=lambda: Producer(ARRAY))
    assert ndl.Tensor(graph, dtype="float64").tolist() == [0.1, 0.2]
    assert ndl.from_dlpack(graph).tolist() == [0.1, 0.2]


@pytest.mark.parametrize("error", [RuntimeError("no memory"), BufferError("no memory")])
def test_what_dlpack_refuses_is_a_dtype_error_of_the_tensor(error):
    with pytest.raises(DTypeError, match=r"^Tensor: expected an array of numbers, .*\(no memory\)"):
        ndl.Tensor(Producer(ARRAY, error))
    with pytest.raises(DTypeError, match=r"^from_dlpack: expected .*\(no memory\)"):
        ndl.from_dlpack(Producer(ARRAY, error))


def test_tensors_are_made_of_pytorchs():
    torch = pytest.importorskip("torch")
    assert ndl.Tensor(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    assert ndl.from_dlpack(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    with pytest.raises(DTypeError, match=r"^Tensor: expected an array of numbers, got"):
        ndl.Tensor(torch.ones(2, device="meta"))


@pytest.mark.nd_mode
def test_tensors_are_made_of_pytorchs_bfloat16():
    torch = pytest.importorskip("torch")
    half = torch.ones(2, dtype=torch.bfloat16)
    assert ndl.Tensor(half).dtype == np.float32
    assert ndl.Tensor(half, dtype="bfloat16").dtype.name == "bfloat16"
    shared = ndl.from_dlpack(half)
    half[0] = 3
    assert shared.dtype.name == "bfloat16"
    assert shared.tolist() == [3.0, 1.0]


def test_an_object_with_an_array_of_its_own_is_still_taken():
    holder = SimpleNamespace(__array__=None)
    with pytest.raises(DTypeError, match="Tensor: expected an array of numbers"):
        ndl.Tensor(holder)


@pytest.mark.nd_mode
@pytest.mark.parametrize(
    "operation",
    [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow],
)
@pytest.mark.parametrize("size", [1, 2])
def test_an_ndarray_on_the_left_leaves_it_to_the_tensor(operation, size):
    array = ndl.NDArray([2.0] * size)
    weight = ndl.Tensor([3.0] * size)
    result = operation(array, weight)
    assert isinstance(result, ndl.Tensor)
    np.testing.assert_allclose(result.numpy(), operation(array.numpy(), weight.numpy()))
    result.sum().backward()
    assert weight.grad.shape == (size,)


@pytest.mark.nd_mode
def test_a_matrix_of_an_ndarray_times_a_tensor_is_a_tensor():
    product = ndl.NDArray(np.ones((2, 3))) @ ndl.Tensor(np.ones((3, 1)))
    assert isinstance(product, ndl.Tensor)
    assert product.numpy().tolist() == [[3.0], [3.0]]
