"""Two pictures of an explanation's page: when which thread did what, and what lay where."""

from __future__ import annotations

from html import escape

from needle.inspection.explanation import Explanation
from needle.inspection.page_graph import role_of
from needle.inspection.words import size_text, time_text
from needle.program.plan_memory import Span

__all__ = ["memory_chart", "timeline_chart"]

_WIDTH = 1200.0
_ROW, _GAP, _AXIS = 34.0, 10.0, 24.0
_HEIGHT = 320.0
_SMALLEST = 0.6  # of a task's width, so that it can be seen


def timeline_chart(explanation: Explanation) -> str:
    """Tasks of one run: a row for each thread, time to the right."""
    tasks = explanation.timing.tasks
    threads = 1 + max((task[3] for task in tasks), default=0)
    wall = max((task[2] for task in tasks), default=0.0) or 1e-9
    scale = _WIDTH / wall
    height = threads * (_ROW + _GAP) + _AXIS
    parts = _ticks(wall, scale, height)
    for number, begin, end, thread in tasks:
        kernel = explanation.kernels[number]
        words = f"kernel {number}: {kernel.facts.title}\n{time_text(end - begin)}"
        parts.append(
            f'<rect class="solid {role_of(kernel.facts)}" data-kernel="{number}" '
            f'x="{begin * scale:.2f}" y="{thread * (_ROW + _GAP):.1f}" '
            f'width="{max((end - begin) * scale, _SMALLEST):.2f}" height="{_ROW}">'
            f"<title>{escape(words)}</title></rect>"
        )
    return _view(f"0 0 {_WIDTH:g} {height:g}", parts, height, "x")


def memory_chart(explanation: Explanation) -> str:
    """Buffers of the arena: stages to the right, addresses upwards."""
    plan = explanation.memory.plan
    total, stages = max(plan.total, 1), max(plan.stages, 1)
    across, up = _WIDTH / stages, _HEIGHT / total
    parts = [
        f'<line class="axis" x1="0" y1="{_HEIGHT:g}" x2="{_WIDTH:g}" y2="{_HEIGHT:g}"/>',
        f'<text class="soft" x="4" y="{_HEIGHT + 16:g}">stage 0</text>',
        f'<text class="soft" x="{_WIDTH - 4:g}" y="{_HEIGHT + 16:g}" text-anchor="end">'
        f"stage {stages - 1}</text>",
    ]
    roles = {
        place.buffer: role_of(kernel.facts)
        for kernel in explanation.kernels
        for place in kernel.facts.step.places_written
    }
    for span in plan.spans.values():
        parts.append(_buffer(span, roles.get(span.buffer, "other"), across, up))
    points = " ".join(
        f"{x:.2f},{_HEIGHT - needed * up:.2f}"
        for stage, needed in enumerate(plan.needed())
        for x in (stage * across, (stage + 1) * across)
    )
    parts.append(f'<polyline class="needed" points="{points}"/>')
    return _view(f"0 -4 {_WIDTH:g} {_HEIGHT + 28:g}", parts, _HEIGHT + 28, "x")


def _buffer(span: Span, role: str, across: float, up: float) -> str:
    stages = f"stages {span.first} to {span.last}"
    words = f"{size_text(span.buffer.nbytes)} at {span.offset:,}, {stages}\n{span.title}"
    nbytes = span.buffer.nbytes
    return (
        f'<rect class="box {role}" x="{span.first * across + 0.5:.2f}" '
        f'y="{_HEIGHT - (span.offset + nbytes) * up:.2f}" '
        f'width="{max((span.last - span.first + 1) * across - 1, _SMALLEST):.2f}" '
        f'height="{max(nbytes * up, _SMALLEST):.2f}" '
        f'style="stroke-width:.6" vector-effect="non-scaling-stroke">'
        f"<title>{escape(words)}</title></rect>"
    )


def _ticks(wall: float, scale: float, height: float) -> list[str]:
    """A line at every round moment."""
    step = 10.0**-12
    while wall / step > 10:
        step *= 2.5 if f"{step:.0e}".startswith("2") else 2
        if f"{step:.1e}".startswith(("4", "8")):  # 1, 2, 5, 10
            step *= 1.25
    parts, moment = [], 0.0
    while moment <= wall:
        x = moment * scale
        parts.append(f'<line class="axis" x1="{x:.2f}" y1="0" x2="{x:.2f}" y2="{height - 14:g}"/>')
        label = time_text(moment) if moment else "0"
        parts.append(f'<text class="soft" x="{x + 3:.2f}" y="{height - 4:g}">{label}</text>')
        moment += step
    return parts


def _view(box: str, parts: list[str], height: float, axes: str) -> str:
    inner = "\n".join(parts)
    return (
        f'<div class="view" tabindex="0" data-axes="{axes}"><svg viewBox="{box}" '
        f'preserveAspectRatio="none" style="height:{height:g}px">\n{inner}\n</svg></div>'
    )
