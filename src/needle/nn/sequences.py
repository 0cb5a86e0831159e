"""Sequences of different lengths in one batch: padded to the longest, and told apart again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.autograd.modes import is_traced
from needle.autograd.tensor import as_tensor
from needle.dtypes import is_floating, is_integer
from needle.errors import DTypeError, OptionError, OutOfRangeError, ShapeError, describe
from needle.fixed import fixed
from needle.nn.checks import require_number, require_positive, require_tensors
from needle.ops import (
    concatenate,
    equal,
    greater_equal,
    less,
    less_equal,
    logical_and,
    stack,
    where,
)
from needle.ops.conditions import require_to_be

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpad_sequence",
]


class PackedSequence:
    """A batch of sequences and where each ends: what recurrent layers take and give back.

    padded   (T, B, ...), T of 1 or more
    lengths  B whole numbers in [1, T], in any order: what comes after is padding and has no effect.
             A NumPy array; while a function is compiled, a Tensor

    It has PyTorch's name and place in a program. But the padding stays and is masked: nothing is
    sorted or moved.

    Raises ShapeError, OptionError for lengths that are no whole numbers, OutOfRangeError.
    """

    def __init__(self, padded: Tensor, lengths: Any) -> None:
        require_tensors("PackedSequence", padded)
        if padded.ndim < 2 or padded.shape[0] == 0:
            raise ShapeError(
                "PackedSequence: expected padded [T, B, ...] of 1 step or more, "
                f"got {describe(padded)}."
            )
        self.padded = padded
        self.lengths = _whole_numbers(lengths, padded)

    def masked(self, padding_value: float = 0.0) -> Tensor:
        """`padded`, with `padding_value` past each end, in its dtype."""
        if is_traced():
            before = less(self._steps(), self.lengths)
            before = before.reshape((*before.shape, *[1] * (self.padded.ndim - 2)))
            return where(before, self.padded, _of_dtype(self.padded, padding_value))
        x, steps = self.padded, np.arange(self.padded.shape[0])
        inside = steps[:, None] < self.lengths
        mask = Tensor(
            inside.reshape(*inside.shape, *[1] * (x.ndim - 2)),
            device=x.device,
            dtype="bool",
            requires_grad=False,
        )
        return where(mask, x, _of_dtype(x, padding_value))

    def reversed(self) -> PackedSequence:
        """Each sequence back to front; its padding stays behind it."""
        if is_traced():
            numbers = self._steps()
            rows = where(less(numbers, self.lengths), self.lengths - 1 - numbers, numbers)
            return PackedSequence(self.padded[rows, self._columns()], self.lengths)
        steps = np.arange(self.padded.shape[0])[:, None]
        turned = np.where(steps < self.lengths, self.lengths - 1 - steps, steps)
        columns = np.arange(len(self.lengths))[None]
        return PackedSequence(self.padded[turned, columns], self.lengths)

    def last(self) -> Tensor:
        """The last step of each sequence: (B, ...)."""
        if is_traced():
            return self.padded[self.lengths - 1, self._columns()]
        return self.padded[self.lengths - 1, np.arange(len(self.lengths))]

    def _steps(self) -> Tensor:
        """0..T-1 as a column."""
        return _numbers(range(self.padded.shape[0]), self.padded).expand_dims(1)

    def _columns(self) -> Tensor:
        """0..B-1."""
        return _numbers(range(self.padded.shape[1]), self.padded)

    def __repr__(self) -> str:
        lengths = describe(self.lengths) if is_traced() else self.lengths.tolist()
        return f"PackedSequence({describe(self.padded)}, lengths={lengths})"


def _numbers(values: Sequence[int], like: Tensor) -> Tensor:
    """Whole numbers that are known while a function is traced, on the device of `like`."""
    array = fixed(np.array(values, dtype=np.int64))
    return Tensor(array, device=like.device, dtype="int64", requires_grad=False)


def _of_dtype(x: Tensor, padding_value: Any) -> Tensor:
    """The value in the dtype of x, which keeps it so. OptionError if it is none of that dtype."""
    require_number("padding_value", "a number", padding_value, lambda _: True)
    if not is_floating(x.dtype):
        low, high = (
            (0, 1) if x.dtype == np.bool_ else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
        )
        if not low <= padding_value <= high or padding_value != int(padding_value):
            raise OptionError(
                f"padding_value: expected a value of {x.dtype}, as the sequences, got "
                f"{padding_value!r}."
            )
        padding_value = int(padding_value)
    return Tensor(padding_value, device=x.device, dtype=x.dtype, requires_grad=False)


def _whole_numbers(lengths: Any, padded: Tensor) -> Any:
    """The lengths of the sequences, int64 (B,): an array of NumPy; while a function is traced, a
    Tensor."""
    if is_traced() and isinstance(lengths, Tensor):
        return _whole_numbers_to_be(lengths, padded)
    try:
        values = lengths.numpy() if hasattr(lengths, "numpy") else np.asarray(lengths)
    except ValueError:  # rows of different lengths
        values = np.asarray(None)
    whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and np.array_equal(values, np.round(values))
    )
    if not whole or values.ndim != 1:
        raise OptionError(
            f"lengths: expected one whole number for each sequence, got {describe(lengths)}."
        )
    _require_lengths(values, padded)
    if is_traced():  # a list is looked at before each call, other arrays are refused
        known = isinstance(lengths, (list, tuple, range))
        numbers = _numbers(values.tolist(), padded) if known else as_tensor(lengths, padded.device)
        return numbers.astype("int64")
    return values.astype(np.int64)


def _whole_numbers_to_be(lengths: Tensor, padded: Tensor) -> Tensor:
    """The same of a Tensor without values yet: the compiled function looks at them."""
    steps, batch = padded.shape[:2]
    if lengths.ndim != 1 or not (is_floating(lengths.dtype) or is_integer(lengths.dtype)):
        raise OptionError(
            f"lengths: expected one whole number for each sequence, got {describe(lengths)}."
        )
    if lengths.shape != (batch,):
        raise _not_one_for_each(lengths.shape[0], padded)
    whole = lengths.detach().to(padded.device).astype("int64")
    holds = logical_and(greater_equal(whole, 1), less_equal(whole, steps))
    if is_floating(lengths.dtype):
        holds = logical_and(holds, equal(whole.astype(lengths.dtype), lengths.detach()))
    require_to_be(holds)
    return whole


def _require_lengths(lengths: np.ndarray[Any, Any], padded: Tensor) -> None:
    steps, batch = padded.shape[:2]
    if len(lengths) != batch:
        raise _not_one_for_each(len(lengths), padded)
    outside = lengths[(lengths < 1) | (lengths > steps)]
    if len(outside):
        hint = " Leave empty sequences out." if outside[0] == 0 else ""
        raise OutOfRangeError(
            f"lengths: expected whole numbers in [1, {steps}], got {outside[0]:.9g} for "
            f"{describe(padded)}.{hint}"
        )


def _not_one_for_each(count: int, padded: Tensor) -> ShapeError:
    return ShapeError(
        f"lengths: expected {padded.shape[1]}, one for each sequence of [T, B, ...], got {count} "
        f"for {describe(padded)}."
    )


def _require_known_lengths(name: str, instead: str) -> None:
    """Raise OptionError while a function is traced: shapes would depend on the lengths."""
    if is_traced():
        raise OptionError(
            f"{name}: expected lengths whose values are known, got some of a function that is "
            f"being compiled: what it gives is as long as the longest sequence. {instead}"
        )


def pack_padded_sequence(
    x: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = False
) -> PackedSequence:
    """The sequences of x as a PackedSequence, cut after the longest.

    x               (T, B, ...), or (B, T, ...) with batch_first
    lengths         (B,) whole numbers in [1, T]
    enforce_sorted  refuse lengths that grow; there is no need for an order (PyTorch's default is
                    True)

    >>> import needle as ndl
    >>> x = ndl.Tensor([[[1.0], [2.0], [3.0]], [[4.0], [0.0], [0.0]]])
    >>> packed = ndl.nn.pack_padded_sequence(x, [3, 1], batch_first=True)
    >>> packed.padded.shape, packed.lengths.tolist()
    ((3, 2, 1), [3, 1])
    >>> packed.last().numpy().tolist()
    [[3.0], [4.0]]
    """
    require_tensors("pack_padded_sequence", x)
    _require_known_lengths(
        "pack_padded_sequence",
        "ndl.nn.PackedSequence(x, lengths) and the layers' lengths=... do without cutting.",
    )
    packed = PackedSequence(x.transpose((0, 1)) if batch_first and x.ndim > 1 else x, lengths)
    if enforce_sorted and (np.diff(packed.lengths) > 0).any():
        raise OptionError(
            "pack_padded_sequence: expected lengths that do not grow, got "
            f"{packed.lengths.tolist()}. Or pass enforce_sorted=False."
        )
    longest = int(packed.lengths.max(initial=1))
    if longest == packed.padded.shape[0]:
        return packed
    return PackedSequence(packed.padded[:longest], packed.lengths)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The sequences as one Tensor, `padding_value` past each end, and their lengths.

    total_length  how many steps the Tensor has; default: as many as the longest sequence
    -> (T, B, ...), or (B, T, ...) with batch_first; int64 (B,)
    """
    if not isinstance(sequence, PackedSequence):
        raise DTypeError(
            f"pad_packed_sequence: expected a PackedSequence, got {describe(sequence)}."
        )
    if total_length is None:
        _require_known_lengths("pad_packed_sequence", "Pass total_length.")
    elif is_traced():
        return _padded_to(sequence, batch_first, padding_value, total_length)
    longest = int(sequence.lengths.max(initial=1))
    steps = longest if total_length is None else total_length
    require_positive("pad_packed_sequence", total_length=steps)
    if steps < longest:
        raise OptionError(
            f"pad_packed_sequence: expected total_length of {longest} or more, got {total_length}."
        )
    x = _to_length(sequence.masked(padding_value)[:longest], steps, padding_value)
    lengths = Tensor(sequence.lengths, device=x.device, dtype="int64", requires_grad=False)
    return x.transpose((0, 1)) if batch_first else x, lengths


