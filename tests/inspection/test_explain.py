"""`step.explain()`: what it says of kernels is right, and it changes nothing."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from recorded import graph_of, layout

import needle as ndl
from needle import nn, optim
from needle.inspection.kernels import facts_of, view_bytes
from needle.inspection.machine import Peak, measure_peak
from needle.inspection.words import count_text, size_text, table_text, time_text
from needle.jit import JitError, disable_jit, jit
from needle.program.pipeline import compile_graph

pytestmark = pytest.mark.nd_mode
nd = ndl.array_api


def facts(function, *layouts):
    return facts_of(compile_graph(graph_of(function, *layouts)))


def tensor(*shape):
    return ndl.Tensor(np.random.standard_normal(shape).astype(np.float32), requires_grad=False)


@pytest.fixture
def trained():
    """A jitted step that has run twice, with what it changes."""
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    opt, loss_of = optim.Adam(model.parameters()), nn.SoftmaxLoss()

    @jit
    def step(x, y):
        opt.reset_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = tensor(8, 20), ndl.Tensor(np.arange(8) % 4, requires_grad=False)
    for _ in range(2):
        step(x, y)
    return step, model, opt, (x, y)


# -- facts of kernels --------------------------------------------------------------------------


def test_a_chain_reads_each_operand_once_and_writes_its_result():
    (fact,) = facts(lambda x, y: nd.exp(x + y) * x, layout(10, 50), layout(10, 50))
    assert (fact.flops, fact.read, fact.written) == (3 * 500, 2 * 2000, 2000)
    assert fact.kind == "loop" and len(fact.primitives) == 3


def test_what_is_broadcast_counts_as_what_it_is():
    (fact,) = facts(lambda x, b: x + b, layout(10, 50), layout(50))
    assert fact.read == 2000 + 200


def test_a_product_of_matrices_is_two_operations_for_each_term():
    (fact,) = facts(lambda a, b: a @ b, layout(30, 40), layout(40, 20))
    assert fact.flops == 2 * 30 * 40 * 20
    assert fact.nbytes == 4 * (30 * 40 + 40 * 20 + 30 * 20)
    assert fact.kind == "contraction"


def test_a_loop_on_the_panels_of_a_product_reads_nothing_of_it_from_memory():
    (fact,) = facts(
        lambda a, b, c: nd.maximum(a @ b + c, 0.0), layout(30, 40), layout(40, 20), layout(20)
    )
    assert fact.kind == "contraction with a loop" and len(fact.codes) == 2
    assert fact.flops == 2 * 30 * 40 * 20 + 2 * 30 * 20
    assert fact.read == 4 * (30 * 40 + 40 * 20 + 20) and fact.written == 4 * 30 * 20


def test_sums_down_columns_are_counted_where_they_are_made():
    found = facts(
        lambda a, b: (nd.maximum(a, b), nd.sum(nd.maximum(a, b), axis=0)),
        layout(640, 100),
        layout(640, 100),
    )
    assert sum(fact.flops for fact in found) >= 2 * 64000
    assert max(fact.flops for fact in found) >= 64000


def test_moving_values_is_no_operation():
    (fact,) = facts(lambda x: nd.concatenate((x, x), axis=0) * 1.0, layout(5))[-1:]
    assert fact.flops == 0


def test_bytes_of_views():
    from needle.backend_ndarray.layout import Layout

    view = Layout.of(layout(1).device, np.dtype("float32"), (5, 7), (0, 1))
    assert view_bytes(view) == 28
    assert view_bytes(layout(0, 7)) == 0
    assert view_bytes(layout()) == 4


# -- what it says ------------------------------------------------------------------------------


def test_an_error_before_the_first_call():
    @jit
    def twice(x):
        return x * 2

    with pytest.raises(JitError, match=r"explain: expected a function that has been called, got t"):
        twice.explain()
    with disable_jit():
        twice(tensor(2))
    with pytest.raises(JitError, match=r"nothing is compiled yet. Call it once, in nd mode"):
        twice.explain()
    assert twice.compiled == []


def test_nothing_changes(trained):
    step, model, opt, (x, y) = trained
    before = [p.numpy().copy() for p in model.parameters()]
    moments = [m.numpy().copy() for m in opt.m.values()]
    stream, count = np.random.get_state(), opt.t
    memories = [p.cached_data._memory for p in model.parameters()]
    step.explain()
    assert all((a == p.numpy()).all() for a, p in zip(before, model.parameters(), strict=True))
    assert all((a == m.numpy()).all() for a, m in zip(moments, opt.m.values(), strict=True))
    assert [p.cached_data._memory for p in model.parameters()] == memories
    assert opt.t == count
    assert all(np.array_equal(a, b) for a, b in zip(stream, np.random.get_state(), strict=True))
    assert np.isfinite(step(x, y).item())


def test_the_table_has_a_line_for_each_kernel_and_sums(trained):
    step, *_ = trained
    explanation = step.explain()
    text, summary = str(explanation), step.compiled[0]
    assert explanation.summary == summary
    assert len(explanation.kernels) == summary.kernels
    assert text.startswith(f"step: {summary.kernels} kernels ({summary.codes} kinds of machine")
    for word in ("matmul", "adam.py", "test_explain.py:", "of peak", "compiled in", "trace",
                 "plan_memory", "arena", "allocation", "peak:"):  # fmt: skip
        assert word in text
    assert summary.flops == sum(kernel.facts.flops for kernel in explanation.kernels)
    assert all(kernel.seconds >= 0 for kernel in explanation.kernels)
    assert explanation.timing.wall > 0 and explanation.timing.runs >= 5
    assert repr(explanation) == f"<Explanation of step: {summary.kernels} kernels>"


def test_the_memory_plan_says_what_each_buffer_is_and_what_for(trained):
    step, *_ = trained
    explanation = step.explain()
    memory, plan = explanation.memory, explanation.compiled.memory
    assert {held.span.buffer for held in memory.held} == plan.spans.keys()
    text = str(memory)
    assert text.startswith(f"memory: an arena of {size_text(plan.total)} ")
    head = ["size", "stages", "begins at", "what", "made by", "where", "last used by"]
    assert re.split(r"  +", text.splitlines()[3].strip()) == head
    for word in ("float32[8,16]", "gradient of relu", "test_explain.py:", "scratch memory"):
        assert word in text
    assert all(held.made_by for held in memory.held)
    busiest = [held for held in memory.held if held.span.first <= memory.busiest <= held.span.last]
    assert sum(held.span.buffer.nbytes for held in busiest) == plan.peak
    assert str(explanation).endswith("all of the plan: print(explanation.memory)")


def test_a_step_that_keeps_nothing_needs_no_memory():
    twice = jit(lambda x: x * 2)
    twice(tensor(2))
    explanation = twice.explain()
    said = "memory: what comes and goes in a step needs none"
    assert str(explanation).endswith(said) and str(explanation.memory) == said


def test_each_kind_of_arguments_has_a_form_of_its_own(trained):
    step, _, _, (x, y) = trained
    step(ndl.Tensor(x.numpy()[:4], requires_grad=False), ndl.Tensor(y.numpy()[:4]))
    assert len(step.compiled) == 2
    assert "the last used of 2 compiled forms" in str(step.explain())


def test_arguments_that_nobody_holds_any_more_are_zeros():
    @jit
    def total(x):
        return ndl.exp(x).sum()

    total(tensor(100))
    assert total.explain().timing.wall > 0


def test_arguments_at_fault_are_told():
    loss_of = nn.SoftmaxLoss()

    @jit
    def step(x, y):
        return loss_of(x, y)

    x, y = tensor(4, 3), ndl.Tensor(np.array([0, 1, 2, 0]), requires_grad=False)
    step(x, y)
    y.data = ndl.Tensor(np.array([0, 1, 7, 0]), requires_grad=False)
    with pytest.raises(JitError, match="explain: expected arguments that the function takes"):
        step.explain()


def test_the_peak_is_measured_once():
    assert measure_peak() is measure_peak()
    assert measure_peak().flops > 1e9 and measure_peak().bandwidth > 1e8


def test_the_best_time_is_that_of_operations_or_bytes():
    peak = Peak(flops=100.0, bandwidth=10.0, threads=1)
    assert peak.seconds(200, 5) == 2.0 and peak.seconds(200, 50) == 5.0
    assert str(Peak(3e11, 2e10, 2)) == "300 GFLOP/s and 20.0 GB/s with 2 threads"


def test_numbers_as_text():
    assert [count_text(n) for n in (0, 27, 1300, 15.7e6)] == ["0", "27", "1.3 k", "15.7 M"]
    assert [size_text(n) for n in (64, 999.9, 1300)] == ["64 B", "1 kB", "1.3 kB"]
    assert [time_text(s) for s in (8.5e-7, 1.23e-5, 2.1)] == ["850 ns", "12.3 us", "2.1 s"]
    assert table_text(("a", "bc"), [("1", "x")], left=(1,)) == "a  bc\n-----\n1  x"
    assert "abc…" in table_text(("a",), [("abcdef",)], widest={0: 4})


# -- the page ----------------------------------------------------------------------------------


class Checked(HTMLParser):
    """Follows elements, and notes what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.fetched, self.data = [], 0, [], ""

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[key] for key in ("src", "href") if key in given]
        self.rows += tag == "tr" and "data-kernel" in given
        if tag not in ("meta", "input"):
            self.open.append((tag, given.get("id")))

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", "data"):
            self.data += data


