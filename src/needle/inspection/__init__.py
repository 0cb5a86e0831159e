"""Where time and memory go: what was built for a compiled function, and profiles of programs."""

__all__: list[str] = []
