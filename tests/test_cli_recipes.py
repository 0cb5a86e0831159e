"""`needle train cifar10`, `lm` and `gpt`: what they learn, print and leave behind."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    SMALL,
    WORDS,
    after_step,
    keep_it_short,
    records,
    train,
    weights,
    write_data,
    write_light_rows,
)
from conftest import SHARED_DATA

import needle as ndl
from needle.cli.main import main

TEXT_FILES = {
    "model.safetensors", "checkpoint.safetensors", "config.json", "metrics.jsonl", "samples.txt",
    "learning_curves.png",
}  # fmt: skip
CIFAR_FILES = TEXT_FILES - {"samples.txt"} | {"confusion_matrix.png", "graph.svg"}
RECIPES = ("cifar10", "lm", "gpt")


@pytest.fixture
def pictures():
    """Draw the PNGs, which takes most of the time of a short run; else they are left out."""
    pytest.importorskip("matplotlib", reason="draws the pictures")


@pytest.fixture(autouse=True)
def _beside_its_data(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    if "pictures" not in request.fixturenames:
        keep_it_short(monkeypatch)


# -- what they leave behind ----------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_folder_holds_all_about_the_run(recipe, pictures):
    assert train(*SMALL[recipe], "--out", "run") == 0
    expected = CIFAR_FILES if recipe == "cifar10" else TEXT_FILES
    assert {path.name for path in Path("run").iterdir()} == expected
    for path in Path("run").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    config = json.loads(Path("run/config.json").read_text())
    assert config["recipe"] == recipe
    assert config["options"]["seed"] == 0
    assert config["model"]["parameters"] == sum(v.size for v in weights("run").values()) - (
        buffers("run") if recipe == "cifar10" else 0
    )


def buffers(folder: str) -> int:
    """How many numbers of a network are running statistics."""
    return sum(value.size for name, value in weights(folder).items() if "running" in name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_bits(recipe):
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train(*SMALL[recipe], "--out", out, "--seed", seed, "--quiet") == 0
    first, second, other = (Path(out, "model.safetensors").read_bytes() for out in "abc")
    assert first == second
    assert first != other
    assert records("a") == records("b")


@pytest.mark.parametrize("recipe", ["lm", "gpt"])
def test_text_is_validated_and_sampled_after_each_round(recipe, capsys):
    train(*SMALL[recipe], "--out", "run")
    lines = records("run")
    when = "epoch" if recipe == "lm" else "step"
    assert [line[when] for line in lines] == ([1, 2] if recipe == "lm" else [4, 8])
    for line in lines:
        assert line["valid_perplexity"] == pytest.approx(np.exp(line["valid_loss"]))
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))
        assert line["complete"]
    assert lines[0]["lr"] > lines[1]["lr"] > 0
    samples = Path("run/samples.txt").read_text()
    printed = capsys.readouterr().out
    for line in lines:
        assert line["sample"] in samples
        assert all(part.strip() in printed for part in line["sample"].splitlines())


def test_a_folder_under_runs_is_named_after_text_and_model():
    train(*SMALL["lm"], "--quiet")
    (path,) = Path("runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-words-lstm", path.name)


# -- that they learn -----------------------------------------------------------------------------


def test_cifar10_is_learnt_and_images_are_recognised(capsys):
    image = pytest.importorskip("PIL.Image", reason="writes and reads images")
    Path("data").mkdir()
    write_light_rows(Path("data/cifar-10-batches-py"), count=20)
    options = ["--epochs", "10", "--batch-size", "10", "--no-augment", "--out", "run"]
    assert train("cifar10", *options) == 0
    assert records("run")[-1]["test_accuracy"] >= 0.9
    for label in (0, 7):
        pixels = np.full((32, 32, 3), 30, dtype=np.uint8)
        pixels[3 * label : 3 * label + 3] += 180
        image.fromarray(pixels).save(f"{label}.png")
    capsys.readouterr()
    assert main(["predict", "run", "0.png", "7.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["airplane", "horse"]


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn", "transformer"])
def test_every_sequence_model_learns(model):
    Path("words.txt").write_text(f"{' '.join(WORDS)}\n" * 60)
    sizes = ["--embedding", "16", "--hidden", "16", "--layers", "1", "--seq-len", "16"]
    options = ["--batch-size", "4", "--epochs", "6", "--lr", "0.02", "--dropout", "0"]
    assert train("lm", "--data", "words.txt", "--model", model, *sizes, *options, "--out", "r") == 0
    assert records("r")[-1]["valid_perplexity"] < 1.8  # of 13 words


def test_gpt_learns_a_text_by_heart(capsys):
    Path("words.txt").write_text(f"{' '.join(WORDS)}\n" * 60)
    options = ["--steps", "120", "--eval-every", "120", "--lr", "0.01", "--quiet", "--out", "run"]
    assert train(*SMALL["gpt"], *options, "--width", "16", "--dropout", "0", "--context", "32") == 0
    assert records("run")[-1]["valid_perplexity"] < 2.5


def test_a_folder_in_ptb_format_is_read_as_it_is():
    Path("ptb").mkdir()
    for name in ("train", "test"):
        Path("ptb", f"{name}.txt").write_text(" the cat sat on the <unk> \n" * 20)
    assert train(*SMALL["lm"], "--data", "ptb", "--out", "run") == 0
    about = json.loads(Path("run/config.json").read_text())["data"]
    assert about["vocabulary"] == ["the", "cat", "sat", "on", "<unk>", "<eos>"]
    assert about["examples"] == {"train": 140, "validation": 140}
    Path("ptb/valid.txt").write_text(" the cat sat on the <unk> \n" * 3)
    assert train(*SMALL["lm"], "--data", "ptb", "--out", "other") == 0
    about = json.loads(Path("other/config.json").read_text())["data"]
    assert about["examples"] == {"train": 140, "validation": 21, "test": 140}


@pytest.mark.slow
def test_shakespeare_is_learnt_in_a_few_steps():
    text = SHARED_DATA / "tinyshakespeare" / "input.txt"
    if not text.is_file():
        pytest.skip("tinyshakespeare is not beside this checkout (../shared/data/tinyshakespeare)")
    options = ["--steps", "40", "--eval-every", "40", "--width", "64", "--layers", "2"]
    assert train("gpt", "--data", str(text), *options, "--out", "run") == 0
    assert records("run")[-1]["valid_loss"] < 3.1  # of how often characters come alone: 3.3


# -- how they end --------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_loss_of_nan_stops_the_training_and_keeps_finite_weights(recipe, capsys, monkeypatch):
    def spoil(fit):
        parameter = fit.task.model.parameters()[-1]
        parameter.data = parameter.data * float("nan")

    after_step(monkeypatch, 2, spoil)
    assert train(*SMALL[recipe], "--out", "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"needle train: loss: expected a finite number, got nan in (epoch 1, )?step 3\. "
        r"Lower --lr \(it is .*\)\. The last finite weights are in run\.",
        line,
    )
    assert all(np.isfinite(value).all() for value in weights("run").values())


# -- what cannot be ------------------------------------------------------------------------------


def refused(capsys, *arguments: str) -> str:
    """The one line that is printed; no run folder is made."""
    try:
        status = train(*arguments, "--out", "run")
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert not Path("run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


UNUSABLE = [
    ([], "needle train {}: --data: expected a text to learn from, got none."),
    (["--data", "none.txt"], "train: --data: expected a text file at none.txt, got none."),
    (["--data", "empty.txt"], "train: --data: expected text, got empty.txt, which is empty."),
    (["--data", "binary.txt"], "train: --data: expected text in UTF-8, got binary.txt"),
    (["--data", "short.txt"], "needle train: --data: expected a text "),
]


@pytest.mark.parametrize("recipe", ["lm", "gpt"])
@pytest.mark.parametrize(("arguments", "line"), UNUSABLE)
def test_text_that_cannot_be_learnt_from_is_one_line(recipe, arguments, line, capsys):
    Path("empty.txt").write_text("")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    Path("short.txt").write_text("a b\nc\n")
    assert line.format(recipe) in refused(capsys, recipe, *arguments)


def test_a_text_shorter_than_the_context_says_so(capsys):
    Path("short.txt").write_text("to be or not to be " * 10)
    assert refused(capsys, "gpt", "--data", "short.txt") == (
        "needle train: --data: expected a text whose parts for training and validation have more "
        "than 64 characters each (--context), got 171 and 19 in short.txt."
    )


def test_a_text_of_one_character_says_so(capsys):
    Path("one.txt").write_text("a" * 2000)
    assert refused(capsys, "gpt", "--data", "one.txt") == (
        "needle train: --data: expected a text of two different characters or more, got one.txt, "
        "which has one."
    )


def test_a_text_of_fewer_words_than_columns_says_so(capsys):
    Path("short.txt").write_text("to be\n" * 20)
    assert refused(capsys, "lm", "--data", "short.txt", "--batch-size", "50").startswith(
        "needle train: --data: expected 100 words to train on or more (two rows of --batch-size) "
    )


def test_heads_that_do_not_divide_the_width_say_so(capsys):
    assert refused(capsys, "gpt", "--data", "words.txt", "--heads", "3") == (
        "needle train: --heads: expected a divisor of --width 128, got 3."
    )


@pytest.mark.parametrize("missing", ["train.txt", "test.txt"])
def test_a_ptb_folder_without_a_file_names_it(missing, capsys):
    Path("ptb").mkdir()
    for name in {"train.txt", "test.txt"} - {missing}:
        Path("ptb", name).write_text("the cat\n" * 50)
    line = refused(capsys, "lm", "--data", "ptb")
    assert line.endswith(f"expected a text file at ptb/{missing}, got none.")


def test_cifar10_that_is_not_there_says_where_it_is_to_be_had(capsys):
    Path("data").mkdir()
    assert refused(capsys, "cifar10") == (
        "needle train: --data-dir: expected a folder with cifar-10-batches-py, got data, which has "
        "none. Where there is a network, ndl.data.download_cifar10('data') fetches it."
    )


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x01("])
def test_a_truncated_cifar10_file_is_one_line(content, capsys):
    Path("cifar-10-batches-py/data_batch_2").write_bytes(content)
    assert "data_batch_2" in refused(capsys, *SMALL["cifar10"])


def test_a_missing_cifar10_file_is_named(capsys):
    Path("cifar-10-batches-py/data_batch_2").unlink()
    assert "cifar-10-batches-py/data_batch_2, got none." in refused(capsys, *SMALL["cifar10"])


def test_a_batch_of_more_images_than_there_are_is_refused(capsys):
    assert refused(capsys, *SMALL["cifar10"], "--batch-size", "21") == (
        "needle train: --batch-size: expected at most the 20 training images, got 21."
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_that_cannot_be_made_is_one_line(recipe, capsys):
    assert train(*SMALL[recipe], "--out", "words.txt/run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needle train: words.txt/run: ")


WORDS_NOT_UNDERSTOOD = [
    (["gtp"], "needle train: expected options, or a recipe: cifar10, lm, gpt; got 'gtp'. Did you "
     "mean gpt?"),
    (["gpt", "--layer", "2"], "needle train gpt: --layer: expected an option that exists. Did you "
     "mean --layers?"),
    (["gpt", "lm"], "needle train gpt: expected options only, got 'lm': it takes no arguments."),
    (["lm", "--model", "gpt"], "--model: expected lstm, gru, rnn, transformer; got 'gpt'."),
    (["cifar10", "--model", "resnet"], "resnet18; got 'resnet'. Did you mean resnet9?"),
    (["--layers", "2"], "--layers: expected a recipe first, lm or gpt: needle train lm --layers "
     "..."),
    (["--data", "words.txt"], "got 'words.txt'. For text: needle train gpt --data words.txt, or "
     "lm."),
    (["lm", "--vocabulary", "2"], "--vocabulary: expected a whole number from 3 on, got '2'."),
    (["--seed", "1", "gpt"], "expected the recipe first: needle train gpt ..."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "line"), WORDS_NOT_UNDERSTOOD)
def test_words_that_are_not_understood_are_one_line(arguments, line, capsys):
    assert refused(capsys, *arguments).endswith(line)


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_is_about_the_recipe(recipe, capsys):
    with pytest.raises(SystemExit) as ended:
        train(recipe, "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: needle train {recipe} ")
    assert "--resume RUN" in printed


def test_a_progress_bar_is_shown_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(*SMALL["gpt"], "--out", "run")
    assert "steps 1-4 of 8" in capsys.readouterr().err
    assert ndl.load("run/model.safetensors")
