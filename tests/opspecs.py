"""The table of operators: one row per op, with its reference and the inputs that try it.

`test_opspecs.py` runs every check over every row and fails for an op of `needle.ops` that has
none. What a row holds is told in `oprows.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy_references import (
    cross_entropy,
    einsum,
    erf,
    gelu,
    logsumexp,
    matmul,
    reducing,
    scattered,
    scattered_along,
    sigmoid,
    slices,
    softmax,
    softmax_minus_one_hot,
)
from oprows import Case, Row, Shape, anywhere, bad, below, case, distinct, positive, truth
from opspecs_activations import ROWS_ACTIVATION, ROWS_BETWEEN, ROWS_PADDING
from opspecs_attention import ROWS_ATTENTION
from opspecs_normalization import ROWS_NORMALIZATION
from opspecs_pictures import ROWS_CONVOLUTION, ROWS_POOLING
from opspecs_recurrence import ROWS_RECURRENCE

from needle import errors, ops
from needle.ops.indexing import _split_index

SHAPES = [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0, 3)]
UNARY = [case(shape) for shape in SHAPES]
PAIRS = [
    case((), ()),
    case((2, 3), (2, 3)),
    case((2, 3), (3,)),
    case((1, 3), (3,)),
    case((2, 1), (1, 3)),
    case((), (2, 3)),
    case((4, 1, 3), (2, 1)),
    case((0, 3), (1, 3)),
    case((2, 0), (1,)),
]
UNFIT = [bad(errors.ShapeError, r"broadcast together, got float64\[2,3\] and float64\[2\]",
             (2, 3), (2,))]  # fmt: skip


def with_scalar(*scalars: Any) -> list[Case]:
    return [case(shape, scalar=scalar) for shape in SHAPES for scalar in scalars]


NOT_A_NUMBER = [bad(errors.DTypeError, "expected a number, got str 'two'", (3,), scalar="two")]


def over_axes(**params: Any) -> list[Case]:
    """A reduction over every kind of axes."""
    chosen = [None, 0, -1, 1, (0, 2), (-1, 0), [1], (0, 1, 2)]
    cases = [case((2, 3, 4), axes=axes, **params) for axes in chosen]
    cases += [case((2, 3, 4), axes=axes, keepdims=True, **params) for axes in (None, 1, (0, -1))]
    cases += [case((), axes=None, **params), case((5,), axes=0, **params)]
    return [*cases, case((0, 3), axes=1, **params), case((3, 1), axes=(), **params)]


BAD_AXES = [
    bad(errors.AxisError, r"expected axes in \[-2, 2\) of an array with 2 axes, got 2",
        (2, 3), axes=2),
    bad(errors.AxisError, "expected each axis once", (2, 3), axes=(0, -2)),
    bad(errors.DTypeError, "expected axes to be ints, got 'rows'", (2, 3), axes="rows"),
]  # fmt: skip


def _scatter_add(x: Any, shape: Shape, index: Any) -> Any:
    template, tensors = _split_index(index)
    return ops.ScatterAdd(shape, template)(x, *tensors)


def _of_tuple(op: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a sequence of Tensors as one of the Tensors."""

    def function(*tensors: Any, **params: Any) -> Any:
        return op(tensors, **params)

    function.__name__ = op.__name__
    return function


def _of_made_tuple(*tensors: Any, index: int) -> Any:
    # fused_add_scalars makes a tuple that tuple_get_item cannot look through
    return ops.tuple_get_item(ops.fused_add_scalars(*tensors, 0, 1), index)


def _spelled(*tensors: Any, subscripts: str) -> Any:
    return ops.einsum(subscripts, *tensors)


