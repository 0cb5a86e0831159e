"""The command line: which job to do, and what goes wrong as one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from needle.cli.options import parse
from needle.cli.printing import prepare_stdout, stop_printing
from needle.errors import NeedleError, NonFiniteError

__all__ = ["main"]

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments (default: the process's) ask; returns the exit status.

    0 done; 1 the training failed (NaN or Inf); 2 something asked for cannot be; 130 Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    job = words[0] if words else ""
    prepare_stdout()
    try:
        return _run(*parse(words))
    except BrokenPipeError:  # whoever reads has enough
        stop_printing()
        return DONE
    except KeyboardInterrupt:
        return _fail(job, "interrupted.", INTERRUPTED)
    except NonFiniteError as error:
        return _fail(job, error, FAILED)
    except MemoryError as error:
        reason = str(error).rstrip(".") or "more than there is"
        hint = "Choose smaller numbers."
        return _fail(job, f"expected to fit in memory, got: {reason}. {hint}", MISUSED)
    except (NeedleError, OSError) as error:
        return _fail(job, error, MISUSED)


def _run(job: str, options: Any) -> int:
    """Each job is imported when it is asked for: `needle info` needs no training loop."""
    outcome = getattr(import_module(f"needle.cli.{job}"), job)(options)
    if sys.stdout is not None:
        sys.stdout.flush()
    return INTERRUPTED if getattr(outcome, "interrupted", False) else DONE


def _fail(job: str, error: Any, status: int) -> int:
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}." if error.filename else error.strerror
    print(f"needle {job}: {' '.join(message.split())}", file=sys.stderr)
    return status
