"""Penn Treebank: words to ids, columns of text, and batches of them."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import write_ptb
from hypothesis import given
from hypothesis import strategies as st

import needle as ndl
from needle.data import Corpus, Dictionary, batchify, get_batch, write_ptb_folder
from needle.errors import DTypeError, FileFormatError, OptionError, OutOfRangeError, ShapeError


def test_dictionary_numbers_words_as_they_come():
    words = Dictionary()
    assert [words.add_word(word) for word in ("to", "be", "or", "to")] == [0, 1, 2, 0]
    assert words.word2idx == {"to": 0, "be": 1, "or": 2}
    assert words.idx2word == ["to", "be", "or"]
    assert len(words) == 3


def test_end_of_sentence_gets_its_id_when_first_met(tmp_path):
    corpus = Corpus(write_ptb(tmp_path))
    words = ["the", "cat", "sat", "<eos>", "dog", "ran", "far", "away", "bird"]
    assert corpus.dictionary.idx2word == words
    assert corpus.train == [0, 1, 2, 3, 0, 4, 3, 3, 5, 6, 7, 3]
    assert [words[i] for i in corpus.test] == ["the", "bird", "sat", "<eos>"]


@pytest.mark.parametrize(("lines", "ids"), [(0, 0), (1, 4), (2, 7), (3, 8), (99, 12)])
def test_max_lines_limits_each_file(tmp_path, lines, ids):
    corpus = Corpus(str(write_ptb(tmp_path)), lines)
    assert len(corpus.train) == ids
    assert len(corpus.test) == (4 if lines else 0)


def test_tokenize_goes_on_with_the_same_dictionary(tmp_path):
    corpus = Corpus(write_ptb(tmp_path))
    assert corpus.tokenize(tmp_path / "train.txt", max_lines=1) == corpus.train[:4]


@given(st.integers(1, 60), st.integers(1, 12))
def test_batchify_lays_the_text_in_columns(length, batch_size):
    if batch_size > length:
        return
    columns = batchify(list(range(length)), batch_size, ndl.cpu(), "float32")
    rows = length // batch_size
    assert isinstance(columns, np.ndarray) and columns.shape == (rows, batch_size)
    assert columns.dtype == np.float32
    for b in range(batch_size):
        assert columns[:, b].tolist() == list(range(b * rows, (b + 1) * rows))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 12), st.data())
def test_get_batch_pairs_each_word_with_the_next(rows, batch_size, bptt, data):
    if rows < 2:
        return
    batches = batchify(list(range(rows * batch_size)), batch_size)
    i = data.draw(st.integers(0, rows - 2))
    x, y = get_batch(batches, i, bptt, device=ndl.cpu(), dtype="float32")
    length = min(bptt, rows - 1 - i)
    assert x.shape == (length, batch_size) and y.shape == (length * batch_size,)
    np.testing.assert_array_equal(x.numpy(), batches[i : i + length])
    # each column is consecutive numbers, so the next word is one more
    np.testing.assert_array_equal(y.numpy(), x.numpy().reshape(-1) + 1)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(None, "float32"), ("float64",) * 2, ("int64",) * 2]
)
def test_get_batch_gives_constant_tensors_of_the_dtype_asked_for(dtype, expected):
    for tensor in get_batch(batchify(range(20), 2, dtype="int32"), 0, 3, dtype=dtype):
        assert isinstance(tensor, ndl.Tensor)
        assert tensor.dtype == expected and not tensor.requires_grad


def test_batches_do_not_share_memory():
    batches = batchify(range(20), 2)
    get_batch(batches, 0, 3)[0].cached_data[:] = -1
    assert batches.min() == 0


@pytest.mark.parametrize("name", ["train.txt", "test.txt"])
def test_missing_file_is_named(tmp_path, name):
    (write_ptb(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected a text file at {tmp_path / name}, got"):
        Corpus(tmp_path)


def test_file_that_is_no_text_is_refused(tmp_path):
    (write_ptb(tmp_path) / "test.txt").write_bytes(b"the \xff\xfe cat")
    with pytest.raises(FileFormatError, match=r"Corpus: expected text in UTF-8, got .*test\.txt"):
        Corpus(tmp_path)


def test_negative_max_lines_is_refused(tmp_path):
    with pytest.raises(OptionError, match="Corpus: expected max_lines of 0 or more, got -1"):
        Corpus(write_ptb(tmp_path), max_lines=-1)


@pytest.mark.parametrize("batch_size", [0, -2, 6])
def test_more_columns_than_ids_are_refused(batch_size):
    with pytest.raises(OptionError, match=rf"batch_size in 1\.\.5, .* got {batch_size}\."):
        batchify([1, 2, 3, 4, 5], batch_size)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_dtype_that_would_change_ids_is_refused(dtype):
    with pytest.raises(DTypeError, match=f"holds every id up to 9999, got {dtype}. Use float32 or"):
        batchify(range(10_000), 10, dtype=dtype)


def test_small_ids_may_be_in_a_small_dtype():
    assert batchify(range(100), 10, dtype="float16").dtype == np.float16


@pytest.mark.parametrize("i", [-1, 9, 50])
def test_row_that_no_other_follows_is_refused(i):
    with pytest.raises(OutOfRangeError, match=rf"row in 0\.\.8 of float32\[10,2\], got {i}\."):
        get_batch(batchify(range(20), 2), i, 5)


def test_bptt_below_one_is_refused():
    with pytest.raises(OptionError, match="expected bptt of 1 or more, got 0"):
        get_batch(batchify(range(20), 2), 0, 0)


@pytest.mark.parametrize("batch_size", [2.0, "2", None])
def test_a_batch_size_that_is_no_int_is_refused(batch_size):
    with pytest.raises(OptionError, match=r"batchify: expected batch_size in 1\.\.4"):
        batchify([1, 2, 3, 4], batch_size)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], r"expected ids \[N\], one or more, got"),
        ([[1, 2], [3, 4]], r"expected ids \[N\], one or more, got int64\[2,2\]"),
        ([[1], [2, 3]], "expected ids, got lists of unequal lengths"),
        ([1.5, 2.0], r"expected ids that are whole numbers, got float64\[2\]"),
        (["a", "b"], "expected ids that are whole numbers, got "),
    ],
)
def test_what_are_no_ids_are_no_columns(data, expected):
    with pytest.raises(ValueError, match=f"^batchify: {expected}"):
        batchify(data, 1)


@pytest.mark.parametrize("batches", [[[1, 2], [3, 4]], np.arange(4), None])
def test_batches_that_batchify_did_not_give_are_refused(batches):
    with pytest.raises(
        ShapeError, match=r"^get_batch: expected batches \[n, B\] as batchify gives"
    ):
        get_batch(batches, 0, 2)


@pytest.mark.parametrize("i", [1.0, True, "0", None])
def test_a_row_that_is_no_int_is_refused(i):
    with pytest.raises(OutOfRangeError, match=rf"row in 0\.\.8 of float32\[10,2\], got {i}\."):
        get_batch(batchify(range(20), 2), i, 5)


@pytest.mark.parametrize("number", [1.5, True, "3"])
def test_numbers_that_are_not_whole_are_refused(tmp_path, number):
    write_ptb(tmp_path)
    with pytest.raises(OptionError, match=r"^batchify: expected batch_size in 1\.\.4, "):
        batchify([1, 2, 3, 4], number)
    with pytest.raises(OptionError, match=r"^get_batch: expected bptt of 1 or more, got "):
        get_batch(batchify(range(20), 2), 0, number)
    with pytest.raises(OptionError, match=r"^Corpus: expected max_lines of 0 or more, got "):
        Corpus(tmp_path, max_lines=number)
    with pytest.raises(OptionError, match=r"^write_ptb_folder: expected vocabulary_size of 3 or "):
        write_ptb_folder(tmp_path / "train.txt", tmp_path / "new", number)


@pytest.mark.parametrize("share", ["a", float("nan"), True, 1, -0.1])
def test_shares_that_are_none_are_refused(tmp_path, share):
    write_ptb(tmp_path)
    for name in ("validation", "test"):
        with pytest.raises(OptionError, match=rf"expected {name} to be a share in \[0, 1\), got "):
            write_ptb_folder(tmp_path / "train.txt", tmp_path / "new", **{name: share})