def parsed(text):
    page = Checked()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_is_whole_and_fetches_nothing(trained, tmp_path):
    step, *_ = trained
    explanation = step.explain(html=tmp_path / "step.html")
    text = (tmp_path / "step.html").read_text()
    page = parsed(text)
    assert all(link.startswith("#") for link in page.fetched)
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.rows == len(explanation.kernels)
    for part in ("kernels", "graph", "kernel", "timeline", "memory", "passes"):
        assert f'<section id="{part}">' in text


def test_the_page_has_the_code_of_each_kernel(trained, tmp_path):
    step, *_ = trained
    explanation = step.explain(html=tmp_path / "step.html")
    data = json.loads(parsed((tmp_path / "step.html").read_text()).data)
    assert len(data["kernels"]) == len(explanation.kernels)
    wanted = {str(code) for kernel in explanation.kernels for code in kernel.facts.codes}
    assert data["codes"].keys() == wanted
    for texts in data["codes"].values():
        ir, assembly = [
            zlib.decompress(base64.b64decode(texts[key])).decode() for key in ("ir", "assembly")
        ]
        assert "define void @kernel(" in ir and "kernel:" in assembly.replace("_kernel:", "kernel:")
    matmul = next(k for k in data["kernels"] if "matmul" in k["title"])
    assert any("test_explain.py" in line and "model(x)" in line for line in matmul["lines"])
    assert matmul["primitives"]


def test_names_cannot_break_the_page(tmp_path):
    def f(x):
        return x + 1

    f.__name__ = "</script><b>&"
    step = jit(f)
    step(tensor(3))
    page = parsed(step.explain().save(tmp_path / "x.html").read_text())
    assert page.rows == 1


def test_the_page_of_a_program_without_kernels(tmp_path):
    step = jit(lambda x: x.reshape((2, 3)))
    step(tensor(6))
    assert parsed(step.explain().save(tmp_path / "x.html").read_text()).rows <= 1
