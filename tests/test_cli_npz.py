"""An .npz file of the user's: what is taken, and the line that says what is wrong with another."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from needle.cli.main import main
from needle.cli.npz import read_npz
from needle.errors import DTypeError, FileFormatError, NeedleError, OutOfRangeError, ShapeError

X = np.linspace(0, 1, 12, dtype="float64").reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def save(tmp_path):
    def write(**arrays) -> Path:
        np.savez(tmp_path / "my.npz", **arrays)
        return tmp_path / "my.npz"

    return write


def test_one_pair_of_arrays(save):
    found = read_npz(save(X=X, y=Y))
    assert found.x.dtype == np.float32
    assert found.y.tolist() == Y.tolist()
    assert found.test_x is None
    assert found.class_names == ("0", "1", "2")


def test_a_training_and_a_test_pair(save):
    found = read_npz(save(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2]))
    assert len(found.x) == 6
    assert len(found.test_x) == len(found.test_y) == 2


def test_names_of_classes(save):
    found = read_npz(save(X=X, y=Y, class_names=np.array(["cat", "dog", "owl"])))
    assert found.class_names == ("cat", "dog", "owl")


def test_uint8_is_divided_by_255_and_floats_are_not(save):
    pixels = np.array([[0, 255], [51, 0]], dtype=np.uint8)
    assert read_npz(save(X=pixels, y=[0, 1])).x.tolist() == [[0, 1], [np.float32(0.2), 0]]
    assert read_npz(save(X=pixels.astype(float), y=[0, 1])).x.max() == 255


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (X, 1 / 255),
        (X * 9, None),
        (X - 0.5, None),
        ((X * 255).astype(np.uint8), 1 / 255),
        ((X * 255).astype(int), None),
    ],
    ids=["0..1", "0..9", "negative", "uint8", "int64"],
)
def test_pixels_are_known_by_dtype_or_range(save, x, scale):
    assert read_npz(save(X=x, y=Y)).scale == scale


@pytest.mark.parametrize("y", [Y.astype(float), Y.astype(np.uint8), Y > 0])
def test_whole_floats_and_bools_are_class_ids(save, y):
    assert read_npz(save(X=X, y=y)).y.dtype == np.int64


def test_one_class_still_makes_two(save):
    assert read_npz(save(X=X, y=Y * 0)).class_names == ("0", "1")


BAD = [
    ({"x": X, "labels": Y}, FileFormatError, "expected arrays X and y, or x_train, y_train, "),
    ({"X": X}, FileFormatError, "got X."),
    ({}, FileFormatError, "got none."),
    ({"x_train": X, "y_train": Y, "x_test": X}, FileFormatError, "got no y_test."),
    ({"X": X, "y": Y[:5]}, ShapeError, "of one length, got float64[6,2] and int64[5]."),
    ({"X": Y, "y": Y}, ShapeError, "expected X (N, ...) and y (N,)"),
    ({"X": X, "y": np.eye(3)[Y]}, ShapeError, "For one-hot rows: y.argmax(1)."),
    ({"X": X[:0], "y": Y[:0]}, ShapeError, "expected examples in X, got float64[0,2]."),
    ({"X": X[:, :0], "y": Y}, ShapeError, "expected examples in X, got float64[6,0]."),
    ({"X": X, "y": Y + 0.5}, DTypeError, "expected whole class ids in y, got 0.5 at y[0]."),
    ({"X": X, "y": Y * np.nan}, DTypeError, "expected whole class ids in y, got nan at y[0]."),
    ({"X": X, "y": Y.astype(str)}, DTypeError, "expected class ids in y, got <U21[6]."),
    ({"X": X, "y": Y - 1}, OutOfRangeError, "expected labels 0..C-1 in y, got -1."),
    ({"X": X, "y": Y * 100}, OutOfRangeError, "than the 6 examples, got label 200."),
    ({"X": X * [1, np.nan], "y": Y}, OutOfRangeError, "got nan at X[0, 1] (6 such in all)."),
    ({"X": X + 1e300, "y": Y}, OutOfRangeError, "expected finite float32 numbers in X, got 1e+300"),
    ({"X": X + 1j, "y": Y}, DTypeError, "expected real numbers in X, got complex128[6,2]."),
    ({"X": X, "y": Y, "class_names": ["a"]}, ShapeError, "expected 3 class_names"),
    (
        {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
        ShapeError,
        "of one shape but for their length, got float32[6,2] and float32[6,1].",
    ),
    (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 3},
        OutOfRangeError,
        "expected labels 0..2 in y_test as in y_train, got 5.",
    ),
]


@pytest.mark.parametrize(("arrays", "error", "text"), BAD)
def test_what_cannot_be_used_is_refused_with_the_reason(save, arrays, error, text):
    path = save(**arrays)
    with pytest.raises(error) as caught:
        read_npz(path)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected")


def test_an_array_of_objects_is_not_unpickled(save):
    with pytest.raises(FileFormatError, match=r"expected an \.npz file of plain arrays"):
        read_npz(save(X=np.array([object()]), y=np.array([0])))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "my.npz"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"expected an \.npz file of plain arrays"):
        read_npz(path)


def test_a_truncated_file_is_refused(save):
    path = save(X=X, y=Y)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FileFormatError, match=r"expected an \.npz file of plain arrays"):
        read_npz(path)


def test_a_batch_larger_than_the_data_is_refused(save, capsys):
    path = save(X=X, y=Y)
    assert main(["train", "--data", str(path), "--batch-size", "6"]) == 2
    assert capsys.readouterr().err == (
        "needle train: --batch-size: expected at most the 5 training examples, got 6.\n"
    )


def one_line_of(error: FileFormatError) -> str:
    text = str(error)
    assert "\n" not in text and "allow_pickle" not in text
    return text


def test_a_single_array_under_an_npz_name_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(FileFormatError, match=r"got .*one\.npz, no zip archive") as caught:
        read_npz(tmp_path / "one.npz")
    one_line_of(caught.value)


def test_text_under_an_npz_name_is_refused_without_advice_to_unpickle(tmp_path):
    (tmp_path / "my.npz").write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match="no zip archive") as caught:
        read_npz(tmp_path / "my.npz")
    assert "pickle" not in one_line_of(caught.value)


def test_no_advice_to_unpickle_an_array_of_objects(save):
    with pytest.raises(FileFormatError, match="Python objects") as caught:
        read_npz(save(X=np.array([object()]), y=np.array([0])))
    one_line_of(caught.value)


def test_a_damaged_byte_anywhere_is_refused_or_harmless(tmp_path):
    path = tmp_path / "my.npz"
    np.savez_compressed(path, X=X, y=Y)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except NeedleError:
            refused += 1
    assert refused > len(whole) // 2


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [(8, b"\x01\x00", "encrypted"), (10, b"\x63\x00", "compression")],
)
def test_encryption_and_odd_compression_are_refused(save, offset, value, reason):
    path = save(X=X, y=Y)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + offset : entry + offset + 2] = value
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=reason) as caught:
        read_npz(path)
    one_line_of(caught.value)


def test_a_file_in_the_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
        archive.writestr("X", "1 2 3")
        archive.writestr("y", "1")
    with pytest.raises(FileFormatError, match=r"got .*my\.npz, in which X is none"):
        read_npz(tmp_path / "my.npz")


@pytest.mark.parametrize("label", [1e30, -1e30])
def test_float_labels_beyond_int64_are_refused_without_a_warning(save, label):
    with pytest.raises(DTypeError, match=r"expected whole class ids in y, got -?1e\+30 at y\[2\]"):
        read_npz(save(X=X, y=np.where(np.arange(6) == 2, label, Y)))


def test_names_of_classes_as_bytes_are_decoded(save):
    names = np.array([b"cat", "chó".encode(), b"owl"])
    assert read_npz(save(X=X, y=Y, class_names=names)).class_names == ("cat", "chó", "owl")
    latin = np.array([b"a", b"\xe9t\xe9", b"c"])
    with pytest.raises(FileFormatError, match="expected class_names in UTF-8"):
        read_npz(save(X=X, y=Y, class_names=latin))
