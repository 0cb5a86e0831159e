"""The pictures of the pages are those that their script draws."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def pictures():
    """The functions that draw, by the name of the file."""
    sys.path.insert(0, str(DOCS / "extras"))
    try:
        yield import_module("pictures").PICTURES
    finally:
        sys.path.remove(str(DOCS / "extras"))
        for name in ("pictures", "drawing"):
            sys.modules.pop(name, None)


def test_pictures_are_as_they_are_drawn(pictures):
    others = [
        name
        for name, draw in pictures.items()
        if (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8") != draw().svg()
    ]
    assert others == [], "python docs/extras/pictures.py draws them anew"


def test_every_picture_is_well_formed_has_a_title_and_is_on_a_page(pictures):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for name, draw in pictures.items():
        root = ElementTree.fromstring(draw().svg())
        assert root.findtext("{http://www.w3.org/2000/svg}title")
        assert f"pictures/{name}.svg" in pages