ROWS_ELEMENTWISE = [
    Row(ops.EWiseAdd, ops.add, np.add, PAIRS, UNFIT),
    Row(ops.EWiseMul, ops.multiply, np.multiply, PAIRS, UNFIT),
    Row(ops.EWiseDiv, ops.divide, np.divide, PAIRS, UNFIT),
    Row(ops.EWisePow, ops.power, np.power, PAIRS,
        [*UNFIT, bad(errors.DTypeError, "negative", np.array([2]), np.array([-1]))],
        draws=(positive, anywhere)),
    Row(ops.AddScalar, ops.add_scalar, lambda x, scalar: x + scalar,
        with_scalar(2, -0.5), NOT_A_NUMBER),
    Row(ops.MulScalar, ops.mul_scalar, lambda x, scalar: x * scalar,
        with_scalar(3, -0.5), NOT_A_NUMBER),
    Row(ops.DivScalar, ops.divide_scalar, lambda x, scalar: x / scalar,
        with_scalar(2, -0.5), NOT_A_NUMBER),
    Row(ops.PowerScalar, ops.power_scalar, lambda x, scalar: x**scalar,
        with_scalar(0, 1, 2, 3, -1.5, 0.5),
        [*NOT_A_NUMBER, bad(errors.DTypeError, r"got int64\[1\]", np.array([2]), scalar=-1)],
        draws=(positive,)),
    Row(ops.Negate, ops.negate, np.negative, UNARY,
        [bad(errors.DTypeError, r"expected numbers, got bool\[1\]", np.array([True]))]),
    Row(ops.Log, ops.log, np.log, UNARY, draws=(positive,)),
    Row(ops.Exp, ops.exp, np.exp, UNARY),
    Row(ops.Sqrt, ops.sqrt, np.sqrt, UNARY, draws=(positive,)),
    Row(ops.Sin, ops.sin, np.sin, UNARY),
    Row(ops.Cos, ops.cos, np.cos, UNARY),
    Row(ops.Erf, ops.erf, erf, UNARY),
    Row(ops.Sign, ops.sign, np.sign, UNARY),
    Row(ops.Abs, ops.abs, np.abs, UNARY),
    Row(ops.Clip, ops.clip, lambda x, low=None, high=None: np.clip(x, low, high),
        [case((2, 3), low=-1, high=1), case((), low=0), case((3,), high=0), case((0,), low=0),
         case((2, 3), low=0.5, high=0.5)],
        [bad(errors.OptionError, "expected low, high or both, got neither", (3,)),
         bad(errors.DTypeError, "expected", (3,), low="a")], draws=(distinct,)),
    Row(ops.Cast, ops.cast, lambda x, dtype: x.astype(dtype),
        [case(shape, dtype="float32") for shape in SHAPES] + [case((2, 3), dtype="int32")],
        [bad(errors.DTypeError, "got 'float31'", (3,), dtype="float31")],
        order=0, keeps_dtype=False, bools=True),
    Row(ops.ReLU, ops.relu, lambda x: np.maximum(x, 0), UNARY),
    Row(ops.Tanh, ops.tanh, np.tanh, UNARY),
    Row(ops.Sigmoid, ops.sigmoid, sigmoid, UNARY),
    Row(ops.SiLU, ops.silu, lambda x: x * sigmoid(x), UNARY),
    Row(ops.Softplus, ops.softplus, lambda x: np.log1p(np.exp(x)), UNARY),
    Row(ops.GELU, ops.gelu, gelu,
        [case(shape, approximate=form) for shape in SHAPES for form in ("none", "tanh")],
        [bad(errors.OptionError, "expected approximate 'none' or 'tanh', got 'fast'", (3,),
             approximate="fast")]),
]  # fmt: skip


SOME_ZERO = np.array([[0.0, 2.0, -0.5], [np.nan, 0.0, 0.0]])
LOGIC = [*PAIRS, case(SOME_ZERO, np.array([True, False, True])), case(SOME_ZERO, SOME_ZERO[:, :1])]

