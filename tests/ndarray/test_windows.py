"""Windows of an array: a view that nobody writes to, as NumPy's sliding windows have it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle import backend_ndarray as nd
from needle import backend_numpy
from needle.backend_ndarray import primitives


@given(st.data())
def test_windows_are_those_of_numpys_sliding_windows(data: st.DataObject) -> None:
    size, dilation, stride = (data.draw(st.integers(1, 4), label=label) for label in "kds")
    n = (size - 1) * dilation + data.draw(st.integers(1, 6), label="more")
    x = np.arange(2 * n * 3, dtype=np.float32).reshape(2, n, 3)
    reach = (size - 1) * dilation + 1
    every = np.lib.stride_tricks.sliding_window_view(x, reach, axis=1)
    expected = every[:, ::stride, :, ::dilation]
    options = ((1,), (size,), (stride,), (dilation,))
    np.testing.assert_array_equal(backend_numpy.windows(x, *options), expected)
    for device in (nd.cpu(), nd.cpu_numpy()):
        view = primitives.windows(nd.array(x, device=device), *options)
        np.testing.assert_array_equal(view.numpy(), expected)


def test_axes_of_windows_stand_at_the_end_in_the_order_that_axes_were_named_in() -> None:
    x = np.arange(4 * 5, dtype=np.float32).reshape(4, 5)
    view = primitives.windows(nd.array(x), (1, 0), (2, 3), (1, 1), (1, 1))
    assert view.shape == (2, 4, 2, 3)
    assert view.numpy()[1, 2, 1, 0] == x[1, 3]
    assert view.numpy()[0, 0, 0, 2] == x[2, 0]


def test_windows_share_memory_and_cannot_be_written_to() -> None:
    x = nd.array(np.zeros((1, 6), np.float32))
    view = primitives.windows(x, (1,), (3,), (1,), (1,))
    x[0, 2] = 5.0
    assert view.numpy()[0, 1].tolist() == [0.0, 5.0, 0.0]
    with pytest.raises(ValueError, match="element of its own at each place"):
        view.fill(1.0)
    with pytest.raises(ValueError, match="read-only"):
        backend_numpy.windows(np.zeros((1, 6)), (1,), (3,), (1,), (1,))[...] = 1
