"""`needle train --resume`: an interrupted run goes on as if it had never stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_runs import (
    SMALL,
    after_step,
    keep_it_short,
    kill,
    press_ctrl_c,
    records,
    train,
    weights,
    write_data,
)

import needle as ndl
from needle.cli import checkpoint, plots
from needle.serialization import load_metadata

CHECKPOINT = Path("run/checkpoint.safetensors")


@pytest.fixture(autouse=True)
def _beside_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    keep_it_short(monkeypatch)


def same_runs(first: str, second: str) -> bool:
    a, b = weights(first), weights(second)
    same = a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    return same and records(first) == records(second)


def interrupted(name: str, step: int, happens=press_ctrl_c, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, step, happens)
        return train(*SMALL[name], "--out", "run", *options)


# -- the same as without the interruption --------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("step", [1, 5])
def test_a_run_that_ctrl_c_ended_goes_on_to_the_same_bits(name, step):
    assert interrupted(name, step) == 130
    assert train("--resume", "run") == 0
    train(*SMALL[name], "--out", "whole")
    assert same_runs("run", "whole")


@pytest.mark.parametrize("name", ["cifar10", "lm", "gpt"])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(name):
    assert interrupted(name, 7, kill, "--save-every", "3") == 130
    progress = checkpoint.read_plan("run").progress
    assert progress["steps"] == 6
    assert train(*SMALL[name][:1], "--resume", "run") == 0
    train(*SMALL[name], "--out", "whole")
    assert same_runs("run", "whole")


@pytest.mark.parametrize("name", ["cifar10", "lm", "gpt"])
def test_a_run_that_was_killed_in_an_evaluation_goes_on_with_that(name):
    def next_evaluation_fails(fit):
        fit.task.evaluate = lambda: kill(fit)

    assert interrupted(name, 1, next_evaluation_fails, "--save-every", "1") == 130
    plan = checkpoint.read_plan("run")
    assert plan.progress["rounds"] == 0
    assert plan.progress["in_round"] == plan.progress["steps"] > 1
    assert train("--resume", "run") == 0
    train(*SMALL[name], "--out", "whole")
    assert same_runs("run", "whole")


@pytest.mark.parametrize("model", ["rnn", "gru", "transformer"])
def test_every_sequence_model_goes_on_to_the_same_bits(model):
    name = ["--model", model]
    assert interrupted("lm", 2, press_ctrl_c, *name) == 130
    assert train("--resume", "run") == 0
    train(*SMALL["lm"], *name, "--out", "whole")
    assert same_runs("run", "whole")


def test_shuffling_and_augmentation_go_on_with_threads_that_load():
    assert interrupted("cifar10", 3) == 130
    assert train("--resume", "run", "--workers", "2") == 0
    train(*SMALL["cifar10"], "--out", "whole")
    assert same_runs("run", "whole")


def test_a_finished_run_goes_on_when_more_is_asked_for():
    train(*SMALL["cifar10"], "--out", "run")
    assert train("--resume", "run", "--epochs", "3") == 0
    assert [record["epoch"] for record in records("run")] == [1, 2, 3]
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["epochs"] == 3


def test_steps_that_end_between_evaluations_go_on_to_the_next():
    train(*SMALL["gpt"], "--steps", "6", "--out", "run")
    assert train("--resume", "run", "--steps", "12") == 0
    assert [record["step"] for record in records("run")] == [4, 6, 10, 12]


def test_a_run_of_seconds_writes_a_checkpoint_only_when_it_is_interrupted():
    train(*SMALL["examples"], "--out", "whole")
    assert not Path("whole/checkpoint.safetensors").exists()
    interrupted("examples", 1)
    assert CHECKPOINT.exists()
    train("--resume", "run")
    assert checkpoint.read_plan("run").progress["rounds"] == 2


def test_going_on_does_not_need_the_folder_that_it_was_begun_in(tmp_path, monkeypatch, capsys):
    interrupted("gpt", 2)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert train("--resume", "../run") == 2
    assert "expected a text file at words.txt, got none" in capsys.readouterr().err
    assert train("--resume", "../run", "--data", "../words.txt") == 0


def test_a_finished_run_gets_its_weights_and_pictures_again(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plots, "text_curves", lambda *arguments: drawn.append(arguments[0]))
    train(*SMALL["gpt"], "--out", "run")
    first = weights("run")
    Path("run/model.safetensors").unlink()
    capsys.readouterr()
    assert train("--resume", "run") == 0
    assert "all steps are done: weights and pictures are written once more. Say --steps with " in (
        capsys.readouterr().out
    )
    assert len(drawn) == 2 and drawn[0] == drawn[1]
    assert all(np.array_equal(first[name], value) for name, value in weights("run").items())


def test_a_run_that_was_killed_while_it_drew_is_drawn_when_it_is_resumed(monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "text_curves", killed)
        assert train(*SMALL["lm"], "--out", "run") == 130
    monkeypatch.setattr(plots, "text_curves", lambda *arguments: Path("drawn").touch())
    assert train("--resume", "run") == 0
    assert Path("drawn").exists()
    assert "test_loss" in records("run")[-1]


def test_a_longer_schedule_says_how_the_learning_rate_goes_on(capsys):
    train(*SMALL["gpt"], "--out", "run")
    capsys.readouterr()
    train("--resume", "run", "--steps", "16")
    line = capsys.readouterr().out.splitlines()[1]
    assert re.fullmatch(
        r"the learning rate, 0\.0002 until here, goes on from 0\.00\d+, as the schedule is that of "
        r"the longer run",
        line,
    )


def test_the_beginnings_of_files_that_a_killed_run_left_are_deleted():
    interrupted("gpt", 3)
    left, other = Path("run/.checkpoint.safetensors.0a1b2c3d.tmp"), Path("run/.mine.tmp")
    left.touch()
    other.touch()
    train("--resume", "run")
    assert not left.exists() and other.exists()


def test_another_test_text_is_other_data(capsys):
    Path("ptb").mkdir()
    for name in ("train", "valid", "test"):
        Path("ptb", f"{name}.txt").write_text("the cat sat on a mat\n" * 20)
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, 1, press_ctrl_c)
        train(*SMALL["lm"], "--data", "ptb", "--out", "run")
    Path("ptb/test.txt").write_text("a mat sat on the cat\n" * 20)
    assert refused(capsys, "--resume", "run").endswith("begun with, got other data.")


# -- what cannot be gone on with -----------------------------------------------------------------


def refused(capsys, *arguments: str) -> str:
    """The one line that is printed; nothing in the folder changes."""
    before = {path: path.read_bytes() for path in Path("run").glob("*")}
    capsys.readouterr()
    assert train(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert {path: path.read_bytes() for path in Path("run").glob("*")} == before
    return line


def test_other_options_are_refused(capsys):
    interrupted("gpt", 1)
    assert refused(capsys, "gpt", "--resume", "run", "--width", "16") == (
        "needle train: --width: expected 8, as run was begun with, got 16. Leave it out, or begin "
        "another run without --resume."
    )
    for option, value in (("--seed", "3"), ("--batch-size", "9")):
        assert refused(capsys, "--resume", "run", option, value).startswith(
            f"needle train: {option}: expected "
        )


def test_another_recipe_is_refused(capsys):
    interrupted("gpt", 1)
    assert refused(capsys, "lm", "--resume", "run") == (
        "needle train: --resume: expected a run of needle train lm, got run, one of gpt."
    )


def test_fewer_steps_than_are_done_are_refused(capsys):
    train(*SMALL["gpt"], "--out", "run")
    assert refused(capsys, "--resume", "run", "--steps", "5") == (
        "needle train: --steps: expected 8 or more, which run has done, got 5."
    )


@pytest.mark.parametrize("option", [["--out", "other"], ["--overwrite"]])
def test_another_folder_is_refused(option, capsys):
    interrupted("gpt", 1)
    assert refused(capsys, "--resume", "run", *option) == (
        f"needle train: {option[0]}: not with --resume, which goes on in the run's folder."
    )


def test_other_data_is_refused(capsys):
    interrupted("gpt", 1)
    text = Path("words.txt").read_text()
    Path("words.txt").write_text(text.replace("cat", "act"))
    assert refused(capsys, "--resume", "run") == (
        "needle train: --resume: expected the data that run was begun with, got other data."
    )
    Path("words.txt").unlink()
    assert "got none" in refused(capsys, "--resume", "run")


def test_other_images_are_refused(capsys):
    interrupted("cifar10", 1)
    file = Path("cifar-10-batches-py/data_batch_3")
    file.write_bytes(Path("cifar-10-batches-py/data_batch_4").read_bytes())
    assert refused(capsys, "--resume", "run").endswith("begun with, got other data.")


def test_another_mode_is_refused(capsys, monkeypatch):
    interrupted("gpt", 1)
    monkeypatch.setattr(checkpoint, "BACKEND", "other")
    assert refused(capsys, "--resume", "run") == (
        f"needle train: --resume: expected NEEDLE_BACKEND={ndl.BACKEND}, as run was begun with, "
        "got other."
    )


def test_what_is_no_run_is_refused(capsys):
    Path("run").mkdir()
    no_checkpoint = "--resume: expected a run folder of needle train with a checkpoint, got no "
    assert no_checkpoint in refused(capsys, "--resume", "run")
    assert no_checkpoint in refused(capsys, "gpt", "--resume", "nowhere")


def test_a_truncated_checkpoint_is_refused(capsys):
    interrupted("gpt", 1)
    CHECKPOINT.write_bytes(CHECKPOINT.read_bytes()[:-10])
    assert "expected a whole safetensors file" in refused(capsys, "--resume", "run")


FOREIGN = [
    {},
    {"needle": "no json"},
    {"needle": "[]"},
    {"needle": '{"recipe": "gpt"}'},
]


@pytest.mark.parametrize("metadata", FOREIGN)
def test_a_foreign_checkpoint_is_refused(capsys, metadata):
    Path("run").mkdir()
    ndl.save({"w": np.ones(3)}, CHECKPOINT, metadata=metadata)
    assert "expected a checkpoint that needle train wrote, got run" in refused(
        capsys, "--resume", "run"
    )


def edit_plan(change) -> None:
    plan = json.loads(load_metadata(CHECKPOINT)["needle"])
    change(plan)
    ndl.save(ndl.load(CHECKPOINT), CHECKPOINT, metadata={"needle": json.dumps(plan)})


EDITED = [
    lambda plan: plan.update(recipe="knitting"),
    lambda plan: plan["options"].pop("width"),
    lambda plan: plan["options"].update(colour=3),
    lambda plan: plan["progress"].pop("steps"),
]


@pytest.mark.parametrize("change", EDITED)
def test_an_edited_checkpoint_is_refused(capsys, change):
    interrupted("gpt", 1)
    edit_plan(change)
    assert "expected a checkpoint" in refused(capsys, "--resume", "run")


def test_a_checkpoint_of_another_network_is_refused(capsys):
    interrupted("gpt", 1)
    edit_plan(lambda plan: plan["options"].update(width=4))
    line = refused(capsys, "--resume", "run")
    assert "expected the keys and shapes of GPT" in line


def test_an_interrupted_write_leaves_the_checkpoint_before(monkeypatch):
    interrupted("gpt", 5)
    before = CHECKPOINT.read_bytes()

    def fails(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("needle.files.os.fsync", fails)
    assert train("--resume", "run") == 2
    assert CHECKPOINT.read_bytes() == before
    assert not list(Path("run").glob(".*"))


def test_a_full_disk_is_said_with_the_file(monkeypatch, capsys):
    def fails(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("needle.files.os.fsync", fails)
    assert train(*SMALL["gpt"], "--out", "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"needle train: .*run/config\.json: No space left on device\.", line)


# -- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_records_the_broken_off_round_until_it_is_gone_on_with(capsys):
    interrupted("cifar10", 3)
    printed = capsys.readouterr().out
    assert "Interrupted: what was learnt until then is kept." in printed
    assert re.search(r"^go on with: needle train --resume run$", printed, re.MULTILINE)
    assert [(r["examples"], r["complete"]) for r in records("run")] == [(15, False)]
    train("--resume", "run")
    assert [(r["examples"], r["complete"]) for r in records("run")] == [(20, True), (20, True)]


def test_ctrl_c_in_the_last_step_leaves_nothing_to_go_on_with(capsys):
    assert interrupted("gpt", 8) == 0
    assert "Interrupted" not in capsys.readouterr().out
