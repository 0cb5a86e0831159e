"""Values that wait in lazy mode become data: one native program for all that is asked for.

waiting    what has to be computed, in which order, and what of it is kept
record     the primitives that the ops consist of, written down by the device `trace`
programs   compiled records, found again by what they consist of
together   all of it: `realize_together`
"""

from needle.realization.together import realize_together

__all__ = ["realize_together"]
