"""Contract, section 8: CIFAR-10 and Penn Treebank, from files as the real ones are laid out."""

from __future__ import annotations

import importlib
import pickle

import numpy as np
import pytest

import needle as ndl
from needle import data
from needle.autograd import Tensor

NAMES = ["CIFAR10Dataset", "Dictionary", "Corpus", "batchify", "get_batch"]


@pytest.mark.parametrize("name", [*NAMES, "MNISTDataset", "NDArrayDataset", "Dataset"])
def test_name_is_in_data(name):
    assert hasattr(ndl.data, name)
    assert name in ndl.data.__all__


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mnist_dataset", "MNISTDataset"),
        ("ndarray_dataset", "NDArrayDataset"),
        ("cifar10_dataset", "CIFAR10Dataset"),
        ("ptb_dataset", "Corpus"),
        ("ptb_dataset", "Dictionary"),
        ("ptb_dataset", "batchify"),
        ("ptb_dataset", "get_batch"),
    ],
)
def test_datasets_are_reached_by_dotted_names(module, name):
    found = importlib.import_module(f"needle.data.datasets.{module}")
    assert getattr(found, name) is getattr(data, name)
    assert getattr(importlib.import_module("needle.data.datasets"), name) is getattr(data, name)


# -- CIFAR10Dataset ----------------------------------------------------------------------------

PER_FILE = 5


