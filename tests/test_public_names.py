"""What the package offers: complete and sorted names, docstrings, layers, a light import."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import needle

ROOT = Path(needle.__file__).parent


def all_modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(needle.__path__, "needle.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    return [needle, *[importlib.import_module(name) for name in names]]


MODULES = all_modules()
WITH_NAMES = [module for module in MODULES if hasattr(module, "__all__")]
PACKAGES = [needle.autograd, needle.ops, needle.init, needle.nn, needle.optim, needle.data]

# Shared within a package and named for its readers, but no part of what users are offered.
INTERNAL = {
    "needle.ops.activations": {"ActivationGradient"},
    "needle.ops.arithmetic": {"ScalarOp"},
    "needle.ops.broadcasting": {
        "Axes", "along", "expand_reduced", "named_axes", "normalize_axes", "normalize_axis",
        "require_tensors", "unbroadcast",
    },
    "needle.ops.attention": {"dropped", "require_no_bools"},
    "needle.ops.conditions": {"finite", "require_to_be"},
    "needle.ops.lookup": {"padding_row"},
    "needle.ops.recurrence": {"require_nonlinearity"},
    "needle.ops.reductions": {"Extreme", "Reduction"},
    "needle.ops.padding": {"extended"},
    "needle.ops.pooling": {"constant", "dtype_of_sums", "require_pictures"},
    "needle.ops.spatial": {"pairs_of_widths", "require_half_padding", "whole_numbers"},
    "needle.ops.window_geometry": {"Part", "Windows", "parts_of_picture", "windows_on_picture"},
    "needle.nn.checks": {
        "require_float_dtype", "require_number", "require_positive", "require_state",
        "require_tensors", "shown_options",
    },
    "needle.nn.key_value_cache": {"caches_of", "require_cache", "restored_on_failure"},
    "needle.nn.normalization": {"Norm"},
    "needle.nn.spatial": {"SpatialLayer", "channels_first", "channels_last"},
    "needle.nn.module": {"LoadReport", "walk"},
}  # fmt: skip


def module_id(module):
    return module.__name__


def defined_in(module):
    """Public classes and functions that stand in a module's own file."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def public_objects(module):
    named = [(name, getattr(module, name)) for name in module.__all__]
    return [(n, value) for n, value in named if inspect.isclass(value) or inspect.isfunction(value)]


# -- __all__ -----------------------------------------------------------------------------------


def test_only_modules_without_names_of_their_own_have_no_all():
    without = {module.__name__ for module in MODULES if not hasattr(module, "__all__")}
    assert without <= {
        "needle.cli",
        "needle.compiler",
        "needle.compiler.kernels",
        "needle.nn.nn_basic",
        "needle.nn.nn_conv",
        "needle.nn.nn_sequence",
        "needle.nn.nn_transformer",
        "needle.ops.ops_mathematic",
        "needle.program",
        "needle.runtime",
        "needle.version",
    }


def order(name):
    """Constants, classes, the rest; each by the alphabet, and I8 before I16."""
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, parts)


@pytest.mark.parametrize("module", WITH_NAMES, ids=module_id)
def test_names_exist_once_and_are_sorted(module):
    names = list(module.__all__)
    assert all(hasattr(module, name) for name in names)
    own = [name for name in names if name not in needle.ops.__all__]
    shown = own if module is needle else names  # the operators follow in an order of their own
    assert shown == sorted(set(shown), key=order) and len(names) == len(set(names))


@pytest.mark.parametrize("module", [needle, *PACKAGES], ids=module_id)
def test_a_packages_names_are_all_that_it_holds(module):
    held = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("needle")
    }
    assert held <= set(module.__all__)


@pytest.mark.parametrize("package", [needle.ops, needle.init, needle.nn], ids=module_id)
def test_a_package_offers_whatever_its_files_offer(package):
    for module in WITH_NAMES:
        name = module.__name__
        if name.startswith(package.__name__ + "."):
            offered = set(module.__all__) | defined_in(module)
            assert offered - INTERNAL.get(name, set()) <= set(package.__all__), name


