"""The command's own imports, where a fault of use or Ctrl-C is one line as it is later.

Python imports the package before any line of the command is run, with `python -m needle` too, so
`needle/__init__.py` imports this first. Everywhere but in the command it does nothing: who imports
the package meets the exceptions themselves.
"""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["import_command", "is_command"]

_MISUSED, _INTERRUPTED = 2, 130  # as needle.cli.main has them, which is not there yet


def is_command() -> bool:
    """Whether Python was started as `needle`, or as `python -m needle`, to run the command."""
    words: list[str] = getattr(sys, "argv", None) or [""]  # none where Python is embedded
    if words[0] == "-m":  # until the module is found: then words[0] is its path
        return sys.orig_argv[-len(words)] in ("needle", "-mneedle")
    name = words[0].replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".exe") == "needle"


def import_command() -> None:
    """Import all that the command needs. Raises SystemExit, with one line on stderr."""
    try:
        try:
            import_module("needle.config")
        except RuntimeError as error:
            raise _end(str(error), _MISUSED) from None
        import_module("needle.cli.main")
    except KeyboardInterrupt:
        raise _end("interrupted.", _INTERRUPTED) from None


def _end(message: str, status: int) -> SystemExit:
    print(f"needle: {message}", file=sys.stderr)
    return SystemExit(status)


if is_command():
    import_command()
