"""MNIST: shapes, values, transforms, and every way in which its files can be wrong."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from data_files import idx_bytes, write_idx, write_mnist
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import taken_as

from needle.data import DataLoader, MNISTDataset, RandomCrop, RandomFlipHorizontal
from needle.errors import FileFormatError


@pytest.fixture
def files(tmp_path):
    return write_mnist(tmp_path)


def test_pixels_are_divided_by_255(tmp_path):
    images = np.zeros((2, 28, 28), int)
    images[1, 3, 4], images[0, 0, 1] = 255, 51
    dataset = MNISTDataset(
        write_idx(tmp_path / "i.gz", images), write_idx(tmp_path / "l.gz", np.array([7, 0]))
    )
    assert dataset[1][0][3, 4, 0] == 1.0
    assert dataset[0][0][0, 1, 0] == np.float32(51) / np.float32(255)
    assert dataset[:][0].sum() == pytest.approx(1.2)
    assert [int(y) for _, y in dataset] == [7, 0]


def test_item_is_an_image_and_a_label(files):
    image, label = MNISTDataset(*files)[3]
    assert (image.shape, image.dtype) == ((28, 28, 1), np.float32)
    assert (np.shape(label), label.dtype, label) == ((), np.uint8, 3)


@pytest.mark.parametrize("transforms", [None, [], [RandomFlipHorizontal(), RandomCrop()]])
@pytest.mark.parametrize("index", [slice(2, 7), np.array([9, 0, 0, 5]), [1, 2], slice(0, 0)])
def test_slices_and_index_arrays_give_images_in_a_row(files, index, transforms):
    images, labels = MNISTDataset(*files, transforms=transforms)[index]
    expected = np.arange(12)[index] % 10
    assert images.shape == (len(expected), 28, 28, 1) and images.dtype == np.float32
    np.testing.assert_array_equal(labels, expected)


def test_batch_and_slice_have_identical_shapes(files):
    for transforms in (None, [RandomCrop()]):
        dataset = MNISTDataset(*files, transforms=transforms)
        for i, batch in enumerate(DataLoader(dataset, 5)):
            piece = dataset[5 * i : 5 * i + 5]
            assert [x.shape for x in batch] == [x.shape for x in piece]
            assert [x.dtype for x in batch] == [taken_as(x.dtype) for x in piece]


@pytest.mark.parametrize("shuffle", [False, True])
def test_transforms_run_image_by_image_in_the_order_of_the_batch(files, shuffle):
    plain = MNISTDataset(*files)
    np.random.seed(2)
    order = np.random.permutation(12) if shuffle else np.arange(12)
    transforms = [RandomFlipHorizontal(), RandomCrop(2)]
    expected = []
    for i in order:
        image = plain[i][0]
        for transform in transforms:
            image = transform(image)
        expected.append(image)
    np.random.seed(2)
    loader = DataLoader(MNISTDataset(*files, transforms=transforms), 5, shuffle)
    got = np.concatenate([x.numpy() for x, _ in loader])
    np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("index", [0, slice(0, 2), np.array([0, 1])])
def test_a_transform_may_work_in_place(files, index):
    def blank(image):
        image[:] = 0
        return image

    dataset = MNISTDataset(*files, transforms=[blank])
    assert not dataset[index][0].any()
    dataset.transforms = None
    assert dataset[index][0].any()


def test_plain_files_are_read_like_gzipped_ones(files, tmp_path):
    (tmp_path / "plain").mkdir()
    plain = write_mnist(tmp_path / "plain", gzipped=False)
    np.testing.assert_array_equal(MNISTDataset(*plain)[:][0], MNISTDataset(*files)[:][0])


def test_real_test_images(shared_mnist):
    dataset = MNISTDataset(
        str(shared_mnist / "t10k-images-idx3-ubyte.gz"),
        str(shared_mnist / "t10k-labels-idx1-ubyte.gz"),
    )
    assert len(dataset) == 10_000
    images, labels = dataset[:]
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert images.min() == 0 and images.max() == 1
    assert images.mean() == pytest.approx(0.1325, abs=1e-4)


# -- what can be wrong ---------------------------------------------------------------------------


def refused(images, labels):
    with pytest.raises(FileFormatError) as caught:
        MNISTDataset(images, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_file_is_named(files, missing):
    files[missing].unlink()
    with pytest.raises(FileNotFoundError) as caught:
        MNISTDataset(*files)
    assert str(caught.value) == (
        f"MNIST: expected a file at {files[missing]}, got none. "
        "ndl.data.download_mnist(folder) fetches the four files."
    )


def test_different_numbers_of_images_and_labels(files, tmp_path):
    labels = write_idx(tmp_path / "few.gz", np.arange(5))
    assert refused(files[0], labels) == (
        f"MNIST: expected a label for each of the 12 images in {files[0]}, got 5 in {labels}."
    )


def test_swapped_files(files):
    assert refused(files[1], files[0]) == (
        "MNIST: expected an IDX file of images, magic number 2051, got 2049 in "
        f"{files[1]}. That is a file of labels."
    )


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\x00\x00\x08"])
def test_foreign_file(files, content):
    files[0].write_bytes(content)
    assert "expected an IDX file of images, magic number 2051, got " in refused(*files)


@pytest.mark.parametrize("keep", [5, 40, -100, -4])
def test_truncated_gzip(files, keep):
    files[0].write_bytes(files[0].read_bytes()[:keep])
    message = refused(*files)
    assert message.startswith(f"MNIST: expected a whole gzip file, got {files[0]}: ")


def test_damaged_gzip(files):
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 0xFF
    files[0].write_bytes(content)
    assert "expected a whole gzip file" in refused(*files)


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize(("change", "got"), [(-7, "9401, the file is truncated"), (3, "more")])
def test_too_few_or_too_many_pixels(files, gzipped, change, got):
    content = idx_bytes(np.zeros((12, 28, 28)))
    content = content[:change] if change < 0 else content + bytes(change)
    files[0].write_bytes(gzip.compress(content) if gzipped else content)
    assert refused(*files) == (
        f"MNIST: expected 9408 bytes for uint8[12, 28, 28] in {files[0]}, got {got}."
    )


def test_header_that_promises_an_absurd_size_reserves_no_memory(files):
    files[0].write_bytes(struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100))
    assert "got 100, the file is truncated" in refused(*files)


def test_label_out_of_range(files, tmp_path):
    labels = write_idx(tmp_path / "odd.gz", np.arange(12))
    assert refused(files[0], labels) == f"labels: expected 0..9, got 0..11 in {labels}."


@settings(max_examples=80)
@given(st.data())
def test_any_change_to_the_bytes_is_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    files = write_mnist(folder, gzipped=data.draw(st.booleans()))
    path = files[data.draw(st.integers(0, 1))]
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert len(MNISTDataset(*files)) == 12
    except FileFormatError as error:
        assert "\n" not in str(error)
