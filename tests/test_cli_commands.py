"""The command line's words, `needle predict` and `needle info`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import needle as ndl
from needle.cli import info, plots
from needle.cli.main import main

# -- words ---------------------------------------------------------------------------------------

MISSPELT = [
    (["tran"], "train, predict, generate, info; got 'tran'. Did you mean train?"),
    (["--verison"], "needle: --verison: expected an option that exists. Did you mean --version?"),
    (["train", "--epocs", "3"], "--epocs: expected an option that exists. Did you mean --epochs?"),
    (["train", "--epocs=3"], "--epocs: expected an option that exists. Did you mean --epochs?"),
    (["train", "--epoch", "3"], "--epoch: expected an option that exists. Did you mean --epochs?"),
    (["train", "--zzz"], "--zzz: expected an option that exists. See --help."),
    (
        ["train", "digits"],
        "needle train: expected options, or a recipe: cifar10, lm, gpt; got 'digits'. See --help.",
    ),
    (["train", "--epochs"], "--epochs: expected one argument"),
    (["train", "--epochs", "0"], "--epochs: expected a whole number from 1 on, got '0'."),
    (["train", "--epochs", "2.5"], "--epochs: expected a whole number from 1 on, got '2.5'."),
    (["train", "--seed", "-1"], "--seed: expected a whole number from 0 to 4294967295, got '-1'."),
    (["train", "--lr", "fast"], "--lr: expected a finite number from 0 on, got 'fast'."),
    (["train", "--lr", "nan"], "--lr: expected a finite number from 0 on, got 'nan'."),
    (["train", "--lr", "-1"], "--lr: expected a finite number from 0 on, got '-1'."),
    (["train", "--momentum", "1"], "--momentum: expected a number in [0, 1), got '1'."),
    (["train", "--holdout", "1"], "--holdout: expected a share between 0 and 1, got '1'."),
    (["train", "--optimizer", "adm"], "rmsprop, adagrad, lion; got 'adm'. Did you mean adam?"),
    (["train", "--model", "two_layer"], "got 'two_layer'. Did you mean two-layer?"),
    (["train", "--momentum", "0.9"], "expected with --optimizer sgd or rmsprop, got adam."),
    (["train", "--out", ""], "--out: expected the name of a folder, got ''."),
    (["train", "--data-dir", " "], "--data-dir: expected the name of a folder, got ' '."),
    (["--epochs", "3"], "needle: --epochs: expected a command first: needle train --epochs ..."),
    (["--lr=1", "train"], "needle: --lr: expected a command first: needle train --lr ..."),
    (["--invert"], "needle: --invert: expected a command first: needle predict --invert ..."),
    (["predict"], "needle predict: the following arguments are required: RUN, IMAGE"),
    (["info", "a"], "needle info: expected options only, got 'a': it takes no arguments."),
    (["info", "--jsn"], "needle info: --jsn: expected an option that exists. Did you mean --json?"),
]


@pytest.mark.parametrize(("arguments", "line"), MISSPELT)
def test_what_is_not_understood_is_one_line_and_status_2(arguments, line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (shown,) = printed.err.splitlines()
    assert shown.endswith(line)
    assert shown.startswith("needle")


UNUSABLE = [
    (["--data", "imagenet"], "--data: expected digits, mnist, or the name of an .npz file, got "),
    (["--data", "none.npz"], "--data: expected an .npz file, got no file at none.npz."),
    (["--data", "mnist"], "--data-dir: expected a folder with MNIST's files, got data, "),
    (["--data", "mnist", "--data-dir", "."], "--data-dir: expected t10k-images-idx3-ubyte.gz in "),
]


@pytest.mark.parametrize(("arguments", "line"), UNUSABLE)
def test_data_that_is_not_there_is_one_line_and_status_2(
    arguments, line, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"needle train: {line}")
    assert list(tmp_path.iterdir()) == []


def test_no_command_prints_the_help_and_is_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "train a network" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["info"]])
def test_help_is_status_0(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: needle" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"needle {ndl.__version__}\n"


def test_python_m_needle_is_the_same_command():
    command = [sys.executable, "-m", "needle", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"needle {ndl.__version__}\n"


def test_ctrl_c_while_loading_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("needle.cli.recipes.examples.load_examples", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "needle train: interrupted.\n"


@pytest.mark.parametrize("hidden", ["100000000000", "1" + "0" * 15, "1" + "0" * 30])
def test_a_network_beyond_memory_is_one_line_and_leaves_nothing(
    hidden, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["train", "--hidden", hidden]) == 2
    except SystemExit as ended:
        assert ended.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needle train: ")
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_is_one_line(monkeypatch, capsys):
    def too_large(options):
        raise MemoryError("Unable to allocate 46.6 TiB")

    monkeypatch.setattr("needle.cli.recipes.examples.load_examples", too_large)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == (
        "needle train: expected to fit in memory, got: Unable to allocate 46.6 TiB. "
        "Choose smaller numbers.\n"
    )


# -- predict -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that knows in which row of 4 x 4 pixels the light is."""
    folder = tmp_path_factory.mktemp("predict")
    draw = np.random.RandomState(0)
    y = np.arange(120) % 3
    x = draw.randint(0, 60, size=(120, 4, 4, 1)).astype(np.uint8)
    x[np.arange(120), y] += 180
    np.savez(folder / "rows.npz", X=x, y=y, class_names=["top", "upper", "lower"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "learning_curves", lambda *arguments: None)
        patch.setattr(plots, "confusion_matrix", lambda *arguments: None)
        data = ["--data", str(folder / "rows.npz"), "--epochs", "40", "--quiet"]
        assert main(["train", *data, "--lr", "0.01", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def png(tmp_path, monkeypatch):
    """Writes an image, from an array, under a name."""
    image = pytest.importorskip("PIL.Image", reason="reads and writes images")
    monkeypatch.chdir(tmp_path)

    def write(name: str, pixels: np.ndarray, mode: str | None = None) -> str:
        picture = image.fromarray(pixels)
        (picture if mode is None else picture.convert(mode)).save(name)
        return name

    return write


def light_in_row(row: int) -> np.ndarray:
    pixels = np.full((4, 4), 20, dtype=np.uint8)
    pixels[row] = 220
    return pixels


def labels(printed: str) -> list[str]:
    return [line.split()[1] for line in printed.splitlines()]


def test_a_line_per_image_with_class_probability_and_runner_up(run, png, capsys):
    names = [png(f"{row}.png", light_in_row(row)) for row in range(3)]
    assert main(["predict", str(run), *names]) == 0
    printed = capsys.readouterr()
    assert labels(printed.out) == ["top", "upper", "lower"]
    line = r"0\.png  top +[\d.]+ %   \(then (upper|lower)  [\d.]+ %\)"
    assert re.fullmatch(line, printed.out.splitlines()[0])
    assert printed.err == ""


def test_json_holds_the_same(run, png, capsys):
    assert main(["predict", str(run), png("a.png", light_in_row(1)), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == "a.png"
    assert found["label"] == "upper"
    assert 0.5 < found["probability"] <= 1
    assert found["runner_up"] in {"top", "lower"}
    assert 0 <= found["runner_up_probability"] < 0.5


def test_another_size_is_resized_and_said(run, png, capsys):
    large = np.kron(light_in_row(2), np.ones((7, 7), dtype=np.uint8))
    assert main(["predict", str(run), png("large.png", large)]) == 0
    printed = capsys.readouterr()
    assert labels(printed.out) == ["lower"]
    assert printed.err == "large.png: resized from 28 x 28 to 4 x 4.\n"


def test_invert_swaps_light_and_dark(run, png, capsys):
    assert main(["predict", str(run), png("ink.png", 255 - light_in_row(0)), "--invert"]) == 0
    assert labels(capsys.readouterr().out) == ["top"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_images_of_other_modes_become_grey(run, png, capsys, mode):
    assert main(["predict", str(run), png("image.png", light_in_row(1), mode)]) == 0
    assert labels(capsys.readouterr().out) == ["upper"]


def test_sixteen_bits_of_grey_are_scaled(run, png, capsys):
    deep = light_in_row(2).astype(np.uint16) * 257
    assert main(["predict", str(run), png("deep.png", deep)]) == 0
    assert labels(capsys.readouterr().out) == ["lower"]


def test_transparent_means_white(run, png, capsys):
    ink = np.zeros((4, 4, 4), dtype=np.uint8)  # black where there is ink, which is everywhere else
    ink[..., 3] = 255 - light_in_row(0)
    assert main(["predict", str(run), png("ink.png", ink)]) == 0
    assert labels(capsys.readouterr().out) == ["top"]


def test_a_light_ground_is_pointed_out_where_the_network_knows_a_dark_one(
    png, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    monkeypatch.setattr(plots, "learning_curves", lambda *arguments: None)
    monkeypatch.setattr(plots, "confusion_matrix", lambda *arguments: None)
    assert main(["train", "--epochs", "1", "--out", "run", "--quiet"]) == 0
    paper = png("paper.png", np.full((8, 8), 250, dtype=np.uint8))
    assert main(["predict", "run", paper]) == 0
    hint = "paper.png: mostly light, but the network knows light strokes on a dark ground. "
    assert capsys.readouterr().err == f"{hint}Try --invert.\n"
    assert main(["predict", "run", paper, "--invert"]) == 0
    assert capsys.readouterr().err == ""


def test_a_missing_image_is_one_line(run, png, capsys):
    assert main(["predict", str(run), png("a.png", light_in_row(0)), "b.png"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "needle predict: IMAGE: expected an image file, got no file at b.png.\n"
    assert printed.out == ""


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\nbut no more"])
def test_what_is_no_image_is_one_line(run, png, capsys, content):
    Path("a.png").write_bytes(content)
    assert main(["predict", str(run), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needle predict: IMAGE: expected a ")
    assert "a.png" in line


def test_a_truncated_image_is_one_line(run, png, capsys):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64)).astype(np.uint8)
    path = Path(png("a.png", noise))
    path.write_bytes(path.read_bytes()[:2000])
    assert main(["predict", str(run), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needle predict: IMAGE: expected a whole PNG, got a.png. (")


def test_a_large_image_is_resized_without_a_warning(run, png, capsys, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 700)
    large = np.kron(light_in_row(2), np.ones((7, 7), dtype=np.uint8))
    assert main(["predict", str(run), png("large.png", large)]) == 0
    printed = capsys.readouterr()
    assert labels(printed.out) == ["lower"]
    assert printed.err == "large.png: resized from 28 x 28 to 4 x 4.\n"


def test_without_pillow_the_extra_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["predict", str(run), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('Hint: pip install "needle-dl[demo]".')


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needle predict: RUN: expected a run folder of needle train, got no ")


def test_truncated_weights_are_one_line(run, tmp_path, capsys):
    whole = (run / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-10])
    assert main(["predict", str(tmp_path), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a whole safetensors file" in line


FOREIGN = [
    {},
    {"needle": "no json"},
    {"needle": "[]"},
    {"needle": '{"model": {"kind": "two-layer"}}'},
    {"needle": '{"model": {}, "data": {}}'},
]


@pytest.mark.parametrize("metadata", FOREIGN)
def test_weights_that_were_not_trained_here_are_one_line(tmp_path, capsys, metadata):
    ndl.save({"w": np.ones(3)}, tmp_path / "model.safetensors", metadata=metadata)
    assert main(["predict", str(tmp_path), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "which does not say which network they are of." in line


EDITED = [
    ("data", "scale", "a"),
    ("data", "scale", float("nan")),
    ("data", "shape", [float("inf"), 1, 1]),
    ("data", "shape", [-4, -4, 1]),
    ("data", "shape", 16),
    ("data", "polarity", 3),
    ("data", "name", None),
    ("model", "hidden", "a"),
    ("model", "hidden", -1),
    ("model", "in_features", 16.0),
]


@pytest.mark.parametrize(("part", "key", "value"), EDITED)
def test_edited_metadata_is_one_line(run, tmp_path, capsys, part, key, value):
    path = run / "model.safetensors"
    inside = json.loads(ndl.serialization.load_metadata(path)["needle"])
    inside[part][key] = value
    metadata = {"needle": json.dumps(inside)}
    ndl.save(ndl.load(path), tmp_path / "model.safetensors", metadata=metadata)
    Path(tmp_path / "a.png").write_bytes(b"")
    assert main(["predict", str(tmp_path), str(tmp_path / "a.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "which does not say which network they are of." in line


def test_weights_of_another_network_are_one_line(run, tmp_path, capsys):
    metadata = ndl.serialization.load_metadata(run / "model.safetensors")
    ndl.save({"w": np.ones(3)}, tmp_path / "model.safetensors", metadata=metadata)
    assert main(["predict", str(tmp_path), "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "load_state_dict: expected the keys and shapes of TwoLayerNet" in line


def test_a_network_that_reads_no_images_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "learning_curves", lambda *arguments: None)
    monkeypatch.setattr(plots, "confusion_matrix", lambda *arguments: None)
    np.savez("table.npz", X=np.random.randn(20, 5), y=np.arange(20) % 2)
    assert main(["train", "--data", "table.npz", "--epochs", "1", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("got one trained on table of shape (5,).")


# -- info ----------------------------------------------------------------------------------------


def test_info_prints_versions_devices_and_processor(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for label in (
        "needle",
        "python",
        "numpy",
        "llvmlite",
        "blas",
        "devices",
        "threads",
        "cpu: model",
    ):
        assert re.search(rf"^{label}  +\S", printed, re.MULTILINE), label
    assert re.search(rf"^numpy +{re.escape(np.__version__)}$", printed, re.MULTILINE)


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["needle"] == ndl.__version__
    assert found["devices"] == [str(d) for d in ndl.all_devices() if d.enabled()]
    assert found["backend"] == ndl.BACKEND
    assert found["threads"] == ndl.get_num_threads()
    assert "bits" in found["kernels for"]
    assert found["cpu"]["cores usable"] >= 1


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(info, "_OPTIONAL", ("a-package-that-nobody-wrote",))
    main(["info"])
    assert re.search(r"^a-package-that-nobody-wrote +not installed$", capsys.readouterr().out, re.M)


CPUINFO = {
    "processor : 0\nmodel name : A CPU\nflags : fpu avx2 fma avx512f amx_tile\n": (
        "A CPU",
        ["avx2", "fma", "avx512f", "amx_tile"],
    ),
    "processor : 0\nFeatures : fp asimd asimddp i8mm\n": (None, ["asimd", "asimddp", "i8mm"]),
    "": (None, []),
}


@pytest.mark.parametrize(("text", "expected"), CPUINFO.items())
def test_the_processor_is_read_from_linux(monkeypatch, text, expected):
    monkeypatch.setattr(info, "_read", lambda path: text)
    assert info._linux_processor() == expected


def test_the_processor_is_asked_of_macos(monkeypatch):
    answers = {"machdep.cpu.brand_string": "Apple M9", "machdep.cpu.features": "FMA AVX2 SSE4.2"}
    monkeypatch.setattr(info, "_sysctl", answers.get)
    monkeypatch.setattr(info.platform, "machine", lambda: "arm64")
    assert info._other_processor() == ("Apple M9", ["sse4_2", "avx2", "fma", "asimd"])


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_cgroup_quota_is_given_in_cores(monkeypatch, files, cores):
    monkeypatch.setattr(info, "_read", lambda path: files.get(Path(path).name))
    assert info._cgroup_quota() == cores
