"""What an SQL comment says: safe whatever goes in, and as written in the documentation."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from introspect.agent import sqlcomment

SAFE = re.compile(r"/\* [A-Za-z0-9/_.:=,-]+(?: [A-Za-z0-9/_.:=,-]+)* \*/")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["/2014/pycon/"], "/* /2014/pycon/ */"),
        (["manage.py send_subscriptions 1000"], "/* manage.py send_subscriptions 1000 */"),
        (["9110dbba-6dd9-4d1c-8828-11be81ac0561"], "/* 9110dbba-6dd9-4d1c-8828-11be81ac0561 */"),
        (["task.name"], "/* task.name */"),
        (["/a/", "app/views.py:42"], "/* /a/ app/views.py:42 */"),
        (["books/<int:pk>/"], "/* books/_int:pk_/ */"),
        (["/x/*/ DROP TABLE y; --"], "/* /x/_/ DROP TABLE y_ -- */"),
        (["/100%/%s/?/"], "/* /100_/_s/_/ */"),
        (["/a\n\tb\x00c/"], "/* /a b_c/ */"),
        (["/été/中/"], "/* /_t_/_/ */"),
        ([""], ""),
        ([" \t\n"], ""),
        (["", "/a/", " "], "/* /a/ */"),
        ([], ""),
    ],
)  # fmt: skip
def test_literal_results(parts: list[str], expected: str) -> None:
    """The comment holds its parts, joined by spaces, with what is unsafe replaced."""
    assert sqlcomment.comment(parts) == expected


ID = "9110dbba-6dd9-4d1c-8828-11be81ac0561"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["/" + "a" * 300], f"/* /{'a' * 249} */"),
        (["/" + "a" * 300, ID], f"/* /{'a' * 212} {ID} */"),
        ([ID, "/" + "a" * 300], f"/* {ID} /{'a' * 212} */"),
        (["/" + "a" * 249, "x" * 128], f"/* /{'a' * 120} {'x' * 128} */"),
        (["/" + "a" * 300, "books/_int:pk_/", "shop.views.index", ID, "app/views.py:42"],
         f"/* /{'a' * 163} books/_int:pk_/ shop.views.index {ID} app/views.py:42 */"),
        (["/" + "a" * 300, "/" + "b" * 300, ID], f"/* /{'a' * 105} /{'b' * 105} {ID} */"),
        (["/" + "a" * 211 + " cd", ID], f"/* /{'a' * 211} {ID} */"),
        (["mysite.tasks.send", "x" * 128, "/" + "a" * 300], f"/* mysite.tasks.send {'x' * 128} /{'a' * 102} */"),
        (["v" * 128, "x" * 128], f"/* {'v' * 124} {'x' * 124} */"),
        (["v" * 300, ID], f"/* {'v' * 213} {ID} */"),
    ],
)  # fmt: skip
def test_too_long(parts: list[str], expected: str) -> None:
    """Where the parts have no room, the long ones are cut to one length, and the short ones and the ID are whole."""
    assert sqlcomment.comment(parts) == expected


@examples(deadline=None, database=None, max_examples=500)
@given(
    st.tuples(
        st.text(max_size=600).map(lambda text: f"/{text}"),
        st.text("abc/<>:_", max_size=600).map(lambda text: f"books/{text}"),
        st.text("abcde._", min_size=1, max_size=60),
        st.from_regex(r"[A-Za-z0-9._:-]{8,128}", fullmatch=True),
        st.just("app/views.py:42"),
    ),
    st.permutations(range(5)),
)
def test_id_and_short_parts_are_whole(parts: tuple[str, ...], order: list[int]) -> None:
    """However long path and route are, and in whatever order all are named, ID, view and caller arrive as they are."""
    comment = sqlcomment.comment([parts[index] for index in order])

    assert SAFE.fullmatch(comment)
    assert len(comment) <= 256
    assert set(parts[2:]) <= set(comment.split(" "))


@examples(deadline=None, database=None, max_examples=500)
@given(st.lists(st.text() | st.from_regex(r"[/*! +%?'\"\\;\-\x00]*", fullmatch=True), max_size=5))
@example(["*/ DROP TABLE x; /*", "/*! evil */", "/*+ hint */"])
@example(["a" * 10_000])
@example(["a " * 300])
@example(["é" * 300, "\ud800"])
def test_safe_by_construction(parts: list[str]) -> None:
    """Whatever goes in, the comment is one comment of safe characters, of at most 256."""
    comment = sqlcomment.comment(parts)

    assert not comment or SAFE.fullmatch(comment)
    assert len(comment) <= 256


@pytest.mark.parametrize(
    ("text", "default", "replica"),
    [
        ("path", ("path",), ("path",)),
        ("path, ID", ("path", "id"), ("path", "id")),
        ("off", (), ()),
        ("default=path,id;replica=off", ("path", "id"), ()),
        ("replica=off", ("path",), ()),
        ("replica=caller; *=off", (), ("caller",)),
    ],
)  # fmt: skip
def test_choices(text: str, default: tuple[str, ...], replica: tuple[str, ...]) -> None:
    """Parts are chosen for all aliases, or for each by its name; others keep the default."""
    choice = sqlcomment.parse(text)

    assert choice.parts("default") == default
    assert choice.parts("replica") == replica
    assert choice.is_off() == (not default and not replica)


@pytest.mark.parametrize("text", ["pth", "path,everything", "default=", "default=path;replica=x"])
def test_mistakes(text: str) -> None:
    """A mistaken choice is refused with what may be written."""
    with pytest.raises(ValueError, match="path, route, view, id, caller"):
        sqlcomment.parse(text)
