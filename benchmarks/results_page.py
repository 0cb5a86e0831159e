"""The figures in docs/benchmarks.md, written from the files of results, never typed by hand.

    python benchmarks/results_page.py [--check]

Each table stands between `<!-- name -->` and `<!-- end of name -->` and is made from
`benchmarks/results/name.json`; the chart from networks.json. With --check nothing is written, and
the exit status is 1 if a table is not what the results say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chart import draw
from interleaved import earlier_results

__all__ = ["page_with_figures"]

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
CHART = HERE.parent / "docs" / "pictures" / "benchmarks.png"
RESULTS = HERE / "results"

_NOT_MEASURED = "–"
Results = Mapping[str, Any]


def main() -> int:
    """Write the page and the chart, or say whether the page is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    text = PAGE.read_text()
    found = page_with_figures(text)
    if options.check:
        return int(found != text)
    PAGE.write_text(found)
    networks = _results("networks")
    if networks:
        draw(networks, CHART)
    return 0


def page_with_figures(text: str) -> str:
    """The page with every table that there are results for."""
    for name, table in TABLES.items():
        results = _results(name)
        if results:
            mark = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
            content = f"\n{table(results)}\n{_where(results)}\n\n"
            text = re.sub(mark, lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    return text


def _results(name: str) -> dict[str, Any]:
    return earlier_results(RESULTS / f"{name}.json")


# -- tables ----------------------------------------------------------------------------------------


def networks(results: Results) -> str:
    """Milliseconds of each contender; ratios, and the share of the peak."""
    columns = {
        "jit": "Needle jit",
        "eager": "Needle eager",
        "torch": "PyTorch eager",
        "compile": "torch.compile",
        "jax": "JAX jit",
    }
    # a machine's peak is the best that was seen of it: a run that was disturbed saw less
    peak = max(r["peak_gflops"] for r in results.values())
    times = [
        [r["title"], *[_milliseconds(r["seconds"].get(name)) for name in columns]]
        for r in results.values()
    ]
    ratios = [
        [
            r["title"],
            *[_ratio(r["ratios"].get(name)) for name in (r["best_of_torch"], "jax", "eager")],
            f"{r['flops'] / r['seconds']['jit'] / peak / 1e9:.0%}",
        ]
        for r in results.values()
    ]
    beside = ["the faster of PyTorch's", "JAX jit", "Needle eager", "share of the peak"]
    return (
        _table(["milliseconds a step", *columns.values()], times)
        + "\n"
        + _table(["Needle jit's time as a share of that of", *beside], ratios)
    )


def kernels(results: Results) -> str:
    """Milliseconds of Needle and PyTorch, and both ratios."""
    rows = [
        [
            label,
            *[_milliseconds(r["seconds"].get(name)) for name in ("jit", "torch", "compile")],
            _ratio(r["ratios"].get("torch")),
            _ratio(r["ratios"].get("compile")),
        ]
        for label, r in results.items()
    ]
    head = [
        "milliseconds",
        "Needle jit",
        "PyTorch eager",
        "torch.compile",
        "jit / eager",
        "jit / compile",
    ]
    return _table(head, rows)


def compile_time(results: Results) -> str:
    """Seconds with an empty and a warm cache, and with another batch size."""
    rows = [
        [
            r["title"],
            f"{r['empty cache']['compiling']:.2f}",
            f"{r['warm cache']['compiling']:.2f}",
            f"{r['warm cache']['other batch']:.2f}",
            f"{r['empty cache']['kernels']:.0f}",
            f"{r['warm cache']['its new kernels']:.0f}",
        ]
        for r in results.values()
    ]
    head = [
        "seconds to compile a step",
        "empty cache",
        "warm cache",
        "another batch size",
        "kernels",
        "new ones for that batch size",
    ]
    return _table(head, rows)


def memory(results: Results) -> str:
    """Megabytes."""
    labels = ("jit", "jit, empty cache", "eager", "torch")
    rows = [
        [r["title"], *[f"{r['megabytes'][k]:.0f}" if k in r["megabytes"] else "" for k in labels]]
        for r in results.values()
    ]
    head = [
        "megabytes at most",
        "Needle jit",
        "the same, compiling for the first time",
        "Needle eager",
        "PyTorch eager",
    ]
    return _table(head, rows)


def text(results: Results) -> str:
    """Losses that both libraries reach, and Needle's share of the time."""
    names = {"torch": "PyTorch eager", "torch.compile": "torch.compile"}
    rows = []
    for r in results.values():
        losses = [", ".join(f"{loss:.4g}" for loss in r[name]) for name in ("needle", "torch")]
        apart = f"{100 * r['apart']:.2f} %"
        ratio = _NOT_MEASURED
        if "ratio" in r:
            ratio = f"**{r['ratio']:.2f}** of {names[r['fastest']]}"
        rows.append([r["title"], *losses, apart, ratio])
    return _table(["training on a text", "Needle", "PyTorch", "apart", "Needle's time"], rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "networks": networks,
    "kernels": kernels,
    "compile_time": compile_time,
    "memory": memory,
    "text": text,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, marks, *rows))


def _milliseconds(seconds: float | None) -> str:
    """Three digits, or all before the point."""
    if seconds is None:
        return _NOT_MEASURED
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def _ratio(quartiles: Sequence[float] | None) -> str:
    if quartiles is None:
        return _NOT_MEASURED
    low, median, high = quartiles
    return f"**{median:.2f}** ({low:.2f} to {high:.2f})"


def _where(results: Results) -> str:
    """When and on what the figures were taken; a sentence for each session, if they differ."""
    told = []
    for result in results.values():
        s = result["session"]
        versions = ", ".join(f"{name} {number}" for name, number in s["versions"].items())
        text = f"{s['date']}, {s['processor']}, {s['threads']} threads; Python {s['python']}"
        text = f"{text}, {versions}."
        if text not in told:
            told.append(text)
    return "\n".join(f"Measured {text}" for text in told)


if __name__ == "__main__":
    sys.exit(main())
