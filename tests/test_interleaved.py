"""What the benchmarks share: the options of their command lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from interleaved import parser_for

    yield parser_for("Something against something else.\n\nMore.", rounds=9)
    del sys.modules["interleaved"]


@pytest.mark.parametrize("rounds", ["1", "0", "-3", "two", "2.5"])
def test_rounds_too_few_for_quartiles_are_refused_in_one_line(parser, capsys, rounds):
    with pytest.raises(SystemExit):
        parser.parse_args([f"--rounds={rounds}"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"argument --rounds: expected a number of 2 or more, got {rounds!r}")


def test_rounds_are_a_number(parser):
    assert parser.parse_args([]).rounds == 9
    assert parser.parse_args(["--rounds", "2"]).rounds == 2
