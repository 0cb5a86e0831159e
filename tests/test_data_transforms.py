"""Transforms: their values, their draws, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.data import Dataset, RandomCrop, RandomFlipHorizontal, Transform, random_stream
from needle.errors import OptionError, ShapeError

SHAPES = [(5, 7, 3), (4, 4, 1), (6, 3), (1, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_flip_reverses_the_columns_or_nothing(shape, dtype):
    image = np.random.randint(0, 200, size=shape).astype(dtype)
    flipped, same = RandomFlipHorizontal(1.0)(image), RandomFlipHorizontal(0.0)(image)
    np.testing.assert_array_equal(flipped, np.flip(image, 1))
    np.testing.assert_array_equal(same, image)
    assert flipped.dtype == same.dtype == image.dtype


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_flip_draws_one_number_per_image_whatever_comes_of_it(p):
    np.random.seed(7)
    draws = np.random.rand(20)
    after = np.random.rand()
    np.random.seed(7)
    flip, image = RandomFlipHorizontal(p), np.arange(6.0).reshape(2, 3, 1)
    flipped = [not np.array_equal(flip(image), image) for _ in range(20)]
    assert flipped == (draws < p).tolist()
    assert np.random.rand() == after


@given(st.integers(0, 6), st.integers(0, 2**31), st.sampled_from(SHAPES))
def test_crop_is_the_shifted_window_of_the_zero_padded_image(padding, seed, shape):
    image = np.random.RandomState(seed).rand(*shape)
    np.random.seed(seed)
    row, column = np.random.randint(low=-padding, high=padding + 1, size=2)
    after = np.random.rand()
    np.random.seed(seed)
    cropped = RandomCrop(padding)(image)
    assert np.random.rand() == after
    assert cropped.shape == image.shape and cropped.dtype == image.dtype
    for i in range(shape[0]):
        for j in range(shape[1]):
            inside = 0 <= i + row < shape[0] and 0 <= j + column < shape[1]
            expected = image[i + row, j + column] if inside else 0
            np.testing.assert_array_equal(cropped[i, j], np.broadcast_to(expected, shape[2:]))


def test_crop_shifts_rows_by_its_first_draw():
    image = np.arange(9.0).reshape(3, 3, 1) + 1
    seed = next(
        s for s in range(50) if np.random.RandomState(s).randint(-1, 2, size=2).tolist() == [1, 0]
    )
    np.random.seed(seed)
    assert RandomCrop(1)(image)[..., 0].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]


def test_transforms_leave_their_input_as_it_is():
    image = np.random.rand(4, 4, 1)
    before = image.copy()
    RandomCrop(2)(image)[:] = 9
    RandomFlipHorizontal(1)(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("transform", [RandomCrop(), RandomFlipHorizontal()])
@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((2, 3, 4, 1)), [[1.0, 2.0]]])
def test_what_is_no_image_is_refused(transform, image):
    name = type(transform).__name__
    with pytest.raises(ShapeError, match=rf"{name}: expected an image \[H,W,C\] or \[H,W\], got"):
        transform(image)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_probability_out_of_range_is_refused(p):
    with pytest.raises(OptionError, match=r"RandomFlipHorizontal: expected p in 0..1, got"):
        RandomFlipHorizontal(p)


def test_negative_padding_is_refused():
    with pytest.raises(OptionError, match="RandomCrop: expected padding from 0 on, got -1"):
        RandomCrop(-1)


def test_transform_without_call_says_what_to_write():
    with pytest.raises(NotImplementedError, match="Transform: __call__"):
        Transform()(0)


def test_defaults_are_the_courses():
    assert (RandomFlipHorizontal().p, RandomCrop().padding) == (0.5, 3)


def test_current_stream_is_restored_when_a_block_fails():
    stream = np.random.RandomState(0)
    with pytest.raises(ValueError, match="inside"), random_stream.use(stream):
        assert random_stream.current() is stream
        raise ValueError("inside")
    assert random_stream.current() is np.random


def test_peeking_a_seed_consumes_nothing():
    seeds = [random_stream.peek_seed(), random_stream.peek_seed()]
    assert seeds[0] == seeds[1]
    draw = np.random.rand()
    np.random.seed(0)
    assert np.random.rand() == draw


@pytest.mark.parametrize("value", ["a", None, 1.5])
def test_options_that_are_no_numbers_in_range_are_refused(value):
    with pytest.raises(OptionError, match=r"RandomFlipHorizontal: expected p in 0\.\.1, got"):
        RandomFlipHorizontal(value)
    with pytest.raises(OptionError, match="RandomCrop: expected padding from 0 on, got"):
        RandomCrop(value)


def test_a_transform_that_is_no_function_is_refused():
    with pytest.raises(OptionError, match="transforms: expected a list of functions, got int 5"):
        Dataset([RandomCrop(1), 5])
