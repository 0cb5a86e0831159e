"""needle.testing: what is right passes, and each thing that can be wrong is seen and named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle.errors import DTypeError, OptionError
from needle.testing import assert_close, check_grads, check_op

X = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]])


class Cube(ndl.TensorOp):
    """y = x³."""

    def compute(self, x):
        return x * x * x

    def gradient(self, out_grad, node):
        return out_grad * 3 * node.inputs[0] ** 2


def cube_with(compute=None, gradient=None):
    """A Cube of which one method is replaced by something wrong."""

    class Wrong(Cube):
        name = "wrong"

    if compute is not None:
        Wrong.compute = lambda self, x: compute(x)
    if gradient is not None:
        Wrong.gradient = lambda self, out_grad, node: gradient(out_grad, node.inputs[0])
    return Wrong()


# -- check_grads -------------------------------------------------------------------------------


def test_right_gradients_pass_to_the_fourth_order():
    check_grads(lambda x: ndl.exp(ndl.sin(x)) * x, X, order=4)


def test_every_direction_is_tried():
    calls = []
    check_grads(lambda x: calls.append(1) or x * x, X, order=1, directions=1)
    once = len(calls)
    check_grads(lambda x: calls.append(1) or x * x, X, order=1, directions=3)
    assert len(calls) == 4 * once


def test_gradient_that_is_five_percent_off_in_one_element_fails():
    factor = tensor(np.where(X.max() == X, 1.05, 1.0), requires_grad=False)
    wrong = cube_with(gradient=lambda g, x: g * 3 * x**2 * factor)
    with pytest.raises(AssertionError, match=r"order 1, input 0 \(float64\[2,3\]\)"):
        check_grads(wrong, X)


def test_message_holds_both_numbers():
    wrong = cube_with(gradient=lambda g, x: g * 6 * x**2)
    with pytest.raises(AssertionError) as caught:
        check_grads(wrong, np.array([1.0]), order=1)
    words = str(caught.value).replace(",", "").split()
    expected, got = float(words[2]), float(words[words.index("got") + 1])
    assert got == pytest.approx(2 * expected, rel=1e-6)
    assert words[:2] == ["check_grads:", "expected"]


def test_message_names_the_input_that_is_wrong():
    wrong = cube_with(gradient=lambda g, x: g * x)
    with pytest.raises(AssertionError, match=r"input 2 \(float64\[3\]\)"):
        check_grads(lambda a, n, b: a * n * wrong(b), X, 3, X[0])


def test_gradient_without_a_graph_fails_at_the_second_order_only():
    once = cube_with(gradient=lambda g, x: g * 3 * x.detach() ** 2)
    check_grads(once, X, order=1)
    with pytest.raises(AssertionError, match="order 2, input 0"):
        check_grads(once, X, order=2)


def test_gradient_of_another_shape_or_dtype_fails():
    with pytest.raises(
        AssertionError, match=r"expected a gradient .*float64\[3\], got float64\[1\]"
    ):
        check_grads(cube_with(gradient=lambda g, x: g.sum().reshape((1,))), X[0])
    with pytest.raises(AssertionError, match=r"to be float64\[3\], got float32\[3\]"):
        check_grads(cube_with(gradient=lambda g, x: g.astype("float32")), X[0])


def test_float32_inputs_are_tried_in_float64():
    check_grads(lambda x: ndl.exp(x) * x, tensor(X, dtype="float32"))


def test_integers_bools_and_numbers_are_handed_on():
    ids = np.array([1, 0, 1])
    keep = tensor([True, False, True])
    check_grads(lambda x, i, k, s: ndl.where(k, ndl.take(x, i, 0)[0], s) ** 2, X, ids, keep, 2.0)


def test_several_results_are_checked_together():
    check_grads(lambda x: (x * x, ndl.split(ndl.exp(x), 0)[1]), X)
    check_grads(lambda x: ndl.split(ndl.exp(x), 0), X)


def test_wrong_second_result_is_seen():
    wrong = cube_with(gradient=lambda g, x: g)
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(lambda x: (x * x, wrong(x)), X)


def test_results_that_are_not_floats_carry_no_weight():
    check_grads(lambda x: (x * x, ndl.argmax(x)), X)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_scalars_and_arrays_of_nothing_pass(shape):
    check_grads(lambda x: ndl.exp(x) * x, np.full(shape, 0.5))


def test_step_is_shortened_near_the_edge_of_the_domain():
    check_grads(lambda x: ndl.log(x), np.array([1e-3, 2.0]))
    check_grads(lambda x: ndl.relu(x), np.array([1e-4, -1e-4]))


def test_large_and_small_slopes_are_told_apart_from_wrong_ones():
    check_grads(lambda x: ndl.exp(x * 20), np.array([0.5]))
    check_grads(lambda x: x * 1e-6, np.array([0.5]), atol=0)
    with pytest.raises(AssertionError):
        check_grads(lambda x: cube_with(gradient=lambda g, x: g * 2)(x) * 1e-6, X, atol=0)


def test_random_function_is_said_to_be_random():
    rng = np.random.RandomState(0)
    with pytest.raises(AssertionError, match=r"^check_grads: expected .* again .* deterministic"):
        check_grads(lambda x: x * float(rng.rand()), X)


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 1.5}, {"directions": 0}])
def test_check_of_nothing_is_refused(options):
    (name,) = options
    with pytest.raises(OptionError, match=f"check_grads: expected {name} to be 1 or more, got"):
        check_grads(cube_with(gradient=lambda g, x: g), X, **options)


def test_global_random_stream_is_left_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    check_grads(lambda x: x * x, X)
    check_op(Cube(), X)
    assert np.random.rand() == expected


def test_grad_attributes_of_the_inputs_are_left_alone():
    x = tensor(X)
    check_grads(lambda a: a * a, x)
    assert x.grad is None


def test_gradients_are_recorded_inside_no_grad():
    with ndl.no_grad():
        check_grads(lambda x: ndl.exp(x), X)


def test_nothing_to_differentiate_is_said():
    with pytest.raises(DTypeError, match=r"expected Tensors of floats, got \(int64\[2\]\)"):
        check_grads(lambda i: i, np.array([1, 2]))
    with pytest.raises(DTypeError, match="expected a result of floats, got none"):
        check_grads(lambda x: ndl.argmax(x), X)
    with pytest.raises(DTypeError, match="expected the function to return a Tensor"):
        check_grads(lambda x: 3.0, X)


# -- check_op ----------------------------------------------------------------------------------


def test_right_op_passes_with_everything_given():
    bad = [(([1, 2],), "expected Tensors, got")]
    check_op(Cube(), tensor(X), reference=lambda x: x**3, bad_inputs=bad, order=3)


def test_function_of_several_inputs_passes():
    fits_not = [((X, X), r"matmul: expected a \[\.\.\., m, k\]"), ((X, X[0, :2]), "float64")]
    check_op(ndl.matmul, X, X.T.copy(), reference=np.matmul, bad_inputs=fits_not)


def test_ops_with_several_results_pass():
    check_op(ndl.ops.Split(0), X, reference=lambda x: list(x))
    check_op(lambda x: (x * 2, ndl.exp(x)), X, reference=lambda x: (x * 2, np.exp(x)))


def test_ops_that_cannot_be_differentiated_pass_without_gradient():
    check_op(ndl.ops.Sign(), X, reference=np.sign)
    check_op(ndl.argmax, X, reference=np.argmax)
    check_op(lambda x: x.detach() * 2, X, order=0)


def test_float_result_without_a_graph_is_said():
    with pytest.raises(AssertionError, match=r"expected a result with a graph.*order=0"):
        check_op(lambda x: x.detach() * 2, X)


def test_class_in_place_of_an_op_is_said():
    with pytest.raises(DTypeError, match=r"expected an op or a function.*MyOp\(\)"):
        check_op(Cube, X)


class Counting(Cube):
    """Adds one more at every call."""

    name = "counting"
    calls = 0

    def compute(self, x):
        self.calls += 1
        return x + self.calls


def test_op_that_remembers_earlier_calls_fails():
    with pytest.raises(AssertionError, match=r"counting, lazily: expected .* at"):
        check_op(Counting(), X)


def test_difference_from_the_reference_fails():
    with pytest.raises(AssertionError, match=r"cube, against the reference: expected 0.25"):
        check_op(Cube(), X, reference=lambda x: x**2)
    with pytest.raises(AssertionError, match=r"expected float64\[\], got float64\[2,3\]"):
        check_op(Cube(), X, reference=lambda x: np.float64(1.0))
    with pytest.raises(AssertionError, match="expected 2 results as the reference gives, got 1"):
        check_op(Cube(), X, reference=lambda x: (x, x))
    check_op(Cube(), X, reference=lambda x: x**3 * (1 + 1e-7), rtol=1e-6)


def test_promotion_of_float32_fails():
    wrong = cube_with(compute=lambda x: np.asarray(x, dtype=np.float64))
    with pytest.raises(AssertionError, match=r"expected float32 .* got float64\[2,3\]"):
        check_op(wrong, X)


def test_gradient_in_another_dtype_fails():
    wrong = cube_with(gradient=lambda g, x: (g * x * x * 3).astype("float64"))
    with pytest.raises(AssertionError, match=r"gradient of dtype float32 .* got float64\[2,3\]"):
        check_op(wrong, X)


def test_dtype_of_a_cast_may_be_its_own():
    with pytest.raises(AssertionError, match="expected float32"):
        check_op(ndl.ops.Cast("float64"), X)
    check_op(ndl.ops.Cast("float64"), X, keeps_dtype=False)


def test_op_that_writes_to_its_input_fails():
    def compute(x):
        y = x * x * x
        x[...] = 0
        return y

    with pytest.raises(
        AssertionError, match="wrong: expected input 0 to stay as it was, it changed"
    ):
        check_op(cube_with(compute=compute), X)


@pytest.mark.np_mode("NumPy's functions take `out`")
def test_op_that_works_in_place_fails():
    wrong = cube_with(compute=lambda x: np.maximum(x, 0, out=x))
    with pytest.raises(AssertionError, match="wrong: expected input 0 to stay as it was"):
        check_op(wrong, X, order=0)


def test_gradient_that_writes_to_out_grad_fails():
    def gradient(g, x):
        dx = g * 3 * x**2
        g.cached_data *= 0
        return dx

    with pytest.raises(AssertionError, match="expected out_grad 0 to stay as it was"):
        check_op(cube_with(gradient=gradient), X)


def test_gradient_of_another_shape_fails():
    wrong = cube_with(gradient=lambda g, x: g.sum())
    with pytest.raises(AssertionError, match=r"^wrong: .*of float64\[2,3\], got float64\[\]"):
        check_op(wrong, X)


def test_wrong_gradient_fails_under_the_name_of_the_op():
    wrong = cube_with(gradient=lambda g, x: g * 3.01 * x**2)
    with pytest.raises(AssertionError, match=r"^wrong: check_grads: expected .* order 1"):
        check_op(wrong, X)


@pytest.mark.np_mode("NumPy's arrays have an order K")
def test_op_that_depends_on_the_memory_layout_fails():
    wrong = cube_with(compute=lambda x: x.ravel(order="K").reshape(x.shape) ** 3)
    with pytest.raises(AssertionError, match="wrong, permuted inputs: expected"):
        check_op(wrong, X)


@pytest.mark.parametrize("layout", ["sliced", "flipped", "zero-stride"])
def test_op_that_reads_memory_past_its_strides_fails(layout):
    def compute(x):
        strides = {"sliced": (6, 2), "flipped": (-3, -1), "zero-stride": (0, 1)}
        unit = x.dtype.itemsize if ndl.BACKEND == "np" else 1
        return x * 0 if x.strides == tuple(unit * n for n in strides[layout]) else x**3

    with pytest.raises(AssertionError, match=f"wrong, {layout} inputs: expected"):
        check_op(cube_with(compute=compute), X)


def test_plain_exception_on_inputs_without_elements_fails():
    def function(x):
        if x.size == 0:
            raise ZeroDivisionError("no elements")
        return x * 2

    message = r"^function: expected a result or a NeedleError for .*\[0,3\].*, got ZeroDivisionErr"
    with pytest.raises(AssertionError, match=message):
        check_op(function, X)


def test_plain_exception_on_the_inputs_fails_under_the_name_of_the_op():
    def compute(x):
        raise RuntimeError("out of order")

    with pytest.raises(AssertionError, match=r"^wrong: .* got RuntimeError\('out of order'\)"):
        check_op(cube_with(compute=compute), X)
    with pytest.raises(AssertionError, match=r"^matmul: expected a \[.* float64\[2,3\]"):
        check_op(ndl.matmul, X, X)
    with pytest.raises(AssertionError, match=r"^twice: expected the function to return a Tensor"):

        def twice(x):
            return x.numpy() * 2

        check_op(twice, X)


def test_gradient_that_is_no_tensor_fails_under_the_name_of_the_op():
    wrong = cube_with(gradient=lambda g, x: g.numpy() * 3 * x.numpy() ** 2)
    with pytest.raises(AssertionError, match=r"^wrong: .*to return Tensors, got float64\[2,3\]"):
        check_op(wrong, X)


def test_gradient_that_raises_fails_under_the_name_of_the_op():
    wrong = cube_with(gradient=lambda g, x: g * {}["slope"])
    with pytest.raises(AssertionError, match=r"^wrong: expected a gradient .*got KeyError"):
        check_op(wrong, X)


def test_second_order_that_raises_fails_under_the_name_of_the_op():
    class Slope(Cube):
        name = "slope"

        def compute(self, x):
            return 3 * x * x

        def gradient(self, out_grad, node):
            raise RuntimeError("no second order")

    wrong = cube_with(gradient=lambda g, x: g * Slope()(x))
    message = r"^wrong: .*RuntimeError\('no second order'\)"
    with pytest.raises(AssertionError, match=message):
        check_op(wrong, X)


def test_missing_gradient_fails_under_the_name_of_the_op():
    class Half(ndl.TensorOp):
        def compute(self, x):
            return x / 2

    with pytest.raises(AssertionError, match=r"^half: .*gradient.* is not written"):
        check_op(Half(), X)
    check_op(Half(), X, order=0)


def test_lists_and_numbers_are_arrays_to_an_op():
    check_op(Cube(), [1.0, 2.0], reference=lambda x: x**3)
    check_op(Cube(), 2.0, reference=lambda x: x**3)
    check_op(ndl.ops.EWiseMul(), X, 2.0, reference=np.multiply)


@pytest.mark.parametrize("inputs", [([1.0, 2.0],), (2.0,), ()])
def test_function_without_an_array_among_its_inputs_is_refused(inputs):
    message = r"check_op: expected Tensors or arrays among the inputs, got \(.*\)\. Wrap"
    with pytest.raises(DTypeError, match=message):
        check_op(ndl.exp, *inputs)


def test_negative_order_is_refused():
    with pytest.raises(OptionError, match="check_op: expected order to be 0 or more, got -1"):
        check_op(Cube(), X, order=-1)


def test_refusing_inputs_without_elements_in_so_many_words_passes():
    check_op(lambda x: ndl.max(x, 0), np.array([[1.0, 3.0], [2.0, 0.0]]))


def test_bad_input_must_raise_a_needle_error_with_the_message():
    check_op(ndl.exp, X, bad_inputs=[((2.0,), "exp: expected Tensors, got float 2.0")])
    check_op(ndl.triu, X, bad_inputs=[(X[0], r"triu: expected \[\.\.\., m, n\], got")])
    with pytest.raises(AssertionError, match="expected a message like 'numbers', got 'exp: "):
        check_op(ndl.exp, X, bad_inputs=[((2.0,), "numbers")])
    with pytest.raises(AssertionError, match=r"expected an error for \(float64\[2,3\]\)"):
        check_op(ndl.exp, X, bad_inputs=[((X,), "")])

    def careless(x):
        return x + {}[x.ndim] if x.ndim == 1 else x * 2

    with pytest.raises(AssertionError, match=r"a NeedleError for .*, got KeyError\(1\)"):
        check_op(careless, X, bad_inputs=[((X[0],), "")])


# -- assert_close ------------------------------------------------------------------------------


def test_equal_arrays_tensors_and_lists_pass():
    assert_close(tensor(X), X)
    assert_close([1, 2], tensor([1, 2]))
    assert_close(np.nan, np.nan)
    assert_close([np.inf, -np.inf], [np.inf, -np.inf])


def test_tolerance_follows_the_coarser_dtype():
    assert_close(np.float32(1) + np.float32(1e-5), 1.0)
    with pytest.raises(AssertionError):
        assert_close(1 + 1e-5, 1.0)
    assert_close(tensor([1.0], dtype="bfloat16"), [1.05])


def test_shapes_do_not_broadcast():
    with pytest.raises(AssertionError, match=r"expected float64\[1\], got float64\[\]"):
        assert_close(1.0, [1.0])


def test_place_of_the_first_difference_is_told():
    with pytest.raises(AssertionError, match=r"x: expected 7.0 at \(1, 2\), got -0.75: 1 of 6"):
        assert_close(X, np.where(X == -0.75, 7.0, X), what="x")


def test_integers_must_be_equal_and_dtypes_where_asked():
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_close([1, 2], [1, 3])
    assert_close(np.int32(1), np.int64(1))
    with pytest.raises(AssertionError, match=r"expected int64\[\], got int32\[\]"):
        assert_close(np.int32(1), np.int64(1), same_dtype=True)


def test_import_needle_leaves_testing_out():
    code = "import needle, sys; sys.exit('needle.testing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
