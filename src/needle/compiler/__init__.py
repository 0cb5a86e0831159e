"""Primitives over strided views to machine code: types, code, kernels, targets, building."""
