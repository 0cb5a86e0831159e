"""CIFAR-10: the folder of pickles as Python 2 wrote it, and as Python 3 would."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from data_files import (
    CIFAR_NAMES,
    cifar_arrays,
    python2_cifar,
    python3_cifar,
    write_cifar,
)

import needle as ndl
from needle.data import CIFAR10Dataset, DataLoader
from needle.errors import DTypeError, FileFormatError, OutOfRangeError

WRITERS = [python2_cifar, *[python3_cifar(protocol) for protocol in range(2, 6)]]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("train", [True, False])
def test_batches_are_joined_in_order(tmp_path, write, train):
    dataset = CIFAR10Dataset(str(write_cifar(tmp_path, write)), train=train)
    parts = [cifar_arrays(number) for number in (range(5) if train else [5])]
    pixels = np.concatenate([data for data, _ in parts])
    np.testing.assert_array_equal(
        dataset.X, pixels.reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255)
    )
    assert dataset.y.tolist() == [label for _, labels in parts for label in labels]
    assert dataset.X.dtype == np.float32 and dataset.y.dtype == np.int64
    assert len(dataset) == (20 if train else 4)


def test_items_slices_and_index_arrays(tmp_path):
    dataset = CIFAR10Dataset(write_cifar(tmp_path), True, 0.5)
    image, label = dataset[3]
    assert isinstance(image, np.ndarray) and image.shape == (3, 32, 32) and np.shape(label) == ()
    for index in (slice(1, 8), np.array([3, 3, 19])):
        images, labels = dataset[index]
        assert images.shape == (len(labels), 3, 32, 32)
        np.testing.assert_array_equal(images, dataset.X[index])
    x, y = next(iter(DataLoader(dataset, 6)))
    assert x.shape == (6, 3, 32, 32) and y.shape == (6,)
    assert isinstance(x, ndl.Tensor)


@pytest.mark.parametrize("index", [2, slice(2, 3)])
def test_transforms_see_height_width_and_channels(tmp_path, index):
    base = write_cifar(tmp_path)
    seen = []

    def look(image):
        seen.append(image.shape)
        return image

    dataset = CIFAR10Dataset(base, False, transforms=[look, ndl.data.RandomFlipHorizontal(1)])
    image = dataset[index][0]
    np.testing.assert_array_equal(image, CIFAR10Dataset(base, False).X[index][..., ::-1])
    assert seen == [(32, 32, 3)]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10Dataset(tmp_path / "nowhere", train=True)
    assert str(caught.value) == (
        f"CIFAR10Dataset: expected the folder {tmp_path / 'nowhere'}, got none. "
        "ndl.data.download_cifar10(folder) fetches the data set."
    )


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_missing_file_is_named(tmp_path, name):
    base = write_cifar(tmp_path)
    (base / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected the file {base / name}, got none"):
        CIFAR10Dataset(base, train=name != "test_batch")


def test_a_file_for_the_folder_and_a_folder_for_a_file_are_told(tmp_path):
    base = write_cifar(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"expected the folder .*test_batch, got a file"):
        CIFAR10Dataset(base / "test_batch", train=False)
    (base / "test_batch").unlink()
    (base / "test_batch").mkdir()
    with pytest.raises(IsADirectoryError, match=r"expected the file .*test_batch, got a folder"):
        CIFAR10Dataset(base, train=False)


def test_what_is_no_path_is_refused():
    with pytest.raises(DTypeError) as caught:
        CIFAR10Dataset(None, train=True)
    assert str(caught.value) == "CIFAR10Dataset: expected base_folder to be a path, got None."


@pytest.mark.parametrize(
    ("index", "error", "shown"),
    [
        (4, OutOfRangeError, "int 4"),
        (-5, OutOfRangeError, "int -5"),
        (np.array([0, 9]), OutOfRangeError, r"int64\[2\]"),
        ("a", DTypeError, "str 'a'"),
        (1.5, DTypeError, "float 1.5"),
    ],
)
def test_an_index_without_items_is_refused(tmp_path, index, error, shown):
    dataset = CIFAR10Dataset(write_cifar(tmp_path), train=False)
    message = rf"^CIFAR10Dataset: expected an index in \[-4, 4\), a slice or .*, got {shown}\.$"
    with pytest.raises(error, match=message):
        dataset[index]


def test_going_through_the_items_ends(tmp_path):
    assert len(list(CIFAR10Dataset(write_cifar(tmp_path), train=False))) == 4


PIXELS, LABELS = cifar_arrays(0)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"labels": LABELS}, r"'data' to be uint8\[n,3072\], got NoneType in "),
        ({b"data": PIXELS[:, :99], b"labels": LABELS}, r"\[n,3072\], got uint8\[4,99\] in "),
        ({b"data": PIXELS[0], b"labels": LABELS}, r"\[n,3072\], got uint8\[3072\] in "),
        ({b"data": PIXELS}, "'labels' to be a list of ints, got NoneType in "),
        ({b"data": PIXELS, b"labels": ["cat"] * 4}, "a list of ints, got a list of str in "),
        ({b"data": PIXELS, b"labels": LABELS[:3]}, r"4 labels for uint8\[4,3072\], got 3 in "),
        ({b"data": PIXELS, b"labels": [0, 1, 10, 2]}, "labels: expected 0..9, got 0..10 in "),
        ({b"data": PIXELS, b"labels": [0, 1, -1, 2**70]}, "expected 0..9, got -1.."),
    ],
)
def test_batch_with_wrong_contents_is_refused(tmp_path, batch, message):
    base = write_cifar(tmp_path)
    (base / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(FileFormatError, match=message) as caught:
        CIFAR10Dataset(base, train=False)
    assert str(base / "test_batch") in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_batch_without_images_is_refused(tmp_path, protocol):
    base = write_cifar(tmp_path)
    (base / "test_batch").write_bytes(python3_cifar(protocol)(PIXELS[:0], []))
    with pytest.raises(FileFormatError, match=r"uint8\[n,3072\], got uint8\[0,3072\] in "):
        CIFAR10Dataset(base, train=False)


def test_truncated_file_is_refused(tmp_path):
    base = write_cifar(tmp_path)
    content = (base / "test_batch").read_bytes()
    (base / "test_batch").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match=f"expected a whole pickle in {base / 'test_batch'}"):
        CIFAR10Dataset(base, train=False)
