"""Checks for operators and for whatever else is differentiated; the project's own tests use them.

    check_op      one operator, everything that is asked of one: values, modes, layouts, gradients
    check_grads   gradients of any function of Tensors against central differences, to any order
    assert_close  arrays or Tensors, equal within the precision of their dtype

Import it by name, `import needle.testing`: `import needle` leaves it out. A check that fails
raises `AssertionError`; none draws from NumPy's global stream.
"""

from __future__ import annotations

from needle.testing.battery import check_op
from needle.testing.compare import assert_close
from needle.testing.gradients import check_grads

__all__ = ["assert_close", "check_grads", "check_op"]
