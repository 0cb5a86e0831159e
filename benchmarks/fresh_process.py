"""Figures that only a process of its own gives: what is called there begins with nothing loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["call"]

_CODE = """
import json, sys
module, function, arguments = json.loads(sys.argv[1])
print(json.dumps(getattr(__import__(module), function)(*arguments)))
"""


def call(module: str, function: str, *arguments: Any, **environment: str) -> dict[str, Any]:
    """What a function of a module in this folder returns in a new process, as JSON carries it.

    environment  variables that it has besides this process's own
    """
    what = json.dumps([module, function, arguments])
    run = subprocess.run(
        [sys.executable, "-c", _CODE, what],
        cwd=Path(__file__).resolve().parent,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: Mapping[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return dict(found)
