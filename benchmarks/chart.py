"""A picture of a file of results: for each network, Needle's compiled step beside each contender's.

python benchmarks/chart.py results/networks.json networks.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw"]

# What is compared with, its colour and marker: told apart without colours too.
_SERIES = {
    "PyTorch, the faster of eager and torch.compile": ("#0b6e69", "o"),
    "JAX jit": ("#c2571a", "s"),
    "Needle, eager": ("#8a8f98", "D"),
}
_INK, _FAINT = "#22262b", "#d9dce0"
_OFFSETS = (0.0, 0.24, -0.24)  # of the series within a row


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Ratios of times with their quartiles, one row a network, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name, result in results.items() if "jit" in result["seconds"]]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.62 * len(names)), layout="constrained")
    axes.axvline(1, color=_INK, linewidth=1)
    for row, name in enumerate(names):
        _draw_row(axes, len(names) - 1 - row, results[name])
    _label(axes, [results[name]["title"] for name in names])
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _draw_row(axes: Any, height: int, result: Mapping[str, Any]) -> None:
    rivals = (result["best_of_torch"], "jax", "eager")
    for offset, rival, (color, marker) in zip(_OFFSETS, rivals, _SERIES.values(), strict=True):
        if rival not in result["ratios"]:
            continue
        low, median, high = result["ratios"][rival]
        y = height + offset
        axes.plot([low, high], [y, y], color=color, linewidth=3, alpha=0.45, solid_capstyle="round")
        axes.plot([median], [y], marker, color=color, markersize=7)
        if rival == result["best_of_torch"]:
            axes.annotate(
                f"{median:.2f}",
                (high, y),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=_INK,
                fontsize=9,
                fontweight="bold",
            )


def _label(axes: Any, titles: list[str]) -> None:
    from matplotlib.lines import Line2D

    axes.set_yticks(range(len(titles)), titles[::-1], color=_INK)
    axes.set_ylim(-0.6, len(titles) - 0.4)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5) if low <= t <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], color=_INK)
    axes.minorticks_off()
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel(
        "time of a training step: Needle jit / the other\n(bars: quartiles)", color=_INK
    )
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=3, label=label)
        for label, (color, marker) in _SERIES.items()
    ]
    axes.figure.legend(
        handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
