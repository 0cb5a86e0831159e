"""What attention layers remember, for generation: the keys and values of the tokens so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.autograd.modes import is_lazy, is_traced, modes
from needle.backend_selection import Array, primitives
from needle.errors import DTypeError, OptionError, ShapeError, describe, kind_of
from needle.nn.checks import require_tensors

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """The keys and values that one attention layer has seen, for generation token by token.

    keys: (B, heads, length, d), values: (B, heads, length, d), or None while it is empty

    Without a graph, many of them lie in memory with room for more, which doubles when it is full:
    a token costs the copy of its own row. What was handed out before does not change.

    >>> import needle as ndl
    >>> attention, cache = ndl.nn.Attention(8, 2), ndl.nn.KeyValueCache()
    >>> x = ndl.init.randn(1, 5, 8)
    >>> for t in range(5):
    ...     y = attention(x[:, t : t + 1], cache=cache, causal=True)  # looks at tokens 0..t
    >>> cache.length, y.shape
    (5, (1, 1, 8))
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._rooms: tuple[_Room | None, _Room | None] = (None, None)  # of keys, of values
        self._memory: tuple[Tensor, Tensor, Tensor] | None = (
            None  # a decoder's, and its keys and values
        )

    @property
    def length(self) -> int:
        """How many keys there are."""
        return 0 if self.keys is None else self.keys.shape[-2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values of further tokens, (B, heads, T, d); returns all there are now.

        Those that have a graph keep it, and are copied whole: generate under `no_grad`.
        Raises ShapeError if they do not fit each other or do not continue what is there.
        """
        self.keys, self.values = self.joined(keys, values)
        return self.keys, self.values

    def joined(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What `append` would make of the cache, which shows what it did before."""
        require_tensors("KeyValueCache", keys, values)
        if keys.ndim < 2 or keys.shape[:-1] != values.shape[:-1]:
            raise ShapeError(
                "KeyValueCache: expected keys and values [..., t, d], alike but for d, got "
                f"{describe(keys, values)}."
            )
        if self.keys is None or self.values is None:
            return keys, values
        for held, added in [(self.keys, keys), (self.values, values)]:
            _require_continuation(held, added)
        all_keys, room_of_keys = _longer(self.keys, keys, self._rooms[0])
        all_values, room_of_values = _longer(self.values, values, self._rooms[1])
        if not is_traced():
            self._rooms = room_of_keys, room_of_values
        return all_keys, all_values

    def reset(self) -> None:
        """Forget everything, for another sequence."""
        self.keys = self.values = self._memory = None
        self._rooms = (None, None)

    def __repr__(self) -> str:
        return f"KeyValueCache(length={self.length})"


class _Room:
    """An array (..., capacity, d) with rows that are still to be written, each of them once.

    rows: a view of those that are; earlier views of fewer rows stay as they are
    """

    def __init__(self, rows: Array, added: Array) -> None:
        self._front = (slice(None),) * (rows.ndim - 2)
        start, stop = rows.shape[-2], rows.shape[-2] + added.shape[-2]
        shape = (*rows.shape[:-2], 1 << stop.bit_length(), rows.shape[-1])
        places = [self._place(0, start), self._place(start, stop)]
        self._whole = primitives.put_parts(shape, places, [rows, added], rows)
        self.rows = primitives.index(self._whole, self._place(0, stop))

    def _place(self, start: int, stop: int) -> tuple[slice, ...]:
        return *self._front, slice(start, stop)

    def goes_on(self, rows: Array, added: Array) -> bool:
        """Whether `added` can be written below `rows`.

        It cannot where a cache was put back to an earlier length, or given other keys.
        """
        return rows is self.rows and rows.shape[-2] + added.shape[-2] <= self._whole.shape[-2]

    def write(self, added: Array) -> None:
        """Put `added` below the rows there are."""
        start = self.rows.shape[-2]
        stop = start + added.shape[-2]
        self._whole[self._place(start, stop)] = added
        self.rows = primitives.index(self._whole, self._place(0, stop))


def _longer(held: Tensor, added: Tensor, room: _Room | None) -> tuple[Tensor, _Room | None]:
    """`held` with `added` below, and the room that it lies in, if it is in one."""
    if not _may_lie_in_a_room(held, added):
        return ops.concatenate((held, added), -2), None
    rows, more = held.realize_cached_data(), added.realize_cached_data()
    if room is not None and room.goes_on(rows, more):
        room.write(more)
    else:
        room = _Room(rows, more)
    return Tensor.make_const(room.rows), room


# a room is written to from Python, which takes about as long as copying so many bytes
_WORTH_A_ROOM = 1 << 18


def _may_lie_in_a_room(held: Tensor, added: Tensor) -> bool:
    """Whether there is no graph, nothing waits to be computed, and it is worth it."""
    has_graph = modes.grad_enabled and (held.requires_grad or added.requires_grad)
    if has_graph or is_lazy() or is_traced() or held.size * held.dtype.itemsize < _WORTH_A_ROOM:
        return False
    return held.device == added.device  # otherwise concatenate says what is wrong


@contextmanager
def restored_on_failure(caches: Iterable[KeyValueCache | None]) -> Iterator[None]:
    """Put caches back to what they held if what is done with them fails half-way."""
    held = [
        (cache, cache.keys, cache.values) for cache in caches if isinstance(cache, KeyValueCache)
    ]
    try:
        yield
    except BaseException:
        for cache, keys, values in held:
            cache.keys, cache.values = keys, values
        raise


def caches_of(name: str, cache: Any, count: int, parts: str) -> Sequence[KeyValueCache | None]:
    """What was given as `cache`: as many as there are parts, of one length; for None, so many None.

    Raises DTypeError and OptionError.
    """
    if cache is None:
        return [None] * count
    if not isinstance(cache, (list, tuple)):
        raise DTypeError(
            f"{name}: expected cache to be a list of KeyValueCaches, got {kind_of(cache)}. "
            "Use new_cache()."
        )
    for one in cache:
        require_cache(name, one)
    if len(cache) != count or len({id(one) for one in cache}) != count:
        distinct = "" if len(cache) != count else ", some of them twice"
        raise OptionError(
            f"{name}: expected a cache for each of {count} {parts}, got {len(cache)}{distinct}. "
            "Use new_cache()."
        )
    lengths = [one.length for one in cache]
    if len(set(lengths)) > 1:
        raise OptionError(
            f"{name}: expected caches that hold equally many keys, got {lengths}. Use new_cache()."
        )
    return cache


def require_cache(name: str, cache: Any) -> None:
    """Raise DTypeError unless `cache` is a KeyValueCache."""
    if not isinstance(cache, KeyValueCache):
        raise DTypeError(f"{name}: expected cache to be a KeyValueCache, got {kind_of(cache)}.")


def _require_continuation(held: Tensor, added: Tensor) -> None:
    same = added.ndim == held.ndim and added.shape[:-2] == held.shape[:-2]
    if not same or added.shape[-1] != held.shape[-1] or added.dtype != held.dtype:
        raise ShapeError(
            f"KeyValueCache: expected what continues {describe(held)}, got {describe(added)}. "
            "Use reset() before another batch."
        )
