"""The pictures of graphs: well-formed, complete, nothing overlapping, cheap for large graphs."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import tensor

import needle as ndl
from needle.errors import DTypeError, OptionError
from needle.visualize import graph_svg, graph_text
from needle.visualize.layout import NODE_GAP, place

SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: str) -> ElementTree.Element:
    """The group that holds the graph, without the legend."""
    root = ElementTree.fromstring(picture)
    return root.findall(f"{SVG}g")[1]


def shapes(picture: str, kind: str) -> list[ElementTree.Element]:
    return list(drawn(picture).iter(f"{SVG}{kind}"))


def texts(picture: str) -> list[str]:
    return [text.text for text in shapes(picture, "text")]


def tutorial():
    x1, x2 = tensor(2.0), tensor(5.0)
    y = x1 * x2 + ndl.sin(x1)
    return y, {x1: "x1", x2: "x2", y: "y"}


# -- the picture ---------------------------------------------------------------------------------


def test_every_value_is_a_box_and_every_operator_a_circle():
    y, names = tutorial()
    picture = graph_svg(y, names=names)
    assert len(shapes(picture, "rect")) == 5  # x1, x2, product, sine, sum
    assert len(shapes(picture, "circle")) == 3
    assert {"x1", "x2", "y", "multiply", "sin", "add"} <= set(texts(picture))


def test_boxes_tell_dtype_shape_and_the_number_of_a_single_element():
    x = tensor(np.ones((2, 3), dtype="float32"))
    assert {"float32[2,3]", "float32[] = 6"} <= set(texts(graph_svg(x.sum())))


def test_circles_tell_the_scalar_of_a_scalar_operator():
    circle = [text for text in texts(graph_svg(tensor([1.0, 2.0]) * 0.25)) if "[" not in text]
    assert circle == ["mul", "scalar", "0.25"]


def test_a_pointer_on_a_circle_is_told_arguments_and_equation():
    picture = graph_svg(tensor(np.ones((2, 3))).sum(1))
    titles = [title.text for title in shapes(picture, "title")]
    assert any(t.startswith("summation(axes=1, keepdims=False): y = ") for t in titles)


def test_an_operator_on_one_value_twice_gets_two_arrows():
    x = tensor([1.0])
    lines, heads = drawn(graph_svg(x * x)).findall(f"{SVG}g")[:2]
    assert len(lines) == len(heads) == 3  # twice into the product, once out of it


def test_parameters_data_values_and_results_differ_in_colour():
    w, x = tensor([1.0, 2.0]), tensor([3.0, 4.0], requires_grad=False)
    picture = graph_svg((w * x).sum(), names={w: "w", x: "x"})
    fills = {rect.get("fill") for rect in shapes(picture, "rect")}
    assert len(fills) == 4
    legend = ElementTree.fromstring(picture).findall(f"{SVG}g")[0]
    swatches = {rect.get("fill") for rect in legend.iter(f"{SVG}rect")}
    assert swatches == fills


def test_data_can_be_coloured_as_data_although_it_has_a_gradient():
    x = tensor([1.0])
    plain, marked = (
        [rect.get("fill") for rect in shapes(picture, "rect")]
        for picture in (graph_svg(ndl.exp(x)), graph_svg(ndl.exp(x), data=[x]))
    )
    assert plain[0] != marked[0]
    assert plain[1:] == marked[1:]


def test_the_legend_shows_only_what_occurs():
    picture = graph_svg(ndl.exp(tensor([1.0])))
    assert "parameter" in picture
    assert "data, constant" not in picture


def test_several_results_share_one_picture():
    x = tensor([1.0])
    y = ndl.exp(x)
    picture = graph_svg(y, ndl.log(y))
    results = [r for r in shapes(picture, "rect") if r.get("fill") == "#d6f0d8"]
    assert len(results) == 2


def test_a_leaf_alone_is_one_box():
    picture = graph_svg(tensor([1.0, 2.0]), names={})
    assert texts(picture) == ["float64[2]"]


def test_the_gradient_is_a_graph_too():
    x = tensor([0.5])
    ndl.sin(x).backward()
    assert "cos" in texts(graph_svg(x.grad))


def test_tuples_of_tensors_are_values():
    pair = ndl.ops.split(tensor(np.ones((2, 3))), 0)
    assert "(float64[3], float64[3])" in texts(graph_svg(pair))


def test_names_stay_on_parameters_that_were_updated_since():
    w = tensor([1.0, 2.0])
    loss = (w * w).sum()
    w.data = tensor([5.0, 5.0])
    assert "w" in texts(graph_svg(loss, names={w: "w"}))


@pytest.mark.parametrize(
    "name",
    [
        "<b>&amp;</b>",
        'a "quoted" & <tag>',
        "new\nline",
        "nul\0",
        "重みの行列",
        "x" * 300,
        "",
        "\ud800",
    ],
)
def test_any_name_gives_well_formed_xml(name):
    x = tensor([1.0])
    picture = graph_svg(ndl.exp(x), names={x: name})
    ElementTree.fromstring(picture.encode())


def test_names_are_shown_as_they_are():
    x = tensor([1.0])
    assert "a < b & c" in texts(graph_svg(ndl.exp(x), names={x: "a < b & c"}))


def test_text_fits_its_box():
    x = tensor([1.0])
    wide = "重みの行列 of the widest layer that anybody has drawn"
    for name in ("w", "decoder.layers.11.attention.q_projection.weight", wide):
        for group in drawn(graph_svg(ndl.exp(x), names={x: name})).findall(f"{SVG}g")[2:]:
            box = group.find(f"{SVG}rect")
            if box is None:
                continue
            for text in group.findall(f"{SVG}text"):
                glyphs = sum(1.0 if ord(c) > 0x2E80 else 0.602 for c in text.text)
                assert 12 * glyphs < float(box.get("width")) - 4


def test_text_fits_its_circle():
    x = tensor(np.ones((2, 3)))
    for group in drawn(graph_svg((x * 0.123456).broadcast_to((2, 3)).sum())).findall(f"{SVG}g"):
        circle = group.find(f"{SVG}circle")
        if circle is None:
            continue
        centre, radius = float(circle.get("cy")), float(circle.get("r"))
        for text in group.findall(f"{SVG}text"):
            half = 12 * 0.602 * len(text.text) / 2
            height = abs(float(text.get("y")) - 4 - centre)
            assert half**2 + height**2 < radius**2


def test_the_same_graph_gives_the_same_picture():
    (first, names), (second, same) = tutorial(), tutorial()
    assert graph_svg(first, names=names) == graph_svg(second, names=same)


def test_nothing_is_computed_for_a_picture():
    with ndl.lazy():
        y = ndl.exp(tensor([1.0]))
        assert "not computed yet" in graph_svg(y)
    assert y.cached_data is None


def test_a_long_chain_is_drawn_without_recursion():
    x = y = tensor([1.0])
    for _ in range(1500):
        y = y + x  # x is visible over the whole height, and its edges share one trunk
    picture = graph_svg(y)
    assert len(shapes(picture, "circle")) == 1500
    assert len(picture) < 4_000_000


def test_no_tensor_is_refused():
    with pytest.raises(OptionError, match=r"^graph_svg: expected at least one Tensor, got none\.$"):
        graph_svg()


def test_what_is_no_tensor_is_refused():
    with pytest.raises(DTypeError, match=r"^graph_text: expected Tensors, got int 1\.$"):
        graph_text(1)


# -- the layout ----------------------------------------------------------------------------------


@st.composite
def acyclic_graphs(draw):
    count = draw(st.integers(1, 25))
    sizes = draw(
        st.lists(st.tuples(st.floats(10, 200), st.floats(10, 80)), min_size=count, max_size=count)
    )
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = [(a, b) for a, b in draw(st.lists(pairs, max_size=50)) if a < b]
    return sizes, edges


@settings(deadline=None, max_examples=150)
@given(acyclic_graphs())
def test_nodes_never_overlap_and_edges_lead_downwards(graph):
    sizes, edges = graph
    layout = place(sizes, edges)
    boxes = [
        (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        for (x, y), (w, h) in zip(layout.centres, sizes, strict=True)
    ]
    for i, (left, right, top, bottom) in enumerate(boxes):
        assert left >= -1e-6
        assert right <= layout.width + 1e-6
        assert top >= -1e-6
        assert bottom <= layout.height + 1e-6
        for other_left, other_right, other_top, other_bottom in boxes[:i]:
            beside = left >= other_right + NODE_GAP - 1e-6 or other_left >= right + NODE_GAP - 1e-6
            assert beside or top >= other_bottom or other_top >= bottom
    for (source, target), start in zip(edges, layout.starts, strict=True):
        leaves = boxes[source][3] if start is None else start.y
        assert boxes[source][3] <= leaves < boxes[target][2]


def test_nothing_to_place_is_an_empty_layout():
    assert place([], []).centres == []


def test_a_straight_chain_stands_upright():
    layout = place([(50, 20)] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len({x for x, _ in layout.centres}) == 1


def test_avoidable_crossings_are_avoided():
    # 0 -> 3 and 1 -> 2 cross when both layers stand in order
    layout = place([(20, 20)] * 4, [(0, 3), (1, 2)])
    x = [centre.x for centre in layout.centres]
    assert (x[0] - x[1]) * (x[3] - x[2]) > 0


# -- text ----------------------------------------------------------------------------------------


def test_text_lists_inputs_before_their_users():
    y, names = tutorial()
    assert graph_text(y, names=names).splitlines() == [
        "x1 = leaf              float64[] = 2",
        "x2 = leaf              float64[] = 5",
        "%2 = multiply(x1, x2)  float64[] = 10",
        "%3 = sin(x1)           float64[] = 0.909297",
        "y  = add(%2, %3)       float64[] = 10.9093",
    ]


def test_text_shows_the_arguments_of_operators():
    text = graph_text((tensor(np.ones((2, 3))) * 3).sum(1))
    assert re.search(r"mul_scalar\(%0, scalar=3\)", text)
    assert re.search(r"summation\(%1, axes=1, keepdims=False\)", text)


@pytest.mark.parametrize("picture", [graph_svg, graph_text])
def test_names_that_are_no_dict_of_tensors_to_str_are_refused(picture):
    x = tensor([1.0])
    for names in ({x: 5}, [x], {"x": x}, 3):
        with pytest.raises(DTypeError) as caught:
            picture(x * 2, names=names)
        name = picture.__name__
        assert str(caught.value).startswith(f"{name}: expected names as {{Tensor: str}}, got ")
