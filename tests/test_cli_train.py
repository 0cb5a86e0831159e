"""`needle train`: what it prints, what it leaves behind, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from data_files import write_idx

import needle as ndl
from needle.cli import plots
from needle.cli.datasets import hold_out
from needle.cli.fit import Fit, interrupt_after_step
from needle.cli.main import main
from needle.cli.options import parse
from needle.cli.recipes import recipe
from needle.cli.run_folder import RunFolder
from needle.cli.task import Progress
from needle.errors import OptionError, OutOfRangeError

FILES = {
    "model.safetensors", "config.json", "metrics.jsonl", "learning_curves.png",
    "confusion_matrix.png", "graph.svg",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def pictures():
    """Draw the PNGs, which takes most of the time of a short run; else they are left out."""
    pytest.importorskip("matplotlib", reason="draws the pictures")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "learning_curves", lambda *arguments: None)
        monkeypatch.setattr(plots, "confusion_matrix", lambda *arguments: None)


def images_file(name: str = "squares.npz", count: int = 60) -> str:
    """4 x 4 images of three classes: which row is bright."""
    draw = np.random.RandomState(0)
    y = np.arange(count) % 3
    x = draw.randint(0, 60, size=(count, 4, 4)).astype(np.uint8)
    x[np.arange(count), y] += 180
    np.savez(name, X=x, y=y)
    return name


def train(*arguments: str) -> int:
    return main(["train", *arguments])


def records(folder: str) -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


# -- what it leaves behind -----------------------------------------------------------------------


def test_digits_are_learnt_to_97_percent_by_default(pictures, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    assert train("--out", "run") == 0
    assert {path.name for path in Path("run").iterdir()} == FILES
    assert records("run")[-1]["test_accuracy"] >= 0.97
    printed = capsys.readouterr().out
    assert re.search(r"^9[789]\.\d % of 359 test examples right$", printed, re.MULTILINE)


@pytest.mark.slow
def test_mnist_of_which_only_the_test_files_are_there_is_divided(shared_mnist):
    data = ["--data", "mnist", "--data-dir", str(shared_mnist)]
    assert train(*data, "--epochs", "5", "--out", "run") == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["data"]["examples"] == {"train": 8000, "test": 2000}
    assert records("run")[-1]["test_accuracy"] >= 0.94


def test_mnist_with_all_four_files_trains_on_one_pair_and_tests_on_the_other():
    draw = np.random.RandomState(0)
    for part, count in (("train", 30), ("t10k", 10)):
        images = draw.randint(0, 256, size=(count, 28, 28))
        write_idx(Path(f"{part}-images-idx3-ubyte.gz"), images)
        write_idx(Path(f"{part}-labels-idx1-ubyte"), np.arange(count) % 10, gzipped=False)
    assert train("--data", "mnist", "--data-dir", ".", "--epochs", "1", "--out", "run") == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["data"]["examples"] == {"train": 30, "test": 10}


def test_the_folder_holds_all_about_the_run(pictures):
    assert train("--data", images_file(), "--epochs", "3", "--out", "run", "--hidden", "8") == 0
    assert {path.name for path in Path("run").iterdir()} == FILES
    for name in ("learning_curves.png", "confusion_matrix.png"):
        assert Path("run", name).read_bytes().startswith(PNG)
    picture = Path("run/graph.svg").read_text()
    ElementTree.fromstring(picture)
    for name in ("linear1.weight", "linear2.bias", "examples", "class ids", "logits", "loss"):
        assert f">{name}<" in picture


def test_config_says_what_was_done():
    train("--data", images_file(), "--epochs", "2", "--out", "run", "--seed", "5")
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["seed"] == 5
    assert config["options"]["optimizer"] == "adam"
    assert config["options"]["batch_size"] == 32
    assert config["model"]["parameters"] == 16 * 128 + 128 + 128 * 3 + 3
    assert config["data"]["shape"] == [4, 4]
    assert config["data"]["class_names"] == ["0", "1", "2"]
    assert config["data"]["scale"] == pytest.approx(1 / 255)
    assert config["versions"]["needle"] == ndl.__version__


def test_metrics_hold_a_line_per_epoch():
    train("--data", images_file(), "--epochs", "4", "--out", "run")
    lines = records("run")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["complete"] and line["examples"] == 48 for line in lines)
    assert all(line["examples_per_second"] > 0 for line in lines)


def test_without_out_a_new_folder_is_made_under_runs():
    for _ in range(2):
        assert train("--data", images_file(), "--epochs", "1", "--quiet") == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert len(names) == 2
    for name in names:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-squares-two-layer(-2)?", name)


def test_two_runs_in_one_second_get_two_folders(monkeypatch):
    folders = {RunFolder.create(None, False, "digits", "two-layer").path for _ in range(3)}
    assert len(folders) == 3


@pytest.mark.parametrize("model", ["two-layer", "mlp-resnet"])
def test_the_same_seed_gives_the_same_bits(model):
    common = ["--data", images_file(), "--epochs", "2", "--model", model, "--hidden", "8"]
    for out, seed, workers in (("a", "1", "0"), ("b", "1", "2"), ("c", "2", "0")):
        train(*common, "--out", out, "--seed", seed, "--workers", workers)
    first, second, other = (Path(out, "model.safetensors").read_bytes() for out in "abc")
    assert first == second
    assert first != other


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lion"])
def test_every_optimiser_learns(optimizer):
    data = images_file(count=120)
    assert train("--data", data, "--optimizer", optimizer, "--epochs", "15", "--out", "run") == 0
    lines = records("run")
    assert lines[-1]["test_loss"] < 0.7 * lines[0]["test_loss"]


def test_momentum_reaches_the_optimiser():
    for out, momentum in (("a", "0"), ("b", "0.5")):
        common = ["--data", images_file(), "--epochs", "1", "--optimizer", "sgd"]
        assert train(*common, "--momentum", momentum, "--out", out) == 0
    assert records("a")[0]["loss"] != records("b")[0]["loss"]


# -- what it prints ------------------------------------------------------------------------------


def test_a_header_then_a_line_per_epoch_then_where_it_all_is(capsys):
    train("--data", images_file(), "--epochs", "2", "--out", "run", "--hidden", "4")
    header, first, second, accuracy, folder = capsys.readouterr().out.splitlines()
    assert header == (
        "squares: 48 examples to train on, 12 to test; two-layer: 83 parameters; "
        "adam, lr 0.002, batches of 32"
    )
    shape = (
        r"epoch {}/2  loss \d\.\d{{4}}  accuracy +[\d.]+ %  "
        r"test loss \d\.\d{{4}}  test accuracy +[\d.]+ %  [\d,]+ examples/s"
        r"(, after [\d.]+ s of compiling)?"
    )
    assert re.fullmatch(shape.format(1), first)
    assert re.fullmatch(shape.format(2), second)
    assert re.fullmatch(r"[\d.]+ % of 12 test examples right", accuracy)
    assert folder == "run folder: run"


def test_quiet_leaves_the_last_lines(capsys):
    train("--data", images_file(), "--epochs", "2", "--out", "run", "--quiet")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err == ""


def test_without_matplotlib_everything_but_the_pictures_is_there(pictures, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train("--data", images_file(), "--epochs", "1", "--out", "run") == 0
    assert {path.name for path in Path("run").iterdir()} == {n for n in FILES if ".png" not in n}
    assert 'pip install "needle-dl[demo]"' in capsys.readouterr().out


# -- how it ends ---------------------------------------------------------------------------------


def test_a_loss_of_nan_stops_the_training_and_keeps_finite_weights(capsys):
    status = train("--data", images_file(), "--lr", "1e30", "--out", "run", "--epochs", "3")
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"needle train: loss: expected a finite number, got (nan|inf) in epoch 1, step 2\. "
        r"Lower --lr \(it is 1e\+30\)\. The last finite weights are in run\.",
        line,
    )
    state = ndl.load("run/model.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in state.values())


def test_a_test_loss_of_nan_stops_the_training_too(capsys):
    data = images_file(count=20)  # one step per epoch: the loss of its batch is still finite
    status = train("--data", data, "--lr", "1e30", "--out", "run", "--batch-size", "16")
    assert status == 1
    assert "on the test data after epoch 1" in capsys.readouterr().err
    state = ndl.load("run/model.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in state.values())


def test_ctrl_c_ends_after_the_step_and_keeps_what_was_learnt():
    data = images_file(count=300)
    command = [sys.executable, "-m", "needle", "train", "--data", data, "--epochs", "100000"]
    process = subprocess.Popen(
        [*command, "--out", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == ""
    assert "Interrupted: what was learnt until then is kept." in out
    assert "run folder: run" in out
    assert {"model.safetensors", "config.json", "metrics.jsonl", "graph.svg"} <= {
        path.name for path in Path("run").iterdir()
    }
    assert len(records("run")) >= 2


def test_an_interrupted_epoch_is_recorded_as_incomplete_and_can_be_gone_on_with():
    class Stop:
        requested = False

    stop, seen, between = Stop(), [], []
    task = recipe("examples").prepare(
        parse(["train", "--data", images_file(), "--epochs", "2", "--batch-size", "8"])[1].options
    )
    arguments = task.arguments

    def arguments_and_ctrl_c(batch):
        stop.requested = True
        return arguments(batch)

    task.arguments = arguments_and_ctrl_c
    fit = Fit(task, Progress(), stop, seen.append, between.append)
    fit.run()
    assert [(r["epoch"], r["examples"], r["complete"]) for r in seen] == [(1, 8, False)]
    assert between == [False]
    assert fit.progress.in_round == 1


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), interrupt_after_step() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- run folders ---------------------------------------------------------------------------------


def test_a_folder_that_holds_files_is_left_alone(capsys):
    Path("run").mkdir()
    Path("run/thesis.txt").write_text("all of it")
    assert train("--data", images_file(), "--out", "run") == 2
    assert capsys.readouterr().err == (
        "needle train: --out: expected a new or an empty folder, got run, which holds files. "
        "Add --overwrite to write into it.\n"
    )
    assert [path.name for path in Path("run").iterdir()] == ["thesis.txt"]


def test_overwrite_replaces_the_files_of_a_run_and_no_others():
    common = ["--data", images_file(), "--out", "run", "--epochs"]
    train(*common, "3")
    Path("run/thesis.txt").write_text("all of it")
    assert train(*common, "1", "--overwrite") == 0
    assert len(records("run")) == 1
    assert Path("run/thesis.txt").read_text() == "all of it"


def test_nothing_is_made_when_the_data_is_at_fault(capsys):
    assert train("--data", "none.npz", "--out", "run") == 2
    assert not Path("run").exists()


def test_out_that_is_a_file_is_one_line(capsys):
    Path("run").write_text("a file")
    assert train("--data", images_file(), "--out", "run") == 2
    assert capsys.readouterr().err == "needle train: run: File exists.\n"


# -- which examples are held out -----------------------------------------------------------------


def test_held_out_examples_do_not_depend_on_numpys_stream():
    x, y = np.arange(50)[:, None], np.arange(50) % 5
    first = hold_out(x, y, 0.2)
    np.random.seed(99)
    again = hold_out(x, y, 0.2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_each_class_gives_its_share_to_the_test():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    x = np.arange(160)[:, None]
    train_x, train_y, test_x, test_y = hold_out(x, y, 0.2)
    assert np.bincount(test_y).tolist() == [20, 10, 2]
    assert sorted([*train_x[:, 0], *test_x[:, 0]]) == list(range(160))
    assert len(train_y) == 128


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(OptionError, match="leaves examples on both sides"):
        hold_out(np.zeros((5, 1)), np.zeros(5), share)


def test_holdout_changes_how_many_digits_are_held_out():
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    train("--holdout", "0.5", "--epochs", "1", "--out", "run")
    config = json.loads(Path("run/config.json").read_text())
    assert config["data"]["examples"] == {"train": 899, "test": 898}


# -- pictures ------------------------------------------------------------------------------------


def test_holdout_that_is_not_used_is_said(capsys):
    draw = np.random.RandomState(0)
    x, y = draw.rand(12, 3), np.arange(12) % 2
    np.savez("pair.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    arguments = ["--data", "pair.npz", "--epochs", "1", "--overwrite", "--out", "run", "--quiet"]
    train(*arguments)
    assert capsys.readouterr().err == ""
    train(*arguments, "--holdout", "0.3")
    assert capsys.readouterr().err == (
        "needle train: --holdout: not used, as pair.npz has a test set of its own.\n"
    )


def test_pictures_of_nothing_and_of_many_classes_are_drawn(pictures):
    plots.learning_curves([], Path("none.png"))
    record = {"epoch": 1, "loss": 2.0, "accuracy": 0.1, "test_loss": 2.0, "test_accuracy": 0.1}
    plots.learning_curves([record], Path("one.png"))
    for classes in (2, 25, 120):
        ids = np.arange(classes)
        names = [f"a class with a long name {number}" for number in ids]
        plots.confusion_matrix(ids, ids[::-1], names, Path(f"{classes}.png"))
    assert all(path.read_bytes().startswith(PNG) for path in Path().glob("*.png"))
    assert len(list(Path().glob("*.png"))) == 5


def test_labels_out_of_range_reach_the_user_as_one_line(capsys):
    np.savez("bad.npz", X=np.ones((4, 2)), y=np.array([0, 1, -1, 0]))
    assert train("--data", "bad.npz") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "needle train: bad.npz: expected labels 0..C-1 in y, got -1."
    assert issubclass(OutOfRangeError, IndexError)
