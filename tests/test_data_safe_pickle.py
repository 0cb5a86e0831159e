"""The pickle reader: what pickles of byte arrays need, and nothing that could be executed."""

from __future__ import annotations

import os
import pickle
import subprocess

import numpy as np
import pytest
from data_files import cifar_arrays, python2_cifar
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.data.safe_pickle import read_pickled_dict
from needle.errors import FileFormatError


@pytest.fixture
def read(tmp_path):
    def reader(content):
        path = tmp_path / "batch"
        path.write_bytes(content)
        return read_pickled_dict(path)

    return reader


def as_bytes(key):
    return key.encode() if isinstance(key, str) else key


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.binary(), inner)
    ),
    max_leaves=10,
)


@given(value=plain_values, protocol=st.integers(2, 5))
def test_plain_values_come_out_as_pickle_gives_them(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain"
    path.write_bytes(pickle.dumps({"value": value}, protocol))
    assert repr(read_pickled_dict(path)) == repr({b"value": value})


@pytest.mark.parametrize("protocol", range(6))
def test_text_and_numbers_of_every_protocol(read, protocol):
    value = {"text": "ä∀", "numbers": [1, -300, 2**40, True, False, None, 1.5], "pair": (1, 2)}
    result = read(pickle.dumps(value, protocol))
    assert result == {as_bytes(key): item for key, item in value.items()}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 1, 4), (700,), ()])
def test_byte_arrays_of_every_protocol(read, protocol, order, shape):
    array = np.asarray(np.random.randint(0, 256, size=shape), dtype=np.uint8, order=order)
    again = {"first": array, "second": array}
    result = read(pickle.dumps(again, protocol))
    for key in (b"first", b"second"):
        assert result[key].dtype == np.uint8 and result[key].shape == shape
        np.testing.assert_array_equal(result[key], array)


@pytest.mark.parametrize("protocol", range(3, 6))
def test_empty_arrays(read, protocol):
    array = np.zeros((0, 3), np.uint8)
    assert read(pickle.dumps({"empty": array}, protocol))[b"empty"].shape == (0, 3)


def test_python_2_batch_agrees_with_pickle(read):
    data, labels = cifar_arrays(3)
    content = python2_cifar(data, labels)
    expected = pickle.loads(content, encoding="bytes")  # noqa: S301  it is our own
    result = read(content)
    assert result.keys() == expected.keys()
    np.testing.assert_array_equal(result[b"data"], expected[b"data"])
    assert result[b"labels"] == expected[b"labels"] == labels
    assert result[b"batch_label"] == b"training batch 1 of 5"
    assert result[b"filenames"] == expected[b"filenames"]


class Calls:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class WithState:
    pass


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (Calls(os.system, "touch MARK"), "system"),
        (Calls(eval, "open('MARK', 'w')"), "eval"),
        (Calls(subprocess.run, ["touch", "MARK"]), ".run"),
        (Calls(np.fromfile, "MARK"), "numpy"),
        (Calls(getattr, "text", "upper"), "getattr"),
        (WithState(), None),
        (os.system, "system"),
        (np.float64(1.0), None),
        (np.arange(3.0), None),
        (np.array([object()]), None),
        ({1, 2}, None),
        (1j, "complex"),
    ],
)
def test_nothing_is_executed(tmp_path, monkeypatch, protocol, hostile, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": hostile}, protocol))
    with pytest.raises(FileFormatError) as caught:
        read_pickled_dict(tmp_path / "batch")
    assert not (tmp_path / "MARK").exists()
    assert str(tmp_path / "batch") in str(caught.value) and "\n" not in str(caught.value)
    assert name is None or name in str(caught.value) or protocol < 2


def op(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


HOSTILE_PROGRAMS = {
    "INST": op(b"(S'touch MARK'\nios\nsystem\n"),
    "OBJ": op(b"(cos\nsystem\nS'touch MARK'\no"),
    "NEWOBJ": op(b"cnumpy\nndarray\nK\x01\x85\x81"),
    "EXT1": op(b"\x82\x01"),
    "PERSID": op(b"Pany\n"),
    "BINPERSID": op(b"K\x01Q"),
    "a class as a function": op(b"cnumpy\nndarray\nK\x01\x85R"),
    "a call of a string": op(b"S'os.system'\nS'x'\n\x85R"),
    "a dotted name": op(b"cnumpy\ndtype.__class__\n."),
    "a name beside NumPy's": op(b"cnumpy.core.multiarray\nfromfile\n."),
    "a name with odd escapes": op(b"cnum\\upy\ndtype\n"),
    "BUILD of a dict": op(b"}}b"),
    "BUILD of a name": op(b"cnumpy\nndarray\n}b"),
    "an unhashable key": op(b"}]K\x01s"),
    "a key that takes for ever to hash": op(b")" + b"q\x00h\x00\x86" * 200 + b"q\x00}h\x00K\x01s"),
    "a name that takes for ever to print": op(b")" + b"q\x00h\x00\x86" * 99 + b"h\x00\x93"),
    "APPEND to a dict": op(b"}K\x01a"),
    "SETITEM to a list": op(b"]K\x01K\x02s"),
    "an odd number of items": op(b"}(K\x01u"),
    "an empty stack": op(b""),
    "a mark too few": op(b"t"),
    "an unknown memo": op(b"h\x05"),
    "no dict": op(b"]"),
    "an int too long": op(b"I" + b"9" * 10_000 + b"\n"),
    "a length beyond the file": op(b"}\x8e" + b"\xff" * 7 + b"\x7f" + b"abc"),
    "an array as shape": op(
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\x01cnumpy.core.numeric\n_frombuffer\n("
        b"C\x01ah\x01C\x01aU\x01CtR"
    ),
    "a negative shape": op(
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\x01cnumpy.core.numeric\n_frombuffer\n("
        b"C\x01ah\x01J\xff\xff\xff\xff\x85U\x01CtR"
    ),
    "a shape beyond the data": op(
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\x01cnumpy.core.numeric\n_frombuffer\n("
        b"C\x01ah\x01J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86U\x01CtR"
    ),
    "an object dtype": op(b"cnumpy\ndtype\nU\x01OK\x00K\x01\x87R"),
}


@pytest.mark.parametrize("program", HOSTILE_PROGRAMS.values(), ids=HOSTILE_PROGRAMS)
def test_hostile_programs_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(program)
    with pytest.raises(FileFormatError, match="pickle: expected"):
        read_pickled_dict(tmp_path / "batch")
    assert not (tmp_path / "MARK").exists()


def test_message_says_that_nothing_was_executed(read, tmp_path):
    with pytest.raises(FileFormatError) as caught:
        read(pickle.dumps({b"data": Calls(os.system, "x")}, 2))
    assert str(caught.value) == (
        f"pickle: expected only plain values and uint8 arrays in {tmp_path / 'batch'}, got the "
        "name posix.system. Nothing of it was executed."
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_read(tmp_path_factory, data):
    content = bytearray(python2_cifar(np.zeros((1, 300), np.uint8), [3, 4]))
    head = 120  # where the instructions are
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(read_pickled_dict(path), dict)
    except FileFormatError as error:
        assert str(path) in str(error)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)
    try:
        assert isinstance(read_pickled_dict(path), dict)
    except FileFormatError as error:
        assert str(path) in str(error)
