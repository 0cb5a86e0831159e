"""`Dataset`, and `DataLoader` beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle.data.loader import DataLoader
from needle.errors import OptionError, describe

__all__ = ["DataLoader", "Dataset"]


class Dataset:
    """Things that are counted and picked by number. Write `__getitem__` and `__len__`.

    transforms  functions that `apply_transforms` applies to an item, in order

    >>> import needle as ndl
    >>> class Squares(ndl.data.Dataset):
    ...     def __getitem__(self, index):
    ...         return float(index), float(index**2)
    ...     def __len__(self):
    ...         return 10
    >>> next(iter(ndl.data.DataLoader(Squares(), batch_size=3)))
    (needle.Tensor([0. 1. 2.]), needle.Tensor([0. 1. 4.]))
    """

    # A class whose __getitem__ takes slices and index arrays too, and then returns each field with
    # the items along its first axis, says so: the loader then asks once per batch.
    takes_index_arrays: bool = False

    def __init__(self, transforms: Sequence[Callable[[Any], Any]] | None = None) -> None:
        if transforms is not None and not isinstance(transforms, (list, tuple)):
            raise OptionError(
                f"transforms: expected a list of functions, got {describe(transforms)}."
            )
        for transform in transforms or ():
            if not callable(transform):
                raise OptionError(
                    f"transforms: expected a list of functions, got {describe(transform)} in it."
                )
        self.transforms = transforms

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__}: __getitem__(self, index) is not written."
        )

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: __len__(self) is not written.")

    def apply_transforms(self, x: Any) -> Any:
        """x after each transform in turn."""
        for transform in self.transforms or ():
            x = transform(x)
        return x
