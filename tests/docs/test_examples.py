"""Everything the documentation shows is run: pages, README, and the examples of docstrings."""

from __future__ import annotations

import ast
import gc
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import markdown_pages as pages
import pytest

import needle as ndl
import needle.backend_ndarray as array_library
import needle.testing
import needle.visualize
from needle.cli.options import parse
from needle.errors import MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
DRAWN = ROOT / "docs" / "pictures"


@pytest.fixture(autouse=True)
def _a_place_of_its_own(tmp_path, monkeypatch):
    """Examples may write files; and some count live values, while earlier tests leave garbage."""
    monkeypatch.chdir(tmp_path)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", [name for name in PAGES if pages.blocks(PAGES[name])])
def test_the_examples_of_a_page_run_and_print_what_it_shows(name):
    _run_or_skip(pages.run_page, PAGES[name], ROOT / name)
    for picture in Path().glob("*.svg"):
        assert picture.read_bytes() == (DRAWN / picture.name).read_bytes(), (
            f"{name} draws another {picture.name} than docs/pictures has. "
            f"If the new one is right: cp {picture.resolve()} docs/pictures/"
        )


def _run_or_skip(run: Any, *args: Any) -> None:
    try:
        run(*args)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def _docstrings() -> Iterator[Any]:
    """File, text and line of each docstring in src/needle that has an example."""
    for path in sorted((ROOT / "src" / "needle").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node, clean=False)
                if text and ">>>" in text:
                    name = f"{path.relative_to(ROOT / 'src')}:{getattr(node, 'name', '')}"
                    yield pytest.param(path, text, node.body[0].lineno - 1, id=name)


@pytest.mark.parametrize(("path", "text", "line"), list(_docstrings()))
def test_the_example_of_a_docstring_prints_what_it_shows(path, text, line):
    """Each on its own: an example has the names of its module, and imports what else it uses."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    _run_or_skip(pages.run_doctest, text, dict(vars(module)), str(path), line)


COMMAND = re.compile(r"^needle (.+?)(?: +#.*)?$", re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in PAGES if pages.fenced(PAGES[name], "bash")])
def test_the_command_lines_of_a_page_are_understood(name):
    for block in pages.fenced(PAGES[name], "bash"):
        for command in COMMAND.findall(block):
            words = shlex.split(command)
            if "--resume" in words:  # it is looked for at once
                with pytest.raises(FileNotFoundError, match="--resume: expected a run folder"):
                    parse(words)
            else:
                assert parse(words)


LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
LINKS = {name: links for name, text in PAGES.items() if (links := LINK.findall(pages.prose(text)))}


@pytest.mark.parametrize("name", LINKS)
def test_relative_links_lead_somewhere(name):
    folder = (ROOT / name).parent
    assert [link for link in LINKS[name] if not (folder / link).exists()] == []


PUBLIC = [
    *(ndl, ndl.autograd, ndl.data, ndl.errors, ndl.init, ndl.nn, ndl.ops, ndl.optim),
    *(needle.testing, needle.visualize),
]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_the_reference_has_the_module_of_every_public_name(module):
    reference = "\n".join(text for name, text in PAGES.items() if "/reference/" in name)
    shown = set(re.findall(r"^::: (\S+)", reference, re.MULTILINE))
    homes = {getattr(module, name).__module__ for name in module.__all__ if _is_ours(module, name)}
    assert {home for home in homes if not {home, home.rpartition(".")[0]} & shown} == set()


def test_the_reference_lists_every_function_on_arrays():
    page = PAGES["docs/reference/arrays.md"]
    shown = {word for code in re.findall(r"`([^`]+)`", page) for word in re.findall(r"\w+", code)}
    for home in re.findall(r"^::: (\S+)", page, re.MULTILINE):
        shown.update(importlib.import_module(home).__all__)
    assert set(array_library.__all__) - shown - _IN_DEVICES == set()


_IN_DEVICES = {
    *("BackendDevice", "Device", "all_devices", "default_device"),
    *("cpu", "cpu_numpy", "cuda"),
}


def test_every_setting_of_the_environment_is_documented():
    sources = [path.read_text() for path in (ROOT / "src" / "needle").rglob("*.py")]
    read = set(re.findall(r"\bNEEDLE_[A-Z_]+\b", "\n".join(sources)))
    table = re.findall(r"^\| `(NEEDLE_\w+)` \|", PAGES["docs/arrays.md"], re.MULTILINE)
    assert len(read) >= 4
    assert read == set(table)


def _is_ours(module: Any, name: str) -> bool:
    return str(getattr(getattr(module, name), "__module__", "")).startswith("needle.")
