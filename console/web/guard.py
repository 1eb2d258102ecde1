"""Who may talk to the console: the ASGI layer in front of every page, ours and Datasette's."""

import base64
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "introspect_token"
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - named here to be recognised, not bound to

STRICT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hostname_of(header: str) -> str:
    """Reduce a Host header to its lower-case name or address, without port and brackets."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?", header)
    return (match[1] or match[2]).lower().rstrip(".") if match else ""


def is_host_allowed(header: str, bound: str) -> bool:
    """Whether a request that names `header` as its host was meant for a console bound to `bound`.

    A page of another site can point its own name at our address (DNS rebinding) and then read
    us as its own origin; the browser still sends that name here, so only ours are answered.
    """
    name = hostname_of(header)
    if is_loopback(name) or name == bound.lower():
        return True
    return bound in WILDCARDS and (is_address(name) or name in own_names())


def is_address(name: str) -> bool:
    """Whether `name` is an IP address, which no DNS server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_names() -> tuple[str, ...]:
    """List this machine's own host names, lower case."""
    name = socket.gethostname().lower()
    return (name, name.partition(".")[0])


def datasette_policy(templates: Path) -> str:
    """Build the content policy of Datasette's own pages: strict, but for what its templates inline.

    Its inline scripts are admitted by their hashes; its pages also carry `<style>` elements.
    """
    hashes = " ".join(f"'sha256-{digest}'" for digest in inline_script_hashes(templates))
    return STRICT_POLICY.replace("script-src 'self'", f"script-src 'self' {hashes}").replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    )


def inline_script_hashes(templates: Path) -> list[str]:
    """Hash (SHA-256, Base64) every constant inline script of the templates in a folder."""
    digests = set()
    for template in templates.glob("*.html"):
        for body in re.findall(r"<script>(.*?)</script>", template.read_text("utf-8"), re.DOTALL):
            script = body.replace("{{ datasette_allow_facet }}", "true")
            if "{{" not in script and "{%" not in script:
                digests.add(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    return sorted(digests)


class Guard:
    """Answers only what is meant for our host, only reads, and bears the token if one is set."""

    def __init__(self, app: App, host: str, token: str | None, policy: str) -> None:
        self.app = app
        self.host = host
        self.token = token
        self.policy = policy.encode()
        self.cookie = hashlib.sha256(f"cookie {token}".encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the server's own messages and HTTP through; WebSockets end here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self.http(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, redirect or refuse one HTTP request."""
        send = self.with_headers(send)
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if not is_host_allowed(host, self.host):
            await refuse(send, 421, f"This console does not answer to the host {host[:100]!r}.")
        elif scope["method"] not in {"GET", "HEAD"}:
            await refuse(send, 405, "The console only reads: use GET.", [(b"allow", b"GET, HEAD")])
        elif self.token is None or self.is_token_in(headers):
            await self.app(scope, receive, send)
        elif self.is_token(token_in_query(scope)):
            await self.welcome(scope, send)
        else:
            await refuse(
                send,
                401,
                "This console needs its token: open the address it printed at its start, "
                "which ends in ?token=…, or send the header Authorization: Bearer ….",
                [(b"www-authenticate", b'Bearer realm="introspect console"')],
            )

    def is_token(self, given: str) -> bool:
        """Compare with the token in a time that does not depend on where the two differ."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self.token or "").encode())

    def is_token_in(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers bear the token, as a Bearer authorization or as our cookie."""
        scheme, _, credentials = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(credentials.strip()):
            return True
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        return COOKIE in cookies and hmac.compare_digest(
            cookies[COOKIE].value.encode(), self.cookie.encode()
        )

    async def welcome(self, scope: Scope, send: Send) -> None:
        """Put the token into a cookie and take it out of the address bar."""
        rest = [pair for pair in query_of(scope) if pair[0] != "token"]
        # One slash only: "//host" would be an address of another host.
        path = "/" + scope.get("raw_path", scope["path"].encode()).decode("latin-1").lstrip("/\\")
        location = path.partition("?")[0] + (f"?{urlencode(rest)}" if rest else "")
        cookie = f"{COOKIE}={self.cookie}; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000"
        headers = [(b"location", location.encode("latin-1")), (b"set-cookie", cookie.encode())]
        await refuse(send, 303, "Welcome.", headers)

    def with_headers(self, send: Send) -> Send:
        """Wrap `send` so that every answer carries the security headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {name.lower() for name, _ in headers}
                headers += [pair for pair in HEADERS if pair[0] not in names]
                if b"content-security-policy" not in names:
                    headers.append((b"content-security-policy", self.policy))
                message = {**message, "headers": headers}
            await send(message)

        return send_with_headers


def query_of(scope: Scope) -> list[tuple[str, str]]:
    """Parse the query string."""
    query = scope.get("query_string", b"").decode("latin-1")
    return parse_qsl(query, keep_blank_values=True)


def token_in_query(scope: Scope) -> str:
    """Return the value of `?token=`, empty if there is none."""
    return dict(query_of(scope)).get("token", "")


async def refuse(
    send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a short plain-text answer."""
    start = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
