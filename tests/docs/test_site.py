"""The site builds without a warning and needs nothing from elsewhere; where mkdocs is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASSET = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?([^\"\s>]+)|<link[^>]* href=\"?([^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"the docs extra is not installed: no {package}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_loads_only_what_is_in_the_site(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        sources = {a or b for a, b in ASSET.findall(page.read_text(encoding="utf-8"))}
        assert sources, f"{page.name}: no asset found at all"
        assert not [source for source in sources if source.startswith(("http:", "https:", "//"))]


@pytest.mark.slow
def test_the_reference_shows_docstrings_and_signatures(site):
    text = (site / "reference" / "ops.html").read_text(encoding="utf-8")
    assert "Gradient: da = dy" in text
    assert 'id="needle.ops.arithmetic.add"' in text


@pytest.fixture(scope="module")
def as_markdown():
    pytest.importorskip("griffe", reason="the docs extra is not installed: no griffe")
    spec = spec_from_file_location("docstrings", ROOT / "docs" / "extras" / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.as_markdown


def test_lines_broken_on_purpose_stay_broken_and_wrapped_ones_are_joined(as_markdown):
    wrapped = (
        "A sentence that was long enough to reach the right margin of the source and to be cut"
    )
    assert (
        as_markdown(f"y = x.\n\n{wrapped}\nthere. Gone on.")
        == f"y = x.\n\n{wrapped} there. Gone on."
    )
    assert as_markdown("x: any -- y: same\nGradient: dx = dy.") == (
        "x: any -- y: same  \nGradient: dx = dy."
    )


def test_columns_become_a_list(as_markdown):
    text = "f(x).\n\nx     the input\nscale  its scale,\n       in metres\n\nThe end."
    assert as_markdown(text) == (
        "f(x).\n\n- **x**: the input\n- **scale**: its scale, in metres\n\nThe end."
    )


def test_examples_and_indented_equations_become_code(as_markdown):
    text = "f.\n\n    u ← m · u\n    p ← p - u\n\n>>> f(1)\n2"
    assert as_markdown(text) == (
        "f.\n\n```text\nu ← m · u\np ← p - u\n```\n\n```pycon\n>>> f(1)\n2\n```"
    )


def test_markdown_in_prose_is_escaped_and_code_is_not(as_markdown):
    assert as_markdown("a * b * c, x_1, `x_1`.") == r"a \* b \* c, x\_1, `x_1`."