ROWS_COMPARISON = [
    Row(op, function, reference, PAIRS, UNFIT, order=0, bools=True)
    for op, function, reference in [
        (ops.Equal, ops.equal, np.equal),
        (ops.NotEqual, ops.not_equal, np.not_equal),
        (ops.Less, ops.less, np.less),
        (ops.LessEqual, ops.less_equal, np.less_equal),
        (ops.Greater, ops.greater, np.greater),
        (ops.GreaterEqual, ops.greater_equal, np.greater_equal),
    ]
] + [
    Row(op, function, reference, LOGIC, [bad(errors.ShapeError, r"got bool\[2,3\] and bool\[2\]",
        (2, 3), (2,))], draws=(truth,), order=0, bools=True)
    for op, function, reference in [
        (ops.LogicalAnd, ops.logical_and, np.logical_and),
        (ops.LogicalOr, ops.logical_or, np.logical_or),
    ]
] + [
    Row(ops.Indicator, ops.indicator, lambda holds, x: holds.astype(x.dtype),
        [case((2, 3), (2, 3)), case((2, 3), (1, 3)), case((), ()), case((0,), (0,))],
        draws=(truth, anywhere), integers=False),
    Row(ops.LogicalNot, ops.logical_not, np.logical_not, UNARY, draws=(truth,), order=0),
    Row(ops.Maximum, ops.maximum, np.maximum, PAIRS, UNFIT, bools=True),
    Row(ops.Minimum, ops.minimum, np.minimum, PAIRS, UNFIT, bools=True),
    Row(ops.Where, ops.where, np.where,
        [case((), (), ()), case((2, 3), (2, 3), (2, 3)), case((3,), (2, 3), ()),
         case((2, 1), (3,), (1, 3)), case((0, 3), (3,), (1, 1))],
        [bad(errors.DTypeError, r"expected a bool condition, got float64\[2\]",
             np.ones(2), (2,), (2,)),
         bad(errors.ShapeError, r"got bool\[2\] and float64\[3\] and float64\[3\]",
             (2,), (3,), (3,))],
        draws=(truth, anywhere), bools=True),
]  # fmt: skip


AXIS_CASES = [
    case((3,), axis=0),
    case((2, 3, 4), axis=1),
    case((2, 3, 4), axis=-1),
    case((0, 3), axis=1),
    case((2, 1), axis=0),
]
BAD_AXIS = [bad(errors.AxisError, r"float64\[2,3\]|with 2 axes, got 2", (2, 3), axis=2)]

ROWS_REDUCTION = [
    Row(ops.Summation, ops.summation, reducing(np.sum), over_axes(), BAD_AXES, bools=True),
    Row(ops.Mean, ops.mean, reducing(np.mean), over_axes(), BAD_AXES, bools=True),
    Row(ops.Var, ops.var, reducing(lambda x, correction=0, **p: np.var(x, ddof=correction, **p)),
        [*over_axes(), case((4, 3), axes=0, correction=1), case((5,), axes=None, correction=2)],
        [*BAD_AXES, bad(errors.OptionError, "expected more than 1 elements", (1,), correction=1)]),
    Row(ops.Std, ops.std, reducing(lambda x, correction=0, **p: np.std(x, ddof=correction, **p)),
        [c for c in over_axes() if math.prod(c.inputs[0]) > 3]
        + [case((4, 3), axes=0, correction=1), case((0, 3), axes=1)],
        [*BAD_AXES, bad(errors.OptionError, "expected more than 1 elements", (1,), correction=1)]),
    Row(ops.Max, ops.max, reducing(np.max), over_axes(),
        [*BAD_AXES, bad(errors.ShapeError, "expected at least one element", (0, 3), axes=0)],
        draws=(distinct,), bools=True),
    Row(ops.Min, ops.min, reducing(np.min), over_axes(),
        [*BAD_AXES, bad(errors.ShapeError, "expected at least one element", (0, 3), axes=0)],
        draws=(distinct,), bools=True),
    Row(ops.ArgMax, ops.argmax, np.argmax, [*AXIS_CASES, case(()), case((2, 3), axis=None)],
        [*BAD_AXIS, bad(errors.ShapeError, "expected at least one element", (0,))],
        draws=(distinct,), order=0, bools=True),
    Row(ops.ArgMin, ops.argmin, np.argmin, [*AXIS_CASES, case(()), case((2, 3), axis=None)],
        [*BAD_AXIS, bad(errors.ShapeError, "expected at least one element", (0,))],
        draws=(distinct,), order=0, bools=True),
    *[Row(op, function, reducing(reference), [*over_axes(), case(SOME_ZERO, axes=0)], BAD_AXES,
          draws=(truth,), order=0, bools=True)
      for op, function, reference in [
          (ops.AllTrue, ops.all, np.all), (ops.AnyTrue, ops.any, np.any)
      ]],
    Row(ops.CumSum, ops.cumsum, np.cumsum, AXIS_CASES,
        [*BAD_AXIS, bad(errors.AxisError, "with 0 axes, got 0", (), axis=0)], bools=True),
    Row(ops.LogSumExp, ops.logsumexp, reducing(logsumexp), over_axes(), BAD_AXES),
    Row(ops.LogSoftmax, ops.logsoftmax, lambda x, axis=-1: np.log(softmax(x, axis)),
        [*AXIS_CASES, case((2, 3))], BAD_AXIS),
    Row(ops.Softmax, ops.softmax, softmax, [*AXIS_CASES, case((2, 3))], BAD_AXIS),
    Row(ops.CrossEntropy, ops.cross_entropy, cross_entropy,
        [case((4, 3), (4, 1)), case((1, 3), (1, 1)), case((0, 3), (0, 1)),
         case((4, 3), (4, 1), mean=True)],
        [bad(errors.OutOfRangeError, "class ids", (2, 3), np.array([[1], [3]])),
         bad(errors.OutOfRangeError, "a class id below 0", (2, 3), np.array([[1], [-1]])),
         bad(errors.DTypeError, "class ids of dtype float64", (2, 3), np.zeros((2, 1))),
         bad(errors.ShapeError, r"got float64\[2\] and int64\[2,1\]", (2,), np.array([[0], [1]])),
         bad(errors.NeedleError, r"float64\[2,3\] and int64\[2\]", (2, 3), np.array([1, 2]))],
        draws=(anywhere, below(3)), integers=False),
    Row(ops.SoftmaxMinusOneHot, ops.softmax_minus_one_hot, softmax_minus_one_hot,
        [case((4, 3), (4, 1)), case((1, 3), (1, 1)), case((0, 3), (0, 1))],
        [bad(errors.OutOfRangeError, "class ids", (2, 3), np.array([[1], [3]])),
         bad(errors.OutOfRangeError, "a class id below 0", (2, 3), np.array([[1], [-1]]))],
        draws=(anywhere, below(3)), integers=False),
]  # fmt: skip


