"""Elementwise kernels: layouts of every class against NumPy, and the code for every target."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import needle.backend_ndarray as nd
from needle.compiler import build
from needle.compiler.kernels.elementwise import _Structure
from needle.compiler.target import AVX2, AVX512, NEON, TARGETS, Target

F32 = "float32"


def structure(name: str, *inputs: tuple[str, str, str], out: str = F32) -> _Structure:
    return _Structure(name, inputs, out, "contiguous")


STRUCTURES = {
    "contiguous": structure("add", (F32, F32, "contiguous"), (F32, F32, "contiguous")),
    "broadcast and scalar": structure("multiply", (F32, F32, "broadcast"), (F32, F32, "scalar")),
    "strided": structure("maximum", (F32, F32, "strided"), (F32, F32, "contiguous")),
    "transposed": structure("add", (F32, F32, "transposed"), (F32, F32, "contiguous")),
    "half": structure("exp", ("float16", F32, "contiguous"), out="float16"),
    "bfloat16": structure("copy", (F32, F32, "contiguous"), out="bfloat16"),
    "compared": structure("less", ("int8", "int8", "contiguous"), ("int8", "int8", "contiguous"),
                          out="bool"),
    "chosen": structure("where", ("bool", "bool", "contiguous"), (F32, F32, "contiguous"),
                        (F32, F32, "scalar")),
    "to a strided target": _Structure("copy", ((F32, F32, "contiguous"),), F32, "strided"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_structure_lowers_for_every_target(name: str, target: Target) -> None:
    text = build.assembly(STRUCTURES[name].write, target)
    assert "kernel" in text
    widest = {"zmm": AVX512, "ymm": AVX2}
    for register, owner in widest.items():
        if target.vector_bytes < owner.vector_bytes:
            assert f"%{register}" not in text


def test_vectors_are_as_wide_as_the_target_has_them() -> None:
    write = STRUCTURES["contiguous"].write
    assert re.search(r"vaddps.*%zmm", build.assembly(write, AVX512))
    assert re.search(r"vaddps.*%ymm", build.assembly(write, AVX2))
    assert re.search(r"fadd\s+v\d+\.4s", build.assembly(write, NEON))


DEVICES = [nd.cpu(), nd.cpu_numpy()]
TIES = {  # just above a tie, and the value that a second rounding would miss
    "float16": [(1 + 2**-11 + 2**-40, 1 + 2**-10), (2**-25 + 2**-60, 2**-24)],
    "bfloat16": [(1 + 2**-8 + 2**-40, 1 + 2**-7), (2**25 + 2**17 + 1, 2**25 + 2**18)],
}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    ("half", "x", "expected"), [(half, *pair) for half, pairs in TIES.items() for pair in pairs]
)
def test_16_bit_floats_are_rounded_once_however_they_are_made(
    device: Any, half: str, x: float, expected: float
) -> None:
    wide = nd.array(np.array([x]), "float64", device)
    filled, by_number, by_array = (
        nd.full((3,), x, half, device),
        *[nd.zeros((3,), half, device) for _ in range(2)],
    )
    by_number[:] = x
    by_array[:] = wide
    made = [wide.astype(half), nd.array(wide, half), filled, by_number, by_array]
    if x == int(x):
        made += [nd.array([int(x)], kind, device).astype(half) for kind in ("int32", "int64")]
    for array in made:
        assert set(array.astype("float64").numpy().tolist()) == {expected}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_a_number_takes_the_dtype_of_the_16_bit_array_beside_it(device: Any, half: str) -> None:
    huge, tiny = (70000.0, 1e-8) if half == "float16" else (3.4e38, 1e-42)
    a = nd.array([-60000.0, 1.0, -1.0], half, device)
    with np.errstate(all="ignore"):
        x = a.numpy()
        for found, expected in [
            (a + huge, x + x.dtype.type(huge)),
            (a * tiny, x * x.dtype.type(tiny)),
            (a * 0.1, x * x.dtype.type(0.1)),
            (nd.floor_divide(huge, a), np.floor_divide(x.dtype.type(huge), x)),
        ]:
            np.testing.assert_array_equal(
                found.astype("float32").numpy(), expected.astype(np.float32)
            )


SHAPES = [(16, 16), (17, 33), (64, 100), (3, 40, 50), (257, 129), (1, 40), (40, 1)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transposed_operands_are_read_in_tiles(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    turned = (*shape[:-2], shape[-1], shape[-2])
    a = (rng.standard_normal(shape) * 10).astype(dtype)
    b = np.swapaxes((rng.standard_normal(turned) * 10).astype(dtype), -1, -2)
    x = nd.array(a, dtype)
    y = nd.array(np.ascontiguousarray(np.swapaxes(b, -1, -2)), dtype).swapaxes(-1, -2)
    np.testing.assert_array_equal((x + y).numpy(), a + b)
    np.testing.assert_array_equal(y.compact().numpy(), b)
    np.testing.assert_array_equal((y < x).numpy(), b < a)
    z = nd.zeros(shape, dtype)
    z[...] = y
    np.testing.assert_array_equal(z.numpy(), b)


def rearranged(rng: Any, shape: list[int], dtype: str) -> tuple[nd.NDArray, np.ndarray]:
    """A view that is permuted and, axis by axis, whole, every other element, or back to front."""
    order = [int(i) for i in rng.permutation(len(shape))]
    base = np.asarray(rng.standard_normal([2 * shape[i] + 1 for i in order]) * 3)
    values = base > 0 if dtype == "bool" else base.astype(dtype)
    keys = []
    for i in order:
        kinds = [slice(1, 1 + 2 * shape[i], 2), slice(0, shape[i])]
        kinds.append(slice(shape[i] - 1, None, -1) if shape[i] else slice(0, 0))
        keys.append(kinds[int(rng.integers(3))])
    back = tuple(int(i) for i in np.argsort(order))
    array = nd.array(values, dtype)[tuple(keys)].permute(back)
    return array, np.asarray(values[tuple(keys)]).transpose(back)


@pytest.mark.parametrize("seed", range(40))
def test_views_of_any_layout_and_dtype_agree_with_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtypes = ["float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool"]
    shape = [int(rng.choice([0, 1, 2, 3, 5, 17, 40])) for _ in range(int(rng.integers(1, 4)))]
    a, x = rearranged(rng, shape, str(rng.choice(dtypes)))
    b, y = rearranged(rng, [n if rng.random() < 0.8 else 1 for n in shape], str(rng.choice(dtypes)))
    name = str(rng.choice(["add", "multiply", "maximum", "less", "where", "copy"]))
    with np.errstate(all="ignore"):
        if name == "where":
            found, expected = nd.where(a > 0, a, b), np.where(x > 0, x, y)
        elif name == "copy":
            found, expected = a.astype(b.dtype), x.astype(y.dtype)
        else:
            found, expected = getattr(nd, name)(a, b), getattr(np, name)(x, y)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected)
