"""Kernels: what loops over strided operands. Each `prepare` looks at layouts and gives a call."""