def _padded_to(
    sequence: PackedSequence, batch_first: bool, padding_value: float, steps: int
) -> tuple[Tensor, Tensor]:
    """`pad_packed_sequence` while no lengths are known."""
    require_positive("pad_packed_sequence", total_length=steps)
    require_to_be(less_equal(sequence.lengths, steps))
    x = _to_length(sequence.masked(padding_value)[:steps], steps, padding_value)
    return x.transpose((0, 1)) if batch_first else x, sequence.lengths


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0
) -> Tensor:
    """Sequences (T_i, ...) side by side, with `padding_value` up to the longest.

    -> (T, B, ...), or (B, T, ...) with batch_first

    >>> import needle as ndl
    >>> short, long = ndl.Tensor([1.0]), ndl.Tensor([2.0, 3.0])
    >>> ndl.nn.pad_sequence([short, long], batch_first=True)
    needle.Tensor([[1. 0.]
     [2. 3.]])
    """
    padded, _ = _side_by_side("pad_sequence", sequences, padding_value)
    return padded.transpose((0, 1)) if batch_first else padded


def pack_sequence(sequences: Iterable[Tensor], enforce_sorted: bool = False) -> PackedSequence:
    """Sequences (T_i, ...), T_i of 1 or more, as a PackedSequence.

    enforce_sorted  as of `pack_padded_sequence`
    """
    padded, lengths = _side_by_side("pack_sequence", sequences, 0)
    return pack_padded_sequence(padded, lengths, enforce_sorted=enforce_sorted)


