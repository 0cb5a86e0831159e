"""The pictures of a training job. Matplotlib is imported when the first is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from needle.cli.task import Record
from needle.errors import MissingDependencyError
from needle.files import replacing

__all__ = ["confusion_matrix", "learning_curves", "text_curves"]

_TRAIN_COLOUR, _TEST_COLOUR, _GRID = "#2f6db5", "#c2621b", "#dddddd"
_HIGHEST = 100.0  # loss in nats whose perplexity is drawn; what is higher is beyond comparison
_MOST_LABELLED = 20  # classes; of more, the counts and most of the names would not be readable


def learning_curves(history: Sequence[Record], path: Path) -> None:
    """Loss and accuracy after each epoch, on training and on test data, as a PNG."""
    figure = _figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    losses = [record["loss"] for record in history], [record["test_loss"] for record in history]
    shares = (
        [100 * record["accuracy"] for record in history],
        [100 * record["test_accuracy"] for record in history],
    )
    _curves(left, epochs, losses)
    _curves(right, epochs, shares)
    left.set(title="Loss", ylabel="mean cross-entropy per example (nats)")
    left.set_ylim(0, 1.05 * max([*losses[0], *losses[1]], default=1.0))
    right.set(title=_best(history), ylabel="accuracy (% of examples)")
    _save(figure, path)


def text_curves(history: Sequence[Record], unit: str, path: Path) -> None:
    """Loss and perplexity after each round, on training and on validation text, as a PNG.

    unit  "epoch" or "step": what of a record says when it was
    """
    figure = _figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    when = [record[unit] for record in history]
    train, valid = ([record[name] for record in history] for name in ("loss", "valid_loss"))
    _curves(left, when, (train, valid), unit, "validation")
    perplexities = [list(np.exp(np.minimum(losses, _HIGHEST))) for losses in (train, valid)]
    _curves(right, when, (perplexities[0], perplexities[1]), unit, "validation")
    left.set(title="Loss", ylabel="mean cross-entropy per token (nats)")
    right.set(title="Perplexity", ylabel="exp(loss): as hard as a choice among so many")
    _log_scale(right)
    _save(figure, path)


def confusion_matrix(
    actual: np.ndarray[Any, Any],
    predicted: np.ndarray[Any, Any],
    class_names: Sequence[str],
    path: Path,
) -> None:
    """How often each class was taken for each, as a PNG; colour is the share of its row."""
    classes = len(class_names)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (actual, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.8, 2.2 + 0.45 * classes), 12.0)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right, of = int(np.trace(counts)), len(actual)
    axes.set(
        title=f"{right:,} of {of:,} test examples right ({100 * right / of:.1f} %)",
        xlabel="predicted class",
        ylabel="actual class",
    )
    _label_classes(axes, class_names)
    if classes <= _MOST_LABELLED:
        _write_counts(axes, counts, shares)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
    bar.set_label("share of the actual class")
    bar.outline.set_visible(False)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """A figure of width x height inches, drawn in memory: no window system is asked for."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingDependencyError(
            "pictures: expected matplotlib to be installed, got none, so no PNGs. "
            'Hint: pip install "needle-dl[demo]".'
        ) from error
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(width, height), dpi=130, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.15)


def _curves(
    axes: Any,
    when: list[int],
    values: tuple[list[float], list[float]],
    unit: str = "epoch",
    measured_on: str = "test",
) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(when) < 40 else None
    style = {"marker": marker, "markersize": 3.5, "linewidth": 1.8}
    axes.plot(when, values[0], color=_TRAIN_COLOUR, label="training", **style)
    axes.plot(when, values[1], color=_TEST_COLOUR, label=measured_on, **style)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = 0.5 if unit == "epoch" else 0.02 * max(when, default=50)
    axes.set_xlim(min(when, default=1) - margin, max(when, default=1) + margin)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _log_scale(axes: Any) -> None:
    """A logarithmic y axis with plain numbers: all of 2, 5, 10, ... only where they have room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lowest, highest = axes.get_ylim()  # of a linear axis: 0 to 1 if nothing is drawn
    if lowest > 0 or axes.lines[0].get_xdata().size:
        axes.set_yscale("log")
        lowest, highest = axes.get_ylim()
        decades = np.log10(highest / lowest)
        steps = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.7 else range(1, 10)
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())


def compact(value: float) -> str:
    """A number from 0 on as one reads it: 3.14, 1,250, 2.5e+08."""
    return f"{value:,.4g}" if value >= 1e6 else f"{value:,.6g}"


def _best(history: Sequence[Record]) -> str:
    if not history:
        return "Accuracy"
    return f"Accuracy (at the end {100 * history[-1]['test_accuracy']:.1f} % on test data)"


def _label_classes(axes: Any, class_names: Sequence[str]) -> None:
    if len(class_names) > 4 * _MOST_LABELLED:
        return
    ticks = range(len(class_names))
    short = [name if len(name) <= 16 else f"{name[:15]}…" for name in class_names]
    turned = 0 if max(map(len, short)) <= 3 else 45
    size = 10 if len(class_names) <= _MOST_LABELLED else 5
    axes.set_xticks(
        ticks, short, rotation=turned, ha="right" if turned else "center", fontsize=size
    )
    axes.set_yticks(ticks, short, fontsize=size)


def _write_counts(axes: Any, counts: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{count:,}" if count else "·",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.5 else "#333333",
            fontweight="normal" if row == column or not count else "bold",
        )
