"""The passes, one by one: what goes in, and what comes out, as texts in `golden/`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from recorded import graph_of, layout

import needle as ndl
from needle import config
from needle.backend_ndarray import primitives
from needle.compiler import build
from needle.compiler.code_cache import CodeCache
from needle.errors import OptionError
from needle.program.executable import Executable
from needle.program.fuse import fuse
from needle.program.graph import separate_outputs
from needle.program.lower import lower
from needle.program.pipeline import PASSES, compile_graph
from needle.program.plan_memory import plan_memory
from needle.program.schedule import schedule
from needle.program.simplify import simplify
from needle.program.skip_padding import skip_padding

pytestmark = pytest.mark.nd_mode
nd = ndl.array_api


def pair(before, after):
    return f"{before}\n-- becomes\n{after}"


# -- each pass ---------------------------------------------------------------------------------


def test_skip_padding_reads_windows_on_the_picture(golden):
    def function(x, w):
        padded = nd.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = primitives.windows(padded, (1, 2), (3, 3), (1, 1), (1, 1))
        return primitives.einsum("nopcij,ijcf->nopf", windows, w)

    graph = simplify(graph_of(function, layout(8, 4, 4, 32), layout(3, 3, 32, 32)))
    golden("skip_padding", pair(graph, skip_padding(graph)))


def test_simplify_has_equal_nodes_once(golden):
    graph = graph_of(lambda x: nd.exp(x) + nd.exp(x), layout(2, 3))
    golden("simplify_equal_nodes", pair(graph, simplify(graph)))


def test_simplify_leaves_out_products_with_one(golden):
    graph = graph_of(lambda x: nd.exp(x * 1.0) / 1.0, layout(2, 3))
    golden("simplify_products_with_one", pair(graph, simplify(graph)))


def test_simplify_has_filled_arrays_as_numbers(golden):
    graph = graph_of(lambda x: x + nd.full_like(x, 3.0), layout(2, 3))
    golden("simplify_filled_arrays", pair(graph, simplify(graph)))


def test_simplify_has_arrays_that_are_written_whole_as_copies(golden):
    def function(x):
        y, z = [nd.empty((2, 3), dtype=x.dtype, device=x.device) for _ in range(2)]
        y[:], z[:, 1:] = nd.exp(x), x[:, 1:]
        return y, z

    graph = graph_of(function, layout(2, 3))
    golden("simplify_written_whole", pair(graph, simplify(graph)))


def test_simplify_keeps_what_differs_by_the_sign_of_zero():
    graph = graph_of(lambda x: (x + 0.0, x + -0.0), layout(3))
    assert len(simplify(graph).nodes) == len(graph.nodes)


def test_outputs_get_memory_of_their_own(golden):
    def function(x):
        y = nd.exp(x)
        return x, y, y, y[0]

    graph = graph_of(function, layout(2, 3))
    golden("separate_outputs", pair(graph, separate_outputs(graph)))


def test_fuse_makes_a_softmax_one_loop(golden):
    def softmax(x):
        e = nd.exp(x - nd.max(x, axis=1, keepdims=True))
        return e / nd.sum(e, axis=1, keepdims=True)

    graph = graph_of(softmax, layout(4, 8))
    golden("fuse_softmax", pair(graph, fuse(graph)))


def test_fuse_leaves_a_contraction_beside_the_loop_that_follows(golden):
    graph = graph_of(
        lambda x, w, b: nd.maximum(x @ w + b, 0.0), layout(40, 64), layout(64, 48), layout(48)
    )
    golden("fuse_linear_layer", pair(graph, fuse(graph)))


def test_lower_runs_a_loop_on_each_panel_of_a_contraction(golden):
    graph = graph_of(
        lambda x, w, b: nd.maximum(x @ w + b, 0.0), layout(40, 64), layout(64, 48), layout(48)
    )
    golden("lower_linear_layer", pair(graph, lower(fuse(graph))))


def test_schedule_has_what_does_not_depend_on_each_other_in_one_stage(golden):
    def function(x):
        a, b = nd.cumsum(x, axis=1), nd.argmax(x, axis=1)
        return nd.cumsum(a, axis=0), b

    lowered = lower(fuse(separate_outputs(graph_of(function, layout(4, 8)))))
    golden("schedule", pair(lowered, schedule(lowered)))


def test_schedule_makes_zeros_when_something_is_written_into_them():
    def function(x):
        zeros = nd.full_like(x, 0.0)
        for axis in (0, 1, 0, 1):
            x = nd.cumsum(x, axis=axis)
        zeros[:8] = x[:8]
        return nd.cumsum(zeros, axis=0)

    stages = schedule(lower(fuse(simplify(graph_of(function, layout(16, 16))))))
    names = [[step.nodes[0].primitive for step in stage] for stage in stages.stages]
    assert names == [["scan"], ["scan"], ["scan"], ["scan", "fill"], ["assign"], ["scan"]]
    assert plan_memory(stages).total == 3 * 16 * 16 * 4


def test_schedule_leaves_early_what_would_keep_what_it_reads():
    def function(x):
        total = nd.sum(nd.exp(nd.cumsum(x, axis=1)), axis=0)
        for axis in (0, 1, 0, 1):
            x = nd.cumsum(x, axis=axis)
        return x + total

    stages = schedule(lower(fuse(simplify(graph_of(function, layout(16, 16))))))
    assert [step.nodes[0].primitive for step in stages.stages[1]] == ["scan", "elementwise"]


def test_plan_memory_gives_a_place_again_that_nobody_needs_any_more(golden):
    def function(x):
        for axis in (0, 1, 0, 1):
            x = nd.cumsum(x, axis=axis)
        return x

    stages = schedule(lower(fuse(graph_of(function, layout(16, 16)))))
    plan = plan_memory(stages)
    golden("plan_memory", pair(stages, plan))
    assert plan.total == plan.peak == 2 * 16 * 16 * 4
    assert plan.sum == 3 * 16 * 16 * 4


def test_an_output_may_take_the_place_of_the_input_that_it_replaces():
    graph = graph_of(lambda p, g: p - g * 0.1, layout(100), layout(100), updates={0: 0})
    assert Executable(graph).in_place == [True]


def test_an_output_stays_apart_where_another_still_reads_the_input():
    graph = graph_of(lambda p: (p[::-1] * 2.0, nd.cumsum(p, axis=0)), layout(100), updates={0: 0})
    built = Executable(graph)
    assert built.in_place == [False, False]


def test_what_may_find_fault_overwrites_nothing():
    graph = graph_of(
        lambda h, x, rows: (x[rows], nd.exp(h)),
        layout(4, 8),
        layout(9, 8),
        layout(4, dtype="int64"),
        updates={0: 0},
    )
    assert Executable(graph).in_place == [False, False]


def test_an_output_may_lie_where_anything_did_once_no_fault_can_come():
    def function(x, rows):
        y = nd.exp(x)
        return y, y[rows]

    graph = graph_of(function, layout(4, 8), layout(5, dtype="int64"), updates={0: None, 1: None})
    built = Executable(graph)
    assert built.in_place == [False, False]  # what is picked may be out of range

    def after_looking(x, rows):
        picked = x[rows]
        return nd.exp(nd.sum(picked, axis=0)), nd.exp(x)

    graph = graph_of(
        after_looking, layout(4, 8), layout(5, dtype="int64"), updates={0: None, 1: None}
    )
    assert Executable(graph).in_place == [True, False]  # which would have to wait


def test_positions_are_looked_at_once():
    def function(x, y, rows):
        picked = x[rows]
        back = ndl.backend_ndarray.access.scatter_add(x.shape, (rows,), picked)
        return back, y[rows]

    graph = graph_of(function, layout(4, 8), layout(5, 8), layout(6, dtype="int64"))
    steps = lower(fuse(separate_outputs(simplify(graph)))).steps
    looks = [(step.nodes[0].primitive, step.error) for step in steps]
    assert looks == [("gather", True), ("scatter_add", False), ("gather", True)]


# -- all of them -------------------------------------------------------------------------------


def test_each_pass_is_timed():
    passes = compile_graph(graph_of(lambda x: nd.exp(x) + 1, layout(8))).passes
    assert tuple(passes.seconds) == PASSES[1:]
    assert all(seconds > 0 for seconds in passes.seconds.values())


def test_passes_are_printed_if_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(config, "PRINT_AFTER", ("simplify", "plan_memory"))
    compile_graph(graph_of(lambda x: nd.exp(x) + 1, layout(8)))
    printed = capsys.readouterr().err
    assert [line for line in printed.splitlines() if line.startswith("-- after")] == [
        "-- after simplify",
        "-- after plan_memory",
    ]
    assert "%1 = exp(float32[8]) -> float32[8] of (%0)" in printed


@pytest.mark.parametrize("level, lines", [(0, 0), (1, 1), (2, 2)])
def test_levels_of_debugging(monkeypatch, capsys, level, lines):
    monkeypatch.setattr(config, "DEBUG", level)
    compile_graph(graph_of(lambda x: nd.exp(x) + 1, layout(8)))
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_third_level_shows_all_passes(monkeypatch, capsys):
    monkeypatch.setattr(config, "DEBUG", 3)
    compile_graph(graph_of(lambda x: nd.exp(x) + 1, layout(8)))
    assert capsys.readouterr().err.count("-- after") == len(PASSES)


def test_the_fourth_level_shows_assembly_of_new_kernels(monkeypatch, capsys):
    monkeypatch.setattr(config, "DEBUG", 4)
    monkeypatch.setattr(build, "_cache", lambda: CodeCache("", None))

    def function(x):  # which nobody else has
        return nd.sqrt(nd.log1p(nd.exp(nd.sin(nd.tanh(nd.abs(x))))))

    compile_graph(graph_of(function, layout(8)))
    printed = capsys.readouterr().err
    assert "-- kernel fused Body(" in printed and "kernel:" in printed


def test_other_names_of_passes_are_refused(monkeypatch):
    monkeypatch.setattr(config, "PRINT_AFTER", ("fuze",))
    with pytest.raises(OptionError, match=r"NEEDLE_PRINT_AFTER: expected .* got 'fuze'. They are"):
        compile_graph(graph_of(lambda x: nd.exp(x), layout(8)))


@pytest.mark.parametrize(
    "name, value, expected",
    [("NEEDLE_DEBUG", "5", "0 to 4"), ("NEEDLE_VERIFY", "yes", "0 to 1")],
)
def test_other_settings_are_refused(name, value, expected):
    code = f"import os; os.environ[{name!r}] = {value!r}; import needle.config"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert f"{name}: expected a number from {expected}, got {value!r}." in done.stderr