def unpad_sequence(padded: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences (T_i, ...) that lie side by side in `padded`, each without its padding.

    padded   (T, B, ...), or (B, T, ...) with batch_first
    lengths  (B,) whole numbers in [1, T]
    """
    _require_known_lengths("unpad_sequence", "ndl.nn.PackedSequence keeps them side by side.")
    packed = pack_padded_sequence(padded, lengths, batch_first)
    return [packed.padded[:n, i] for i, n in enumerate(packed.lengths.tolist())]


def _side_by_side(name: str, sequences: Iterable[Tensor], value: Any) -> tuple[Tensor, list[int]]:
    """Sequences (T_i, ...) as (T, B, ...), `value` up to the longest, and the T_i."""
    if not isinstance(sequences, Iterable):
        raise DTypeError(f"{name}: expected a list of Tensors, got {describe(sequences)}.")
    sequences = list(sequences)
    require_tensors(name, *sequences)
    if not sequences or any(
        x.ndim == 0 or x.shape[1:] != sequences[0].shape[1:] for x in sequences
    ):
        raise ShapeError(
            f"{name}: expected Tensors [T_i, ...], alike but for T_i, got "
            f"{describe(*sequences) or 'none'}."
        )
    lengths = [x.shape[0] for x in sequences]
    return stack([_to_length(x, max(lengths), value) for x in sequences], 1), lengths


def _to_length(x: Tensor, steps: int, value: float) -> Tensor:
    """x with `value` behind it, up to so many steps."""
    if x.shape[0] == steps:
        return x
    more = _of_dtype(x, value).broadcast_to((steps - x.shape[0], *x.shape[1:]))
    return concatenate([x, more], 0)
