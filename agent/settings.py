"""Every setting: one table, read once from the environment into a frozen ``Settings``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from introspect.agent import sqlcomment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})

_SECONDS_PER_UNIT = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LEGIBLE = re.compile(r"[A-Za-z0-9]")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_HOST = re.compile(r"[\w.:%-]+")
# A name, or an address; of IPv6 two colons, or one and a star: 10.0.0.7:80 has a port.
_HOST_PATTERN = re.compile(
    r"[\w.*-]+|(?:[0-9a-f]{1,4})?:[0-9a-f]*[:*][0-9a-f:.*]*(?:%[\w.-]+)?", re.IGNORECASE
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)")


DEFAULT = "default"
"""What a setting comes from that is not set."""


class Doubt(NamedTuple):
    """What a restriction that cannot be read leads to, since without it more would be permitted.

    *variable* counts as *text*, and *meaning* says so: ``until then <meaning>``.
    """

    variable: str
    text: str
    meaning: str


class Setting(NamedTuple):
    """One environment variable.

    ``parse`` turns its text into a value and raises ``ValueError`` whose message completes the
    sentence "… is not …": ``"a duration; write e.g. 500ms, 2s"``.
    """

    variable: str
    default: str
    parse: Callable[[str], Any]
    meaning: str
    fallbacks: tuple[str, ...] = ()
    in_doubt: Doubt | None = None
    """In place of the default, where there is a mistake in the value or in the variable's name."""

    @property
    def field(self) -> str:
        """The attribute of ``Settings`` that holds the value."""
        return self.variable.removeprefix("INTROSPECT_").lower()


class Address(NamedTuple):
    """Where StatsD listens: ``scheme`` is ``udp``, ``tcp``, ``unix`` or ``off``."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The address as it is written in the environment."""
        if self.scheme == "off":
            return "off"
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Output(NamedTuple):
    """Where JSON lines go.

    ``kind`` is ``stdout``, ``stderr``, ``file``, ``udp``, ``tcp``, ``splunk+https`` or
    ``splunk+http``.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    token: str = ""

    def __str__(self) -> str:
        """The output as it may be shown: without its token."""
        if self.kind in ("stdout", "stderr"):
            return self.kind
        return f"{self.kind}://{self.path or f'{self.host}:{self.port}'}"


def boolean(text: str) -> bool:
    """Parse 1/true/yes/on or 0/false/no/off."""
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("a switch; write 1 or 0")


def duration(text: str) -> float:
    """Parse ``500ms``, ``2s``, ``1.5m`` into seconds."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("a duration; write e.g. 500ms, 2s")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


