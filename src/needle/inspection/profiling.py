"""`profile`: where the time of a program goes, operator by operator or kernel by kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from needle.autograd.modes import modes
from needle.errors import NeedleError
from needle.files import write_atomically
from needle.inspection.words import table_text, time_text
from needle.origins import current

if TYPE_CHECKING:
    from needle.inspection.kernels import KernelFacts
    from needle.program.executable import Executable

__all__ = ["KernelTimes", "OpTimes", "Profile", "ProfileError", "Span", "profile"]

_MOST_EVENTS = 400_000  # that are kept one by one; sums have them all

_MOST_ROWS = 30  # of kernels in a table

_ROWS = {
    "forward": "operators, forward",
    "backward": "operators, backward",
    "update": "operators of optimisers",
    "kernels": "compiled programs",
    "call": "around compiled programs",
    "trace": "tracing",
    "compile": "compiling",
    "data": "loading data",
    "walk": "backward, between operators",
    "step": "optimisers, between operators",
}
_WORK = ("forward", "backward", "update")


class ProfileError(NeedleError, RuntimeError):
    """A profile was used in a way that it cannot be."""


class Span(NamedTuple):
    """Something that took time: what kind, its name, begin and end in nanoseconds."""

    kind: str
    name: str
    begin: int
    end: int


class OpTimes:
    """Of an eager operator: how often it ran, and seconds, with and without what ran inside it."""

    def __init__(self) -> None:
        self.calls, self.total, self.own = 0, 0.0, 0.0


class KernelTimes(NamedTuple):
    """A kernel of a compiled program: what it does, where that comes from, seconds of all runs."""

    number: int
    title: str
    where: str
    seconds: float
    runs: int


class _Runs:
    """The runs of a program: how many, how long; of each kernel, how long on its busiest thread."""

    def __init__(self, executable: Executable) -> None:
        self.executable, self.runs, self.nanoseconds = executable, 0, 0
        self.owner = executable.owners  # of each task, its kernel's number
        self.kernels = np.zeros(1 + int(self.owner.max(initial=-1)))
        self.busy, self.threads = 0, 1

    @property
    def share_busy(self) -> float:
        """Of the time of all threads, that in which they are at work on kernels."""
        return self.busy / max(self.threads * self.nanoseconds, 1)

    def add(self, table: Any, nanoseconds: int) -> None:
        """Count one more run."""
        self.runs += 1
        self.nanoseconds += nanoseconds
        took, threads = table[:, 1] - table[:, 0], 1 + int(table[:, 2].max(initial=0))
        self.busy += int(took.sum())
        self.threads = max(self.threads, threads)
        spent = np.zeros((len(self.kernels), threads))
        np.add.at(spent, (self.owner, table[:, 2]), took)
        self.kernels += spent.max(axis=1)


class Profile:
    """What `profile()` gives: `print` it for tables of where the time went.

    seconds  from the beginning of the block to its end; so far, inside of it
    by_kind  seconds of each kind of work, without what is of another kind inside
    ops      of eager operators, by (kind, name): kind is "forward", "backward" or "update"
    """

    def __init__(self) -> None:
        self.by_kind: dict[str, float] = {}
        self.ops: dict[tuple[str, str], OpTimes] = {}
        self.events: list[Span] = []
        self._open: list[list[Any]] = []  # kind, and nanoseconds of what was inside so far
        self._quiet = False
        self._programs: dict[int, _Runs] = {}
        self._tasks: list[tuple[_Runs, Any]] = []
        self._begin = self._end = self._kept = 0

    # -- what is told while it runs ------------------------------------------------------------

    def op(self, name: str, make: Callable[..., Any], *args: Any) -> Any:
        """Run what makes the result of an operator, and note how long it took."""
        if self._quiet or modes.tracer is not None:
            return make(*args)
        kind, name = self._kind_of_op(name)
        self._open.append([kind, 0])
        begin = perf_counter_ns()
        try:
            return make(*args)
        finally:
            took, own = self._close(kind, name, begin)
            times = self.ops.setdefault((kind, name), OpTimes())
            times.calls += 1
            times.total += 1e-9 * took
            times.own += 1e-9 * own

    def _kind_of_op(self, name: str) -> tuple[str, str]:
        if current.gradient is not None:
            return "backward", name
        around = [kind for kind, _ in self._open]
        return "update" if "step" in around else "backward" if "walk" in around else "forward", name

    def span(self, kind: str, name: str) -> AbstractContextManager[None]:
        """Note how long the block takes. Inside of tracing nothing is noted."""
        return nullcontext() if self._quiet else self._spanning(kind, name)

    @contextmanager
    def _spanning(self, kind: str, name: str) -> Iterator[None]:
        self._open.append([kind, 0])
        self._quiet = kind == "trace"
        begin = perf_counter_ns()
        try:
            yield
        finally:
            self._quiet = False
            self._close(kind, name, begin)

    def _close(self, kind: str, name: str, begin: int) -> tuple[int, int]:
        """End what was opened last: how long it took, and how long without what was inside."""
        end = perf_counter_ns()
        took = end - begin
        own = took - self._open.pop()[1]
        if self._open:
            self._open[-1][1] += took
        self.by_kind[kind] = self.by_kind.get(kind, 0.0) + 1e-9 * own
        if self._kept < _MOST_EVENTS:
            self._kept += 1
            self.events.append(Span(kind, name, begin, end))
        return took, own

    def loading(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; waiting for each is noted as loading data."""
        iterator = iter(batches)
        try:
            while True:
                with current.span("data", "a batch"):
                    batch = next(iterator, _END)
                if batch is _END:
                    return
                yield batch
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def program(
        self, executable: Executable, arguments: Sequence[Any], results: Sequence[Any]
    ) -> bool:
        """Run a program, and note how long each of its kernels took."""
        known = self._programs.setdefault(id(executable), _Runs(executable))
        with self.span("kernels", executable.name):
            begin = perf_counter_ns()
            done, table = executable.run_timed(arguments, results)
            took = perf_counter_ns() - begin
        known.add(table, took)
        if self._kept < _MOST_EVENTS:
            self._kept += len(table)
            self._tasks.append((known, table))
        return bool(done)

    # -- beginning and end ---------------------------------------------------------------------

    def __enter__(self) -> Profile:
        if current.profile is not None:
            raise ProfileError("profile: expected one profile at a time, got one inside another.")
        if self._begin:
            raise ProfileError("profile: expected a new profile, got one that has been used.")
        current.profile = self
        modes.set("profiled", True)
        self._begin = perf_counter_ns()
        return self

    def __exit__(self, *error: object) -> None:
        self._end = perf_counter_ns()
        current.profile = None
        modes.set("profiled", False)

    @property
    def seconds(self) -> float:
        """How long the block took."""
        if not self._begin:
            return 0.0
        return 1e-9 * ((self._end or perf_counter_ns()) - self._begin)

    # -- what came out -------------------------------------------------------------------------

    def kernels(self) -> dict[str, list[KernelTimes]]:
        """Of each compiled program, by its name, its kernels in the order in which they run."""
        found: dict[str, list[KernelTimes]] = {}
        for runs in self._programs.values():
            name = runs.executable.name
            while name in found:
                name += "'"
            found[name] = _kernels(runs)
        return found

    def __str__(self) -> str:
        """Tables: the kinds of work, eager operators, and kernels of each compiled program."""
        parts = [self._by_kind()]
        if self.ops:
            parts.append(self._by_op())
        parts += [self._by_kernel(runs) for runs in self._programs.values()]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"<Profile of {time_text(self.seconds)}>"

    def _by_kind(self) -> str:
        seconds = self.seconds
        known = [(_ROWS[kind], self.by_kind[kind]) for kind in _ROWS if kind in self.by_kind]
        rest = seconds - sum(took for _, took in known)
        rows = [
            (words, time_text(took), _share(took, seconds))
            for words, took in [*known, ("Python between all that", max(rest, 0.0))]
        ]
        return f"{time_text(seconds)} in all\n\n" + table_text(
            ("where", "time", "share"), rows, left=(0,)
        )

    def _by_op(self) -> str:
        ordered = sorted(self.ops.items(), key=lambda item: -item[1].own)
        rows = [
            (name, kind, f"{t.calls:,}", time_text(t.total), time_text(t.own),
             time_text(t.own / t.calls), _share(t.own, self.seconds))
            for (kind, name), t in ordered
        ]  # fmt: skip
        head = ("operator", "direction", "calls", "total", "self", "self a call", "share")
        return table_text(head, rows, left=(0, 1))

    def _by_kernel(self, runs: _Runs) -> str:
        """A line per kernel; equal ones of one operator's lines, as of layers, are one line."""
        groups = sorted(_groups(runs), key=lambda group: -group.seconds)
        rows = [
            (str(group.number), str(group.calls), group.title, group.where,
             time_text(group.seconds), time_text(group.seconds / runs.runs),
             _share(group.seconds, 1e-9 * runs.nanoseconds))
            for group in groups[:_MOST_ROWS]
        ]  # fmt: skip
        rest = groups[_MOST_ROWS:]
        if rest:
            took = sum(group.seconds for group in rest)
            calls = sum(group.calls for group in rest)
            rows.append(
                ("", str(calls), "others", "", time_text(took), time_text(took / runs.runs),
                 _share(took, 1e-9 * runs.nanoseconds))
            )  # fmt: skip
        head = ("kernel", "calls", "operators", "where", "total", "a run", "share of runs")
        each = time_text(1e-9 * runs.nanoseconds / runs.runs)
        title = (
            f"{runs.executable.name}: {runs.runs:,} runs of {each}; threads are busy for "
            f"{100 * runs.share_busy:.0f} % of it, and wait for the rest\n\n"
        )
        return title + table_text(head, rows, left=(2, 3), widest={2: 60, 3: 52})

    def save_chrome_trace(self, path: str | Path) -> Path:
        """Write a trace that `chrome://tracing` and ui.perfetto.dev show: Python, and each thread.

        Beyond 400,000 events it ends early; the tables count all.
        """
        target = Path(path)
        trace = {"traceEvents": list(self._trace()), "displayTimeUnit": "ms"}
        write_atomically(target, json.dumps(trace, separators=(",", ":")))
        return target

    def _trace(self) -> Iterator[dict[str, Any]]:
        process = os.getpid()
        threads = {0: "Python"}
        for kind, name, begin, end in self.events:
            yield self._event(process, 0, kind, name, begin, end)
        for runs, table in self._tasks:
            facts = _facts(runs)
            owner = runs.owner.tolist()
            for number, (begin, end, thread) in zip(owner, table[:, :3].tolist(), strict=True):
                threads[1 + thread] = f"kernels, thread {thread}"
                if end:  # else it was not reached, for a fault of a value
                    title = f"{number}: {facts[number].title}"
                    yield self._event(process, 1 + thread, "kernel", title, begin, end)
        for thread, name in sorted(threads.items()):
            yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread,
                   "args": {"name": name}}  # fmt: skip

    def _event(
        self, process: int, thread: int, kind: str, name: str, begin: int, end: int
    ) -> dict[str, Any]:
        return {"ph": "X", "name": name, "cat": kind, "ts": (begin - self._begin) / 1000,
                "dur": (end - begin) / 1000, "pid": process, "tid": thread}  # fmt: skip


