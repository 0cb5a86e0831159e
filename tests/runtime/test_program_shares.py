"""Who begins which tasks of a stage."""

from __future__ import annotations

from itertools import pairwise

import pytest

from needle.runtime.program import _Row
from needle.runtime.program_code import TASK_WORDS


def row_of(*calls):
    """The row of calls, each (nanoseconds, tasks); a task's words are its call and number."""
    row = _Row()
    for call, (nanoseconds, tasks) in enumerate(calls):
        row.owners += [call] * tasks
        row.lengths += [nanoseconds / tasks] * tasks
        for task in range(tasks):
            row.tasks += [0, call, task, tasks]
    return row


def parts_of(row, threads):
    """(call, task) of each thread, as the program cuts a stage."""
    row.share(threads)
    rows = [row.tasks[i : i + TASK_WORDS] for i in range(0, len(row.tasks), TASK_WORDS)]
    assert [words[1] for words in rows] == row.owners
    count = len(rows)
    ends = [(count * i + threads - 1) // threads for i in range(threads + 1)]
    return [[(words[1], words[2]) for words in rows[begin:end]] for begin, end in pairwise(ends)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_has_a_task_of_each_call(threads):
    calls = [(900.0, threads), (300.0, threads), (600.0, threads)]
    for number, part in enumerate(parts_of(row_of(*calls), threads)):
        assert sorted(part) == [(call, number) for call in range(3)]


def test_single_tasks_go_to_whom_has_least_to_do():
    calls = [(100.0, 1), (90.0, 1), (60.0, 1), (50.0, 1)]
    first, second = parts_of(row_of(*calls), 2)
    assert [sorted(call for call, _ in part) for part in (first, second)] == [[0, 3], [1, 2]]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_no_task_is_lost(threads):
    calls = [(1.0 + call % 5, 1 + call % 3) for call in range(11)]
    given = {(call, task) for call, (_, tasks) in enumerate(calls) for task in range(tasks)}
    parts = parts_of(row_of(*calls), threads)
    assert sorted(each for part in parts for each in part) == sorted(given)
