"""What every test starts from: the same seed; which mode and device; where the shared data is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

# machine code is kept between test runs, and not among the user's
os.environ.setdefault(
    "NEEDLE_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "needle")
)

import numpy as np
import pytest

import needle as ndl
from needle import config as needle_config

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

COMPILER_TESTS = {"fuzz", "inspection", "jit", "program"}  # folders

# what the tables of operators are run on
DEVICES = ["cpu", "cpu_numpy"] if ndl.BACKEND == "nd" else ["cpu"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write texts that tests expect anew"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name in `golden/` beside the test."""

    def compare(name: str, text: str) -> None:
        path = request.path.parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n")
        assert path.read_text() == text + "\n", "if it is meant: pytest --update-golden"

    return compare


def pytest_configure(config: pytest.Config) -> None:
    # a shell lets what it starts in the background ignore Ctrl-C, and its children with it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "np_mode(reason): about NumPy arrays under the operators")
    config.addinivalue_line("markers", "nd_mode: about Needle's own arrays under the operators")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where the compiler is the matter, what its passes made is verified, which takes time."""
    if "NEEDLE_VERIFY" not in os.environ:
        needle_config.VERIFY = not COMPILER_TESTS.isdisjoint(item.path.parts)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if ndl.BACKEND == "nd" and str(parameters.get("dtype", "")).startswith("float8"):
            item.add_marker(pytest.mark.skip(reason="np mode: NDArrays have no floats of 8 bits"))
        for mode in ("np", "nd"):
            mark = item.get_closest_marker(f"{mode}_mode")
            if mark is not None and mode != ndl.BACKEND:
                reason = "".join(f": {text}" for text in mark.args)
                item.add_marker(pytest.mark.skip(reason=f"{mode} mode{reason}"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)


@pytest.fixture(params=DEVICES)
def each_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ndl.Device:
    """The device that Tensors are made on where none is named: each in turn."""
    return _make_default(request.param, monkeypatch)


@pytest.fixture
def traced_memory(monkeypatch: pytest.MonkeyPatch) -> ndl.Device:
    """A default device whose arrays `tracemalloc` sees."""
    return _make_default(DEVICES[-1], monkeypatch)


def _make_default(name: str, monkeypatch: pytest.MonkeyPatch) -> ndl.Device:
    device: ndl.Device = getattr(ndl, name)()
    if ndl.BACKEND == "nd":
        monkeypatch.setattr("needle.backend_ndarray.devices._default", device)
    return device


@pytest.fixture
def shared_mnist() -> Path:
    """The folder with MNIST's 10,000 test images; the test skips where it is absent."""
    folder = SHARED_DATA / "mnist"
    if not (folder / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("MNIST's test images are not beside this checkout (../shared/data/mnist)")
    return folder
