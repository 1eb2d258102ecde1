"""Time management commands, and give each a correlation ID."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from introspect.agent import correlation, work
from introspect.agent.correlation import Inbound
from introspect.agent.metrics import COUNTER, TIMER, Metric
from introspect.agent.patching import timed
from introspect.agent.wrappers import PASS

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = Metric("command", TIMER, "ms", ("name",), "each management command")
ERROR = Metric("command.error", COUNTER, "", ("name",), "management commands that failed")


class ManagementCommand(work.Command):
    """The unit of work of one management command."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        inherited = correlation.inherited_id()
        super().__init__(Inbound(inherited or correlation.new_id()), name)
        self.line = command_line(sys.argv, name, options)

    def describe(self) -> dict[str, Any]:
        """Return what the canonical line says of a command alone."""
        return {"name": self.name, "command_line": self.line}

    def comment_parts(self, parts: tuple[str, ...]) -> list[str]:
        """See ``Work.comment_parts``: a command's path is its command line."""
        texts = []
        if "path" in parts:
            texts.append(self.line)
        elif "route" in parts or "view" in parts:
            texts.append(f"manage.py {self.name}")
        return texts + super().comment_parts(parts)


def command_started(args: Any, kwargs: Any) -> Any:
    """Begin a unit of work, unless the command is called from within one."""
    if work.active() is not None:
        return PASS
    command = ManagementCommand(type(args[0]).__module__.rpartition(".")[2], kwargs)
    work.current.set(command)
    return command


def command_ended(
    command: Any,
    _started: float,
    ended: float,
    _args: Any,
    _kwargs: Any,
    _result: Any,
    error: BaseException | None,
) -> None:
    """End and report it. ``sys.exit(0)`` is no failure."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        error = None
    command.end(ended, COMMAND.of(command.name), ERROR.of(command.name), error)


PATCHES = (
    timed(
        "django.core.management.base:BaseCommand.execute",
        before=command_started,
        after=command_ended,
    ),
)


def command_line(argv: list[str], name: str, options: dict[str, Any] | None = None) -> str:
    """Return ``manage.py send_subscriptions 1000``, with values masked that sound secret.

    *argv* is the process's own; where it is not that of this command (``call_command`` in a
    script), the name stands alone. *options* is what the command has read from it, by the names
    that it gives to its arguments: some are secret that stand behind ``-p``, or behind nothing.
    """
    program = os.path.basename(argv[0]) if argv else ""
    if name not in argv[1:2]:
        return f"manage.py {name}"
    if program in ("__main__.py", ""):
        program = "manage.py"
    from introspect.agent import logs  # 5 ms that no server needs

    secrets = _secret_values(options or {}, logs.is_secret)
    words = [program, name]
    hide_next = False
    for word in argv[2:]:
        option, equals, _value = word.partition("=")
        secret = logs.is_secret(option)
        if hide_next or word in secrets:
            words.append(logs.MASK)
        elif secret and equals:
            words.append(logs.scrubbed(f"{option}={logs.MASK}"))
        else:
            words.append(logs.scrubbed(_without_ending(word, secrets, logs.MASK)))
        hide_next = secret and not equals and option.startswith("-")
    return " ".join(words)


def _secret_values(options: dict[str, Any], is_secret: Callable[[str], bool]) -> set[str]:
    """Return the values of those *options* that are named like a secret, as they were written."""
    found: set[str] = set()
    for name, value in options.items():
        if is_secret(name):
            values = value if type(value) in (list, tuple) else (value,)
            found.update(str(one) for one in values if type(one) in (str, int, float))
    return found - {""}


def _without_ending(word: str, secrets: set[str], mask: str) -> str:
    """Mask the value in ``-phunter2`` or ``-p=hunter2``; numbers end too many a word."""
    if word.startswith("-"):
        for secret in secrets:
            if word.endswith(secret) and not secret.isdigit():
                return word.removesuffix(secret) + mask
    return word
