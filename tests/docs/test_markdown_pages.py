"""The checks of the documentation find what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import markdown_pages as pages
import pytest

from needle.config import BACKEND

PAGE = Path("page.md")


def test_blocks_share_a_namespace_and_a_true_output_passes():
    pages.run_page("```python\na = 2\n```\n\n```python\nprint(a)\n```\n\n```text\n2\n```\n", PAGE)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nprint(1)\n```\n\nprose between\n\n```text\n1\n```\n",
        "```python\nprint(1.26)\n```\n\n```text\n1.23\n```\n",
        "```pycon\n>>> 1 + 1\n3\n```\n",
    ],
    ids=["another", "none shown", "not at once", "another decimal", "doctest"],
)
def test_an_output_that_is_not_as_shown_fails(text):
    with pytest.raises(AssertionError):
        pages.run_page(text, PAGE)


def test_the_failure_names_page_line_and_both_texts():
    with pytest.raises(
        AssertionError, match=r"page.md:3: the page shows\n2\n\nbut .* printed\n1\n"
    ):
        pages.run_page("\n```python\nprint(1)\n```\n\n```text\n2\n```\n", PAGE)


def test_an_error_in_a_block_reaches_the_caller_with_the_line_of_the_page():
    with pytest.raises(ZeroDivisionError) as caught:
        pages.run_page("# Title\n\n```python\n1 / 0\n```\n", PAGE)
    assert caught.traceback[-1].lineno == 3  # counted from 0


def test_other_languages_are_not_run():
    assert pages.blocks("```bash\nrm -r /\n```\n\n```text\nx\n```\n") == []


def test_a_block_under_a_condition_runs_where_that_is_met():
    page = "<!-- only {} -->\n```python\nprint(1)\n```\n\n```text\n1\n```\n"
    assert len(pages.blocks(page.format(f"in {BACKEND} mode"))) == 1
    assert len(pages.blocks(page.format("with numpy"))) == 1
    assert pages.blocks(page.format("in no mode")) == []
    assert pages.blocks(page.format("with a_package_that_is_not_there")) == []


@pytest.mark.parametrize(
    ("shown", "printed", "roughly", "agree"),
    [
        ("0.1235", "0.1236", False, True),
        ("0.1235", "0.1237", False, False),
        ("loss 0.50, 3 left", "loss 0.58, 3 left", True, True),
        ("loss 0.50", "loss 0.62", True, False),
        ("loss 0.50, 3 left", "loss 0.50, 4 left", True, False),
        ("a  \nb\n", "a\nb", False, True),
    ],
)
def test_decimals_agree_as_far_as_they_are_shown(shown, printed, roughly, agree):
    assert pages.agrees(shown, printed, roughly=roughly) is agree
