"""What every test starts from: the same seed, and a hint where the shared data is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)


@pytest.fixture
def shared_mnist() -> Path:
    """The folder with MNIST's 10,000 test images; the test skips where it is absent."""
    folder = SHARED_DATA / "mnist"
    if not (folder / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("MNIST's test images are not beside this checkout (../shared/data/mnist)")
    return folder
