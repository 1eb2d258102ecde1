"""What a few visitors of the demonstration's site do in a minute, in a few seconds."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, NamedTuple

import requests

from introspect.bootstrap.demo_services import DemoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BOOKS = 12
SOLD_OUT = 12  # the number of the book that the warehouse has none of

HEADER = "X-Request-ID"

WARM_UP = 10

_CSRF_FIELD = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class Visit(NamedTuple):
    """One request to the front service, and the status that its view gives."""

    path: str
    status: int = 200
    method: str = "GET"


def _visits() -> tuple[Visit, ...]:
    rounds = [
        visit
        for book in range(1, BOOKS + 1)
        for visit in (
            Visit("/"),
            Visit(f"/books/{book}/"),
            Visit(f"/search/?q={'aeiou'[book % 5]}"),
        )
    ]
    troubles = [
        Visit("/report/"),
        Visit("/no/such/page", 404),
        Visit("/books/999/", 404),
        Visit("/wp-login.php", 404),
        Visit("/staff/", 403),
        Visit("/coupon/?code=10"),
        Visit("/coupon/?code=10%25", 500),
        Visit("/books/1/buy/", 302, "POST"),
        Visit("/books/2/buy/", 302, "POST"),
        Visit(f"/books/{SOLD_OUT}/buy/", 500, "POST"),
        Visit("/books/3/buy/", 302, "POST"),
        Visit("/coupon/?code=ten", 500),
        Visit("/staff/", 403),
        Visit("/report/"),
    ]
    # Trouble comes in between, as it does.
    mixed: list[Visit] = []
    for index, visit in enumerate(rounds):
        mixed.append(visit)
        if index % 2 and troubles:
            mixed.append(troubles.pop(0))
    return (*mixed, *troubles)


VISITS = _visits()


class Visitor:
    """Somebody with a browser: cookies, forms, and no patience with proxies."""

    def __init__(self, front: str) -> None:
        self.front = front
        self.session = requests.Session()
        self.session.trust_env = False
        self._csrf_token = ""

    def visit(self, visit: Visit, data: dict[str, str] | None = None) -> requests.Response:
        """Make one request; ``DemoError`` unless it is answered as it should be."""
        headers = {"X-CSRFToken": self._csrf_token} if visit.method == "POST" else {}
        try:
            response = self.session.request(
                visit.method, self.front + visit.path, headers=headers, timeout=30,
                allow_redirects=False, data=data,
            )  # fmt: skip
        except requests.RequestException as error:
            raise DemoError(f"{visit.method} {visit.path} was not answered: {error}") from error
        if response.status_code != visit.status:
            raise DemoError(
                f"{visit.method} {visit.path} was answered {response.status_code}, "
                f"not {visit.status}:\n{response.text[:500]}"
            )
        if HEADER not in response.headers:
            raise DemoError(f"{visit.method} {visit.path} was answered without {HEADER}")
        token = _CSRF_FIELD.search(response.text)
        if token is not None:
            self._csrf_token = token[1]
        return response

    def log_in(self, name: str, password: str) -> None:
        """Log in by the form; ``DemoError`` if that is refused."""
        self.visit(Visit("/login/"))
        self.visit(Visit("/login/", 302, "POST"), {"username": name, "password": password})

    def close(self) -> None:
        """Close the connections."""
        self.session.close()


def drive(front: str, visits: Sequence[Visit], progress: Callable[[int], None]) -> str:
    """Make all *visits*, one after the other; return the ID of the one that took longest.

    The first ones wait for workers that start, and are left aside. *progress* is told how many are
    done.
    """
    responses = []
    with contextlib.closing(Visitor(front)) as visitor:
        for done, visit in enumerate(visits, 1):
            responses.append(visitor.visit(visit))
            progress(done)
    return max(responses[WARM_UP:], key=lambda response: response.elapsed).headers[HEADER]