ROWS_SHAPE = [
    Row(ops.Transpose, ops.transpose,
        lambda x, axes=None: np.swapaxes(x, *(axes or (-1, -2))),
        [case((2, 3)), case((2, 3, 4)), case((2, 3, 4), axes=(0, 2)), case((0, 3)),
         case((2, 3, 4), axes=(-3, 1)), case((2, 3), axes=(1, 1))],
        [bad(errors.AxisError, "expected at least two axes", (3,)),
         bad(errors.AxisError, r"float64\[2,3\]", (2, 3), axes=(0, 2)),
         bad(errors.AxisError, "expected two axes to swap", (2, 3), axes=(0,)),
         bad(errors.AxisError, "expected two axes to swap, got 1", (2, 3), axes=1)], bools=True),
    Row(ops.Permute, ops.permute, np.transpose,
        [case((), axes=()), case((3,), axes=(0,)), case((2, 3, 4), axes=(2, 0, 1)),
         case((2, 3, 4), axes=(-1, 0, -2)), case((2, 0), axes=[1, 0])],
        [bad(errors.AxisError, "expected every axis once", (2, 3), axes=(0,)),
         bad(errors.AxisError, "expected each axis once", (2, 3), axes=(0, 0)),
         bad(errors.AxisError, "expected every axis once, got", (2, 3), axes=1)], bools=True),
    Row(ops.Reshape, ops.reshape, np.reshape,
        [case((2, 3), shape=(6,)), case((2, 3), shape=(3, -1)), case((6,), shape=[1, 2, 3]),
         case((), shape=(1, 1)), case((1,), shape=()), case((0, 3), shape=(3, 0)),
         case((4,), shape=4)],
        [bad(errors.ShapeError, r"as many elements as shape \(4,\) has, got float64\[2,3\]",
             (2, 3), shape=(4,)),
         bad(errors.ShapeError, "at most one", (2, 3), shape=(-1, -1)),
         bad(errors.ShapeError, "negative|-2", (2, 3), shape=(-2, 3)),
         bad(errors.ShapeError, r"expected a shape \(a tuple of ints\)", (6,), shape="six")],
        bools=True),
    Row(ops.BroadcastTo, ops.broadcast_to, np.broadcast_to,
        [case((), shape=(2, 3)), case((3,), shape=(2, 3)), case((2, 1), shape=(4, 2, 3)),
         case((1, 3), shape=(0, 3)), case((2, 3), shape=(2, 3)), case((1,), shape=3),
         case((0, 1), shape=(0, 3))],
        [bad(errors.ShapeError, r"broadcasts to \(2, 4\), got float64\[2,3\]", (2, 3),
             shape=(2, 4))], bools=True),
    Row(ops.Squeeze, ops.squeeze, reducing(np.squeeze),
        [case((1, 3, 1)), case((1, 3, 1), axes=0), case((1, 3, 1), axes=(0, -1)),
         case((1, 0)), case((1, 1)), case(())],
        [bad(errors.ShapeError, r"expected length 1 .* got float64\[2,3\]", (2, 3), axes=0),
         BAD_AXES[0]], bools=True),
    Row(ops.ExpandDims, ops.expand_dims, lambda x, axes: np.expand_dims(x, axes),
        [case((), axes=0), case((3,), axes=-1), case((3,), axes=(0, 2)), case((0, 2), axes=1),
         case((3,), axes=np.int64(1))],
        [bad(errors.AxisError, r"expected axes", (3,), axes=3),
         bad(errors.AxisError, r"expected each axis once", (3,), axes=(0, 0))], bools=True),
    Row(ops.Flip, ops.flip, reducing(np.flip),
        [case((2, 3), axes=axes) for axes in (None, 0, -1, (0, 1), np.int64(0))]
        + [case(()), case((0, 2), axes=0)], BAD_AXES, bools=True),
    Row(ops.Concatenate, _of_tuple(ops.concatenate), lambda *a, axis: np.concatenate(a, axis),
        [case((2, 3), (1, 3), axis=0), case((2, 3), (2, 1), (2, 2), axis=-1),
         case((3,), axis=0), case((0, 3), (2, 3), axis=0), case((2, 0), (2, 3), axis=1)],
        [bad(errors.ShapeError, "expected at least one Tensor, got none", axis=0),
         bad(errors.ShapeError, r"got float64\[2,3\] and float64\[2,2\]", (2, 3), (2, 2), axis=0),
         bad(errors.AxisError, r"float64\[2,3\]|got 2", (2, 3), axis=2),
         bad(errors.NeedleError, "axis", (2, 3), axis=None)], bools=True),
]  # fmt: skip


