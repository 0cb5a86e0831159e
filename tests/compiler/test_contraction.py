"""Sums of products against NumPy: shapes, layouts, groups of axes, dtypes, shares, targets."""

import numpy as np
import pytest
import strategies
from contraction_calls import (
    BATCHES,
    MATRICES,
    POORER,
    contract,
    fresh,
    run_as,
    whole_numbers,
)
from hypothesis import given
from hypothesis import strategies as st
from native_calls import BFLOAT16, DTYPES, FLOATS, INTEGERS, view

from needle.compiler import build
from needle.compiler.kernels import contraction
from needle.compiler.kernels.contraction_loops import Structure
from needle.compiler.kernels.contraction_rows import Rows
from needle.compiler.target import TARGETS


def in_layout(x, kind):
    """The same matrix (or batch of them), laid out differently."""
    if kind == "transposed":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if kind == "flipped":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    if kind == "strided":
        wide = np.zeros((*x.shape[:-2], x.shape[-2] * 2, x.shape[-1] * 3), x.dtype)
        wide[..., ::2, ::3] = x
        return wide[..., ::2, ::3]
    return x


LAYOUTS = ("contiguous", "transposed", "flipped", "strided")


@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_a", LAYOUTS)
def test_every_pair_of_layouts_gives_the_same_product(layout_a, layout_b):
    for m, k, n in [(1, 1, 1), (5, 7, 9), (13, 40, 33), (30, 530, 70), (1, 60, 50), (50, 60, 1)]:
        a, b = whole_numbers((m, k)), whole_numbers((k, n), seed=1)
        got = contract(in_layout(a, layout_a), in_layout(b, layout_b))
        np.testing.assert_array_equal(got, a @ b)


@pytest.mark.parametrize("n", [1, 3, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65])
def test_widths_around_vectors_and_tiles(n):
    for m in (1, 2, 3, 4, 5, 11, 12, 13, 23, 24, 25):
        for k in (1, 2, 17):
            a, b = whole_numbers((m, k), seed=m), whole_numbers((k, n), seed=n)
            np.testing.assert_array_equal(contract(a, b), a @ b)


@pytest.mark.parametrize(
    "m, k, n",
    [
        (100, 784, 100),  # everything in place, two blocks of k
        (30, 1100, 1200),  # b read once in strips of rows
        (60, 1100, 1100),  # b packed in two blocks of columns and three of k
        (1, 300, 3000),
        (70, 40, 1100),  # a packed
    ],
)
def test_sizes_that_need_several_blocks(m, k, n):
    a, b = whole_numbers((m, k)), whole_numbers((k, n), seed=1)
    expected = a @ b
    for layout in ("contiguous", "transposed"):
        got = contract(in_layout(a, layout), in_layout(b, layout), tasks=3)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype):
    most = 1 if dtype.kind == "b" else 3
    for m, k, n in [(1, 1, 1), (14, 9, 37), (30, 70, 70), (3, 50, 1), (1, 50, 4)]:
        a, b = whole_numbers((m, k), dtype, 1, most), whole_numbers((k, n), dtype, 2, most)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        for layout in LAYOUTS:
            got = contract(in_layout(a, layout), in_layout(b, layout))
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, expected.astype(dtype), err_msg=f"{m} {k} {n}")


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap(dtype):
    rng = np.random.RandomState(0)
    a, b = [
        np.frombuffer(rng.bytes(m * n * dtype.itemsize), dtype).reshape(m, n)
        for m, n in ((9, 40), (40, 21))
    ]
    np.testing.assert_array_equal(contract(a, b), a @ b)


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16], ids=str)
def test_short_floats_are_summed_in_float32_and_rounded_once(dtype):
    for m, k, n in [(13, 1300, 40), (1, 1300, 5), (5, 1300, 1), (800, 600, 20)]:
        rng = np.random.RandomState(k)
        a, b = [rng.standard_normal(s).astype(np.float32).astype(dtype) for s in ((m, k), (k, n))]
        exact = a.astype(np.float64) @ b.astype(np.float64)
        error = np.abs(contract(a, b).astype(np.float64) - exact)
        half_unit = 2.0**-11 if dtype == "float16" else 2.0**-8
        assert (error <= half_unit * np.abs(exact) * 1.01 + 1e-4).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_as_accurate_as_numpy(dtype):
    rng = np.random.RandomState(3)
    a, b = [rng.standard_normal(s).astype(dtype) for s in ((40, 3000), (3000, 50))]
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    error = np.abs(contract(a, b) - exact).max()
    assert error <= 2 * np.abs(a @ b - exact).max()


