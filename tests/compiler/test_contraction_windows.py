"""Sums of products over windows, and side by side along the batch: in place, without packing."""

import numpy as np
import pytest
from contraction_calls import POORER, contract, fresh, run_as, whole_numbers
from native_calls import DTYPES

import needle.backend_ndarray as nd
from needle.backend_ndarray import primitives
from needle.compiler import build
from needle.compiler.kernels import contraction
from needle.compiler.kernels.contraction_lanes import Lanes
from needle.compiler.kernels.contraction_loops import Structure
from needle.compiler.target import TARGETS


def windows_of(x, kernel, step=1):
    """Windows over two axes of (N, H, W, C): (N, H', W', KH, KW, C)."""
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return view.transpose(0, 1, 2, 4, 5, 3)[:, ::step, ::step]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "bool"])
@pytest.mark.parametrize("channels, width, columns", [(3, 9, 20), (17, 24, 33), (5, 4, 600)])
def test_windows_are_read_in_place_or_packed_with_the_same_sums(dtype, channels, width, columns):
    most = 1 if dtype == "bool" else 2
    x = whole_numbers((2, 7, width, channels), dtype, most=most)
    weights = whole_numbers((3, 2, channels, columns), dtype, 1, most)
    for step in (1, 2):
        view = windows_of(x, (3, 2), step)
        expected = np.tensordot(view.astype(np.float64), weights.astype(np.float64), 3)
        got = contract(view, weights, (0, 3, 1, 3), tasks=2)
        np.testing.assert_array_equal(got, expected.astype(dtype))
        dy = whole_numbers((*view.shape[:3], columns), dtype, 2, most)
        places = view.transpose(3, 4, 5, 0, 1, 2)
        expected = np.tensordot(places.astype(np.float64), dy.astype(np.float64), 3)
        got = contract(places, dy, (0, 3, 1, 3), tasks=3)
        np.testing.assert_array_equal(got, expected.astype(dtype))


def test_long_sums_over_windows_are_cut_into_blocks():
    x, dy = whole_numbers((6, 20, 43, 3), most=2), whole_numbers((6, 19, 42, 30), seed=1, most=2)
    places = windows_of(x, (2, 2)).transpose(3, 4, 5, 0, 1, 2)
    assert dy[..., 0].size > 2 * contraction.DEEP
    got = contract(places, dy, (0, 3, 1, 3), tasks=2)
    np.testing.assert_array_equal(got, np.tensordot(places, dy, 3))


def side_by_side(g, m, k, dtype="float32", most=3):
    """a [g, m, k], b [g, k] and a fresh [g, m], all with g innermost in memory."""
    a = whole_numbers((m, k, g), dtype, 1, most).transpose(2, 0, 1)
    b = whole_numbers((k, g), dtype, 2, most).T
    return a, b, fresh((m, g), dtype).T


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vectors_along_the_batch_in_every_dtype(dtype):
    most = 1 if dtype.kind == "b" else 3
    for g, m, k in [(2, 1, 1), (16, 9, 9), (37, 25, 5), (64, 3, 30), (5, 300, 2), (3, 2, 0)]:
        a, b, out = side_by_side(g, m, k, dtype, most)
        expected = np.einsum("gmk,gk->gm", a.astype(np.float64), b.astype(np.float64))
        for tasks in (1, 2, 5):
            contract(a, b, (1, 1, 0, 1), tasks, out)
            np.testing.assert_array_equal(out, expected.astype(dtype), err_msg=f"{g} {m} {k}")


