"""Text by characters and windows of it; files of text; Penn Treebank folders made of any text."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import write_ptb
from hypothesis import given, settings
from hypothesis import strategies as st

import needle as ndl
from needle.data import (
    Characters,
    CharacterText,
    Corpus,
    Dictionary,
    batchify,
    get_batch,
    random_windows,
    windows,
    write_ptb_folder,
)
from needle.errors import FileFormatError, OptionError, OutOfRangeError

# -- characters ----------------------------------------------------------------------------------


@given(st.text(min_size=1))
def test_encoding_and_decoding_give_the_text_back(text):
    vocabulary = Characters(text)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64 and ids.shape == (len(text),)
    assert vocabulary.characters == "".join(sorted(set(text)))
    assert vocabulary.decode(ids) == text
    assert [vocabulary.characters[i] for i in ids] == list(text)


def test_a_vocabulary_is_made_again_from_its_characters():
    vocabulary = Characters("über größere Bäume")
    assert Characters(vocabulary.characters).characters == vocabulary.characters
    assert eval(repr(vocabulary)).characters == vocabulary.characters


def test_nothing_is_encoded_as_no_ids():
    vocabulary = Characters("abc")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a1é1b", r"'1', 'é'"),
        ("0123456789", r"'0', '1', '2', '3', '4', \.\.\."),
        ("\U0001f600", r"'\U0001f600'"),
        ("a\ud800", r"'\\ud800'"),
    ],
)
def test_unknown_characters_are_named(text, named):
    with pytest.raises(OptionError, match=rf"of the vocabulary of 3, got {named}\.$"):
        Characters("abc").encode(text)


@pytest.mark.parametrize("text", ["", None, 5])
def test_a_vocabulary_of_nothing_is_refused(text):
    with pytest.raises(OptionError, match=r"Characters: expected text of one character or more"):
        Characters(text)


@pytest.mark.parametrize("i", [-1, 3])
def test_ids_outside_the_vocabulary_are_refused(i):
    with pytest.raises(OutOfRangeError, match=rf"Characters: expected ids in 0\.\.2, got {i}\."):
        Characters("abc").decode([0, i])


# -- files of text -------------------------------------------------------------------------------


def write(folder, content, name="input.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_is_divided_at_its_share(tmp_path):
    text = "To be, or not to be: that is the question.\n" * 10
    found = CharacterText(write(tmp_path, text), validation=0.1)
    both = np.concatenate([found.train, found.validation])
    assert found.vocabulary.decode(both) == text
    assert len(found.train) == int(len(text) * 0.9)
    assert (
        repr(found) == "CharacterText(387 characters to train on, 43 to validate with, 18 distinct)"
    )


def test_all_of_a_text_may_be_for_training(tmp_path):
    found = CharacterText(str(write(tmp_path, "abc")), validation=0)
    assert found.train.tolist() == [0, 1, 2]
    assert found.validation.shape == (0,)


def test_line_ends_and_byte_order_marks_of_other_systems_are_taken_away(tmp_path):
    found = CharacterText(write(tmp_path, b"\xef\xbb\xbfab\r\nc"))
    assert found.vocabulary.characters == "\nabc"


BROKEN = [
    (b"", r"expected text, got .*input\.txt, which is empty\."),
    (b" \n\n ", r"expected text, got .*input\.txt, which is empty\."),
    (b"the \xff\xfe cat", r"expected text in UTF-8, got .*input\.txt: 'utf-8' codec"),
    ("the cat".encode("utf-16-le"), r"expected text in UTF-8, got .*input\.txt with zero bytes\."),
    (b"\x1f\x8b\x08\x00gzip", r"expected text in UTF-8, got .*input\.txt"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
@pytest.mark.parametrize("read", [CharacterText, lambda path: write_ptb_folder(path, "made")])
def test_what_is_no_text_is_refused_in_one_line(tmp_path, monkeypatch, content, message, read):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileFormatError, match=message) as caught:
        read(write(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("content", "message"), BROKEN)
@pytest.mark.parametrize("name", ["train.txt", "test.txt", "valid.txt"])
def test_a_corpus_with_a_file_that_is_no_text_is_refused(tmp_path, content, message, name):
    write(write_ptb(tmp_path), content, name)
    with pytest.raises(FileFormatError, match="Corpus: " + message.replace("input", name[:-4])):
        Corpus(tmp_path, validate=True)


def test_missing_files_and_folders_in_their_place_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CharacterText: expected a text file at .*none"):
        CharacterText(tmp_path / "input.txt")
    with pytest.raises(FileFormatError, match=r"CharacterText: .* got a folder\."):
        CharacterText(tmp_path)


@pytest.mark.parametrize("share", [1, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path, share):
    with pytest.raises(OptionError, match=r"validation to be a share in \[0, 1\), got"):
        CharacterText(write(tmp_path, "abc"), validation=share)


# -- windows -------------------------------------------------------------------------------------


@settings(deadline=None)  # the first on a machine compiles
@given(st.integers(2, 40), st.integers(1, 5), st.data())
def test_random_windows_are_followed_by_their_targets(count, batch_size, data):
    length = data.draw(st.integers(1, count - 1))
    x, y = random_windows(np.arange(count), batch_size, length, np.random.default_rng(count))
    for tensor in (x, y):
        assert tensor.shape == (batch_size, length)
        assert tensor.dtype == "int64" and not tensor.requires_grad
    np.testing.assert_array_equal(y.numpy(), x.numpy() + 1)
    np.testing.assert_array_equal(x.numpy() - x.numpy()[:, :1], [np.arange(length)] * batch_size)


def test_every_start_is_equally_likely():
    x, y = random_windows(np.arange(10), 7000, 3, np.random.default_rng(0))
    counts = np.bincount(x.numpy()[:, 0].astype(int), minlength=8)
    assert counts[7] == 0 and y.numpy().max() == 9
    assert (abs(counts[:7] - 1000) < 150).all()


def test_random_windows_follow_the_generator_or_the_global_stream():
    ids = np.arange(1000)

    def draw(rng=None):
        return random_windows(ids, 8, 10, rng)[0].numpy()

    rng = np.random.default_rng(3)
    first, second = draw(rng), draw(rng)
    assert (first != second).any()
    np.testing.assert_array_equal(first, draw(np.random.default_rng(3)))
    np.random.seed(5)
    first = draw()
    np.random.seed(5)
    np.testing.assert_array_equal(first, draw())


def test_a_seed_in_place_of_a_generator_is_refused():
    with pytest.raises(
        OptionError, match=r"expected rng to be a numpy.random.Generator, got int 0"
    ):
        random_windows(np.arange(10), 2, 3, 0)


@settings(deadline=None)  # the first on a machine compiles
@given(st.integers(2, 60), st.integers(1, 4), st.data())
def test_consecutive_windows_hold_each_id_once(count, batch_size, data):
    length = data.draw(st.integers(1, count - 1))
    ids = np.random.RandomState(count).randint(0, 9, size=count)
    batches = list(windows(ids, batch_size, length))
    for x, y in batches[:-1]:
        assert x.shape == y.shape and x.shape[1] == length and x.shape[0] <= batch_size
    for which, expected in ((0, ids[:-1]), (1, ids[1:])):
        joined = np.concatenate([batch[which].numpy().reshape(-1) for batch in batches])
        np.testing.assert_array_equal(joined, expected)


@pytest.mark.parametrize("make", [random_windows, windows])
def test_windows_that_do_not_fit_are_refused_at_once(make):
    with pytest.raises(OptionError, match=r"more ids than the window's length 10, got 10\."):
        make(np.arange(10), 2, 10)
    with pytest.raises(OptionError, match=r"expected length of 1 or more, got 0\."):
        make(np.arange(10), 2, 0)
    with pytest.raises(OptionError, match=r"expected batch_size of 1 or more, got 2\.5\."):
        make(np.arange(10), 2.5, 3)
    with pytest.raises(OptionError, match=r"expected ids \(N,\) of integers, got float64\[10\]\."):
        make(np.ones(10), 2, 3)


# -- words ---------------------------------------------------------------------------------------


def dictionary(*words):
    made = Dictionary()
    for word in words:
        made.add_word(word)
    return made


def test_words_become_ids_and_ids_words_and_lines():
    words = dictionary("to", "be", "<eos>", "or")
    assert words.encode("to be\nor  to\n") == [0, 1, 2, 3, 0, 2]
    assert words.decode(np.array([0, 1, 2, 3, 0, 2])) == "to be\nor to\n"


def test_unknown_words_are_unk_or_are_named():
    assert dictionary("to", "<unk>").encode("to sleep to") == [0, 1, 0]
    with pytest.raises(OptionError, match=r"words of the vocabulary of 1, got 'sleep', 'dream'\."):
        dictionary("to").encode("sleep to dream")
    with pytest.raises(OutOfRangeError, match=r"expected ids in 0\.\.0, got 1\."):
        dictionary("to").decode([0, 1])


def test_validation_words_get_their_ids_last(tmp_path):
    before = Corpus(write_ptb(tmp_path), validate=True)
    assert before.valid is None
    write(tmp_path, "the bird ate\n", "valid.txt")
    assert Corpus(tmp_path).valid is None
    assert len(Corpus(tmp_path).dictionary) == len(before.dictionary)
    corpus = Corpus(tmp_path, validate=True)
    assert (corpus.train, corpus.test) == (before.train, before.test)
    assert corpus.dictionary.idx2word == [*before.dictionary.idx2word, "ate"]
    assert corpus.dictionary.decode(corpus.valid) == "the bird ate\n"


def test_any_text_becomes_a_folder_for_a_corpus(tmp_path):
    lines = [f"w{i % 7} w{i % 3}\n\n" for i in range(40)]
    source = write(tmp_path, "".join(lines))
    folder = write_ptb_folder(source, tmp_path / "a" / "made", validation=0.1, test=0.2)
    corpus = Corpus(folder, validate=True)
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [84, 12, 24]
    text = corpus.dictionary.decode([*corpus.train, *corpus.valid, *corpus.test])
    assert text == "".join(lines).replace("\n\n", "\n")


def test_rare_words_become_unk(tmp_path):
    source = write(tmp_path, "b a a a\nb b c d\nd c\n a e <unk>\n")
    folder = write_ptb_folder(source, tmp_path / "made", 5, validation=0.25, test=0.25)
    assert (folder / "train.txt").read_text() == " b a a a \n b b c <unk> \n"
    assert (folder / "valid.txt").read_text() == " <unk> c \n"
    assert (folder / "test.txt").read_text() == " a <unk> <unk> \n"
    assert len(Corpus(folder).dictionary) == 5


def test_a_folder_that_cannot_be_made_is_not_begun(tmp_path):
    source = write(tmp_path, "one line\nanother\n")
    with pytest.raises(OptionError, match=r"leave lines in all three parts, got .* of 2 lines"):
        write_ptb_folder(source, tmp_path / "made")
    with pytest.raises(OptionError, match=r"expected vocabulary_size of 3 or more, got 2\."):
        write_ptb_folder(source, tmp_path / "made", vocabulary_size=2)
    assert not (tmp_path / "made").exists()


def test_columns_of_one_row_are_refused():
    with pytest.raises(OutOfRangeError, match=r"two rows or more, got float32\[1,4\]\. Take a lon"):
        get_batch(batchify(range(4), 4), 0, 5)


def test_windows_stand_where_a_model_is_to_read_them():
    x, _ = random_windows(np.arange(10), 2, 3, device=ndl.cpu())
    assert x.device == ndl.cpu()


@pytest.mark.parametrize("kind", ["Characters", "Dictionary"])
def test_vocabularies_take_text_and_whole_ids(kind):
    vocabulary = ndl.data.Characters("abc") if kind == "Characters" else ndl.data.Dictionary()
    if kind == "Dictionary":
        vocabulary.add_word("a")
    with pytest.raises(OptionError, match=f"^{kind}: expected text to encode, got int 5"):
        vocabulary.encode(5)
    for ids in (["a"], [0.7], [True]):
        with pytest.raises(
            OptionError, match=f"^{kind}: expected ids that are whole numbers, got "
        ):
            vocabulary.decode(ids)
    assert vocabulary.decode(np.float32([0.0, 0.0])).replace(" ", "") == "aa"


@pytest.mark.parametrize("share", ["a", float("nan"), True])
def test_a_share_that_is_no_number_is_refused(tmp_path, share):
    (tmp_path / "a.txt").write_text("to be")
    with pytest.raises(OptionError, match=r"expected validation to be a share in \[0, 1\), got "):
        ndl.data.CharacterText(tmp_path / "a.txt", share)
