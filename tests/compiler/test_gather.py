"""Gather and scatter_add against NumPy, over dtypes, layouts, ranks and tasks."""

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from native_calls import BFLOAT16, DTYPES, call, view

from needle.compiler import build
from needle.compiler.kernels import gather, gather_kernel
from needle.compiler.kernels.gather_kernel import Variant
from needle.compiler.target import TARGETS

INNER = ("one", "row", "strided")


def bordered(shape, dtype):
    """Memory for a result, filled with rubbish, and a check that nothing around it changed."""
    memory = np.full(int(np.prod(shape)) + 64, 113).astype(dtype)
    before = memory.tobytes()

    def unharmed():
        size = 32 * memory.itemsize
        return memory.tobytes()[:size] == before[:size] == memory.tobytes()[-size:]

    return memory[32:-32].reshape(shape), unharmed


def gathered(x, indices, axis, tasks=1):
    """The kernel's result and the error word."""
    behind = axis + len(indices)
    out, unharmed = bordered(x.shape[:axis] + indices[0].shape + x.shape[behind:], x.dtype)
    prepared = gather.prepare_gather(view(x), [view(i) for i in indices], axis, view(out))
    error = call(prepared, x, *indices, out, tasks=tasks)
    assert unharmed()
    return out, error


def scattered(x, indices, axis, shape, tasks=1):
    """The kernel's sums and the error word; `shape` is the table's."""
    out, unharmed = bordered(shape, x.dtype)
    prepared = gather.prepare_scatter_add(view(x), [view(i) for i in indices], axis, view(out))
    error = call(prepared, x, *indices, out, tasks=tasks)
    assert unharmed()
    return out, error


def key_of(indices, axis):
    return (*[slice(None)] * axis, *indices)


def added_by_numpy(x, indices, axis, shape):
    total = np.zeros(shape, x.dtype)
    np.add.at(total, key_of(indices, axis), x)
    return total


def some(shape, dtype, seed=0):
    """Small whole numbers: sums of them are exact in every dtype."""
    return np.random.RandomState(seed).randint(0, 4, shape).astype(dtype)


def positions(shape, extent, seed=0):
    return np.random.RandomState(seed).randint(-extent, extent, shape)


@st.composite
def problems(draw):
    """A table and a picked array in any layout, and the positions that link them."""
    count = draw(st.integers(1, 3))
    before, after = draw(strategies.shapes(max_dims=2)), draw(strategies.shapes(max_dims=2))
    indexed = draw(strategies.shapes(min_dims=count, max_dims=count, min_side=1))
    picks = draw(strategies.shapes(max_dims=2))
    rng = np.random.RandomState(draw(strategies.SEEDS))
    indices = []
    for extent in indexed:
        found = np.asarray(rng.randint(-extent, extent, (*picks[::-1], 3)).T[1])
        if picks and picks[0] and draw(st.booleans()):
            found = np.broadcast_to(found[:1], picks)
        indices.append(found[::-1] if picks and draw(st.booleans()) else found)
    table = draw(strategies.arrays((*before, *indexed, *after)))
    picked = draw(strategies.arrays((*before, *picks, *after)))
    return table, picked, indices, len(before), draw(st.integers(1, 4))


@given(problems())
def test_gather_takes_what_numpy_takes_from_any_layout(problem):
    table, _, indices, axis, tasks = problem
    out, error = gathered(table, indices, axis, tasks)
    assert error == 0
    assert out.tolist() == table[key_of(indices, axis)].tolist()


@given(problems())
def test_scatter_add_adds_what_numpy_adds_from_any_layout(problem):
    table, picked, indices, axis, tasks = problem
    out, error = scattered(picked, indices, axis, table.shape, tasks)
    assert error == 0
    assert out.tolist() == added_by_numpy(picked, indices, axis, table.shape).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 2, 7, 16, 65, 200])