_END: Any = object()


def profile() -> Profile:
    """Note where the time goes inside a block: `with ndl.profile() as p: ...; print(p)`.

    Eager operators are noted one by one, compiled programs kernel by kernel; waiting for a
    `DataLoader`, tracing and compiling apart. It watches the thread that it is used in, and costs
    about a microsecond an operator. Raises ProfileError inside of another one.

    >>> import needle as ndl
    >>> x = ndl.Tensor([1.0, 2.0])
    >>> with ndl.profile() as p:
    ...     y = (x * x).sum()
    >>> sorted(name for kind, name in p.ops)
    ['multiply', 'summation']
    """
    return Profile()


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _facts(runs: _Runs) -> list[Any]:
    from needle.inspection.kernels import facts_of  # with llvmlite, which eager np mode lacks

    return facts_of(runs.executable.compiled)


def _kernels(runs: _Runs) -> list[KernelTimes]:
    from needle.inspection.explanation import where_text

    return [
        KernelTimes(fact.number, fact.title, where_text(fact), 1e-9 * float(took), runs.runs)
        for fact, took in zip(_facts(runs), runs.kernels, strict=True)
    ]


class _Group(NamedTuple):
    """Kernels of a program that do the same for the same lines.

    number   of the first
    calls    of them all, in one run
    seconds  of them all, in all runs
    """

    number: int
    calls: int
    title: str
    where: str
    seconds: float


def _groups(runs: _Runs) -> list[_Group]:
    from needle.inspection.explanation import where_text

    groups: dict[Hashable, list[tuple[KernelFacts, float]]] = {}
    for fact, took in zip(_facts(runs), runs.kernels, strict=True):
        groups.setdefault(fact.work, []).append((fact, 1e-9 * float(took)))
    found = []
    for group in groups.values():
        first, _ = group[0]
        calls, seconds = sum(fact.times for fact, _ in group), sum(took for _, took in group)
        title = f"{first.lead}{first.title}"
        found.append(_Group(first.number, calls, title, where_text(first), seconds))
    return found
