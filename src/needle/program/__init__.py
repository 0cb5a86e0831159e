"""From a record of primitives to one native program: simplified, fused, scheduled, laid out."""