def test_rows_of_every_dtype_and_length(dtype, columns):
    table, ids = some((5, columns), dtype), [positions((3, 4), 5)]
    assert gathered(table, ids, 0)[0].tolist() == table[ids[0]].tolist()
    picked = some((3, 4, columns), dtype, seed=1)
    expected = added_by_numpy(picked, ids, 0, table.shape).tolist()
    assert scattered(picked, ids, 0, table.shape)[0].tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_elements_and_strided_rows_of_every_dtype(dtype):
    table, ids = some((6, 5), dtype), [positions(12, 6), positions(12, 5, seed=1)]
    assert gathered(table, ids, 0)[0].tolist() == table[tuple(ids)].tolist()
    assert gathered(table.T, ids[1:], 0)[0].tolist() == table.T[ids[1]].tolist()
    picked, rows = some(12, dtype, seed=2), some((6, 12), dtype, seed=3).T
    assert scattered(picked, ids, 0, (6, 5))[0].tolist() == (
        added_by_numpy(picked, ids, 0, (6, 5)).tolist()
    )
    assert scattered(rows, ids[1:], 0, (5, 6))[0].tolist() == (
        added_by_numpy(rows, ids[1:], 0, (5, 6)).tolist()
    )


def test_gather_moves_bits_unchanged():
    table = np.array([[np.nan, -0.0], [np.inf, 5e-324]])
    table.view(np.int64)[0, 0] = 0x7FF0000000000123  # a signalling NaN
    assert gathered(table, [np.array([0, 1])], 0)[0].tobytes() == table.tobytes()


def test_as_many_as_six_indices():
    table = some((2, 3, 2, 3, 2, 3, 4), np.float32)
    ids = [positions((2, 5), extent, seed) for seed, extent in enumerate(table.shape[:6])]
    assert gathered(table, ids, 0)[0].tolist() == table[tuple(ids)].tolist()


def test_positions_over_several_blocks():
    table, ids = some((50, 3), np.float32), [positions(1000, 50)]
    assert gathered(table, ids, 0)[0].tolist() == table[ids[0]].tolist()
    picked = some((1000, 3), np.float32, seed=1)
    expected = added_by_numpy(picked, ids, 0, table.shape).tolist()
    assert scattered(picked, ids, 0, table.shape)[0].tolist() == expected


def test_positions_that_broadcast_against_each_other():
    table = some((4, 5, 6), np.int32)
    ids = np.broadcast_arrays(np.array([[3], [-4], [0]]), np.array([[1, -1]]))
    assert gathered(table, ids, 1 - 1)[0].tolist() == table[ids[0], ids[1]].tolist()
    assert gathered(table, ids, 1)[0].tolist() == table[:, ids[0], ids[1]].tolist()


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (40, 9, 70), (2000,)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_bits_do_not_depend_on_tasks(shape, axis):
    axis = min(axis, len(shape) - 1)
    rng = np.random.RandomState(0)
    table, ids = rng.randn(*shape), [positions(90, shape[axis])]
    picked = rng.randn(*shape[:axis], 90, *shape[axis + 1 :])
    for dtype in (np.float32, np.float16):
        whole = gathered(table.astype(dtype), ids, axis)[0].tobytes()
        total = scattered(picked.astype(dtype), ids, axis, shape)[0].tobytes()
        for tasks in (2, 3, 5, 16):
            assert gathered(table.astype(dtype), ids, axis, tasks)[0].tobytes() == whole
            assert scattered(picked.astype(dtype), ids, axis, shape, tasks)[0].tobytes() == total


def test_scatter_add_adds_in_the_order_of_the_positions():
    x = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    ids = [np.zeros(4, np.int64)]
    assert scattered(x, ids, 0, (1,))[0].tolist() == [1.0]
    assert scattered(x[::-1], ids, 0, (1,))[0].tolist() == [0.0]


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize("columns", [(), (20,)])
def test_scatter_add_of_halves_rounds_once(dtype, columns):
    x = np.ones((5000, *columns), dtype)
    total = scattered(x, [np.zeros(5000, np.int64)], 0, (2, *columns))[0]
    assert set(total[0].ravel().tolist()) == {float(np.array(5000.0).astype(dtype))}
    assert not total[1].any()


def test_scatter_add_wraps_integers_and_ors_bools():
    ids = [np.array([0, 0, 1])]
    assert scattered(np.array([200, 100, 7], np.uint8), ids, 0, (2,))[0].tolist() == [44, 7]
    assert scattered(np.array([100, 100, 7], np.int8), ids, 0, (2,))[0].tolist() == [-56, 7]
    assert scattered(np.array([True, True, False]), ids, 0, (2,))[0].tolist() == [True, False]


@pytest.mark.parametrize("wrong", [4, -5, 2**62, -(2**63)])
@pytest.mark.parametrize("columns", [(), (3,), (100,)])
def test_a_position_outside_is_reported_and_not_followed(wrong, columns):
    table, ids = some((4, *columns), np.float32), [np.array([[0, 3], [-4, wrong]])]
    assert gathered(table, ids, 0)[1] == 4
    picked = some((2, 2, *columns), np.float32)
    assert scattered(picked, ids, 0, table.shape)[1] == 4


