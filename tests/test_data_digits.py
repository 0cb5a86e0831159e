"""scikit-learn's digits: shapes, the fixed split, and a machine without scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import needle as ndl
from needle.data import DataLoader, DigitsDataset, RandomCrop, digits
from needle.errors import MissingDependencyError


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("sklearn", reason="scikit-learn (the extra `demo`) is not installed")
    return digits()


def test_all_1797_digits_are_in_one_part_or_the_other(parts):
    from sklearn.datasets import load_digits

    train, test = parts
    assert (len(train), len(test)) == (1438, 359)
    ours = np.concatenate([train.X, test.X]).reshape(1797, 64) * 16
    assert sorted(map(tuple, ours)) == sorted(map(tuple, load_digits().data))


def test_split_takes_the_same_share_of_each_digit(parts):
    train, test = (np.bincount(part.y) for part in parts)
    np.testing.assert_array_equal(test, np.round(0.2 * (train + test)))


def test_split_is_the_same_for_ever(parts):
    _, test = parts
    assert test.y[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
    assert float(test.X.sum(dtype=np.float64)) == 6966.3125


def test_split_does_not_touch_the_global_stream(parts):
    before = np.random.get_state()[1].copy()
    ndl.data.datasets.digits_dataset._load.cache_clear()
    digits()
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(123)
    np.testing.assert_array_equal(DigitsDataset(train=False).X, parts[1].X)


def test_items_are_images_in_0_to_1_with_integer_labels(parts):
    image, label = parts[0][0]
    assert (image.shape, image.dtype, label.dtype) == ((8, 8, 1), np.float32, np.uint8)
    assert parts[0].X.min() == 0 and parts[0].X.max() == 1
    images, labels = next(iter(DataLoader(parts[0], 32)))
    assert images.shape == (32, 8, 8, 1) and labels.shape == (32,)


def test_transforms_apply_to_the_training_part_only(parts):
    train, test = digits(transforms=[RandomCrop(1)])
    assert train.transforms and not test.transforms
    assert train[0][0].shape == (8, 8, 1)


def test_changing_one_dataset_does_not_change_another(parts):
    first = DigitsDataset(True)
    first.X[:] = 0
    assert DigitsDataset(True).X.max() == 1


def test_missing_scikit_learn_says_how_to_get_it(monkeypatch):
    ndl.data.datasets.digits_dataset._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError) as caught:
        digits()
    assert str(caught.value) == (
        "digits: expected scikit-learn, which holds them, got no such package. "
        'pip install "needle-dl[demo]"'
    )