def positive_integer(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise ValueError("a whole number from 1; write e.g. 1000")
    return int(text)


def plain_text(text: str) -> str:
    """Take the text as it stands."""
    return text


def comma_list(text: str) -> tuple[str, ...]:
    """Parse ``celery, redis`` into ``("celery", "redis")``."""
    return tuple(part for part in (raw.strip() for raw in text.split(",")) if part)


def path_patterns(text: str) -> re.Pattern[str] | None:
    """Parse ``/healthz,/static/*`` into one pattern to ``fullmatch`` paths with, or ``None``."""
    patterns = comma_list(text)
    for pattern in patterns:
        if not pattern.startswith(("/", "*")):
            raise ValueError("a list of paths; each starts with /, as in /healthz,/static/*")
    if not patterns:
        return None
    return re.compile(
        "|".join(
            ".*".join(re.escape(piece) for piece in pattern.split("*")) for pattern in patterns
        ),
        re.DOTALL,
    )


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser that takes one of *choices*."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text.lower()

    return parse


def header_names(text: str) -> tuple[str, ...]:
    """Parse ``X-Request-ID,traceparent``."""
    names = comma_list(text)
    if not names or not all(_HEADER.fullmatch(name) for name in names):
        raise ValueError("a list of header names; write X-Request-ID,traceparent")
    return names


def host_patterns(text: str) -> tuple[str, ...]:
    """Parse ``*.example.com,10.0.0.7,::1``; ``off`` is none."""
    if text.lower() in FALSE_WORDS:
        return ()
    hosts = comma_list(text)
    if not hosts or not all(_HOST_PATTERN.fullmatch(host) for host in hosts):
        raise ValueError("a list of hosts; write hosts alone: api.example.com,*.internal,::1")
    return hosts


def networks(text: str) -> tuple[Any, ...]:
    """Parse ``10.0.0.0/8,::1`` into ``ipaddress`` networks."""
    import ipaddress

    try:
        found = tuple(ipaddress.ip_network(part, strict=False) for part in comma_list(text))
    except ValueError:
        found = ()
    if text and not found:  # commas alone, too: no networks are no restriction
        raise ValueError("a list of networks with commas; write 10.0.0.0/8,::1")
    return found


def level(text: str) -> int:
    """Parse ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL`` into its number."""
    number = _LEVELS.get(text.upper())
    if number is None:
        raise ValueError(f"a level; write one of {', '.join(_LEVELS)}")
    return number


def details(text: str) -> frozenset[str]:
    """Parse which canonical lines carry their events: of ``slow``, ``error``; ``all``; ``off``."""
    words = frozenset(word.lower() for word in comma_list(text))
    if words == {"off"}:
        return frozenset()
    if not words or not words <= {"slow", "error", "all"}:
        raise ValueError("made of slow, error, all, or off; write slow,error")
    return words


def log_outputs(text: str) -> tuple[Output, ...]:
    """Parse the comma list of where JSON lines go; see ``Output``."""
    return () if text.lower() in FALSE_WORDS else tuple(map(_log_output, comma_list(text)))


def _log_output(text: str) -> Output:
    expected = (
        "an output; write stdout, stderr, file:///path, udp://host:port, tcp://host:port or "
        "splunk+https://TOKEN@host:8088"
    )
    if text in ("stdout", "stderr"):
        return Output(text)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(expected) from None
    if url.scheme == "file" and url.path.startswith("/") and not url.netloc:
        return Output("file", path=url.path)
    if url.scheme in ("udp", "tcp") and url.hostname and port:
        return Output(url.scheme, url.hostname, port)
    if url.scheme in ("splunk+https", "splunk+http") and url.hostname and url.username:
        return Output(url.scheme, url.hostname, port or 8088, token=url.username)
    raise ValueError(expected)


def statsd_address(text: str) -> Address:
    """Parse ``udp://host:port``, ``tcp://host:port``, ``unix:///path`` or ``off``."""
    expected = "an address; write udp://127.0.0.1:8125, tcp://host:port, unix:///path or off"
    if text.lower() in FALSE_WORDS:
        return Address("off")
    try:
        url = urlsplit(text if "://" in text else f"udp://{text}")
        port = url.port
    except ValueError:
        raise ValueError(expected) from None
    if url.scheme == "unix" and url.path and not url.netloc:
        return Address("unix", path=url.path)
    if url.scheme not in ("udp", "tcp") or not url.hostname or url.path not in ("", "/"):
        raise ValueError(expected)
    if url.username or url.password or url.query or port == 0:
        raise ValueError(expected)
    if not _HOST.fullmatch(url.hostname):
        raise ValueError(expected)
    return Address(url.scheme, url.hostname, port or 8125)


_NO_PAGE = Doubt("INTROSPECT_SUPERUSER_ERRORS", "0", "no technical page is shown")
_NO_TRUST = Doubt("INTROSPECT_CORRELATION_TRUST", "0", "inbound IDs are ignored")
_NO_HOST = Doubt("INTROSPECT_CORRELATION_HOSTS", "off", "the ID is sent to no host")

# fmt: off
SETTINGS = (
    Setting("INTROSPECT_ENABLED",       "1",                    boolean,
            "off: nothing is patched"),
    Setting("INTROSPECT_SERVICE",       "",                     plain_text,
            "who we are, on every metric and log line; else the settings module's top package",
            ("DD_SERVICE", "OTEL_SERVICE_NAME")),
    Setting("INTROSPECT_ENV",           "",                     plain_text,
            "the deployment environment, on log lines and DogStatsD tags", ("DD_ENV",)),
    Setting("INTROSPECT_VERSION",       "",                     plain_text,
            "the application's version, on log lines and DogStatsD tags", ("DD_VERSION",)),
    Setting("INTROSPECT_STATSD",        "udp://127.0.0.1:8125", statsd_address,
            "where metrics go: `udp://host:port`, `tcp://host:port`, `unix:///path` or `off`"),
    Setting("INTROSPECT_STATSD_FORMAT", "plain",                one_of("plain", "dogstatsd"),
            "tags as parts of the name (`plain`, every StatsD) or as tags (`dogstatsd`)"),
    Setting("INTROSPECT_PREFIX",        "",                     plain_text,
            "what every metric name starts with; else `<service>.`"),
    Setting("INTROSPECT_NAMES",         "1000",                 positive_integer,
            "how many names a process may send; beyond it tag values become `_other`"),
    Setting("INTROSPECT_DISABLE",       "",                     comma_list,
            "instrumentations to leave out: `requests,django_template`"),
    Setting("INTROSPECT_IGNORE_PATHS",  "",                     path_patterns,
            "anchored patterns (`/healthz,/static/*`) of requests counted in `ignored` only"),
    Setting("INTROSPECT_CORRELATION_HEADERS", "X-Request-ID,X-Correlation-ID,traceparent",
                                                                header_names,
            "inbound, the first valid one wins; the first named is also sent and answered"),
    Setting("INTROSPECT_CORRELATION_TRUST", "1",                boolean,
            "off: inbound IDs are ignored", in_doubt=_NO_TRUST),
    Setting("INTROSPECT_CORRELATION_HOSTS", "*",                host_patterns,
            "hosts that get the outbound header: `*.example.com,10.0.0.7`, or `off`",
            in_doubt=_NO_HOST),
    Setting("INTROSPECT_SQL_COMMENT",   "path",                 sqlcomment.parse,
            "any of `path,route,view,id,caller`; `off`; by alias `default=path,id;replica=off`"),
    Setting("INTROSPECT_SQL_COMMENT_POSITION", "prefix",        one_of("prefix", "suffix"),
            "`prefix` or `suffix`: before the statement or behind it"),
    Setting("INTROSPECT_LOG",           "off",                  log_outputs,
            "where JSON lines go: `stdout`, `stderr`, `file:///path`, `udp://host:port`, "
            "`tcp://host:port` (logstash), `splunk+https://TOKEN@host:8088`, several with commas"),
    Setting("INTROSPECT_LOG_FORMAT",    "json",                 one_of("json", "ecs", "logstash"),
            "the names of the fields in a line"),
    Setting("INTROSPECT_LOG_LEVEL",     "INFO",                 level,
            "application records below it are not shipped"),
    Setting("INTROSPECT_DETAIL",        "slow,error",           details,
            "which canonical lines carry their events: `slow`, `error`, `all`, `off`"),
    Setting("INTROSPECT_SLOW_REQUEST",  "1s",                   duration,
            "a unit of work that takes longer is slow"),
    Setting("INTROSPECT_SLOW_QUERY",    "100ms",                duration,
            "so is one with a statement that takes longer"),
    Setting("INTROSPECT_SUPERUSER_ERRORS", "0",                 boolean,
            "technical 500 pages for superusers"),
    Setting("INTROSPECT_SUPERUSER_GROUP", "",                   plain_text,
            "only for superusers who are in this group, too", in_doubt=_NO_PAGE),
    Setting("INTROSPECT_SUPERUSER_NETWORKS", "",                networks,
            "only for clients (`REMOTE_ADDR`) in these networks: `10.0.0.0/8,::1`",
            in_doubt=_NO_PAGE),
    Setting("INTROSPECT_CHILDREN",      "same-python",
                                                          one_of("same-python", "none", "all"),
            "child processes with the agent: of the same Python, `none`, `all`"),
    Setting("INTROSPECT_DEBUG",         "0",                    boolean,
            "the agent explains itself on stderr"),
)
# fmt: on

# Switches for this project's own tests, in no table: they exist to break things.
_TEST_ONLY = frozenset({"INTROSPECT_TEST_FAULT"})


class Settings(NamedTuple):
    """The settings in force, one field for each variable (see ``SETTINGS``)."""

    enabled: bool
    service: str
    env: str
    version: str
    statsd: Address
    statsd_format: str
    prefix: str
    names: int
    disable: tuple[str, ...]
    ignore_paths: re.Pattern[str] | None
    correlation_headers: tuple[str, ...]
    correlation_trust: bool
    correlation_hosts: tuple[str, ...]
    sql_comment: sqlcomment.Choice
    sql_comment_position: str
    log: tuple[Output, ...]
    log_format: str
    log_level: int
    detail: frozenset[str]
    slow_request: float
    slow_query: float
    superuser_errors: bool
    superuser_group: str
    superuser_networks: tuple[Any, ...]
    children: str
    debug: bool


def read(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Read the settings from *environ*; never raises.

    Returns the settings and one sentence for each mistake. A bad value counts as unset, an empty
    one too; where that would lift a restriction, see ``Doubt``.
    """
    texts, _, mistakes = in_force(environ)
    values = {setting.field: setting.parse(texts[setting.variable]) for setting in SETTINGS}
    return Settings(**values), [*mistakes, *_names_of_nothing(values)]


def in_force(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the text that each variable counts as, where that is from, and the mistakes."""
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    mistakes: list[str] = []
    doubts: list[tuple[str, Doubt]] = []
    for setting in SETTINGS:
        variable, text = _lookup(setting, environ)
        try:
            setting.parse(text)
        except ValueError as error:
            instead = f"using {setting.default}" if setting.default else "leaving it unset"
            if setting.in_doubt:
                doubts.append((variable, setting.in_doubt))
                instead = f"until then {setting.in_doubt.meaning}"
            mistakes.append(f"{variable}={_shown(variable, text)} is not {error}; {instead}")
            variable, text = DEFAULT, setting.default
        texts[setting.variable], sources[setting.variable] = text, variable
    for variable, nearest in _unknown_variables(environ):
        remedy = "`introspect tables` lists them all"
        if nearest:
            remedy = f"did you mean {nearest.variable}?"
            if nearest.in_doubt and sources[nearest.variable] == DEFAULT:
                doubts.append((variable, nearest.in_doubt))
                remedy += f" Until then {nearest.in_doubt.meaning}"
        mistakes.append(f"{variable} is not a setting; {remedy}")
    for variable, doubt in doubts:
        texts[doubt.variable] = doubt.text
        sources[doubt.variable] = f"because of the mistake in {variable}"
    return texts, sources, mistakes


def _lookup(setting: Setting, environ: Mapping[str, str]) -> tuple[str, str]:
    for variable in (setting.variable, *setting.fallbacks):
        text = environ.get(variable, "").strip()
        if text:
            return variable, text
    return DEFAULT, setting.default


def _shown(variable: str, text: str) -> str:
    """Quote a bad value, unless it may hold a password (``tcp://user:secret@host``)."""
    if "@" in text or variable == "INTROSPECT_LOG":
        return "'…'"
    return repr(text if len(text) <= 80 else text[:79] + "…")  # noqa: PLR2004


def _names_of_nothing(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each name that is nothing but ``_`` on the wire."""
    return [
        f"{variable}={_shown(variable, values[field])} has no letter or digit that the name of a "
        "metric can hold; write some of a-z, A-Z, 0-9"
        for variable, field in (("INTROSPECT_SERVICE", "service"), ("INTROSPECT_PREFIX", "prefix"))
        if values[field] and not _LEGIBLE.search(values[field])
    ]


def _unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, Setting | None]]:
    """Return each variable that looks like one of ours and is none, and the nearest setting."""
    # Compared without what all of them begin with, which makes any two alike.
    known = {setting.variable.removeprefix("INTROSPECT_"): setting for setting in SETTINGS}
    found: list[tuple[str, Setting | None]] = []
    for variable in sorted(environ):
        name = variable.removeprefix("INTROSPECT_")
        if name != variable and name not in known and variable not in _TEST_ONLY:
            import difflib  # 4 ms, and almost nobody makes this mistake

            near = difflib.get_close_matches(name, known, n=1)
            found.append((variable, known[near[0]] if near else None))
    return found
