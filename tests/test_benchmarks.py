"""The page of benchmarks says what the files of results say, and the picture can be drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RESULTS = {
    "one": {
        "title": "A network",
        "seconds": {"jit": 0.5e-3, "eager": 2e-3, "torch": 1e-3, "compile": 0.8e-3},
        "ratios": {
            "eager": [0.2, 0.25, 0.3],
            "torch": [0.4, 0.5, 0.6],
            "compile": [0.6, 0.625, 0.7],
        },
        "flops": 2.5e6,
        "peak_gflops": 10.0,
        "share_of_peak": {"jit": 0.5},
        "best_of_torch": "compile",
        "session": {
            "date": "2026-01-02",
            "processor": "a processor",
            "threads": 2,
            "python": "3.12.0",
            "versions": {"needle": "1.0", "torch": "2.0"},
        },
    }
}


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def test_the_page_is_written_from_the_last_results():
    done = subprocess.run([sys.executable, FOLDER / "results_page.py", "--check"], timeout=60)
    assert done.returncode == 0, "run: make bench-page"


def test_every_table_has_its_place_in_the_page():
    import results_page

    text = results_page.PAGE.read_text()
    for name in results_page.TABLES:
        assert text.index(f"<!-- {name} -->") < text.index(f"<!-- end of {name} -->")


def test_tables_hold_times_ratios_and_where_they_come_from(monkeypatch, tmp_path):
    import results_page

    (tmp_path / "networks.json").write_text(json.dumps(RESULTS))
    monkeypatch.setattr(results_page, "RESULTS", tmp_path)
    page = results_page.page_with_figures("a\n<!-- networks -->\nold\n<!-- end of networks -->\nz")
    assert page.startswith("a\n<!-- networks -->\n")
    assert page.endswith("<!-- end of networks -->\nz")
    assert "old" not in page
    assert "| A network | 0.5 | 2 | 1 | 0.8 | – |" in page
    assert "| A network | **0.62** (0.60 to 0.70) | – | **0.25** (0.20 to 0.30) | 50% |" in page
    assert "Measured 2026-01-02, a processor, 2 threads; Python 3.12.0, needle 1.0" in page


def test_the_chart_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from chart import draw

    draw(RESULTS, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_process_gives_what_the_function_there_returns():
    from fresh_process import call

    assert call("json", "loads", '{"a": 1}') == {"a": 1}
    with pytest.raises(subprocess.CalledProcessError):
        call("fresh_process", "no_such_function")
