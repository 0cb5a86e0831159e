"""`DataLoader`: a dataset in batches, in order or shuffled, by threads where asked for.

Where the random numbers come from:

    shuffling    one `numpy.random.permutation` when a loop begins; with `seed`, a stream of
                 (seed, epoch)
    transforms   NumPy's global stream, item after item; with `seed` or `num_workers`, a stream of
                 (seed, epoch, item), so that the numbers do not depend on which thread draws
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device
from needle.data import random_stream
from needle.data.epoch import Epoch, whole_number_in
from needle.data.fetch import fetch_batch
from needle.data.workers import load_ahead
from needle.dtypes import as_dtype, is_floating
from needle.errors import DTypeError, OptionError, describe
from needle.origins import current

__all__ = ["DataLoader"]


class DataLoader:
    """Batches of a dataset, each a tuple with one Tensor per field; they do not require grad.

    dataset      has `len` and gives an item, a tuple of fields, for each index 0, 1, ...; fields
                 are stacked. Index arrays are used where the dataset's class sets
                 `takes_index_arrays`
    batch_size   items in a batch; the last one may have fewer
    shuffle      draw a new order for each loop
    num_workers  threads that load; 0: the loop's own. The batches are the same for any number
                 from 1 on, and with `seed` from 0 on
    prefetch     batches that each thread loads ahead
    drop_last    leave out the last batch if it is short
    seed         makes order and transforms independent of NumPy's global stream
    collate_fn   makes a batch from a list of items, in place of stacking; arrays in the tuple or
                 list that it returns become Tensors
    device       where the Tensors live
    dtype        of the fields that are floating-point; default: as `Tensor` takes them, which is
                 float32 in nd mode

    Transforms that run in threads draw through `needle.data.random_stream.current()`.

    >>> import numpy as np
    >>> import needle as ndl
    >>> dataset = ndl.data.NDArrayDataset(np.arange(5.0), -np.arange(5.0))
    >>> for x, y in ndl.data.DataLoader(dataset, batch_size=2):
    ...     print(x, y)
    [0. 1.] [-0. -1.]
    [2. 3.] [-2. -3.]
    [4.] [-4.]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        drop_last: bool = False,
        seed: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        device: Device | None = None,
        dtype: Any = None,
    ) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DTypeError(
                f"DataLoader: expected a dataset with len and indexing, got {describe(dataset)}."
            )
        if collate_fn is not None and not callable(collate_fn):
            raise OptionError(
                f"DataLoader: expected collate_fn to be a function, got {describe(collate_fn)}."
            )
        self.dataset = dataset
        self.batch_size = _whole_number("batch_size", batch_size, 1)
        self.shuffle, self.drop_last = shuffle, drop_last
        self.num_workers = _whole_number("num_workers", num_workers, 0)
        self.prefetch = _whole_number("prefetch", prefetch, 1)
        self.seed = None if seed is None else _whole_number("seed", seed, 0)
        self.collate_fn, self.device = collate_fn, device
        self.dtype = None if dtype is None else as_dtype(dtype)
        self._order = np.arange(self._dataset_length())
        self._next_number = 0
        self._epoch: Epoch | None = None  # that the latest loop is in, or the next will go on with

    def _dataset_length(self) -> int:
        length = len(self.dataset)
        if length == 0:
            raise OptionError("DataLoader: expected at least one item, got an empty dataset.")
        if self.drop_last and length < self.batch_size:
            raise OptionError(
                f"DataLoader: expected batch_size of at most {length}, the dataset's length, as "
                f"drop_last leaves no batch otherwise, got {self.batch_size}."
            )
        return length

    def __len__(self) -> int:
        """The number of batches in a whole loop."""
        full, rest = divmod(self._dataset_length(), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    @property
    def ordering(self) -> list[np.ndarray[Any, Any]]:
        """The indices of each batch of the latest loop; before any, in the dataset's order."""
        return self._groups(self._order)

    def _groups(self, order: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        size = self.batch_size
        stop = len(order) - len(order) % size if self.drop_last else len(order)
        return [order[start : start + size] for start in range(0, stop, size)]

    def __iter__(self) -> Iterator[Any]:
        """Begin a loop: draws the order, if shuffling; after `load_state_dict`, goes on."""
        epoch = self._epoch
        epoch = epoch.go_on() if epoch is not None and epoch.waiting else self._begin()
        self._epoch, self._order = epoch, epoch.order
        batches = self._batches(epoch)
        return batches if current.profile is None else current.profile.loading(batches)

    def _begin(self) -> Epoch:
        number, length = self._next_number, self._dataset_length()
        self._next_number += 1
        order = self._shuffled(number, length) if self.shuffle else np.arange(length)
        return Epoch(number, order, self._item_seed())

    def _shuffled(self, number: int, length: int) -> np.ndarray[Any, Any]:
        if self.seed is None:
            return np.random.permutation(length)
        return random_stream.seeded_stream(self.seed, number).permutation(length)

    def _item_seed(self) -> int | None:
        if self.seed is None and self.num_workers > 0:
            return random_stream.peek_seed()
        return self.seed

    def _batches(self, epoch: Epoch) -> Generator[Any, None, None]:
        groups = self._groups(epoch.order[epoch.position :])
        seeded = epoch.item_seed is not None  # else items must draw one after the other
        stream = epoch.stream if seeded else None
        load = partial(fetch_batch, self.dataset, collate_fn=self.collate_fn, stream=stream)
        workers = self.num_workers if seeded else 0
        with closing(load_ahead(load, groups, workers, workers * self.prefetch)) as batches:
            for group, batch in zip(groups, batches, strict=True):
                epoch.position += len(group)
                yield self._to_tensors(batch)
        if self._epoch is epoch:
            self._epoch = None

    def _to_tensors(self, batch: Any) -> Any:
        if not isinstance(batch, (tuple, list)):
            return batch
        return tuple([self._to_tensor(field) for field in batch])

    def _to_tensor(self, field: Any) -> Any:
        if not isinstance(field, (np.ndarray, np.generic, Tensor)):
            return field
        dtype = self.dtype if is_floating(field.dtype) else None
        return Tensor(field, device=self.device, dtype=dtype, requires_grad=False)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands, as ints and arrays; what was only loaded ahead does not count.

        Without `seed` it holds the state of NumPy's global stream too.
        """
        epoch = self._epoch
        state = {"epoch": epoch.number if epoch else self._next_number}
        if self.seed is not None:
            state["seed"] = self.seed
        else:
            saved = epoch.stream_state if epoch else None
            state.update(saved or random_stream.get_global_state())
        return state if epoch is None else {**state, **epoch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next loop yield what remained when the state was taken.

        The loops after it are as they would have been. A state without `seed` puts NumPy's global
        stream back: between two loops at once; within one, when the next loop begins.
        Raises StateDictError if the state is of another dataset or no loader's; nothing has
        changed then.
        """
        epoch = Epoch.from_state(state, len(self.dataset))
        number = whole_number_in(state, "epoch")
        self.seed = whole_number_in(state, "seed") if "seed" in state else None
        self._epoch, self._next_number = epoch, number if epoch is None else number + 1
        if epoch is None and self.seed is None:
            random_stream.set_global_state(state)


def _whole_number(option: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise OptionError(
            f"DataLoader: expected {option} to be a whole number from {least} on, got {value!r}."
        )
    return number
