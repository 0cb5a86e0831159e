"""Sequences of different lengths in one batch: packing, padding, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tensors import tensor

import needle as ndl
from needle import nn
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError


def drawn(*shape, seed=0):
    return tensor(np.random.RandomState(seed).randn(*shape))


def test_packing_cuts_after_the_longest_and_unpacking_pads():
    x = drawn(6, 2, 3)
    packed = nn.pack_padded_sequence(x, [2, 4])
    assert packed.padded.shape == (4, 2, 3)
    y, lengths = nn.pad_packed_sequence(packed, padding_value=-1.0, total_length=5)
    assert y.shape == (5, 2, 3) and lengths.numpy().tolist() == [2, 4]
    expected = x.numpy()[:5].copy()
    expected[2:, 0] = expected[4:, 1] = -1
    np.testing.assert_array_equal(y.numpy(), expected)


def test_a_packed_sequence_reverses_each_sequence_within_its_length():
    packed = nn.PackedSequence(tensor(np.arange(6.0).reshape(3, 2)), [2, 3])
    assert packed.reversed().padded.numpy().T.tolist() == [[2, 0, 4], [5, 3, 1]]
    assert packed.last().numpy().tolist() == [2, 5]
    assert packed.masked().numpy().T.tolist() == [[0, 2, 0], [1, 3, 5]]


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "float16", "float32"])
def test_padding_keeps_the_dtype(dtype):
    x = tensor(np.ones((3, 2)), dtype=dtype)
    packed = nn.PackedSequence(x, [1, 3])
    assert packed.masked().dtype == x.dtype
    assert packed.masked().astype("int64").numpy().T.tolist() == [[1, 0, 0], [1, 1, 1]]
    padded, _ = nn.pad_packed_sequence(packed, padding_value=1, total_length=5)
    assert padded.dtype == x.dtype and padded.astype("int64").numpy().min() == 1
    assert nn.pad_sequence([x, x[:1]]).dtype == x.dtype


def test_padding_value_that_the_dtype_does_not_have_is_refused():
    whole = nn.PackedSequence(tensor(np.ones((3, 2), "uint8")), [1, 3])
    for value in (0.5, -1, 256, np.nan, np.inf):
        with pytest.raises(OptionError, match=r"padding_value: expected a value of uint8, .* got"):
            whole.masked(value)
    with pytest.raises(OptionError, match="padding_value: expected a number, got 'a'"):
        whole.masked("a")
    floats = nn.PackedSequence(drawn(3, 2), [1, 3])
    assert np.isnan(floats.masked(np.nan).numpy()[1:, 0]).all()


@pytest.mark.parametrize("batch_first", [True, False])
def test_sequences_come_back_as_they_were(batch_first):
    sequences = [drawn(n, 2, seed=n) for n in (3, 1, 4)]
    padded = nn.pad_sequence((x for x in sequences), batch_first)
    assert padded.shape == ((3, 4, 2) if batch_first else (4, 3, 2))
    packed = nn.pack_sequence(sequences)
    assert packed.lengths.tolist() == [3, 1, 4]
    again, lengths = nn.pad_packed_sequence(packed, batch_first)
    np.testing.assert_array_equal(again.numpy(), padded.numpy())
    for given in (lengths, [3, 1, 4]):
        for x, y in zip(sequences, nn.unpad_sequence(padded, given, batch_first), strict=True):
            np.testing.assert_array_equal(y.numpy(), x.numpy())


# -- bad input ---------------------------------------------------------------------------------


def with_lengths(lengths):
    return nn.LSTM(3, 4)(ndl.init.randn(5, 2, 3), lengths=lengths)


STATE = ndl.init.zeros(1, 2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: with_lengths([5]), ShapeError,
         r"lengths: expected 2, one for each sequence of \[T, B, ...\], got 1 for float32\[5,2"),
        (lambda: with_lengths([0, 5]), OutOfRangeError,
         r"lengths: expected whole numbers in \[1, 5\], got 0 .* Leave empty sequences out"),
        (lambda: with_lengths([2, 6]), OutOfRangeError, r"in \[1, 5\], got 6"),
        (lambda: with_lengths([2.5, 5]), OptionError, "expected one whole number for each"),
        (lambda: with_lengths([[2, 5]]), OptionError, "expected one whole number for each"),
        (lambda: with_lengths("ab"), OptionError, "expected one whole number for each"),
        (lambda: nn.PackedSequence(ndl.init.randn(5), [5]), ShapeError,
         r"PackedSequence: expected padded \[T, B, ...\] of 1 step or more, got float32\[5\]"),
        (lambda: nn.pack_padded_sequence(ndl.init.randn(5, 2), [2, 5], enforce_sorted=True),
         OptionError, r"expected lengths that do not grow, got \[2, 5\]"),
        (lambda: nn.pad_packed_sequence(STATE), DTypeError, "expected a PackedSequence, got"),
        (lambda: nn.pad_packed_sequence(nn.PackedSequence(STATE, [1, 1]), total_length=0),
         OptionError, "expected total_length of 1 or more, got 0"),
        (lambda: nn.pad_sequence([]), ShapeError, r"alike but for T_i, got none"),
        (lambda: nn.pad_sequence([STATE, STATE[0]]), ShapeError, r"got float32\[1,2,4\]"),
        (lambda: with_lengths([[1], [2, 3]]), OptionError, "expected one whole number for each"),
        (lambda: with_lengths([5, np.inf]), OutOfRangeError, r"in \[1, 5\], got inf for float32"),
        (lambda: with_lengths([5, 1e30]), OutOfRangeError, r"in \[1, 5\], got 1e\+30 for float32"),
        (lambda: with_lengths([5, 6.0]), OutOfRangeError, r"got 6 for float32\[5,2,3\]\.$"),
        (lambda: nn.pad_packed_sequence(nn.PackedSequence(STATE, [1, 1]), total_length="5"),
         OptionError, "expected total_length of 1 or more, got '5'"),
        (lambda: nn.pad_packed_sequence(nn.PackedSequence(STATE, [1, 1]), total_length=4.5),
         OptionError, "expected total_length of 1 or more, got 4.5"),
        (lambda: nn.pad_sequence(3), DTypeError, "pad_sequence: expected a list of Tensors, got i"),
        (lambda: nn.pack_sequence([STATE, STATE[:0]]), OutOfRangeError, r"got 0 .* Leave empty"),
        (lambda: nn.pack_sequence([STATE, STATE[0]]), ShapeError, "pack_sequence: expected Tens"),
        (lambda: nn.pack_sequence([STATE[0][:1], STATE[0]], enforce_sorted=True), OptionError,
         r"expected lengths that do not grow, got \[1, 2\]"),
        (lambda: nn.unpad_sequence(STATE, [1]), ShapeError, "lengths: expected 2, one for each"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