INDICES = [
    0,
    -1,
    slice(1, None),
    slice(None, None, -2),
    None,
    ...,
    (..., 0),
    (0, None, slice(0, 1)),
    np.array([0, 2, 0]),
    [1, 1],
    ((0, 0, 1),),
    np.array([[0, 1], [2, 2]]),
    (slice(None), np.array([3, 0, 3])),
    (np.array([0, 1]), slice(None), np.array([1, 1])),
    (np.array([[0], [2]]), np.array([1, 3])),
    np.array([True, False, True]),
    (slice(None), np.array([True, False, False, True])),
    np.array([], dtype=np.int64),
    [],
    slice(2, 2),
    np.array(1),
]


def _scatter_case(index: Any, shape: Shape = (3, 4, 2)) -> Case:
    return case(np.zeros(shape)[index].shape, shape=shape, index=index)


ROWS_INDEXING = [
    Row(ops.GetItem, ops.getitem, lambda x, index: x[index],
        [case((3, 4, 2), index=index) for index in INDICES]
        + [case((), index=()), case((0, 3), index=(slice(None), 1))],
        [bad(errors.OutOfRangeError, r"got float64\[3,2\]", (3, 2), index=3),
         bad(errors.OutOfRangeError, r"got float64\[3,2\] and int64\[1\]", (3, 2), index=[3]),
         bad(errors.OutOfRangeError, "too many indices|at most 1 indices", (3,), index=(0, 0)),
         bad(errors.OutOfRangeError, "boolean index|expected a mask", (3,), index=np.array([True])),
         bad(errors.DTypeError, r"expected .*integer.*got float64\[1\]", (3,),
             index=np.array([0.0])),
         bad(errors.DTypeError, "expected ints.*1.5", (3,), index=1.5),
         bad(errors.DTypeError, "'a'", (3,), index="a")], bools=True),
    Row(ops.ScatterAdd, _scatter_add, scattered, [_scatter_case(index) for index in INDICES],
        [bad(errors.ShapeError, r"float64\[3\]", (3,), shape=(4,), index=slice(2))],
        public=False),
    Row(ops.TakeAlong, ops.take_along, np.take_along_axis,
        [case((3, 4), (2, 4), axis=0), case((3, 4), (3, 5), axis=-1), case((3, 4), (3, 1), axis=1),
         case((3, 4), (1, 5), axis=1), case((3,), (0,), axis=0)],
        [bad(errors.DTypeError, r"expected integer indices.*float64\[2\]", (2,), np.zeros(2),
             axis=0),
         bad(errors.ShapeError, r"as many axes, got float64\[2,2\] and int64\[2\]", (2, 2),
             np.zeros(2, int), axis=0),
         bad(errors.OutOfRangeError, r"float64\[2\] and int64\[1\]", (2,), np.array([2]), axis=0),
         bad(errors.AxisError, "got 1", (2,), np.array([1]), axis=1)],
        draws=(anywhere, below(3)), bools=True),
    Row(ops.ScatterAlong, lambda x, i, shape, axis: ops.ScatterAlong(shape, axis)(x, i),
        scattered_along,
        [case((2, 4), (2, 4), shape=(3, 4), axis=0), case((3, 5), (3, 5), shape=(3, 4), axis=-1)],
        draws=(anywhere, below(3)), public=False),
]  # fmt: skip


EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij , jk", (2, 3), (3, 4)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)),
    ("...ij,...jk->...ik", (5, 2, 3), (3, 4)),
    ("i,i", (3,), (3,)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->ij", (2, 2, 3)),
    ("iii->i", (2, 2, 2)),
    ("ij->", (2, 3)),
    ("ij->j", (2, 3)),
    ("ji", (2, 3)),
    ("ba", (2, 3)),
    ("...i->...", (2, 3, 4)),
    ("i...j->j...i", (2, 3, 4)),
    ("ij,i,j->", (2, 3), (2,), (3,)),
    ("a,b,c->abc", (2,), (3,), (2,)),
    (",ij->ij", (), (2, 3)),
    ("->", ()),
    ("...,...->...", (2, 3), (3,)),
    ("...,...->...", (2, 1), (1, 3)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ij,jk->ik", (0, 3), (3, 2)),
    ("ij,jk->ik", (2, 0), (0, 3)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij,ij->j", (1, 3), (2, 3)),
    ("ii,i->i", (1, 1), (3,)),
    ("Ab,bA->A", (2, 3), (3, 2)),
]

MATMULS = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((6, 6, 5, 4), (4, 3)),
    ((5, 4), (6, 6, 4, 3)),
    ((3, 2, 1), (3, 3, 1, 2)),
    ((2, 1, 2, 3), (1, 4, 3, 2)),
    ((0, 3), (3, 2)),
    ((2, 0), (0, 3)),
]

TRIANGLES = [
    case((3, 3)),
    case((2, 4), k=1),
    case((2, 3, 2), k=-1),
    case((0, 2)),
    case((2, 2), k=5),
]
BAD_TRIANGLES = [
    bad(errors.ShapeError, r"expected \[\.\.\., m, n\], got float64\[3\]", (3,)),
    bad(errors.DTypeError, "an int k", (3, 3), k=1.5),
]

ROWS_LINALG = [
    Row(ops.MatMul, ops.matmul, matmul,
        [*[case(*shapes) for shapes in MATMULS],
         case((3, 2), (3, 4), transpose_a=True), case((2, 3), (4, 3), transpose_b=True),
         case((5, 3, 2), (4, 3), transpose_a=True, transpose_b=True)],
        [bad(errors.ShapeError,
             r"expected a \[\.\.\., m, k\] and b \[\.\.\., k, n\], got float64\[2,3\] and "
             r"float64\[2,3\]", (2, 3), (2, 3)),
         bad(errors.ShapeError, r"float64\[\]", (), (2, 3)),
         bad(errors.ShapeError, r"got float64\[2,2,3\]", (2, 2, 3), (3, 3, 2)),
         bad(errors.ShapeError, r"a \[\.\.\., k, m\] and b \[\.\.\., k, n\], got float64\[2,3\]",
             (2, 3), (3, 2), transpose_a=True)]),
    Row(ops.Einsum, _spelled, einsum,
        [case(*shapes, subscripts=subscripts) for subscripts, *shapes in EINSUMS],
        [bad(errors.ShapeError, "expected 2 arrays for 'ij,jk', got 1", (2, 3),
             subscripts="ij,jk"),
         bad(errors.ShapeError, "expected 2 axes for 'ij'", (3,), subscripts="ij->i"),
         bad(errors.ShapeError, r"float64\[2,3\] and float64\[2,3\]", (2, 3), (2, 3),
             subscripts="ij,jk->ik"),
         bad(errors.ShapeError, "'i->z'", (3,), subscripts="i->z"),
         bad(errors.OptionError, r"expected letters.*got '\$->'", (3,), subscripts="$->"),
         bad(errors.ShapeError, r"one letter in 'ii', got float64\[1,3\]", (1, 3),
             subscripts="ii"),
         bad(errors.DTypeError, "expected subscripts", (3,), subscripts=3)]),
    Row(ops.Tril, ops.tril, np.tril, TRIANGLES, BAD_TRIANGLES, bools=True),
    Row(ops.Triu, ops.triu, np.triu, TRIANGLES, BAD_TRIANGLES, bools=True),
]  # fmt: skip


ROWS_TUPLE = [
    Row(ops.MakeTensorTuple, ops.make_tuple, lambda *arrays: arrays,
        [case((2,), (3, 1)), case(()), case((0,), (2,))], bools=True),
    Row(ops.TupleGetItem, _of_made_tuple, lambda x, index: [x, x + 1][index],
        [case((2,), index=0), case((2, 3), index=1), case((0,), index=-1)],
        [bad(errors.OutOfRangeError, "2", (2,), index=2)], keeps_dtype=True),
    Row(ops.FusedAddScalars, ops.fused_add_scalars, lambda x, c0, c1: (x + c0, x + c1),
        [case(shape, c0=1, c1=-0.5) for shape in SHAPES],
        [bad(errors.DTypeError, "expected a number", (2,), c0="one", c1=1)]),
    Row(ops.Stack, _of_tuple(ops.stack), lambda *arrays, axis=0: np.stack(arrays, axis),
        [case((2, 3), (2, 3), axis=0), case((2, 3), (2, 3), (2, 3), axis=-1), case((), ()),
         case((2,), axis=1), case((0, 2), (0, 2), axis=1)],
        [bad(errors.ShapeError, "expected at least one Tensor, got none", axis=0),
         bad(errors.ShapeError, r"equal shape.*float64\[2\], float64\[3\]", (2,), (3,), axis=0),
         bad(errors.AxisError, "axis", (2,), (2,), axis=2)], bools=True),
    Row(ops.Split, ops.split, slices,
        [case((3, 2), axis=0), case((3, 2), axis=-1), case((2, 1, 3), axis=1), case((2, 0), axis=0),
         case((1,), axis=0)],
        [bad(errors.AxisError, "got 2", (2, 3), axis=2),
         bad(errors.AxisError, "with 0 axes", (), axis=0)],
        bools=True),
]  # fmt: skip


ROWS = [
    *ROWS_ELEMENTWISE,
    *ROWS_COMPARISON,
    *ROWS_REDUCTION,
    *ROWS_ACTIVATION,
    *ROWS_SHAPE,
    *ROWS_PADDING,
    *ROWS_BETWEEN,
    *ROWS_INDEXING,
    *ROWS_LINALG,
    *ROWS_TUPLE,
    *ROWS_NORMALIZATION,
    *ROWS_ATTENTION,
    *ROWS_CONVOLUTION,
    *ROWS_POOLING,
    *ROWS_RECURRENCE,
]
