"""The package `needle.data`: its names, where else they are found, and what importing it costs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import needle as ndl


def test_all_names_are_there_and_documented():
    for name in ndl.data.__all__:
        assert getattr(ndl.data, name).__doc__, name


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("data_basic", ["Dataset", "DataLoader"]),
        ("data_transforms", ["Transform", "RandomCrop", "RandomFlipHorizontal"]),
        ("datasets.ndarray_dataset", ["NDArrayDataset"]),
        ("datasets.mnist_dataset", ["MNISTDataset"]),
        ("datasets.cifar10_dataset", ["CIFAR10Dataset"]),
        ("datasets.ptb_dataset", ["Dictionary", "Corpus", "batchify", "get_batch"]),
        ("datasets.digits_dataset", ["DigitsDataset", "digits"]),
    ],
)
def test_the_courses_module_names_work(module, names):
    found = importlib.import_module(f"needle.data.{module}")
    for name in names:
        assert getattr(found, name) is getattr(ndl.data, name)


def test_import_is_light():
    heavy = "sklearn tqdm urllib.request tarfile pickletools concurrent.futures multiprocessing"
    script = f"import sys, needle.data; print(*[m for m in {heavy.split()} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout == "\n"
