"""Sums over windows that reach over the edges of a picture: only what lies on it is read."""

import numpy as np
import pytest
from contraction_calls import fresh, whole_numbers
from native_calls import call, view

from needle.compiler.kernels import contraction
from needle.compiler.kernels.contraction_regions import Clip, Padded

FORWARD, WEIGHTS = (0, 3, 1, 3), (0, 3, 1, 3)


def windows(shape, kernel, pads, stride=1, dilation=1):
    """Windows (N, oh, ow, kh, kw, C) on a picture of that shape with zeros around it."""
    n, *sides, channels = shape
    steps = (sides[1] * channels, channels)
    reach = [(k - 1) * dilation + 1 for k in kernel]
    places = [
        (side + sum(pad) - far) // stride + 1
        for side, pad, far in zip(sides, pads, reach, strict=True)
    ]
    clips = tuple(
        Clip(axis + 1, axis, -pads[axis][0], stride, dilation, sides[axis]) for axis in range(2)
    )
    return Padded(
        np.dtype("float32"),
        (n, *places, *kernel, channels),
        (sides[0] * steps[0], *[s * stride for s in steps], *[s * dilation for s in steps], 1),
        -sum(pad[0] * step for pad, step in zip(pads, steps, strict=True)),
        clips,
    )


def as_weights_see(a):
    """The same, as the sums for the weights walk it: m and k in each other's place."""
    clips = tuple(Clip(c.k, c.m, c.first, c.k_step, c.m_step, c.extent) for c in a.clips)
    turned = [3, 4, 5, 0, 1, 2]
    shape, strides = [tuple(row[i] for i in turned) for row in (a.shape, a.strides)]
    return Padded(a.dtype, shape, strides, a.begin, clips)


def with_zeros(x, a, pads):
    """The windows as an array."""
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    steps = np.array(padded.strides)
    stride = a.clips[0].m_step
    dilation = a.clips[0].k_step
    strides = (steps[0], *(steps[1:3] * stride), *(steps[1:3] * dilation), steps[3])
    return np.lib.stride_tricks.as_strided(padded, a.shape, strides)


def run(a, x, b, groups, tasks=1):
    batch, m, _, k = groups
    out = fresh(a.shape[: batch + m] + b.shape[batch + k :], x.dtype)
    assert contraction.takes_padding(a, view(b), view(out), groups)
    prepared = contraction.prepare(a, view(b), view(out), *groups)
    guarded = np.full(x.size + 2048, np.nan if x.dtype.kind == "f" else 77, x.dtype)
    inside = guarded[1024:-1024].reshape(x.shape)
    inside[...] = x
    call(prepared, inside, b, out, tasks=tasks)
    return out


@pytest.mark.parametrize(
    "shape, kernel, pads, stride, dilation, columns",
    [
        ((2, 5, 7, 3), (3, 3), [(1, 1), (1, 1)], 1, 1, 20),
        ((3, 4, 4, 16), (3, 3), [(1, 1), (1, 1)], 1, 1, 33),
        ((32, 2, 2, 8), (3, 3), [(1, 1), (1, 1)], 1, 1, 32),
        ((2, 9, 8, 5), (7, 5), [(3, 2), (0, 4)], 2, 1, 17),
        ((2, 8, 6, 4), (3, 2), [(2, 2), (1, 0)], 1, 2, 40),
        ((1, 6, 6, 2), (3, 3), [(4, 5), (3, 3)], 3, 1, 6),
        ((1, 1, 9, 300), (1, 5), [(0, 0), (2, 2)], 1, 1, 70),
        ((4, 3, 3, 90), (3, 3), [(1, 1), (1, 1)], 1, 1, 600),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_sums_are_those_with_the_zeros(shape, kernel, pads, stride, dilation, columns, dtype):
    x = whole_numbers(shape, dtype, most=2)
    a = windows(shape, kernel, pads, stride, dilation)
    weights = whole_numbers((*kernel, shape[-1], columns), dtype, 1, most=2)
    full = with_zeros(x, a, pads).astype(np.float64)
    expected = np.tensordot(full, weights.astype(np.float64), 3).astype(dtype)
    a = Padded(x.dtype, a.shape, a.strides, a.begin, a.clips)
    for tasks in (1, 2, 5):
        np.testing.assert_array_equal(run(a, x, weights, FORWARD, tasks), expected)
    dy = whole_numbers(expected.shape, dtype, 2, most=2)
    turned = full.transpose(3, 4, 5, 0, 1, 2)
    expected = np.tensordot(turned, dy.astype(np.float64), 3).astype(dtype)
    for tasks in (1, 2, 5):
        np.testing.assert_array_equal(run(as_weights_see(a), x, dy, WEIGHTS, tasks), expected)


def test_bits_are_those_with_the_zeros_whatever_the_number_of_tasks():
    pads = [(1, 1), (1, 1)]
    rng = np.random.RandomState(3)
    x = rng.standard_normal((8, 6, 5, 40)).astype(np.float32)
    weights = rng.standard_normal((3, 3, 40, 48)).astype(np.float32)
    a = windows(x.shape, (3, 3), pads)
    full = np.array(np.pad(x, ((0, 0), *pads, (0, 0))))
    steps = tuple(s // 4 for s in full.strides)
    plain = type(view(x))(x.dtype, a.shape, (*steps[:3], *steps[1:]))
    out = fresh((8, 6, 5, 48), np.float32)
    call(contraction.prepare(plain, view(weights), view(out), *FORWARD), full, weights, out)
    for tasks in (1, 2, 3, 7):
        np.testing.assert_array_equal(run(a, x, weights, FORWARD, tasks), out)


def test_rows_that_see_nothing_are_zero():
    pads = [(3, 3), (0, 0)]
    x = whole_numbers((2, 2, 4, 5))
    a = windows(x.shape, (2, 1), pads)
    assert any(region.deep == 0 for region in problem_of(a).regions)
    weights = whole_numbers((2, 1, 5, 8), seed=1)
    expected = np.tensordot(with_zeros(x, a, pads), weights, 3)
    np.testing.assert_array_equal(run(a, x, weights, FORWARD, 2), expected)


def problem_of(a):
    out = fresh((*a.shape[:3], 8), np.float32)
    weights = fresh((*a.shape[3:], 8), np.float32)
    return contraction.Problem.of(a, view(weights), view(out), *FORWARD)


@pytest.mark.parametrize("side, share", [(32, 0.9588), (8, 0.8403), (4, 0.6944)])
def test_what_is_multiplied_is_what_lies_on_the_picture(side, share):
    a = windows((32, side, side, 16), (3, 3), [(1, 1), (1, 1)])
    problem = problem_of(a)
    assert len(problem.regions) == 9
    whole = problem.m.size * problem.k.size
    assert problem.steps / whole == pytest.approx(share, abs=1e-4)
