"""What the command says where it ends before it has begun: while the package is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# as installers write it into the folder of commands
SCRIPT = """\
import sys
from needle.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
PRESS_CTRL_C = "import signal\nsignal.raise_signal(signal.SIGINT)\n"


@pytest.fixture(params=["needle", "-m needle", "-mneedle"])
def needle(request, tmp_path):
    """Runs the command, started in each of the ways, with modules of `tmp_path` before others."""
    script = tmp_path / "bin" / "needle"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    how = [str(script)] if request.param == "needle" else request.param.split()

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *how, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("arguments", [["train"], ["info", "--json"], []])
def test_a_backend_that_does_not_exist_is_one_line_and_status_2(needle, arguments):
    done = needle(*arguments, NEEDLE_BACKEND="xx")
    assert done.stderr == "needle: NEEDLE_BACKEND: expected 'nd' or 'np', got 'xx'.\n"
    assert (done.returncode, done.stdout) == (2, "")


# the first that the package imports of others, and one that only the command needs
@pytest.mark.parametrize("module", ["numpy", "argparse"])
def test_ctrl_c_while_it_is_imported_is_one_line_and_status_130(needle, module, tmp_path):
    Path(tmp_path, f"{module}.py").write_text(PRESS_CTRL_C)
    done = needle("train")
    assert done.stderr == "needle: interrupted.\n"
    assert (done.returncode, done.stdout) == (130, "")


def test_other_faults_of_an_import_keep_their_traceback(needle, tmp_path):
    Path(tmp_path, "argparse.py").write_text("raise RuntimeError('broken')\n")
    done = needle("train")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: broken\n")


@pytest.mark.parametrize("name", ["needles", "train", "needle_run.py"])
def test_a_script_of_the_users_meets_the_exceptions_themselves(name, tmp_path):
    script = Path(tmp_path, name)
    script.write_text(
        "try:\n    import needle\nexcept RuntimeError as error:\n    print('caught', error)\n"
    )
    done = subprocess.run(
        [sys.executable, script, "needle"],
        env={**os.environ, "NEEDLE_BACKEND": "xx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "caught NEEDLE_BACKEND: expected 'nd' or 'np', got 'xx'.\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_of_the_users_meets_them_too(tmp_path):
    package = Path(tmp_path, "mine")
    package.mkdir()
    Path(package, "__init__.py").write_text("import needle\n")
    Path(package, "needle.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "mine.needle", "needle"],
        env={**os.environ, "NEEDLE_BACKEND": "xx", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: NEEDLE_BACKEND: expected" in done.stderr
