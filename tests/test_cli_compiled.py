"""`needle train` compiled, as it is, and with --eager."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_runs import SMALL, keep_it_short, records, train, weights, write_data

from needle.cli.fit import Fit, Interrupt
from needle.cli.options import parse
from needle.cli.recipes import recipe
from needle.cli.task import Progress
from needle.compiler import build


@pytest.fixture(autouse=True)
def _a_small_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    keep_it_short(monkeypatch)


def fitted(name: str, *options: str) -> Fit:
    """A whole run without a folder."""
    word = SMALL[name][0] if not SMALL[name][0].startswith("-") else "examples"
    task = recipe(word).prepare(parse(["train", *SMALL[name], *options])[1].options)
    fit = Fit(task, Progress(), Interrupt(), lambda record: None, lambda between: None)
    fit.run()
    return fit


def seconds_of_compiling(folder: str) -> list[float]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["compile_seconds"] for line in lines]


@pytest.mark.parametrize("name", SMALL)
def test_both_ways_learn_the_same_within_rounding(name):
    train(*SMALL[name], "--out", "compiled")
    train(*SMALL[name], "--eager", "--out", "eager")
    for ours, plain in zip(records("compiled"), records("eager"), strict=True):
        for key in [key for key in plain if key.endswith("loss")]:
            assert ours[key] == pytest.approx(plain[key], rel=5e-3), key
    assert weights("compiled").keys() == weights("eager").keys()


@pytest.mark.nd_mode
@pytest.mark.parametrize(
    ("name", "steps", "evaluations"),
    [("examples", 1, 1), ("mlp-resnet", 1, 1), ("cifar10", 1, 1), ("lm", 3, 3), ("gpt", 1, 2)],
)
def test_rounds_compile_once_for_each_signature(name, steps, evaluations):
    """Of a text: its first batch, which follows no other, those after it, and short last ones."""
    fit = fitted(name)
    assert len(fit._train.compiled) == steps
    assert len(fit.task.measure.compiled) <= evaluations


@pytest.mark.nd_mode
def test_a_short_last_batch_needs_no_machine_code_of_its_own(monkeypatch):
    written = []
    object_code = build.object_code
    monkeypatch.setattr(
        build, "object_code", lambda key, write: written.append(key) or object_code(key, write)
    )
    fitted("mlp-resnet", "--batch-size", "8")
    written.clear()
    fit = fitted("mlp-resnet", "--batch-size", "6")  # of 16: 6, 6, 4
    assert len(fit._train.compiled) == 2
    assert written == []


@pytest.mark.nd_mode
@pytest.mark.parametrize("name", ["examples", "gpt"])
def test_the_time_of_compiling_is_told_apart(name, capsys):
    assert train(*SMALL[name], "--out", "run") == 0
    first, *later = seconds_of_compiling("run")
    assert first > 0
    assert later == [0]
    lines = [line for line in capsys.readouterr().out.splitlines() if "/s" in line]
    told = rf", after {first:.1f} s of compiling" if first >= 0.05 else ""  # which would be 0.0 s
    assert re.search(rf"/s{told}$", lines[0])
    assert lines[1].endswith("/s")


def test_eager_compiles_nothing(capsys):
    assert train(*SMALL["examples"], "--eager", "--out", "run") == 0
    assert seconds_of_compiling("run") == [0, 0]
    assert "compiling" not in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["options"]["eager"] is True


def test_the_clock_of_a_round_leaves_compiling_out(monkeypatch):
    fit = fitted("examples")
    monkeypatch.setattr(type(fit.task), "compile_seconds", property(lambda task: 3.0))
    before = fit._clock()
    monkeypatch.setattr(type(fit.task), "compile_seconds", property(lambda task: 5.0))
    assert before - fit._clock() == pytest.approx(2, abs=0.5)


def test_a_run_may_be_gone_on_with_the_other_way():
    train(*SMALL["gpt"], "--out", "run")
    whole = records("run")
    train(*SMALL["gpt"], "--out", "other", "--steps", "4", "--warmup", "2")
    assert train("--resume", "other", "--steps", "8", "--eager") == 0
    assert [record["step"] for record in records("other")] == [4, 8]
    assert json.loads(Path("other/config.json").read_text())["options"]["eager"] is True
    assert whole[-1]["valid_loss"] == pytest.approx(records("other")[-1]["valid_loss"], rel=0.1)
