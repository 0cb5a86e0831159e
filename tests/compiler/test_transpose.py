"""Tiles of W x W elements transposed in registers."""

from functools import partial

import numpy as np
import pytest
from native_calls import call

from needle.compiler import build
from needle.compiler.code import Code
from needle.compiler.kernels.transpose import transpose_tile
from needle.compiler.prepared import Prepared
from needle.compiler.target import TARGETS
from needle.compiler.types import itemsize

SIZES = [(lanes, "float32") for lanes in (1, 2, 4, 8, 16)]
SIZES += [(lanes, "float64") for lanes in (2, 4, 8)]
SIZES += [(8, "int16"), (32, "int16"), (16, "int8")]


def write(module, target, lanes, dtype):
    code = Code(module, build.ENTRY, target)
    x, out = [code.pointer_at(code.arguments[0], number) for number in (1, 2)]
    rows = [code.load(x, dtype, row * lanes, lanes) for row in range(lanes)]
    for row, column in enumerate(transpose_tile(code, rows)):
        code.store(column, out, dtype, row * lanes)
    code.finish()


@pytest.mark.parametrize(("lanes", "dtype"), SIZES)
def test_columns_become_rows(lanes, dtype):
    key = f"test of transpose_tile {lanes} {dtype}"
    address = build.address_of(key, partial(write, lanes=lanes, dtype=dtype))
    x = np.arange(lanes * lanes).reshape(lanes, lanes).astype(dtype)
    out = np.zeros_like(x)
    call(Prepared(address, (), 1.0), x, out)
    assert out.tolist() == x.T.tolist()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tile_takes_one_shuffle_per_vector_and_stage(target, dtype):
    lanes = target.lanes(itemsize(dtype))
    assembly = build.assembly(partial(write, lanes=lanes, dtype=dtype), target)
    instructions = [line.split()[0] for line in assembly.splitlines() if line.startswith("\t")]
    shuffles = [
        name for name in instructions if any(part in name for part in ("shuf", "unpck", "perm",
        "insert", "uzp", "zip", "trn", "blend", "movlhps", "movhlps", "broadcast", "extract"))
    ]  # fmt: skip
    assert 0 < len(shuffles) <= lanes * (lanes.bit_length() - 1)
