"""A loader's position: saved in the middle of an epoch, restored, and nothing has changed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from needle.data import DataLoader, Dataset, NDArrayDataset, Transform, random_stream
from needle.errors import OptionError, StateDictError

LENGTH = 11


class AddNoise(Transform):
    def __call__(self, x):
        time.sleep(0.0005 * (int(x) % 3))  # so that threads would draw out of order
        return x + random_stream.current().randn()  # normal draws come in pairs: one is held back


class Noisy(Dataset):
    def __init__(self, length=LENGTH):
        super().__init__([AddNoise()])
        self.length = length

    def __getitem__(self, index):
        return self.apply_transforms(np.float64(index)), index

    def __len__(self):
        return self.length


def make(**options):
    return DataLoader(Noisy(), **{"batch_size": 3, "shuffle": True, **options})


def as_lists(batch):
    return [x.numpy().tolist() for x in batch]


def rest_of_training(loader, epochs):
    """The batches of some loops, with a draw of the training step's own after each."""
    batches = []
    for _ in range(epochs):
        for batch in loader:
            batches.append([*as_lists(batch), np.random.rand()])
        batches.append("end of an epoch")
    return batches


def train_and_save(loader, epochs, stop):
    """`rest_of_training`, and the state at the `stop`-th batch, with what came after it."""
    batches, state, after = [], None, None
    for _ in range(epochs):
        for batch in loader:
            batches.append([*as_lists(batch), np.random.rand()])
            if len(batches) == stop:
                state, after = loader.state_dict(), []
                continue
            if after is not None:
                after.append(batches[-1])
        if after is not None:
            after.append("end of an epoch")
    return state, after


@settings(deadline=None, max_examples=60)
@given(
    stop=st.integers(1, 12),
    workers=st.sampled_from([0, 2]),
    seed=st.sampled_from([None, 7]),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_resumed_training_is_the_uninterrupted_one(stop, workers, seed, shuffle, drop_last):
    options = {"num_workers": workers, "seed": seed, "shuffle": shuffle, "drop_last": drop_last}
    np.random.seed(4)
    total = 3 if drop_last else 4  # batches in an epoch
    state, after = train_and_save(make(**options), 3, min(stop, 3 * total))
    epochs_left = 3 - (min(stop, 3 * total) - 1) // total

    np.random.seed(99)  # another process, another state
    loader = make(**options)
    loader.load_state_dict(state)
    resumed = rest_of_training(loader, epochs_left)
    if seed is not None:  # NumPy's stream is then the training's own affair
        resumed, after = [b[:2] for b in resumed], [b[:2] for b in after]
    assert resumed == after


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("other_workers", [0, 3])
@pytest.mark.parametrize("seed", [None, 3])
def test_the_number_of_workers_may_change_on_resuming(workers, other_workers, seed):
    loader = make(num_workers=workers, seed=seed)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    expected = [as_lists(batch) for batch in iterator]

    resumed = make(num_workers=other_workers, seed=seed)
    resumed.load_state_dict(state)
    assert [as_lists(batch) for batch in resumed] == expected


def test_what_was_only_prefetched_does_not_count():
    loader = make(num_workers=2, prefetch=4, seed=1)
    iterator = iter(loader)
    first = as_lists(next(iterator))
    time.sleep(0.1)  # the threads have loaded the rest by now
    state = loader.state_dict()
    iterator.close()
    resumed = make(seed=1)
    resumed.load_state_dict(state)
    assert state["position"] == 3
    assert first not in [as_lists(batch) for batch in resumed]


def test_state_is_plain_ints_and_arrays_and_survives_safetensors():
    loader = make(num_workers=2)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    assert all(isinstance(value, (int, np.ndarray)) for value in state.values())
    stored = load(save({key: np.asarray(value) for key, value in state.items()}))
    expected = [as_lists(batch) for batch in iterator]
    resumed = make(num_workers=2)
    resumed.load_state_dict(stored)
    assert [as_lists(batch) for batch in resumed] == expected


def test_state_names_what_it_holds():
    seeded, plain = make(seed=2), make()
    assert set(seeded.state_dict()) == {"epoch", "seed"}
    stream = {"stream_key", "stream_position", "stream_has_gauss", "stream_gauss"}
    assert set(plain.state_dict()) == {"epoch", *stream}
    next(iter(seeded))
    assert set(seeded.state_dict()) == {"epoch", "seed", "ordering", "position", "item_seed"}


def test_state_between_two_epochs_starts_the_next_one():
    loader = make()
    rest_of_training(loader, 1)
    state = loader.state_dict()
    expected = rest_of_training(loader, 2)
    np.random.seed(50)
    resumed = make()
    resumed.load_state_dict(state)
    assert rest_of_training(resumed, 2) == expected


def test_seeding_before_the_epoch_as_the_course_does_still_counts_between_epochs():
    def course_epoch(loader):
        np.random.seed(4)
        return [as_lists(batch) for batch in loader]

    loader = make()
    expected = course_epoch(loader)
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    np.random.rand(17)
    assert course_epoch(resumed) == expected


def test_seeding_before_the_epoch_does_not_disturb_a_resumed_one():
    np.random.seed(4)
    loader = make()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    expected = [as_lists(batch) for batch in iterator]
    resumed = make()
    resumed.load_state_dict(state)
    np.random.seed(4)
    assert [as_lists(batch) for batch in resumed] == expected


def test_state_after_the_last_batch_leaves_an_empty_rest_and_then_the_next_epoch():
    loader = make(seed=1)
    for _ in loader:
        state = loader.state_dict()
    expected = [as_lists(batch) for batch in loader]
    resumed = make(seed=1)
    resumed.load_state_dict(state)
    assert list(resumed) == []
    assert [as_lists(batch) for batch in resumed] == expected


def test_state_taken_right_after_loading_is_the_state_loaded():
    loader = make()
    next(iter(loader))
    state = loader.state_dict()
    np.random.rand(5)
    resumed = make()
    resumed.load_state_dict(state)
    again = resumed.state_dict()
    assert state.keys() == again.keys()
    assert all(np.array_equal(state[key], again[key]) for key in state)


def test_loading_a_state_takes_over_its_seed():
    loader = make(seed=6)
    next(iter(loader))
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    assert resumed.seed == 6


def test_an_abandoned_loop_can_be_gone_on_with():
    loader = make(seed=2)
    for batch in loader:
        seen = as_lists(batch)
        break
    loader.load_state_dict(loader.state_dict())
    rest = [as_lists(batch) for batch in loader]
    assert len(rest) == len(loader) - 1 and seen not in rest


def test_state_does_not_change_as_the_loop_goes_on():
    loader = make()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    key = state["stream_key"].copy()
    list(iterator)
    np.random.rand(2000)
    assert state["position"] == 3 and np.array_equal(state["stream_key"], key)


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1])
def test_state_of_another_dataset_is_refused(length):
    loader = make()
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(StateDictError) as caught:
        DataLoader(Noisy(length), 3).load_state_dict(state)
    assert str(caught.value) == (
        f"DataLoader: expected the state of a dataset of {length} items, got one at item 3 of "
        f"{LENGTH}."
    )