def test_every_op_stands_on_the_top_level_too():
    missing = set(needle.ops.__all__) - set(needle.__all__)
    assert not missing
    for name in needle.ops.__all__:
        assert getattr(needle, name) is getattr(needle.ops, name)


def test_star_import_brings_what_all_names_and_nothing_else():
    namespace: dict = {}
    exec("from needle import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(needle.__all__)


def test_version_is_the_distributions():
    assert needle.__version__ == importlib.import_module("needle.version").__version__
    assert needle.__version__.count(".") >= 2


# -- docstrings --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=module_id)
def test_modules_say_what_they_are(module):
    assert module.__doc__
    assert module.__doc__.strip()


@pytest.mark.parametrize("module", WITH_NAMES, ids=module_id)
def test_public_classes_and_functions_have_docstrings(module):
    assert [name for name, value in public_objects(module) if not inspect.getdoc(value)] == []


def members(kind):
    """Public methods and properties of a class, from its own body."""
    for name, value in vars(kind).items():
        value = getattr(value, "__func__", value)
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name


@pytest.mark.parametrize("module", WITH_NAMES, ids=module_id)
def test_public_methods_have_docstrings(module):
    bare = [
        f"{name}.{member}"
        for name, value in public_objects(module)
        if inspect.isclass(value) and value.__module__ == module.__name__
        for member in members(value)
        if not inspect.getdoc(getattr(value, member))
    ]
    assert bare == []


# -- layers ------------------------------------------------------------------------------------

LAYERS = [
    {"errors", "version"},
    {"config", "dtypes", "files", "fixed", "origins", "run_numbers", "unrolled"},
    {"compiler"},
    {"runtime"},
    {"backend_numpy"},
    {"backend_ndarray"},
    {"program"},
    {"backend_selection"},
    {"autograd"},
    {"realization"},
    {"ops"},
    {"init"},
    {"nn", "optim", "data", "serialization"},
    {"visualize"},
    {"inspection"},
    {"jit"},
    {"generation", "models", "testing"},
    {"cli"},
    {"__main__", "startup"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# `import needle` gives access to everything. Tensor's operators are ops, and gradients need zeros
# and ones: the one knot in the layering, tied at call time and in these files only.
KNOT = {
    "autograd/backward.py", "autograd/functional.py", "autograd/methods.py", "autograd/tensor.py",
    "ops/ops_tuple.py", "ops/recurrence.py",
}  # fmt: skip
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported_names(path):
    """`a.b` for `import needle.a.b`, `from needle.a import b` and `from needle import a`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "needle":
                yield from (f"needle.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part_of(name):
    """The part of the package that a dotted name belongs to; "" for `needle` itself."""
    parts = name.split(".")
    return (parts[1] if len(parts) > 1 else "") if parts[0] == "needle" else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    here = path.relative_to(ROOT)
    own = here.parts[0].removesuffix(".py")
    assert own in LEVEL, f"{here}: give it a place in LAYERS"
    for name in imported_names(path):
        part = part_of(name)
        if part is None or part == own:
            continue
        if part not in LEVEL:  # `import needle`, or a name from its top level
            assert here.as_posix() in KNOT or LEVEL[own] > LEVEL["data"], f"{here}: {name}"
        else:
            assert LEVEL[part] < LEVEL[own], f"{here} imports {name}, which stands no lower"


# -- a light import ----------------------------------------------------------------------------

HEAVY = """llvmlite matplotlib sklearn PIL tqdm safetensors ml_dtypes torch scipy pandas
numpy.testing unittest asyncio multiprocessing urllib.request http.client ssl sqlite3 pickle
concurrent.futures argparse""".replace("\n", " ")


def loaded_after(statement):
    command = [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_needle_loads_nothing_heavy():
    added = loaded_after("import needle") - loaded_after("import numpy")
    assert added & set(HEAVY.split(" ")) == set()
    assert not any(name.startswith("needle.cli") for name in added)
