"""``introspect story`` in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from introspect.console.store import Store
from introspect.console.story import main
from tests.console.rows import NOON, batch, record, request
from tests.console.test_query_story import ID, checkout


def printed(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> list[str]:
    """The lines that a terminal of that width shows."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([ID, "--db", str(store.path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_waterfall_shows_both_services_in_order(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work, events, log lines and exception stand in the order they happened, calls nested."""
    store.write(batch(*checkout()), NOON)
    lines = printed(store, capsys, monkeypatch, 120)

    text = [re.sub(r"^[ ━·]*([\d.]+ m?s)? *", "", line) for line in lines]
    assert text == [
        ID,
        "2026-11-23 12:00:00 UTC   500.0 ms   billing, front",
        "",
        "front POST /checkout/ → 502",
        "db SELECT 1",
        "http billing 500",
        "billing GET /charge/ → 500",
        "WARNING shop.basket: charging",
        "✖ ValueError: limit (billing/views.py:8)",
        "INFO shop.basket: charge failed",
        "… 3 more",
        "INFO shop.basket: of another process",
        "INFO shop.basket: written later by a thread",
    ]


def test_bars_stand_where_things_happened(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar of a call in the second half of a request is in the second half of its bar."""
    event = {"offset_ms": 50, "kind": "http", "name": "billing", "ms": 50}
    store.write(batch(request(0, duration_ms=100.0, events=[event])), NOON)
    _, _, _, whole, call = printed(store, capsys, monkeypatch, 120)

    assert whole.startswith("━" * 24 + " ")
    assert call.startswith(" " * 12 + "━" * 12 + " ")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_lines_fit_the_terminal(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """However long a statement is, a line is no longer than the terminal is wide."""
    event = {
        "offset_ms": 1,
        "kind": "db",
        "name": "x",
        "ms": 1,
        "statement": "SELECT " + "a, " * 999,
    }
    store.write(batch(request(0, events=[event])), NOON)

    assert max(map(len, printed(store, capsys, monkeypatch, columns))) == columns


def test_hostile_text_cannot_steer_the_terminal(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences in a log line or a path are shown as dots."""
    hostile = "\x1b]0;owned\x07\x1b[2J\r\n"
    store.write(batch(record(message=hostile), request(path=hostile)), NOON)
    text = "".join(printed(store, capsys, monkeypatch, 120))

    assert "\x1b" not in text
    assert "\x07" not in text
    assert "]0;owned" in text


def test_unknown_id_and_missing_file_are_said(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not there is said with the file's name, and the status is 1."""
    assert main(["nobody", "--db", str(store.path)]) == 1
    assert f"nothing in {store.path} has the correlation ID nobody" in capsys.readouterr().err
    assert main(["nobody", "--db", str(tmp_path / "none.db")]) == 1
    assert "does not exist: start `introspect console`" in capsys.readouterr().err
    (tmp_path / "text.db").write_text("no database" * 100)
    assert main(["nobody", "--db", str(tmp_path / "text.db")]) == 1
    assert "file is not a database" in capsys.readouterr().err
