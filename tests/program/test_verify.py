"""Verifiers find what a faulty pass could make: each rule is seen to fail."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
from recorded import graph_of, layout

import needle as ndl
from needle import config
from needle.backend_ndarray import primitives
from needle.backend_ndarray.ndarray_backend_trace import Operand
from needle.program import pipeline
from needle.program.fuse import fuse
from needle.program.graph import Graph, separate_outputs
from needle.program.lower import lower
from needle.program.plan_memory import plan_memory
from needle.program.schedule import schedule
from needle.program.simplify import simplify
from needle.program.skip_padding import skip_padding
from needle.program.steps import Place
from needle.program.table import build
from needle.program.verify import VerificationError, verify
from needle.runtime.program import Bound

pytestmark = pytest.mark.nd_mode
nd = ndl.array_api


def refuses(made, words):
    with pytest.raises(VerificationError, match=f"after a pass: expected .*{words}"):
        verify(made, "a pass")


# -- graphs ------------------------------------------------------------------------------------


@pytest.fixture
def graph():
    def function(x, w):
        y = nd.sum(nd.exp(x @ w), axis=1)
        return nd.cumsum(y, axis=0), y * 2.0

    made = separate_outputs(simplify(graph_of(function, layout(6, 5), layout(5, 4))))
    verify(made, "a pass")
    return made


def node_of(graph, primitive, name=None):
    return next(
        node
        for node in graph.nodes
        if node.primitive == primitive and name in (None, node.parameters.get("name"))
    )


def test_nodes_stand_after_what_they_read(graph):
    graph.nodes.reverse()
    refuses(graph, "nodes after what they read")


def test_nodes_stand_once(graph):
    graph.nodes.append(graph.nodes[-1])
    refuses(graph, "each node once")


def test_views_lie_inside_the_memory(graph):
    node = node_of(graph, "elementwise", "exp")
    (x,) = node.inputs
    node.inputs = (Operand(x.node, x.layout, 1),)
    refuses(graph, "views inside the memory")


def test_operands_are_as_they_are_described(graph):
    node = node_of(graph, "elementwise", "exp")
    node.parameters = {**node.parameters, "operands": (layout(6, 4, dtype="float64"),)}
    refuses(graph, "operands as they are described")


def test_scalars_have_numbers(graph):
    node_of(graph, "elementwise", "multiply").numbers = ()
    refuses(graph, "a number for each scalar")


def test_elementwise_operands_have_the_shape_of_the_result(graph):
    node_of(graph, "elementwise", "exp").layout = layout(4, 6)
    refuses(graph, "operands of the shape of the result")


def test_reductions_leave_the_other_axes(graph):
    node = node_of(graph, "reduce")
    node.parameters = {**node.parameters, "axes": (0,)}
    refuses(graph, "a result of the axes that are left")


def test_contractions_have_fitting_axes(graph):
    node = node_of(graph, "contract")
    node.parameters = {"groups": (1, 0, 1, 1)}
    refuses(graph, "axes of a, b and the result that fit")


def test_windows_end_with_the_picture():
    def function(x, w):
        padded = nd.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = primitives.windows(padded, (1, 2), (3, 3), (1, 1), (1, 1))
        return primitives.einsum("nopcij,ijcf->nopf", windows, w)

    traced = graph_of(function, layout(8, 4, 4, 32), layout(3, 3, 32, 32))
    made = skip_padding(simplify(traced))
    verify(made, "a pass")
    node = node_of(made, "convolve")
    a = node.parameters["a"]
    for broken in (replace(a, clips=a.clips[:1]), replace(a, begin=a.begin - 1)):
        node.parameters = {**node.parameters, "a": broken}
        refuses(made, "windows that end with the picture")


def test_outputs_are_among_the_nodes(graph):
    graph.nodes.remove(graph.outputs[-1].node)
    refuses(graph, "outputs among the nodes")


def test_inputs_are_handed_over(graph):
    graph.inputs = graph.inputs[:1]
    refuses(graph, "all inputs to be handed over")


def test_updates_are_of_outputs_and_inputs(graph):
    graph.updates = {0: 7}
    refuses(graph, "updates by numbers there are")


def test_writes_leave_the_size_of_their_memory():
    graph = graph_of(lambda x: nd.concatenate((x, x), axis=0), layout(3))
    verify(graph, "a pass")
    node_of(graph, "assign").layout = layout(7)
    refuses(graph, "")


# -- units -------------------------------------------------------------------------------------


@pytest.fixture
def fused(graph):
    made = fuse(graph)
    verify(made, "a pass")
    return made


def test_units_stand_after_those_that_they_read(fused):
    fused.units.reverse()
    refuses(fused, "units after those that they read")


def test_each_node_is_in_one_unit(fused):
    fused.units.append(fused.units[-1])
    refuses(fused, "each node in one unit")


def test_no_node_is_forgotten(fused):
    fused.units.pop()
    refuses(fused, "each node in a unit")


def test_a_unit_without_a_loop_has_one_node(fused):
    next(unit for unit in fused.units if len(unit.nodes) > 1).space = None
    refuses(fused, "units of one node where there is no loop")


def test_the_digits_of_a_loop_make_the_shapes_of_its_nodes(fused):
    space = next(unit.space for unit in fused.units if unit.space is not None)
    space.extents[next(iter(space.extents))] += 1
    refuses(fused, "digits that make")


# -- steps -------------------------------------------------------------------------------------


@pytest.fixture
def lowered(fused):
    made = lower(fused)
    verify(made, "a pass")
    return made


def test_what_is_read_was_written(lowered):
    lowered.steps.reverse()
    refuses(lowered, "writes before reads")


def test_places_lie_inside_their_buffers(lowered):
    step = lowered.steps[0]
    step.reads = [Place(step.reads[0].buffer, 1 << 20), *step.reads[1:]]
    refuses(lowered, "places inside their buffers")


def test_kernels_take_so_many_words(lowered):
    step = next(step for step in lowered.steps if not step.fused)
    step.scalars = (0,) * 9
    refuses(lowered, "words for all that a kernel takes")


def test_outputs_are_written(lowered):
    lowered.steps.pop()
    refuses(lowered, "outputs that are written")


def test_outputs_are_handed_over(lowered):
    lowered.buffers[lowered.graph.outputs[0].node].binding = None
    refuses(lowered, "an output in memory that is handed over")


def test_constants_stay_as_they_are(lowered):
    lowered.steps[0].writes[0].buffer.address = 64
    refuses(lowered, "constants kept")


# -- stages ------------------------------------------------------------------------------------


@pytest.fixture
def stages(lowered):
    made = schedule(lowered)
    verify(made, "a pass")
    return made


def test_each_step_is_in_one_stage(stages):
    stages.stages[-1].append(stages.stages[0][0])
    refuses(stages, "each of .* steps once")


def test_no_step_is_forgotten(stages):
    stages.stages.pop()
    refuses(stages, "each of .* steps once")


def test_a_stage_has_no_read_beside_a_write(stages):
    stages.stages = [[step for stage in stages.stages for step in stage]]
    refuses(stages, "no read beside a write")


def test_a_stage_has_one_writer_of_a_memory(stages):
    first = stages.stages[0][0]
    other = copy(first)
    stages.steps.append(other)
    stages.stages[0].append(other)
    refuses(stages, "one writer in a stage")


def test_reads_come_after_writes(stages):
    stages.stages.reverse()
    refuses(stages, "reads in a later stage than the write")


def in_place():
    """p is read by a running sum, and is then replaced by what reads the sum."""
    graph = graph_of(lambda p: p - nd.cumsum(p, axis=0), layout(64), updates={0: 0})
    return schedule(lower(fuse(graph)))


def test_what_is_granted_overwrites_nothing_that_is_read_later():
    made = in_place()
    verify(made, "a pass")
    assert made.granted
    scan = made.steps[0]
    late = copy(scan)  # somebody who reads p beside its being written, or after that
    late.writes = [Place(copy(scan.writes[0].buffer))]
    made.steps.append(late)
    made.stages.append([late])
    refuses(made, "reads before the memory is written again")


def test_what_is_granted_is_read_element_by_element():
    made = in_place()
    made.steps[1].in_step = frozenset()
    refuses(made, "a writer in place by elements")


# -- memory ------------------------------------------------------------------------------------


@pytest.fixture
def plan():
    def function(x):
        for axis in (0, 1, 0, 1):
            x = nd.cumsum(x, axis=axis)
        return x

    made = plan_memory(schedule(lower(fuse(graph_of(function, layout(16, 16))))))
    verify(made, "a pass")
    return made


def test_what_is_needed_at_once_does_not_overlap(plan):
    for span in plan.spans.values():
        span.offset = 0
    refuses(plan, "no overlap of cumsum.* and cumsum")


def test_buffers_are_aligned(plan):
    next(iter(plan.spans.values())).offset = 4096 + 8
    refuses(plan, "aligned buffers")


def test_buffers_are_needed_in_stages_there_are(plan):
    next(iter(plan.spans.values())).last = plan.stages
    refuses(plan, "spans of stages")


def test_buffers_are_there_for_all_who_touch_them(plan):
    span = max(plan.spans.values(), key=lambda span: span.last)
    span.last -= 1
    refuses(plan, "a place for all that stage 3 touches: cumsum")


# -- the table ---------------------------------------------------------------------------------


@pytest.fixture
def built(lowered):
    stages = schedule(lowered)
    made = build(lowered, stages, plan_memory(stages))
    verify(made, "a pass")
    return made


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kernel": 0}, "kernels with tasks"),
        ({"tasks": 0}, "kernels with tasks"),
        ({"context": (Bound(99),)}, "bindings there are"),
        ({"context": (1 << 70,)}, "words of 64 bits"),
        ({"context": (Bound(4, 1 << 40),)}, "places inside the arena"),
        ({"context": (1, 2), "error": 14}, "15 words of a context"),
    ],
)
def test_calls_are_well_formed(built, change, words):
    built.calls[0][0] = replace(built.calls[0][0], **change)
    refuses(built, words)


# -- where it happens --------------------------------------------------------------------------


def test_what_each_pass_made_is_verified(monkeypatch):
    seen = []
    monkeypatch.setattr(pipeline, "verify", lambda made, name: seen.append(name))
    pipeline.compile_graph(graph_of(lambda x: nd.exp(x), layout(3)))
    assert tuple(seen) == pipeline.PASSES


def test_nothing_is_verified_unless_asked_for(monkeypatch):
    monkeypatch.setattr(config, "VERIFY", False)
    monkeypatch.setattr(pipeline, "verify", lambda made, name: pytest.fail("verified"))
    pipeline.compile_graph(graph_of(lambda x: nd.exp(x), layout(3)))


def test_only_what_passes_make_can_be_verified():
    with pytest.raises(TypeError, match="expected what a pass made, got 7"):
        verify(7, "a pass")


def test_an_empty_graph_is_fine():
    verify(Graph([], []), "a pass")
