"""Fixtures of the console's tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from introspect.console.query import open_reader
from introspect.console.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty file of the console."""
    with contextlib.closing(Store(tmp_path / "console.db")) as opened:
        yield opened


@pytest.fixture
def reader(store: Store) -> Iterator:
    """A read-only connection to the same file."""
    with contextlib.closing(open_reader(store.path)) as connection:
        yield connection