@pytest.fixture
def cifar(tmp_path):
    """A folder of six files of 5 images; pixels and labels, files in order."""
    draw = np.random.RandomState(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    contents = {}
    for name in [*[f"data_batch_{i}" for i in range(1, 6)], "test_batch"]:
        pixels = draw.randint(0, 256, size=(PER_FILE, 3072)).astype(np.uint8)
        labels = [int(label) for label in draw.randint(0, 10, size=PER_FILE)]
        contents[name] = pixels, labels
        whole = {b"batch_label": b"of " + name.encode(), b"labels": labels, b"data": pixels,
                 b"filenames": [b"x.png"] * PER_FILE}  # fmt: skip
        (folder / name).write_bytes(pickle.dumps(whole, protocol=2))
    return folder, contents


def expected_of(contents, train):
    parts = list(contents.values())
    parts = parts[:5] if train else parts[5:]
    x = np.concatenate([pixels for pixels, _ in parts]).astype("float64") / 255
    return x.reshape(-1, 3, 32, 32), [label for _, labels in parts for label in labels]


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_cifar_joins_its_files_in_order(cifar, train, as_text):
    folder, contents = cifar
    dataset = data.CIFAR10Dataset(str(folder) if as_text else folder, train=train)
    x, y = expected_of(contents, train)
    assert len(dataset) == len(y) == PER_FILE * (5 if train else 1)
    assert np.shape(dataset.X) == x.shape
    np.testing.assert_allclose(dataset.X, x, rtol=1e-6)
    assert list(dataset.y) == y
    assert isinstance(dataset, data.Dataset)


@pytest.mark.parametrize("train", [True, False])
def test_an_item_of_cifar_is_an_image_and_its_label(cifar, train):
    folder, contents = cifar
    dataset = data.CIFAR10Dataset(folder, train)
    x, y = expected_of(contents, train)
    for i in (0, 3, len(y) - 1):
        item = dataset[i]
        assert type(item) is tuple and len(item) == 2
        assert isinstance(item[0], np.ndarray) and item[0].shape == (3, 32, 32)
        np.testing.assert_allclose(item[0], x[i], rtol=1e-6)
        assert np.shape(item[1]) == () and int(item[1]) == y[i]


def test_cifar_takes_its_arguments_in_order(cifar):
    data.CIFAR10Dataset(cifar[0], True, 0.5, None)
    data.CIFAR10Dataset(cifar[0], train=False, p=0.5, transforms=[])


@pytest.mark.parametrize("index", [slice(2, 9), slice(None), np.array([0, 24, 7, 7]), np.arange(3)])
def test_cifar_is_indexed_by_slices_and_arrays(cifar, index):
    folder, contents = cifar
    images, labels = data.CIFAR10Dataset(folder, True)[index]
    x, y = expected_of(contents, True)
    assert images.shape == x[index].shape
    np.testing.assert_allclose(images, x[index], rtol=1e-6)
    assert list(labels) == list(np.array(y)[index])


@pytest.mark.parametrize(("batch_size", "shuffle"), [(4, False), (25, False), (8, True)])
def test_a_loader_of_cifar_gives_tensors(cifar, batch_size, shuffle):
    folder, contents = cifar
    loader = data.DataLoader(data.CIFAR10Dataset(folder, True), batch_size, shuffle)
    x, y = expected_of(contents, True)
    np.random.seed(3)
    batches = list(loader)
    np.random.seed(3)
    order = np.random.permutation(25) if shuffle else np.arange(25)
    assert len(batches) == -(-25 // batch_size)
    for i, (images, labels) in enumerate(batches):
        chosen = order[i * batch_size : (i + 1) * batch_size]
        assert isinstance(images, Tensor) and isinstance(labels, Tensor)
        assert images.shape == (len(chosen), 3, 32, 32) and labels.shape == (len(chosen),)
        np.testing.assert_allclose(images.numpy(), x[chosen], rtol=1e-6)
        assert labels.numpy().tolist() == [y[j] for j in chosen]


@pytest.mark.nd_mode
def test_batches_of_cifar_are_float32_ndarrays(cifar, each_device):
    loader = data.DataLoader(data.CIFAR10Dataset(cifar[0], False), 2)
    for batch in loader:
        for field in batch:
            assert isinstance(field.cached_data, ndl.NDArray) and field.dtype == "float32"
            assert field.device == each_device


# -- Dictionary, Corpus ------------------------------------------------------------------------

TRAIN = " no it was n't black monday \n but while the new york \n\n it was no N <unk> \n"
TEST = " the stock market \n was <eos> new\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "test.txt").write_text(TEST)
    return tmp_path


def by_hand(*texts, max_lines=None):
    """Ids in order of first appearance, <eos> as any other word."""
    words, found = [], []
    for text in texts:
        ids = []
        for line in text.splitlines()[:max_lines]:
            for word in [*line.split(), "<eos>"]:
                if word not in words:
                    words.append(word)
                ids.append(words.index(word))
        found.append(ids)
    return words, found


def test_dictionary_gives_ids_in_order_of_first_appearance():
    words = data.Dictionary()
    assert len(words) == 0 and words.word2idx == {} and words.idx2word == []
    assert [words.add_word(w) for w in ["a", "b", "a", "c", "b", "<eos>"]] == [0, 1, 0, 2, 1, 3]
    assert words.word2idx == {"a": 0, "b": 1, "c": 2, "<eos>": 3}
    assert words.idx2word == ["a", "b", "c", "<eos>"]
    assert len(words) == 4


@pytest.mark.parametrize("as_text", [True, False])
def test_corpus_reads_train_and_then_test(folder, as_text):
    corpus = data.Corpus(str(folder) if as_text else folder)
    words, (train, test) = by_hand(TRAIN, TEST)
    assert corpus.dictionary.idx2word == words
    assert isinstance(corpus.train, list) and isinstance(corpus.test, list)
    assert (corpus.train, corpus.test) == (train, test)


def test_trap_11_eos_gets_its_id_at_the_end_of_the_first_line(folder):
    corpus = data.Corpus(folder)
    assert corpus.dictionary.word2idx["<eos>"] == 6
    assert corpus.train[:7] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("max_lines", [1, 2, 3, 100])
def test_max_lines_counts_lines_of_each_file(folder, max_lines):
    corpus = data.Corpus(folder, max_lines)
    words, (train, test) = by_hand(TRAIN, TEST, max_lines=max_lines)
    assert corpus.dictionary.idx2word == words
    assert (corpus.train, corpus.test) == (train, test)
    same = data.Corpus(folder, max_lines=max_lines)
    assert same.train == corpus.train


@pytest.mark.parametrize("max_lines", [1, None])
def test_the_dictionary_is_that_of_train_and_test_alone(folder, max_lines):
    """The real folder has a `valid.txt` too: a model is as wide as the dictionary, so that its
    words would change every number of a corpus that is cut to its first lines.
    """
    before = data.Corpus(folder, max_lines)
    (folder / "valid.txt").write_text(" words that count nowhere \n")
    corpus = data.Corpus(folder, max_lines)
    assert len(corpus.dictionary) == len(before.dictionary)
    assert corpus.dictionary.idx2word == before.dictionary.idx2word
    assert (corpus.train, corpus.test) == (before.train, before.test)


def test_tokenize_gives_ids_and_extends_the_dictionary(folder):
    corpus = data.Corpus(folder)
    count = len(corpus.dictionary)
    assert corpus.tokenize(str(folder / "train.txt")) == corpus.train
    assert corpus.tokenize(folder / "test.txt", 1) == corpus.test[:4]
    assert len(corpus.dictionary) == count
    (folder / "more.txt").write_text(" four words that follow \n")
    found = corpus.tokenize(folder / "more.txt", max_lines=None)
    assert found == [*range(count, count + 4), corpus.dictionary.word2idx["<eos>"]]


# -- batchify, get_batch -----------------------------------------------------------------------


@pytest.mark.parametrize(("length", "batch_size"), [(26, 4), (24, 4), (7, 7), (10, 1), (929, 15)])
def test_trap_11_batchify_fills_columns_and_drops_the_rest(length, batch_size):
    ids = list(np.random.RandomState(0).randint(50, size=length))
    columns = data.batchify(ids, batch_size, device=ndl.cpu(), dtype="float32")
    n = length // batch_size
    assert type(columns) is np.ndarray
    assert columns.shape == (n, batch_size) and columns.dtype == np.float32
    for b in range(batch_size):
        assert columns[:, b].tolist() == ids[b * n : (b + 1) * n]


def test_batchify_takes_its_arguments_by_place():
    assert data.batchify(list(range(6)), 2, ndl.cpu(), "float32").tolist() == [
        [0, 3], [1, 4], [2, 5],
    ]  # fmt: skip


@pytest.mark.parametrize("bptt", [1, 3, 32])
def test_trap_11_the_target_is_the_next_row(each_device, bptt):
    n, batch_size = 11, 4
    rows = data.batchify(list(range(n * batch_size)), batch_size, each_device, "float32")
    for i in range(n - 1):
        x, y = data.get_batch(rows, i, bptt, device=each_device, dtype="float32")
        length = min(bptt, n - 1 - i)
        assert isinstance(x, Tensor) and isinstance(y, Tensor)
        assert x.shape == (length, batch_size) and y.shape == (length * batch_size,)
        np.testing.assert_array_equal(x.numpy(), rows[i : i + length])
        np.testing.assert_array_equal(y.numpy(), rows[i + 1 : i + 1 + length].ravel())
        assert x.device == y.device == each_device
        assert x.dtype == y.dtype == "float32"


@pytest.mark.nd_mode
def test_get_batch_gives_ndarrays_and_needs_neither_device_nor_dtype(each_device):
    rows = data.batchify(list(range(12)), 3, each_device, "float32")
    for x in data.get_batch(rows, 0, 2):
        assert isinstance(x.cached_data, ndl.NDArray)
        assert x.device == each_device and x.dtype == "float32"


def test_a_corpus_becomes_batches(folder):
    """The course's way from files to Tensors."""
    corpus = data.Corpus(folder, max_lines=20)
    rows = data.batchify(corpus.train, batch_size=3, device=ndl.cpu(), dtype="float32")
    assert rows.shape == (len(corpus.train) // 3, 3)
    x, y = data.get_batch(rows, np.random.randint(rows.shape[0] - 4), 3, device=ndl.cpu())
    assert x.shape == (3, 3) and y.shape == (9,)
