"""The tree in ARCHITECTURE.md, from the first line of each module's docstring.

python tests/architecture_tree.py --write    puts it there
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->"


def first_line(module: Path) -> str:
    """What a module says it is for."""
    docstring = ast.get_docstring(ast.parse(module.read_text())) or ""
    return docstring.partition("\n")[0].rstrip(".")


def entries(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Name, indented, and purpose of every module and package below `folder`."""
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield "  " * depth + module.name, first_line(module)
    for package in sorted(folder.glob("*/__init__.py")):
        yield "  " * depth + package.parent.name + "/", first_line(package)
        yield from entries(package.parent, depth + 1)


def tree() -> str:
    """The tree as it stands in the page."""
    lines = list(entries(ROOT / "src" / "needle", 1))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(["    src/needle/", *[f"    {n.ljust(width)}{p}" for n, p in lines]]) + "\n"


def main() -> None:
    """Print the tree, or with --write put it into the page."""
    if "--write" not in sys.argv:
        print(tree(), end="")
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tree()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
