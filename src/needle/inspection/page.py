"""The page of an explanation: one file of HTML with everything in it, and nothing fetched."""

from __future__ import annotations

import base64
import json
import linecache
import zlib
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from needle.compiler.build import kernel_at
from needle.inspection.explanation import Explanation, Kernel, grouped, where_text
from needle.inspection.page_charts import memory_chart, timeline_chart
from needle.inspection.page_graph import inner_graph, kernel_graph, role_of
from needle.inspection.words import count_text, size_text, time_text
from needle.program.steps import Place

__all__ = ["page"]

_LEGEND = (
    ("forward", "forward"),
    ("gradient", "gradient"),
    ("update", "optimiser"),
    ("other", "other"),
)


def page(explanation: Explanation) -> str:
    """The whole page, as text."""
    sections = [
        _head(explanation),
        _table(explanation),
        _graph(explanation),
        _section(
            "kernel", "Kernel", "Chosen in the table or in a picture.", '<div id="detail"></div>'
        ),
        _timeline(explanation),
        _memory(explanation),
        _passes(explanation),
    ]
    links = (("kernels", "Kernels"), ("graph", "Graph"), ("kernel", "Code"),
             ("timeline", "Timeline"), ("memory", "Memory"), ("passes", "Compiling"))  # fmt: skip
    menu = "".join(f'<a href="#{key}">{title}</a>' for key, title in links)
    name = escape(explanation.name)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}, explained</title>",
            f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>",
            f"<nav><strong>{name}</strong>{menu}<button id='theme'>light / dark</button></nav>",
            "<main>",
            *sections,
            "</main>",
            f'<script type="application/json" id="data">{_json(_data(explanation))}</script>',
            f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