def test_vectors_along_the_batch_of_either_operand_with_a_few_columns_and_outer_batches():
    x = whole_numbers((2, 11, 4, 3, 18))  # outer, m, k, n, lanes in memory
    a, b = x[:, :, :, 0].transpose(0, 3, 1, 2), x[:, 5].transpose(0, 3, 1, 2)
    expected = a @ b
    out = fresh((2, 11, 3, 18), np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(contract(a, b, (2, 1, 1, 1), 2, out), expected)
    out = fresh((2, 3, 11, 18), np.float32).transpose(0, 3, 1, 2)
    swapped = contract(b.swapaxes(2, 3), a.swapaxes(2, 3), (2, 1, 1, 1), 3, out)
    np.testing.assert_array_equal(swapped, expected.swapaxes(2, 3))


@pytest.mark.parametrize("channels", [3, 16, 40])
def test_windows_of_each_channel_for_itself(channels):
    x = whole_numbers((2, 12, 31, channels), most=2)
    weights = whole_numbers((3, 3, channels), seed=1, most=2)
    view = windows_of(x, (3, 3)).transpose(5, 0, 1, 2, 3, 4)
    out = fresh((2, 10, 29, channels), np.float32)
    contract(view, weights.transpose(2, 0, 1), (1, 3, 0, 2), 2, out.transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(out, np.einsum("cnhwij,ijc->nhwc", view, weights))
    dw = fresh((3, 3, channels), np.float32)
    places, dy = view.transpose(0, 4, 5, 1, 2, 3), out.transpose(3, 0, 1, 2)
    contract(places, dy, (1, 2, 0, 3), 3, dw.transpose(2, 0, 1))
    np.testing.assert_array_equal(dw, np.einsum("cnhwij,nhwc->ijc", view, out))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bits_along_the_batch_and_of_windows_do_not_depend_on_the_number_of_tasks(dtype):
    rng = np.random.RandomState(7)
    x = rng.standard_normal((3, 24, 24, 40)).astype(dtype)
    weights = rng.standard_normal((3, 3, 40, 24)).astype(dtype)
    view = windows_of(x, (3, 3))
    each, b = view.transpose(5, 0, 1, 2, 3, 4), weights[..., 0].transpose(2, 0, 1)
    made = []
    for tasks in (1, 2, 3, 7, 16):
        out = fresh((*view.shape[:3], 40), dtype)
        contract(each, b, (1, 3, 0, 2), tasks, out.transpose(3, 0, 1, 2))
        dw = fresh((3, 3, 40), dtype)
        contract(
            each.transpose(0, 4, 5, 1, 2, 3), out.transpose(3, 0, 1, 2),
            (1, 2, 0, 3), tasks, dw.transpose(2, 0, 1),
        )  # fmt: skip
        whole = contract(view, weights, (0, 3, 1, 3), tasks)
        kernel = contract(view.transpose(3, 4, 5, 0, 1, 2), whole, (0, 3, 1, 3), tasks)
        made.append([array.tobytes() for array in (out, dw, whole, kernel)])
    assert all(bits == made[0] for bits in made)


def test_nothing_beyond_the_lanes_is_written():
    guarded = np.full(9 * 21 + 128, np.nan, np.float32)
    out = guarded[64:-64].reshape(9, 21)
    a, b, _ = side_by_side(21, 9, 6)
    contract(a, b, (1, 1, 0, 1), 2, out.T)
    np.testing.assert_array_equal(out.T, np.einsum("gmk,gk->gm", a, b))
    assert np.isnan(guarded[:64]).all() and np.isnan(guarded[-64:]).all()


@pytest.mark.parametrize("target", POORER, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_machines_without_masks_get_the_same_values(monkeypatch, target, dtype):
    run_as(monkeypatch, target)
    for g, m, k in [(3, 1, 4), (37, 14, 5)]:
        a, b, out = side_by_side(g, m, k, dtype)
        contract(a, b, (1, 1, 0, 1), 2, out)
        np.testing.assert_array_equal(out, np.einsum("gmk,gk->gm", a, b))
    view = windows_of(whole_numbers((2, 7, 13, 5), dtype, most=2), (3, 3))
    weights = whole_numbers((3, 3, 5, 21), dtype, 1, 2)
    got = contract(view, weights, (0, 3, 1, 3), 2)
    np.testing.assert_array_equal(got, np.tensordot(view, weights, 3))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_kernels_are_written_for_every_target(target):
    width = {"avx512": "zmm", "avx2": "ymm", "neon": ".4s", "plain": "xmm"}[target.name]
    for structure in (Lanes("float32", "float32", "float32"), Structure(*["float32"] * 3, True)):
        text = build.assembly(structure.write, target)
        arithmetic = [x for x in text.splitlines() if "vfmadd" in x or "fmla" in x or "mulps" in x]
        assert sum(width in line for line in arithmetic) > 12


@pytest.mark.parametrize(
    "subscripts, a, b",
    [
        ("nopcij,ijcf->nopf", (2, 5, 6, 3, 2, 2), (2, 2, 3, 7)),
        ("nopcij,nopf->ijcf", (2, 5, 6, 3, 2, 2), (2, 5, 6, 7)),
        ("nogi,ig->nog", (3, 8, 20, 4), (4, 20)),
        ("nogi,nog->ig", (3, 8, 20, 4), (3, 8, 20)),
    ],
)
def test_einsum_writes_its_result_in_the_order_it_is_wanted_in(subscripts, a, b):
    x, y = whole_numbers(a), whole_numbers(b, seed=1)
    in_memory = [*range(x.ndim)]  # as channels and groups are: the windows' axes are outer
    if "g" in subscripts:
        in_memory[2], in_memory[3] = 3, 2
        stored = nd.array(x.transpose(in_memory).copy(), device=nd.cpu()).permute(in_memory)
    else:
        stored = nd.array(x, device=nd.cpu())
    got = primitives.einsum(subscripts, stored, nd.array(y, device=nd.cpu()))
    assert got.is_compact()
    np.testing.assert_array_equal(got.numpy(), np.einsum(subscripts, x, y))
