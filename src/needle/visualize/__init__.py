"""Pictures of the computational graph: boxes for values, circles for operators.

>>> import needle as ndl
>>> from needle.visualize import graph_text
>>> x = ndl.Tensor([2.0], dtype="float32")
>>> print(graph_text(ndl.exp(x) * x, names={x: "x"}))
x  = leaf             float32[1] = 2
%1 = exp(x)           float32[1] = 7.38906
%2 = multiply(%1, x)  float32[1] = 14.7781
"""

from __future__ import annotations

from needle.visualize.svg import graph_svg
from needle.visualize.text import graph_text

__all__ = ["graph_svg", "graph_text"]
