"""`needle generate`: what a trained language model writes, and what cannot be asked of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import SMALL, WORDS, keep_it_short, train, write_data

import needle as ndl
from needle.cli.main import main
from needle.serialization import load_metadata

LINE = " ".join(WORDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each kind; the texts say one line again and again."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(folder)
        keep_it_short(patch)
        assert train(*SMALL["examples"], "--out", "examples") == 0
        Path("words.txt").write_text(f"{LINE}\n" * 60)
        gpt = ["--steps", "120", "--eval-every", "120", "--lr", "0.01", "--width", "32"]
        sizes = ["--context", "16", "--batch-size", "8", "--dropout", "0", "--quiet"]
        assert train(*SMALL["gpt"], *gpt, *sizes, "--out", "gpt") == 0
        lm = ["--lr", "0.02", "--embedding", "16", "--hidden", "16", "--layers", "1", "--quiet"]
        for model, epochs in (("lstm", "6"), ("transformer", "3")):
            options = [*lm, "--dropout", "0", "--model", model, "--epochs", epochs]
            assert train(*SMALL["lm"], *options, "--out", model) == 0
    return folder


def generated(capsys, *arguments: str) -> str:
    assert main(["generate", *map(str, arguments)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("run", ["gpt", "lstm", "transformer"])
def test_the_prompt_is_continued_as_the_text_goes_on(runs, run, capsys):
    text = generated(
        capsys, runs / run, "--prompt", "the cat sat on", "--temperature", "0", "--tokens", "8"
    )
    assert text.startswith("the cat sat on a mat")


def test_without_a_prompt_a_line_begins(runs, capsys):
    text = generated(capsys, runs / "lstm", "--tokens", "30", "--temperature", "0")
    assert text.startswith("the cat sat on a mat")
    assert f"\n{LINE}\n" in text


def test_tokens_says_how_much_is_written_beyond_the_context_too(runs, capsys):
    assert len(generated(capsys, runs / "gpt", "--prompt", "a", "--tokens", "70")) == 72
    words = generated(capsys, runs / "transformer", "--prompt", "a mat", "--tokens", "40")
    assert len(words.replace("\n", " <eos> ").split()) == 43  # the last line ends too


def test_the_seed_decides_what_is_drawn(runs, capsys):
    arguments = (runs / "gpt", "--prompt", "the", "--temperature", "3", "--tokens", "50")
    first, again = (generated(capsys, *arguments, "--seed", "1") for _ in range(2))
    assert first == again
    assert first != generated(capsys, *arguments, "--seed", "2")


@pytest.mark.parametrize("choice", [["--top-k", "1"], ["--top-p", "0.0001"]])
def test_the_likeliest_alone_is_chosen_among(runs, choice, capsys):
    arguments = (runs / "gpt", "--prompt", "the", "--tokens", "30")
    greedy = generated(capsys, *arguments, "--temperature", "0")
    assert generated(capsys, *arguments, "--temperature", "5", *choice) == greedy


def test_stop_is_the_last_that_is_written(runs, capsys):
    arguments = (runs / "lstm", "--prompt", "the cat", "--temperature", "0", "--stop", "on a")
    assert generated(capsys, *arguments) == "the cat sat on a\n"


def test_a_reader_who_has_enough_is_no_fault(runs):
    command = [sys.executable, "-m", "needle", "generate", str(runs / "lstm"), "--tokens", "9999"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_unknown_words_are_read_as_unk_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        Path(f"{name}.txt").write_text("the cat sat on a <unk>\n" * 20)
    keep_it_short(monkeypatch)
    train(*SMALL["lm"], "--data", ".", "--epochs", "1", "--out", "run", "--quiet")
    capsys.readouterr()
    assert main(["generate", "run", "--prompt", "the dog", "--tokens", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("the dog ")
    assert printed.err == "--prompt: 'dog' not known to the network, read as <unk>.\n"


def test_the_file_of_weights_is_as_good_as_its_folder(runs, capsys):
    options = ["--tokens", "5", "--top-p", "1"]
    first = generated(capsys, runs / "gpt", *options)
    assert generated(capsys, runs / "gpt" / "model.safetensors", *options) == first


def test_ctrl_c_ends_the_line_first(runs, monkeypatch, capsys):
    def pieces(*arguments, **options):
        yield "the"
        raise KeyboardInterrupt

    monkeypatch.setattr("needle.cli.generate.write_text", pieces)
    assert main(["generate", str(runs / "gpt")]) == 130
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("the\n", "needle generate: interrupted.\n")


# -- what cannot be asked ------------------------------------------------------------------------


def refused(capsys, *arguments) -> str:
    try:
        status = main(["generate", *map(str, arguments)])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("run", "prompt", "line"),
    [
        ("gpt", "ZQ", "--prompt: expected characters among the {} that the network knows, got "
         "'Z', 'Q'."),
        ("lstm", "the dog", "--prompt: expected words among the {} that the network knows, got "
         "'dog'."),
        ("gpt", "", "--prompt: expected text to go on from, got ''. Leave it out to begin a line."),
        ("lstm", " ", "--prompt: expected words to go on from, got ' '."),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_read_are_one_line(runs, run, prompt, line, capsys):
    vocabulary = json.loads((runs / run / "config.json").read_text())["data"]["vocabulary"]
    shown = refused(capsys, runs / run, "--prompt", prompt)
    assert shown == f"needle generate: {line.format(len(vocabulary))}"


def test_a_run_on_images_is_sent_to_predict_and_the_other_way_round(runs, capsys):
    assert refused(capsys, runs / "examples").endswith(
        "one that takes images. Ask it with needle predict."
    )
    assert main(["predict", str(runs / "gpt"), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"needle predict: RUN: expected a network that takes images, got {runs / 'gpt'}, one that "
        "takes text. Ask it with needle generate."
    )


def test_a_second_run_is_one_line(runs, capsys):
    assert refused(capsys, runs / "gpt", "other") == (
        "needle generate: expected RUN and options, got 'other' besides."
    )


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert "RUN: expected a run folder of needle train, got no " in refused(capsys, tmp_path)


WRONG = [
    ("--temperature", "-1", "--temperature: expected a finite number from 0 on, got '-1'."),
    ("--top-k", "0", "--top-k: expected a whole number from 1 on, got '0'."),
    ("--top-p", "2", "--top-p: expected a share between 0 and 1, got '2'."),
    ("--tokens", "many", "--tokens: expected a whole number from 1 on, got 'many'."),
]


@pytest.mark.parametrize(("option", "value", "line"), WRONG)
def test_options_outside_their_range_are_one_line(runs, option, value, line, capsys):
    assert refused(capsys, runs / "gpt", option, value) == f"needle generate: {line}"


EDITED = [
    ("data", "vocabulary", 3),
    ("data", "vocabulary", ""),
    ("model", "width", "wide"),
    ("model", "heads", 5),
    ("model", "colour", "red"),
]


@pytest.mark.parametrize(("part", "key", "value"), EDITED)
def test_edited_metadata_is_one_line(runs, tmp_path, part, key, value, capsys):
    path = runs / "gpt" / "model.safetensors"
    inside = json.loads(load_metadata(path)["needle"])
    inside[part][key] = value
    metadata = {"needle": json.dumps(inside)}
    ndl.save(ndl.load(path), tmp_path / "model.safetensors", metadata=metadata)
    assert refused(capsys, tmp_path).endswith("which does not say which network they are of.")


def test_weights_of_another_network_are_one_line(runs, tmp_path, capsys):
    metadata = load_metadata(runs / "gpt" / "model.safetensors")
    ndl.save({"w": np.ones(3)}, tmp_path / "model.safetensors", metadata=metadata)
    assert "expected the keys and shapes of GPT" in refused(capsys, tmp_path)


def test_truncated_weights_are_one_line(runs, tmp_path, capsys):
    whole = (runs / "gpt" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-10])
    assert "expected a whole safetensors file" in refused(capsys, tmp_path)
