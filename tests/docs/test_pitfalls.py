"""`docs/pitfalls.md`: every row is complete, and every test and piece of code that it names exists."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.helpers.processes import REPOSITORY

TABLE_LINES = [
    line
    for line in (REPOSITORY / "docs" / "pitfalls.md").read_text().splitlines()
    if line.startswith("|")
]
HEADER = "| number | what went wrong elsewhere | what keeps it out | where |"
RULE = "|---|---|---|---|"

# A bar that belongs to the text is written \| in Markdown.
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TABLE_LINES
    if line not in (HEADER, RULE)
]


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Return what a Python file defines: `function`, `NAME`, `Class`, `Class::method`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}::")
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse((REPOSITORY / path).read_text()).body, "")
    return frozenset(found)


# Of these, none may ever go; further ones come behind them.
LAST = 114


def test_numbers() -> None:
    """Every trap from the first to the last known has its row, in order, without a gap, and once."""
    numbers = [row[0] for row in ROWS]

    assert numbers[:LAST] == [str(number) for number in range(1, LAST + 1)]
    assert numbers == [str(number) for number in range(1, len(ROWS) + 1)]
    # A line that a bar too few or many keeps from being read as a row would be missed above.
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in ROWS])
def test_row(row: list[str]) -> None:
    """A row says what went wrong, what keeps it out, and where; what stands there exists."""
    _number, trouble, remedy, where = row
    references = re.findall(r"`([^`]+)`", where)

    assert trouble.endswith(".")
    assert remedy.endswith(".")
    assert where == " · ".join(f"`{reference}`" for reference in references)
    assert references
    for reference in references:
        path, _, name = reference.partition("::")
        assert (REPOSITORY / path).is_file(), reference
        assert name in names_in(path), reference
        is_test = path.startswith("tests/") and path.rpartition("/")[2].startswith("test_")
        assert is_test == name.rpartition("::")[2].startswith(("test_", "Test")), reference
