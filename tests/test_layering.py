"""Imports point one way: bootstrap → instrumentations → agent → standard library and the declared dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import REPOSITORY, clean_environment

LAYERS = ("agent", "instrumentations", "bootstrap", "console")
DEPENDENCIES = {"wrapt", "statsd", "importlib_metadata", "psutil", "requests"}

# Whom each layer may know of the others; `bootstrap` starts the console by its command, see the test below.
ALLOWED = {
    "agent": {"agent"},
    "instrumentations": {"instrumentations", "agent"},
    "bootstrap": {"bootstrap", "instrumentations", "agent"},
    "console": {"console", "agent"},
}

# What a Python has loaded anyway when it comes to the start-up file.
LOADED_AT_START = {"os", "sys"}

FOLDERS = [REPOSITORY / layer for layer in LAYERS]
DEMO_SITE = REPOSITORY / "bootstrap" / "demo_site"
FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.rglob("*.py")
    if not path.is_relative_to(DEMO_SITE)
)
ALL_FILES = sorted({*FILES, *(REPOSITORY / "tests").rglob("*.py"), *DEMO_SITE.rglob("*.py")})


def imports(path: Path, *, only_at_once: bool = False) -> Iterator[tuple[int, str]]:
    """Give line and dotted name of each import in a file; `only_at_once`: of those that its own import runs."""
    tree = ast.parse(path.read_text())
    nodes = _run_on_import(tree) if only_at_once else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.lineno, f"{_module(path, node)}.{alias.name}") for alias in node.names
            )


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_on_import(child)


def _module(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(REPOSITORY).parent.parts
    return ".".join(
        ("introspect", *package[: len(package) - node.level + 1], *filter(None, [node.module]))
    )


def layer_of(path: Path) -> str:
    """Return the folder at the top of the repository that a file is in."""
    return path.relative_to(REPOSITORY).parts[0]


def is_start_up(path: Path) -> bool:
    """Tell whether a file may be loaded in an application's process, as the demonstration's programs never are."""
    return layer_of(path) in ("instrumentations", "bootstrap") and not path.name.startswith("demo_")


def name_of(path: Path) -> str:
    """Return a file's path for a test's name."""
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_layer_knows_those_below_it(path: Path) -> None:
    """No file imports a layer above its own; the command line alone starts the console, inside a function."""
    layer = layer_of(path)
    at_once = set(imports(path, only_at_once=True))

    for line, name in imports(path):
        if not name.startswith("introspect."):
            continue
        known = name.split(".")[1]
        is_command_line = path == REPOSITORY / "bootstrap" / "cli.py" and known == "console"
        assert known in ALLOWED[layer] or is_command_line, f"{name_of(path)}:{line} imports {name}"
        if is_command_line:
            assert (line, name) not in at_once, f"{name_of(path)}:{line} imports {name} at once"


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_nobody_imports_a_layer_by_its_folder(path: Path) -> None:
    """No file says `import agent`, which works in the repository's root and nowhere else."""
    bare = [(line, name) for line, name in imports(path) if name.split(".")[0] in LAYERS]

    assert bare == []


@pytest.mark.parametrize("path", [path for path in FILES if layer_of(path) == "agent"], ids=name_of)
def test_agent_needs_the_declared_dependencies_alone(path: Path) -> None:
    """The agent imports the standard library and the five dependencies, and knows neither Django nor its kin."""
    allowed = sys.stdlib_module_names | DEPENDENCIES | {"introspect"}

    assert {name.split(".")[0] for _, name in imports(path)} <= allowed


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if is_start_up(path)],
    ids=name_of,
)
def test_loading_costs_no_library(path: Path) -> None:
    """What an instrumentation or the start-up imports at once is the standard library and our own code."""
    allowed = sys.stdlib_module_names | {"introspect"}

    assert {name.split(".")[0] for _, name in imports(path, only_at_once=True)} <= allowed


def test_start_up_file_imports_what_is_loaded_already() -> None:
    """The start-up file imports nothing at once that a starting interpreter has not loaded itself."""
    path = REPOSITORY / "bootstrap" / "startup" / "sitecustomize.py"

    assert {name for _, name in imports(path, only_at_once=True)} <= LOADED_AT_START
    assert [entry.name for entry in path.parent.iterdir() if entry.name != "__pycache__"] == [
        path.name
    ]


def test_loaded_at_start_is_loaded_at_start() -> None:
    """A bare interpreter has loaded what the start-up file counts on."""
    code = f"import sys; sys.exit(not {LOADED_AT_START!r} <= set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=False)

    assert done.returncode == 0
