"""Which sums a loop adds up as it goes: those down its columns, where columns lie innermost."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle.jit import jit

pytestmark = pytest.mark.nd_mode

SHAPE = (6, 16, 12, 12)  # pictures: batch, channels, height, width


def squares(x, kept):
    """The sum of squares of (x - mean), for each place along one axis."""
    gone = tuple(axis for axis in range(x.ndim) if axis != kept)
    return ((x - x.mean(gone, keepdims=True)) ** 2).sum(gone)


@pytest.mark.parametrize(
    ("order", "kept", "is_part"),
    [
        ((0, 1, 2, 3), 3, True),
        ((0, 1, 2, 3), 1, False),  # a channel's neighbours lie 144 apart
        ((0, 2, 3, 1), 1, True),  # channels innermost
    ],
)
def test_a_loop_adds_up_what_lies_along_its_rows(order, kept, is_part):
    values = np.random.default_rng(0).standard_normal([SHAPE[axis] for axis in order])
    back = tuple(np.argsort(order))
    x = ndl.Tensor(values.astype(np.float32), requires_grad=False).permute(back)
    step = jit(squares)
    found = step(x.detach(), kept)
    spans = step._latest.executable.compiled.memory.spans.values()
    assert any(span.buffer.nbytes == 4 * x.size for span in spans) != is_part
    np.testing.assert_allclose(found.numpy(), squares(x, kept).numpy(), rtol=1e-4)