@pytest.mark.parametrize("tasks", [1, 2, 3, 16])
@pytest.mark.parametrize("columns", [1, 40])
def test_the_first_of_several_positions_outside_is_reported_whatever_the_tasks(columns, tasks):
    x = some((5, columns), np.float32)
    index = np.arange(3000) % 5
    for first in (0, 7, 600, 2999):
        index[first::400] = 5
        assert gathered(x, [index], 0, tasks=tasks)[1] == first + 1
        assert scattered(x[index % 5], [index], 0, x.shape, tasks=tasks)[1] == first + 1
        index %= 5
    other = np.zeros(3000, np.int64)
    index[2000], other[1500] = -6, 9
    assert gathered(some((5, 9, columns), np.int8), [index, other], 0, tasks=tasks)[1] == 1501


def test_the_word_says_which_position_of_which_index_is_outside():
    table = some((4, 5), np.float32)
    good = np.array([0, 1, 2])
    assert gathered(table, [good, np.array([4, 5, 0])], 0)[1] == 2
    assert gathered(table, [np.array([0, 0, 9]), good], 0)[1] == 3
    assert gathered(table, [good, good], 0)[1] == 0


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_table_of_nothing_has_no_positions_but_may_be_asked_for_none(shape, tasks):
    table, none = np.zeros(shape, np.float32), [np.zeros(0, np.int64)]
    assert gathered(table, none, 0, tasks)[1] == 0
    assert scattered(np.zeros((0, *shape[1:])), none, 0, shape, tasks)[1] == 0
    beyond = [np.array([shape[0]])]
    assert gathered(table, beyond, 0, tasks)[1] == 1
    assert scattered(np.ones((1, *shape[1:])), beyond, 0, shape, tasks)[1] == 1


def test_scatter_add_of_nothing_is_zero():
    out, error = scattered(np.zeros((0, 5), np.float32), [np.zeros(0, np.int64)], 0, (3, 5))
    assert out.tolist() == np.zeros((3, 5)).tolist()
    assert error == 0


def test_a_few_columns_of_many_rows_in_any_order():
    table = some((3, 50, 4), np.float32)
    for ids in (np.array([2, -4]), np.array([[1], [0], [1]]), np.array(3)):
        for tasks in (1, 3):
            out, error = gathered(table, [ids], 2, tasks)
            assert (out.tolist(), error) == (table[:, :, ids].tolist(), 0)
    assert gathered(table, [np.array([1, 4])], 2)[1] == 2


def test_one_kernel_serves_all_dtypes_of_a_size_and_all_shapes():
    def address(table, ids, axis=0):
        out = np.empty(
            table.shape[:axis] + ids[0].shape + table.shape[axis + len(ids) :], table.dtype
        )
        return gather.prepare_gather(view(table), [view(i) for i in ids], axis, view(out)).address

    ids = [np.array([0, 1])]
    rows = address(some((9, 8), np.float32), ids)
    assert rows == address(
        some((2, 3, 2, 8), np.uint32), [*np.broadcast_arrays(ids[0][:, None], ids[0])], 1
    )
    assert rows != address(some((9, 8), np.float64), ids)
    assert rows != address(some((8, 9), np.float32).T, ids)


def test_large_work_is_worth_several_tasks_and_small_is_not():
    table, few, many = some((1000, 64), np.float32), positions(5, 1000), positions(50000, 1000)
    for ids, is_large in ((few, False), (many, True)):
        picked = np.zeros((*ids.shape, 64), np.float32)
        gathering = gather.prepare_gather(view(table), [view(ids)], 0, view(picked))
        assert (gathering.tasks > 1) == is_large
        adding = gather.prepare_scatter_add(view(picked), [view(ids)], 0, view(table))
        assert adding.tasks == (4 if is_large else 1)  # 64 columns are 4 cache lines


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_lowers_for_every_target(target):
    variants = [Variant("gather", f"int{bits}", inner) for bits in (8, 64) for inner in INNER]
    variants += [Variant("scatter_add", "float32", inner) for inner in INNER]
    variants += [Variant("scatter_add", dtype, "row") for dtype in ("float16", "bfloat16", "bool")]
    for variant in variants:
        assert build.ENTRY in build.assembly(gather_kernel.writer(variant), target)
