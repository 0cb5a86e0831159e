"""ARCHITECTURE.md says what is there."""

from __future__ import annotations

from architecture_tree import PAGE, tree


def test_the_tree_has_a_line_for_every_module():
    assert tree() in PAGE.read_text(), "run: python tests/architecture_tree.py --write"
