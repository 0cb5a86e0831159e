"""What `needle train` prints and draws, also where it cannot: closed pipes, NaN, ASCII."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cli_runs import SMALL, WORDS, after_step, keep_it_short, records, train, write_data

from needle.cli import checkpoint, plots
from needle.cli import train as training
from needle.cli.main import main
from needle.cli.options import parse
from needle.cli.recipes import recipe
from needle.cli.recipes.gpt import GptTask
from needle.cli.recipes.lm import LmTask


@pytest.fixture(autouse=True)
def _beside_its_data(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    if "pictures" not in request.fixturenames:
        keep_it_short(monkeypatch)


@pytest.fixture
def pictures():
    """Draw the PNGs, which takes most of the time of a short run; else they are left out."""
    pytest.importorskip("matplotlib", reason="draws the pictures")


def spoil(fit) -> None:
    parameter = fit.task.model.parameters()[-1]
    parameter.data = parameter.data * float("nan")


# -- where it is printed -------------------------------------------------------------------------


def needle(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "needle", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_reader_who_has_enough_does_not_stop_the_training():
    process = needle("train", *SMALL["gpt"], "--steps", "100", "--out", "run")
    assert process.stdout.readline().startswith("words: ")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert records("run")[-1]["step"] == 100
    assert checkpoint.read_plan("run").progress["steps"] == 100
    assert Path("run/model.safetensors").exists()


def test_no_reader_at_all_is_no_fault():
    process = needle("info")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_characters_that_stdout_lacks_are_question_marks(monkeypatch):
    Path("words.txt").write_text("\u00e9\u4e2d\n" * 400, encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert train(*SMALL["gpt"], "--out", "run") == 0
    out.flush()
    assert b"    ?" in out.buffer.getvalue()


def test_a_round_is_printed_when_its_checkpoint_is_there(monkeypatch):
    rounds = []

    def note(text):
        if text.startswith("step "):
            rounds.append(checkpoint.read_plan("run").progress["rounds"])

    monkeypatch.setattr(training, "say", note)
    train(*SMALL["gpt"], "--out", "run")
    assert rounds == [1, 2]


# -- what is printed -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [("lm", LmTask), ("gpt", GptTask)])
def test_the_network_is_evaluated_once_a_round(kind, task, monkeypatch):
    calls = []
    evaluate = task.evaluate
    monkeypatch.setattr(task, "evaluate", lambda self: calls.append(1) or evaluate(self))
    train(*SMALL[kind], "--out", "run")
    assert len(calls) == 2


def test_the_test_text_is_asked_at_the_end(capsys):
    train(*SMALL["lm"], "--out", "run")
    first, last = records("run")
    assert "test_loss" not in first
    assert last["test_perplexity"] == pytest.approx(np.exp(last["test_loss"]))
    lines = capsys.readouterr().out.splitlines()
    assert f"test loss {last['test_loss']:.4f} per word, perplexity " in lines[-2]


def test_the_test_loss_is_that_of_the_test_text():
    task = recipe("lm").prepare(parse(["train", *SMALL["lm"]])[1].options)
    before = task.tested()["test_loss"]
    task.test = task.valid
    assert task.tested()["test_loss"] == task.evaluate()["valid_loss"] != before


def test_samples_have_headings_and_lines_that_fit_a_page():
    Path("words.txt").write_text(" ".join(WORDS * 60) + "\n" + "the cat\n" * 40)
    task = recipe("lm").prepare(parse(["train", *SMALL["lm"]])[1].options)
    record = {"epoch": 3, "valid_loss": 2.5, "sample": " ".join(WORDS * 6) + "\nthe cat"}
    heading, empty, *lines = task.sample(record).splitlines()
    assert (heading, empty) == ("-- epoch 3, validation loss 2.5000 --", "")
    assert 80 < max(map(len, lines)) <= 90
    assert lines[-1] == "the cat"
    train(*SMALL["gpt"], "--out", "run")
    assert Path("run/samples.txt").read_text().startswith("-- step 4, validation loss ")


def test_unknown_words_are_never_written(capsys):
    Path("words.txt").write_text("a rare1 a rare2 a rare3 a rare4\n" * 60)
    options = ["--vocabulary", "3", "--epochs", "1"]
    assert train(*SMALL["lm"], *options, "--out", "run") == 0
    capsys.readouterr()
    assert main(["generate", "run", "--tokens", "200", "--temperature", "2"]) == 0
    assert set(capsys.readouterr().out.split()) == {"a"}


def test_huge_perplexities_are_short(capsys):
    task = recipe("gpt").prepare(parse(["train", *SMALL["gpt"]])[1].options)
    task._valid_loss = 650.0
    assert task.last_line().endswith("perplexity 1.97e+282") or len(task.last_line()) < 70
    assert "e+282" in task.last_line()


# -- how training begins -------------------------------------------------------------------------


def test_a_transformer_of_words_begins_near_chance():
    options = ["--model", "transformer", "--embedding", "64", "--hidden", "64"]
    task = recipe("lm").prepare(parse(["train", *SMALL["lm"], *options])[1].options)
    assert task.evaluate()["valid_loss"] < 1.25 * np.log(len(task.vocabulary))


@pytest.mark.parametrize(("steps", "warmup"), [(8, 0), (60, 6), (5000, 100)])
def test_the_warm_up_is_a_tenth_of_the_steps_at_most(steps, warmup):
    job = parse(["train", "gpt", "--data", "words.txt", "--steps", str(steps)])[1]
    assert job.options.warmup == warmup


def test_a_warm_up_that_never_ends_is_refused(capsys):
    with pytest.raises(SystemExit):
        train("gpt", "--data", "words.txt", "--steps", "60", "--warmup", "60")
    assert capsys.readouterr().err == (
        "needle train gpt: --warmup: expected fewer than the 60 steps, got 60.\n"
    )


# -- pictures ------------------------------------------------------------------------------------


def test_nan_before_the_first_evaluation_is_one_line(pictures, monkeypatch, capsys):
    after_step(monkeypatch, 1, spoil)
    assert train(*SMALL["gpt"], "--out", "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "got nan in step 2" in line
    assert Path("run/learning_curves.png").exists()


def test_a_failure_to_draw_does_not_hide_nan(monkeypatch, capsys):
    def fails(*arguments):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(plots, "text_curves", fails)
    after_step(monkeypatch, 1, spoil)
    assert train(*SMALL["gpt"], "--out", "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "got nan in step 2" in line


CIFAR_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip


@pytest.mark.parametrize("names", [CIFAR_CLASSES, [3 * name for name in CIFAR_CLASSES], "abc"])
def test_a_confusion_matrix_has_a_margin_on_all_sides(pictures, names):
    from matplotlib.image import imread

    classes = np.arange(40) % len(names)
    plots.confusion_matrix(classes, classes, list(names), Path("matrix.png"))
    pixels = imread("matrix.png")[..., :3]
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 1).all()


@pytest.mark.parametrize("span", [(0.3, 0.4), (1.7, 2.6), (6.2, 9.0), (1.0, 20.0), (1.0, 700.0)])
def test_labels_of_perplexities_lie_apart(pictures, span, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    history = [{"step": i, "loss": loss, "valid_loss": loss} for i, loss in enumerate(span[::-1])]
    plots.text_curves(history, "step", Path("curves.png"))
    figure = figures[0]
    figure.canvas.draw()
    axes = figure.axes[1]
    low, high = axes.get_ylim()
    labels = [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)]
    shown = [t for t in labels if t.get_text() and low <= t.get_position()[1] <= high]
    boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: box.y0)
    assert 2 <= len(boxes) <= 10
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))


@pytest.mark.parametrize(
    ("value", "text"), [(3.5, "3.5"), (1000, "1,000"), (200_000, "200,000"), (1e9, "1e+09")]
)
def test_numbers_on_axes_are_as_one_reads_them(value, text):
    assert plots.compact(value) == text


def test_config_says_nothing_of_one_call_alone():
    train(*SMALL["gpt"], "--out", "run", "--quiet")
    options = json.loads(Path("run/config.json").read_text())["options"]
    assert not {"out", "overwrite", "quiet"} & options.keys()