@pytest.mark.parametrize(
    "change",
    [{"position": LENGTH + 1}, {"position": -1}, {"ordering": np.zeros(LENGTH, dtype=int)}],
)
def test_impossible_state_is_refused_and_changes_nothing(change):
    loader = make(seed=1)
    next(iter(loader))
    state = {**loader.state_dict(), **change}
    fresh = make(seed=5)
    with pytest.raises(StateDictError, match="expected the state of a dataset of 11 items"):
        fresh.load_state_dict(state)
    assert fresh.state_dict() == {"epoch": 0, "seed": 5}


@pytest.mark.parametrize("missing", ["epoch", "position", "stream_key"])
def test_state_that_lacks_something_is_refused(missing):
    loader = make()
    next(iter(loader))
    state = loader.state_dict()
    del state[missing]
    with pytest.raises(StateDictError, match=rf"a loader's state, got one without \['{missing}'\]"):
        make().load_state_dict(state)


def test_foreign_global_generator_asks_for_a_seed():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with pytest.raises(OptionError, match=r"MT19937, got PCG64\. Give the loader a seed"):
            make().state_dict()
        assert len(list(make(num_workers=2))) == 4
    finally:
        np.random.set_bit_generator(before)


def test_position_works_for_datasets_of_index_arrays():
    loader = DataLoader(NDArrayDataset(np.arange(10)), 4, shuffle=True)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    expected = [as_lists(batch) for batch in iterator]
    loader.load_state_dict(state)
    assert [as_lists(batch) for batch in loader] == expected


IN_AN_EPOCH = [
    {"epoch": "x"},
    {"epoch": -1},
    {"epoch": 1.5},
    {"seed": -1},
    {"seed": None},
    {"item_seed": "x"},
    {"item_seed": -1},
    {"position": 1.5},
    {"position": [1, 2]},
    {"ordering": np.arange(float(LENGTH))},
    {"ordering": [[1], [1, 2]]},
]
OF_THE_STREAM = [
    {"stream_key": np.zeros(3, dtype=np.uint32)},
    {"stream_key": "x"},
    {"stream_key": np.full(624, -1)},
    {"stream_position": -1},
    {"stream_position": 10**6},
    {"stream_has_gauss": 7},
    {"stream_gauss": np.nan},
    {"stream_gauss": "x"},
]


@pytest.mark.parametrize(
    ("seed", "within", "change"),
    [(1, True, change) for change in IN_AN_EPOCH]
    + [(1, False, change) for change in IN_AN_EPOCH[:5]]
    + [(None, within, change) for within in (True, False) for change in OF_THE_STREAM],
)
def test_values_that_cannot_be_are_refused_and_change_nothing(seed, within, change):
    loader = make(seed=seed)
    if within:
        next(iter(loader))
    fresh = make(seed=5)
    np.random.seed(3)
    with pytest.raises(StateDictError, match=rf"DataLoader: expected .*{next(iter(change))}"):
        fresh.load_state_dict({**loader.state_dict(), **change})
    assert fresh.state_dict() == {"epoch": 0, "seed": 5}
    drawn = np.random.rand()
    np.random.seed(3)
    assert np.random.rand() == drawn


@pytest.mark.parametrize("state", [None, 3, [1], "epoch"])
def test_a_state_that_is_no_dict_is_refused(state):
    with pytest.raises(StateDictError, match="DataLoader: expected a loader's state, a dict, got"):
        make().load_state_dict(state)