def _asset(name: str) -> str:
    return (files("needle.inspection") / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """As it may stand in a page: no text in it can end the element."""
    return json.dumps(value, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")


def _section(key: str, title: str, words: str, content: str) -> str:
    return f'<section id="{key}">\n<h2>{title}</h2>\n<p>{words}</p>\n{content}\n</section>'


def _legend() -> str:
    items = "".join(f'<span><i class="{key}"></i>{words}</span>' for key, words in _LEGEND)
    return f'<div class="legend">{items}</div>'


# -- parts of the page -------------------------------------------------------------------------


def _head(explanation: Explanation) -> str:
    given, timing, peak = explanation.summary, explanation.timing, explanation.peak
    best = peak.seconds(given.flops, given.nbytes)
    share = f"{100 * best / timing.wall:.0f} %" if timing.wall else "-"
    cards = [
        (time_text(timing.wall), f"a step, median of {timing.runs}"),
        (share, "of the machine's peak"),
        (str(given.kernels), f"kernels, {given.codes} kinds of code"),
        (str(given.stages), "stages"),
        (count_text(given.flops), "operations"),
        (size_text(given.nbytes), "moved"),
        (str(given.allocations), "allocations a step"),
        (size_text(given.arena), "arena"),
        (time_text(given.seconds), "to compile"),
    ]
    shown = "".join(
        f'<div class="card"><b>{escape(number)}</b><span>{escape(words)}</span></div>'
        for number, words in cards
    )
    more = (
        f" The function has {explanation.variants} compiled forms; this is the last used."
        if explanation.variants > 1
        else ""
    )
    words = f"What was built for {explanation.name}, and measured on this machine: {peak}.{more}"
    title = escape(explanation.name)
    return f'<h1>{title}</h1>\n<p>{escape(words)}</p>\n<div class="cards">{shown}</div>'


def _table(explanation: Explanation) -> str:
    heads = ("#", "stage", "operators", "where", "primitives", "operations", "bytes", "time",
             "of peak", "bound by", "tasks")  # fmt: skip
    texts = {2, 3}
    head = "".join(
        f'<th class="text">{title}</th>' if i in texts else f"<th>{title}</th>"
        for i, title in enumerate(heads)
    )
    longest = max((kernel.seconds for kernel in explanation.kernels), default=0.0) or 1.0
    rows = "\n".join(_row(kernel, longest) for kernel in explanation.kernels)
    words = (
        "Each kernel is one loop nest over its operands. Time is that of the thread that worked "
        "longest for it; the share of peak is what its operations, or its bytes, would take at "
        "best. Kernels whose data lies in caches may exceed 100 %."
    )
    table = (
        '<input type="search" id="filter" placeholder="filter: an operator, a file">\n'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n'
        "</tbody></table></div>"
    )
    return _section("kernels", "Kernels", words, table)


def _row(kernel: Kernel, longest: float) -> str:
    facts = kernel.facts
    width = f"{4 * kernel.seconds / longest:.2f}"
    cells: list[tuple[str, float | None]] = [
        (str(facts.number), facts.number),
        (str(facts.stage), facts.stage),
        (f'<span class="tag {role_of(facts)}"></span>{escape(facts.title)}', None),
        (escape(where_text(facts)), None),
        (str(len(facts.primitives)), len(facts.primitives)),
        (count_text(facts.flops), facts.flops),
        (size_text(facts.nbytes), facts.nbytes),
        (
            f'{time_text(kernel.seconds)}<span class="gauge">'
            f'<span class="bar" style="width:{width}rem"></span></span>',
            kernel.seconds,
        ),
        (f"{100 * kernel.share:.0f} %", kernel.share),
        (kernel.bound, None),
        (str(facts.tasks), facts.tasks),
    ]
    shown = "".join(
        f'<td class="text">{text}</td>'
        if i in (2, 3)
        else f"<td>{text}</td>"
        if value is None
        else f'<td data-value="{value!r}">{text}</td>'
        for i, (text, value) in enumerate(cells)
    )
    return f'<tr data-kernel="{facts.number}">{shown}</tr>'


def _graph(explanation: Explanation) -> str:
    words = (
        "A box is a kernel with the primitives that were fused into it; an arrow is memory that "
        "one writes and another reads. The bar below a box is its share of the step's time."
    )
    picture = kernel_graph(explanation)
    return _section("graph", "Graph", words, _legend() + picture)


def _timeline(explanation: Explanation) -> str:
    words = "One run of the step: the tasks of each thread."
    return _section("timeline", "Timeline", words, _legend() + timeline_chart(explanation))


def _memory(explanation: Explanation) -> str:
    plan = explanation.memory.plan
    words = (
        f"The arena has {size_text(plan.total)}: {size_text(plan.peak)} are needed at once, and "
        f"{size_text(plan.sum)} it would be without sharing. A bar is a buffer, from the stage "
        "that writes it to the last that reads it; the line is what each stage needs."
    )
    return _section("memory", "Memory", words, memory_chart(explanation))


def _passes(explanation: Explanation) -> str:
    longest = max(explanation.passes.values(), default=0.0) or 1.0
    rows = "".join(
        f'<span>{escape(name)}</span><span class="mono">{time_text(seconds)}</span>'
        f'<span class="bar" style="width:{100 * seconds / longest:.1f}%"></span>'
        for name, seconds in explanation.passes.items()
    )
    words = f"The passes of the compiler took {time_text(explanation.summary.seconds)}, once."
    return _section("passes", "Compiling", words, f'<div class="passes">{rows}</div>')


# -- what the page's program reads -------------------------------------------------------------


def _data(explanation: Explanation) -> dict[str, Any]:
    graphs: list[str] = []
    kernels: list[dict[str, Any]] = [{} for _ in explanation.kernels]
    for group in grouped(explanation.kernels):
        picture = inner_graph(group[0].facts)
        if picture is not None:
            graphs.append(picture)
        for kernel in group:
            number = len(graphs) - 1 if picture is not None else None
            kernels[kernel.facts.number] = _kernel(kernel, number, explanation.names)
    slowest = max(explanation.kernels, key=lambda kernel: kernel.seconds, default=None)
    addresses = {code for kernel in explanation.kernels for code in kernel.facts.codes}
    return {
        "kernels": kernels,
        "graphs": graphs,
        "codes": dict(_codes(addresses)),
        "first": 0 if slowest is None else slowest.facts.number,
    }


def _kernel(kernel: Kernel, graph: int | None, given: Mapping[int, str]) -> dict[str, Any]:
    facts = kernel.facts
    described = [
        ("what it is", f"{facts.kind}, in stage {facts.stage}, {facts.tasks} tasks"),
        ("operators", ", ".join(f"{name} ({count})" for name, count in facts.ops)),
        ("reads from outside", _named(facts.step.places_read, given)),
        ("writes for outside", _named(facts.step.places_written, given)),
        ("work", f"{facts.flops:,} operations"),
        ("memory", f"{facts.read:,} bytes read, {facts.written:,} written"),
        (
            "time",
            f"{time_text(kernel.seconds)}, {100 * kernel.share:.0f} % of peak ({kernel.bound})",
        ),
    ]
    names = ("the kernel", "the loop on each panel of its result")
    return {
        "title": facts.title,
        "facts": described,
        "lines": list(_source(kernel)),
        "primitives": facts.primitives,
        "graph": graph,
        "codes": [(name, str(code)) for name, code in zip(names, facts.codes, strict=False)],
    }


def _named(places: Iterable[Place], given: Mapping[int, str]) -> str:
    """Inputs and outputs of the program among some places."""
    bindings = [place.buffer.binding for place in places]
    names = [given.get(number, f"binding {number}") for number in bindings if number is not None]
    return ", ".join(dict.fromkeys(names)) or "nothing"


def _source(kernel: Kernel) -> Iterator[str]:
    """Each line that it comes from, with what stands there, if the file can be read."""
    titles: dict[str, dict[str, list[str]]] = {}
    for origin in kernel.facts.origins:
        within = titles.setdefault(origin.line, {}).setdefault(origin.within, [])
        within.append(origin.title)
    for line, places in titles.items():
        file, _, number = line.rpartition(":")
        text = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
        yield f"{line}    {text}".rstrip()
        for place, names in places.items():
            yield f"    {place or 'used there':<32} {', '.join(names)}"


def _codes(addresses: set[int]) -> Iterator[tuple[str, dict[str, str]]]:
    """The texts of kernels, packed."""
    for address in sorted(addresses):
        kernel = kernel_at(address)
        if kernel is None:
            continue
        intermediate, assembly = kernel.texts()
        yield (
            str(address),
            {"key": kernel.key, "ir": _packed(intermediate), "assembly": _packed(assembly)},
        )


def _packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
