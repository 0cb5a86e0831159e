"""The examples to train on and to test with."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from needle.cli.npz import read_npz
from needle.data import MNISTDataset, digits
from needle.errors import OptionError

if TYPE_CHECKING:
    from needle.cli.recipes.examples import ExamplesOptions

__all__ = ["USUAL_HOLDOUT", "Description", "Examples", "load_examples"]

Array = np.ndarray[Any, Any]

USUAL_HOLDOUT = 0.2
LIGHT_ON_DARK = "light strokes on a dark ground"
_MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "t10k": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Description:
    """What a trained network must remember of its data to be asked about new images.

    shape           of one example: (28, 28, 1), or (4,) for a table
    class_names     what to call class 0, 1, ...
    scale           pixels of 0..255 times this are what the network reads; None where the examples
                    are no images in 0..1
    polarity        which of ink and paper is light, where that is known
    channels_first  whether the network reads (C, H, W) where the shape is (H, W, C)
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    scale: float | None
    polarity: str | None
    channels_first: bool = False

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists, numbers and strings."""
        return asdict(self) | {"shape": list(self.shape), "class_names": list(self.class_names)}


@dataclass(frozen=True)
class Examples:
    """Arrays of examples (N, ...) float32 and class ids (N,), to train on and to test with."""

    about: Description
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def load_examples(options: ExamplesOptions) -> Examples:
    """The examples that the options ask for. Which are held out does not depend on the seed."""
    if options.data == "digits":
        examples = _digits(options.holdout or USUAL_HOLDOUT)
    elif options.data == "mnist":
        examples = _mnist(options)
    else:
        examples = _npz(options)
    count = len(examples.train_y)
    if options.batch_size is not None and options.batch_size > count:
        raise OptionError(
            f"--batch-size: expected at most the {count:,} training examples, "
            f"got {options.batch_size}."
        )
    return examples


def hold_out(x: Array, y: Array, share: float) -> tuple[Array, Array, Array, Array]:
    """Split into train_x, train_y, test_x, test_y; `share` of the examples are for the test.

    Every so many-th of the shuffled examples in order of class, so that each class gives its
    share. The shuffle has a seed of its own: all runs on a data set hold out the same examples,
    and NumPy's global stream is untouched.
    """
    held = round(len(y) * share)
    if not 0 < held < len(y):
        raise OptionError(
            f"--holdout: expected a share that leaves examples on both sides, got {share} "
            f"of {len(y)} examples."
        )
    shuffled = np.random.RandomState(0).permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    is_test = np.zeros(len(y), dtype=bool)
    is_test[by_class[((np.arange(held) + 0.5) * len(y) / held).astype(int)]] = True
    return x[~is_test], y[~is_test], x[is_test], y[is_test]


def _digits(holdout: float) -> Examples:
    train, test = digits()
    about = Description("digits", (8, 8, 1), _ten_digits(), 1 / 255, LIGHT_ON_DARK)
    parts = (*train[:], *test[:])
    if holdout != USUAL_HOLDOUT:  # digits() itself keeps a fifth for the test
        x, y = np.concatenate([parts[0], parts[2]]), np.concatenate([parts[1], parts[3]])
        parts = hold_out(x, y, holdout)
    return Examples(about, *parts)


def _divided(options: ExamplesOptions, about: Description, x: Array, y: Array) -> Examples:
    return Examples(about, *hold_out(x, y, options.holdout or USUAL_HOLDOUT))


def _say_if_holdout_is_not_used(options: ExamplesOptions) -> None:
    if options.holdout is not None:
        remark = f"--holdout: not used, as {options.data} has a test set of its own."
        print(f"needle train: {remark}", file=sys.stderr)


def _mnist(options: ExamplesOptions) -> Examples:
    """The training files and the test files; or the test files alone, divided."""
    folder = Path(options.data_dir)
    about = Description("mnist", (28, 28, 1), _ten_digits(), 1 / 255, LIGHT_ON_DARK)
    test = _mnist_part(folder, "t10k")
    if any(folder.glob("train-*-ubyte*")):
        _say_if_holdout_is_not_used(options)
        return Examples(about, *_mnist_part(folder, "train"), *test)
    return _divided(options, about, *test)


def _mnist_part(folder: Path, part: str) -> tuple[Array, Array]:
    images, labels = (_idx_file(folder, name) for name in _MNIST[part])
    x, y = MNISTDataset(str(images), str(labels))[:]
    return x, y


def _idx_file(folder: Path, name: str) -> Path:
    """The file as it is published, gzipped, or unpacked."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--data-dir: expected a folder with MNIST's files, got {folder}, which is none. "
            f"Where there is a network, ndl.data.download_mnist({str(folder)!r}) fetches them."
        )
    found = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not found:
        raise FileNotFoundError(f"--data-dir: expected {name}.gz in {folder}, got no such file.")
    return found[0]


def _ten_digits() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(10))


def _npz(options: ExamplesOptions) -> Examples:
    path = Path(options.data)
    if path.suffix != ".npz":
        hint = f" For text: needle train gpt --data {path}, or lm." if path.exists() else ""
        raise OptionError(
            f"--data: expected digits, mnist, or the name of an .npz file, got {options.data!r}."
            f"{hint}"
        )
    arrays = read_npz(path)
    about = Description(path.stem, arrays.x.shape[1:], arrays.class_names, arrays.scale, None)
    if arrays.test_x is not None and arrays.test_y is not None:
        _say_if_holdout_is_not_used(options)
        return Examples(about, arrays.x, arrays.y, arrays.test_x, arrays.test_y)
    return _divided(options, about, arrays.x, arrays.y)