@pytest.mark.parametrize("dtype", ["float32", "int32", "float16", "bool"])
def test_an_empty_sum_is_zero(dtype):
    a, b = np.ones((5, 0), dtype), np.ones((0, 40), dtype)
    assert not contract(a, b).any()
    assert not contract(np.ones((5, 0), dtype), np.ones((0, 1), dtype)).any()
    assert not contract(np.ones((2, 5, 0), dtype), np.ones((2, 0, 3), dtype), BATCHES).any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 4, 0), (0, 0, 0), (0, 4, 0)])
def test_results_without_elements_are_left_alone(shape):
    m, k, n = shape
    assert contract(np.ones((m, k)), np.ones((k, n))).shape == (m, n)
    empty = contract(np.ones((0, 2, 3)), np.ones((0, 3, 2)), BATCHES)
    assert empty.shape == (0, 2, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_in_any_layout(layout):
    for batch, m, k, n in [(1, 4, 5, 6), (7, 13, 20, 35), (3, 64, 64, 64), (5, 1, 40, 9)]:
        a = whole_numbers((batch, m, k))
        b = whole_numbers((batch, k, n), seed=1)
        expected = a @ b
        for tasks in (1, 2, 5):
            got = contract(in_layout(a, layout), in_layout(b, layout), BATCHES, tasks)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("repeated", ["a", "b", "both"])
def test_one_operand_for_all_batches(repeated):
    a, b = whole_numbers((6, 9, 10)), whole_numbers((6, 10, 21), seed=1)
    a = np.broadcast_to(a[:1], a.shape) if repeated != "b" else a
    b = np.broadcast_to(b[:1], b.shape) if repeated != "a" else b
    np.testing.assert_array_equal(contract(a, b, BATCHES), a @ b)
    batched_rows = a.reshape(2, 3, 9, 10)
    got = contract(batched_rows, b.reshape(2, 3, 10, 21), (2, 1, 1, 1), tasks=2)
    np.testing.assert_array_equal(got.reshape(6, 9, 21), a @ b)


def test_vectors_on_either_side_and_both():
    a, x, y = whole_numbers((37, 90)), whole_numbers(90, seed=1), whole_numbers(37, seed=2)
    for layout in LAYOUTS:
        matrix = in_layout(a, layout)
        np.testing.assert_array_equal(contract(matrix, x, (0, 1, 0, 1)), a @ x)
        np.testing.assert_array_equal(contract(y, matrix, (0, 0, 1, 1)), y @ a)
        np.testing.assert_array_equal(contract(matrix, x[::-1], (0, 1, 0, 1)), a @ x[::-1])
    assert contract(x, x[::-1], (0, 0, 0, 1)) == x @ x[::-1]
    assert contract(np.tile(x, 20), np.tile(x, 20), (0, 0, 0, 1)) == 20 * (x @ x)
    np.testing.assert_array_equal(contract(x, y, (0, 1, 1, 0)), np.outer(x, y))


def test_a_result_with_contiguous_columns():
    a, b = whole_numbers((3, 20, 50)), whole_numbers((3, 50, 40), seed=1)
    out = fresh((3, 40, 20), np.float32).swapaxes(1, 2)
    contract(a, b, BATCHES, tasks=2, out=out)
    np.testing.assert_array_equal(out, a @ b)


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_windows_of_pictures(channels):
    x = whole_numbers((2, 9, 11, channels), most=2)
    weights = whole_numbers((3, 3, channels, 20), seed=1, most=2)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # (N, H, W, KH, KW, C)
    expected = np.tensordot(windows, weights, 3)
    for step in (1, 2):
        part = windows[:, ::step, ::step]
        got = contract(part, weights, (0, 3, 1, 3), tasks=2)
        np.testing.assert_array_equal(got, expected[:, ::step, ::step])
    # what the gradient for the weights needs: sums over all places
    dy = whole_numbers((2, 7, 9, 20), seed=2, most=2)
    got = contract(windows.transpose(3, 4, 5, 0, 1, 2), dy, (0, 3, 1, 3))
    np.testing.assert_array_equal(got, np.tensordot(windows.transpose(3, 4, 5, 0, 1, 2), dy, 3))


@given(
    st.tuples(*[st.lists(st.integers(0, 4), max_size=2) for _ in range(4)]).flatmap(
        lambda g: st.tuples(
            st.just(tuple(map(len, g))),
            strategies.arrays((*g[0], *g[1], *g[3])),
            strategies.arrays((*g[0], *g[3], *g[2])),
        )
    ),
    st.integers(1, 4),
)
def test_groups_of_any_number_of_axes_in_any_layout(drawn, tasks):
    groups, a, b = drawn
    a, b = np.round(a), np.round(b)
    letters = [list(range(10 * i, 10 * i + count)) for i, count in enumerate(groups)]
    first, rows, columns, deep = letters
    a, b = [x if x.ndim else np.float64(x) for x in (a, b)]
    expected = np.einsum(a, first + rows + deep, b, first + deep + columns, first + rows + columns)
    got = contract(np.asarray(a), np.asarray(b), groups, tasks)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_tasks(dtype):
    rng = np.random.RandomState(5)
    for m, k, n in [(100, 1100, 90), (3, 900, 600), (300, 70, 5), (200, 300, 1), (1, 80, 500)]:
        a, b = [rng.standard_normal(s).astype(np.float32).astype(dtype) for s in ((m, k), (k, n))]
        for layout in ("contiguous", "transposed"):
            x, y = in_layout(a, layout), in_layout(b, layout)
            alone = contract(x, y)
            for tasks in (2, 3, 4, 7, 16):
                shared = contract(x, y, tasks=tasks)
                assert alone.tobytes() == shared.tobytes()


def test_nan_and_infinity_spread_to_their_row_and_column_only():
    a, b = np.ones((30, 40), np.float32), np.ones((40, 50), np.float32)
    a[3, 5], b[7, 11] = np.nan, np.inf
    out = contract(a, b)
    assert np.isnan(out[3]).all() and np.isinf(np.delete(out[:, 11], 3)).all()
    rest = np.delete(np.delete(out, 3, 0), 11, 1)
    np.testing.assert_array_equal(rest, 40)


def test_nothing_is_read_or_written_beyond_the_operands():
    for m, k, n in [(13, 5, 33), (5, 3, 7), (12, 8, 17), (1, 20, 3), (7, 20, 1)]:
        guarded = [np.full(count + 128, np.nan, np.float32) for count in (m * k, k * n, m * n)]
        a, b, out = [
            memory[64:-64].reshape(shape)
            for memory, shape in zip(guarded, ((m, k), (k, n), (m, n)), strict=True)
        ]
        a[...], b[...] = whole_numbers(a.shape), whole_numbers(b.shape, seed=1)
        contract(a, b, out=out)
        np.testing.assert_array_equal(out, a @ b)
        assert np.isnan(guarded[2][:64]).all() and np.isnan(guarded[2][-64:]).all()


def test_estimates_grow_with_the_work_and_tiny_products_stay_on_one_thread():
    def prepared(m, k, n):
        a, b, out = np.ones((m, k), "f4"), np.ones((k, n), "f4"), np.ones((m, n), "f4")
        return contraction.prepare(view(a), view(b), view(out), *MATRICES)

    assert prepared(10, 10, 10).tasks == 1
    assert prepared(512, 512, 512).tasks > 16
    assert prepared(1, 4000, 4000).tasks > 1
    times = [prepared(n, n, n).nanoseconds for n in (1, 16, 64, 256)]
    assert times == sorted(times)


@pytest.mark.parametrize("target", POORER, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
def test_machines_without_masks_get_the_same_values(monkeypatch, target, dtype):
    run_as(monkeypatch, target)
    most = 1 if dtype == "bool" else 3
    for m, k, n in [(1, 1, 1), (13, 40, 35), (7, 530, 16), (25, 9, 8), (3, 50, 1), (1, 50, 21)]:
        a, b = whole_numbers((m, k), dtype, 1, most), whole_numbers((k, n), dtype, 2, most)
        for layout in LAYOUTS:
            got = contract(in_layout(a, layout), in_layout(b, layout), tasks=2)
            np.testing.assert_array_equal(got, a @ b)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8", "bool"])
def test_kernels_are_written_for_every_target(target, dtype):
    tiles = build.assembly(Structure(dtype, dtype, dtype).write, target)
    if dtype == "float32":  # of the widest vectors there are
        name = {"avx512": "vfmadd", "avx2": "vfmadd", "neon": "fmla", "plain": "mulps"}[target.name]
        width = {"avx512": "zmm", "avx2": "ymm", "neon": ".4s", "plain": "xmm"}[target.name]
        arithmetic = [line for line in tiles.splitlines() if name in line]
        assert sum(width in line for line in arithmetic) > 50
    if dtype in ("float32", "bfloat16"):
        assert "kernel" in build.assembly(Rows(dtype, dtype, dtype).write, target)
