"""DataLoader: what a batch holds, where its random numbers come from, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensors import taken_as

import needle as ndl
from needle.data import DataLoader, Dataset, NDArrayDataset, random_stream
from needle.errors import DTypeError, OptionError, ShapeError


class Squares(Dataset):
    """Knows single indices only, and would turn an index array into nonsense."""

    def __init__(self, length=7):
        super().__init__()
        self.length = length

    def __getitem__(self, index):
        return np.full((2,), index, dtype=np.float32), index**2

    def __len__(self):
        return self.length


class ColumnsOnly(Dataset):
    """Knows index arrays only."""

    def __getitem__(self, index):
        return [np.array([10 * i for i in index.tolist()]), np.ones((len(index), 3))]

    def __len__(self):
        return 5


def columns(loader):
    """The first field of every batch, as lists."""
    return [batch[0].numpy().tolist() for batch in loader]


def numbers(length):
    return NDArrayDataset(np.arange(length))


@given(st.integers(1, 40), st.integers(1, 45), st.booleans(), st.integers(0, 3))
def test_batches_are_consecutive_groups_of_the_order(length, batch_size, shuffle, seed):
    np.random.seed(seed)
    order = np.random.permutation(length) if shuffle else np.arange(length)
    np.random.seed(seed)
    loader = DataLoader(numbers(length), batch_size, shuffle)
    groups = [order[i : i + batch_size].tolist() for i in range(0, length, batch_size)]
    assert columns(loader) == groups
    assert [group.tolist() for group in loader.ordering] == groups
    assert len(loader) == len(groups)


@given(st.integers(1, 30), st.integers(1, 30))
def test_drop_last_leaves_out_the_short_batch_only(length, batch_size):
    if batch_size > length:
        return
    loader = DataLoader(numbers(length), batch_size, drop_last=True)
    batches = columns(loader)
    assert len(batches) == len(loader) == length // batch_size
    assert all(len(batch) == batch_size for batch in batches)


def test_shuffling_draws_one_permutation_when_the_loop_begins_and_nothing_before():
    np.random.seed(3)
    expected = [np.random.permutation(10).tolist() for _ in range(2)]
    np.random.seed(3)
    loader = DataLoader(numbers(10), 10, shuffle=True)
    assert np.random.get_state()[2] == np.random.RandomState(3).get_state()[2]
    first = iter(loader)  # the draw is here, before the first batch is asked for
    np.random.seed(99)
    assert next(first)[0].numpy().tolist() == expected[0]
    np.random.seed(3)
    assert [columns(loader)[0], columns(loader)[0]] == expected


def test_unshuffled_loader_draws_nothing():
    before = np.random.get_state()[1:3]
    columns(DataLoader(numbers(10), 3))
    after = np.random.get_state()[1:3]
    assert np.array_equal(before[0], after[0]) and before[1] == after[1]


def test_ordering_is_known_before_the_first_loop():
    loader = DataLoader(numbers(5), 2, shuffle=True)
    assert [group.tolist() for group in loader.ordering] == [[0, 1], [2, 3], [4]]


def test_iterator_supports_next_and_stops():
    iterator = iter(DataLoader(numbers(2), 1))
    assert [next(iterator)[0].item(), next(iterator)[0].item()] == [0, 1]
    with pytest.raises(StopIteration):
        next(iterator)


def test_two_loops_over_one_loader_do_not_disturb_each_other():
    loader = DataLoader(numbers(4), 1)
    assert [(a.item(), b.item()) for (a,), (b,) in zip(loader, loader, strict=True)] == [
        (i, i) for i in range(4)
    ]


def test_batch_is_a_tuple_of_constant_tensors():
    dataset = NDArrayDataset(
        np.zeros((4, 3), np.float32), np.zeros(4, np.uint8), np.zeros((4, 2)), np.zeros(4, bool)
    )
    batch = next(iter(DataLoader(dataset, 3)))
    assert isinstance(batch, tuple)
    assert [(x.dtype, x.shape) for x in batch] == [
        (taken_as("float32"), (3, 3)), (taken_as("uint8"), (3,)),
        (taken_as("float64"), (3, 2)), (taken_as("bool"), (3,)),
    ]  # fmt: skip
    assert all(isinstance(x, ndl.Tensor) and not x.requires_grad for x in batch)
    assert all(x.is_leaf() for x in batch)


def test_batches_do_not_share_memory_with_the_dataset():
    data = np.arange(4.0)
    batch = next(iter(DataLoader(NDArrayDataset(data), 4)))
    batch[0].cached_data[:] = -1
    assert data.tolist() == [0, 1, 2, 3]


def test_one_field_gives_a_sequence_of_one():
    assert len(next(iter(DataLoader(numbers(3), 2)))) == 1


@pytest.mark.parametrize("index", [3, slice(1, 4), np.array([4, 0, 0])])
def test_ndarray_dataset_picks_from_each_array(index):
    a, b = np.random.rand(5, 2), np.arange(5)
    picked = NDArrayDataset(a, b)[index]
    np.testing.assert_array_equal(picked[0], a[index])
    np.testing.assert_array_equal(picked[1], b[index])


def test_ndarray_dataset_takes_lists_and_tensors():
    dataset = NDArrayDataset([[1.0], [2.0]], ndl.Tensor([3.0, 4.0]))
    assert len(dataset) == 2
    assert [x.numpy().tolist() for x in next(iter(DataLoader(dataset, 2)))] == [[[1], [2]], [3, 4]]


@pytest.mark.parametrize("batch_size", [1, 2, 3])  # at 2 a transposed batch would fit as well
def test_dataset_of_single_indices_is_stacked(batch_size):
    x, y = next(iter(DataLoader(Squares(), batch_size)))
    np.testing.assert_array_equal(x.numpy(), np.arange(batch_size)[:, None] * np.ones((1, 2)))
    assert y.numpy().tolist() == [i**2 for i in range(batch_size)]
    assert (x.dtype, y.dtype) == (np.float32, taken_as(np.int64))


@pytest.mark.parametrize("workers", [0, 2])
def test_dataset_of_index_arrays_only_is_served(workers):
    x, y = next(iter(DataLoader(ColumnsOnly(), 4, num_workers=workers)))
    assert x.numpy().tolist() == [0, 10, 20, 30]
    assert y.shape == (4, 3)


def test_class_that_declares_index_arrays_is_asked_once_per_batch():
    asked = []

    class Recorded(NDArrayDataset):
        takes_index_arrays = True

        def __getitem__(self, index):
            asked.append(index.tolist())
            return super().__getitem__(index)

    assert columns(DataLoader(Recorded(np.arange(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert asked == [[0, 1], [2, 3], [4]]


def test_subclass_with_a_getitem_of_its_own_is_asked_for_single_items():
    class Scaled(NDArrayDataset):
        def __getitem__(self, index):
            (x,) = super().__getitem__(index)
            return x / max(1, x.max())  # of an item, not of a batch

    batch = next(iter(DataLoader(Scaled(np.array([[2.0, 4.0], [1.0, 10.0]])), 2)))
    np.testing.assert_allclose(batch[0].numpy(), [[0.5, 1.0], [0.1, 1.0]], rtol=1e-7)


@pytest.mark.parametrize("dataset", [[(1.0, 2), (3.0, 4)], np.array([[1.0, 2], [3.0, 4]])])
def test_plain_sequences_serve_as_datasets(dataset):
    batch = next(iter(DataLoader(dataset, 2)))
    expected = [[1, 3], [2, 4]] if isinstance(dataset, list) else [[[1, 2], [3, 4]]]
    assert [x.numpy().tolist() for x in batch] == expected


def test_items_may_be_tensors():
    dataset = [(ndl.Tensor([1.0]), 0), (ndl.Tensor([2.0]), 1)]
    x, _ = next(iter(DataLoader(dataset, 2)))
    assert x.numpy().tolist() == [[1], [2]] and not x.requires_grad


def test_dtype_applies_to_floating_fields_only():
    dataset = NDArrayDataset(np.zeros(4), np.arange(4))
    x, y = next(iter(DataLoader(dataset, 2, dtype="float16", device=ndl.cpu())))
    assert (x.dtype, y.dtype) == (np.float16, taken_as(np.int64))
    assert x.device == ndl.cpu()


def test_collate_fn_makes_the_batch_from_the_items():
    def pad(items):
        width = max(len(x) for x, _ in items)
        return np.array([[*x, *[0] * (width - len(x))] for x, _ in items]), [y for _, y in items]

    dataset = [([1], "a"), ([2, 3], "b")]
    x, names = next(iter(DataLoader(dataset, 2, collate_fn=pad)))
    assert isinstance(x, ndl.Tensor) and x.numpy().tolist() == [[1, 0], [2, 3]]
    assert names == ["a", "b"]


def test_collate_fn_may_return_anything():
    loader = DataLoader(numbers(3), 3, collate_fn=lambda items: {"n": len(items)})
    assert list(loader) == [{"n": 3}]


def test_seed_fixes_the_order_and_leaves_the_global_stream_alone():
    before = np.random.get_state()[1].copy()
    epochs = [columns(loader) for loader in [DataLoader(numbers(20), 7, True, seed=5)] * 2]
    again = DataLoader(numbers(20), 7, True, seed=5)
    assert [columns(again), columns(again)] == epochs
    assert epochs[0] != epochs[1]
    assert columns(DataLoader(numbers(20), 7, True, seed=6)) != epochs[0]
    assert np.array_equal(np.random.get_state()[1], before)


def test_seeded_streams_differ_between_epoch_and_first_item():
    draws = [random_stream.seeded_stream(1, *place).rand() for place in [(2,), (2, 0), (2, 1)]]
    assert len(set(draws)) == 3


def test_abandoned_loop_does_not_carry_over():
    loader = DataLoader(numbers(4), 1)
    for _ in loader:
        break
    assert columns(loader) == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "expected batch_size to be a whole number from 1 on, got 0"),
        ({"batch_size": 2.5}, "expected batch_size to be a whole number from 1 on, got 2.5"),
        ({"num_workers": -1}, "expected num_workers to be a whole number from 0 on, got -1"),
        ({"prefetch": 0}, "expected prefetch to be a whole number from 1 on, got 0"),
        ({"seed": -3}, "expected seed to be a whole number from 0 on, got -3"),
        ({"seed": "4"}, "expected seed to be a whole number from 0 on, got '4'"),
        (
            {"batch_size": 5, "drop_last": True},
            "expected batch_size of at most 4, the dataset's length, as drop_last leaves no batch "
            "otherwise, got 5",
        ),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(OptionError) as caught:
        DataLoader(numbers(4), **arguments)
    assert str(caught.value) == f"DataLoader: {message}."


def test_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="worker"):
        DataLoader(numbers(4), worker=2)


def test_unknown_dtype_is_refused():
    with pytest.raises(DTypeError, match="expected a name such as"):
        DataLoader(numbers(4), dtype="float33")


@pytest.mark.parametrize("dataset", [NDArrayDataset(np.zeros((0, 3))), []])
def test_empty_dataset_is_refused(dataset):
    with pytest.raises(OptionError, match="expected at least one item, got an empty dataset"):
        DataLoader(dataset)


@pytest.mark.parametrize(
    ("arrays", "got"),
    [
        ((np.zeros((3, 2)), np.zeros(4, int)), r"float64\[3,2\] and int64\[4\]"),
        ((np.zeros(3), np.float32(1)), r"float64\[3\] and float32\[\]"),
        ((np.float32(1),), r"float32\[\]"),
        ((), "none"),
    ],
)
def test_unequal_field_lengths_are_refused(arrays, got):
    with pytest.raises(ShapeError, match=f"NDArrayDataset: expected arrays as long .*got {got}"):
        NDArrayDataset(*arrays)


def test_index_past_the_end_is_an_index_error_so_that_loops_end():
    assert [int(x) for (x,) in numbers(3)] == [0, 1, 2]


def test_items_of_different_shapes_name_field_and_shapes():
    dataset = [(1, np.zeros(2)), (2, np.zeros(3))]
    with pytest.raises(ShapeError) as caught:
        next(iter(DataLoader(dataset, 2)))
    assert str(caught.value) == (
        "DataLoader: expected items of one shape in field 1, got float64[2] and float64[3]. "
        "Pad them, or give a collate_fn."
    )


def test_items_with_different_numbers_of_fields_are_refused():
    with pytest.raises(ShapeError, match=r"as many fields each, got \[1, 2\]"):
        next(iter(DataLoader([(1,), (1, 2)], 2)))


def test_field_that_is_no_number_is_refused():
    with pytest.raises(DTypeError, match="expected numbers in field 1, got str 'cat'"):
        next(iter(DataLoader([(1, "cat")])))


def test_dataset_that_answers_an_index_array_with_too_few_items_is_refused():
    class Broken(Dataset):
        takes_index_arrays = True

        def __getitem__(self, index):
            return (np.zeros(3),)

        def __len__(self):
            return 9

    with pytest.raises(ShapeError, match=r"fields of 4 items from dataset\[4 indices\], got .*\[3"):
        next(iter(DataLoader(Broken(), 4)))


@pytest.mark.parametrize("workers", [0, 1])
def test_stop_iteration_inside_an_item_does_not_end_the_loop_quietly(workers):
    class Broken(Squares):
        def __getitem__(self, index):
            return next(iter(())) if index == 2 else (index,)

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(Broken(), 1, num_workers=workers))


def test_dataset_without_methods_says_what_to_write():
    with pytest.raises(NotImplementedError, match="Dataset: __len__"):
        len(Dataset())
    with pytest.raises(NotImplementedError, match="Dataset: __getitem__"):
        Dataset()[0]


def test_transforms_must_be_a_list():
    with pytest.raises(OptionError, match="expected a list of functions"):
        Dataset(transforms=ndl.data.RandomCrop())


def test_transforms_apply_in_order():
    assert Dataset([lambda x: x + 1, lambda x: x * 10]).apply_transforms(1) == 20
    assert Dataset().apply_transforms(1) == 1


@pytest.mark.parametrize("dataset", [5, None, (i for i in range(3)), {1, 2}])
def test_what_is_no_dataset_is_refused(dataset):
    with pytest.raises(DTypeError, match="DataLoader: expected a dataset with len and indexing"):
        DataLoader(dataset)


def test_a_collate_fn_that_is_no_function_is_refused():
    with pytest.raises(OptionError, match="expected collate_fn to be a function, got int 5"):
        DataLoader([1, 2], collate_fn=5)


def test_ragged_lists_are_refused():
    with pytest.raises(ShapeError, match="NDArrayDataset: expected arrays as long as each other"):
        NDArrayDataset([[1], [1, 2]])
