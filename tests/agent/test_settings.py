"""Settings: every parser, and what is said about a mistake."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.agent import settings
from introspect.agent.settings import (
    SETTINGS,
    Address,
    Settings,
    boolean,
    comma_list,
    duration,
    host_patterns,
    networks,
    path_patterns,
    positive_integer,
    read,
    statsd_address,
)


class TestParsers:
    """What each kind of value may look like."""

    @pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "On"])
    def test_true(self, text: str) -> None:
        """1, true, yes, on, in any case."""
        assert boolean(text) is True

    @pytest.mark.parametrize("text", ["0", "false", "no", "OFF"])
    def test_false(self, text: str) -> None:
        """0, false, no, off, in any case."""
        assert boolean(text) is False

    @pytest.mark.parametrize("text", ["2", "y", "enabled", "-1", "1.0"])
    def test_no_boolean(self, text: str) -> None:
        """Anything else is a mistake: nothing is guessed."""
        with pytest.raises(ValueError, match="write 1 or 0"):
            boolean(text)

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("500ms", 0.5),
            ("2s", 2.0),
            ("1.5m", 90.0),
            ("1h", 3600.0),
            ("1d", 86400.0),
            ("250us", 0.00025),
            (" 10 S ", 10.0),
            ("0s", 0.0),
        ],
    )
    def test_duration(self, text: str, seconds: float) -> None:
        """A number and a unit."""
        assert duration(text) == pytest.approx(seconds)

    @pytest.mark.parametrize("text", ["5", "5x", "s", "-1s", "1e3s", "1,5s", "5 s s", "inf"])
    def test_no_duration(self, text: str) -> None:
        """Without a unit, or with an unknown one, it is a mistake that shows how to write it."""
        with pytest.raises(ValueError, match=r"write e\.g\. 500ms, 2s"):
            duration(text)

    @pytest.mark.parametrize(("text", "number"), [("1", 1), ("1000", 1000), ("007", 7)])
    def test_positive_integer(self, text: str, number: int) -> None:
        """A whole number from 1."""
        assert positive_integer(text) == number

    @pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "many", "٣", "²", ""])
    def test_no_positive_integer(self, text: str) -> None:
        """Nothing else."""
        with pytest.raises(ValueError, match="a whole number from 1"):
            positive_integer(text)

    def test_comma_list(self) -> None:
        """Blanks and empty parts do not count."""
        assert comma_list(" a, b,,c ,") == ("a", "b", "c")
        assert comma_list("") == ()

    @pytest.mark.parametrize(
        ("text", "path", "matches"),
        [
            ("/healthz", "/healthz", True),
            ("/healthz", "/healthz/", False),
            ("/healthz", "/x/healthz", False),
            ("/static/*", "/static/a/b.css", True),
            ("/static/*", "/static/", True),
            ("/static/*", "/statics", False),
            ("*.ico", "/favicon.ico", True),
            ("*.ico", "/favicon.icon", False),
            ("*.ico", "/favicon-ico", False),
            ("/a,/b*c", "/b\nc", True),
            ("/a+(b)", "/a+(b)", True),
        ],
    )
    def test_path_patterns(self, text: str, path: str, matches: bool) -> None:
        """A pattern is anchored, only `*` has a meaning in it."""
        pattern = path_patterns(text)

        assert pattern is not None
        assert (pattern.fullmatch(path) is not None) is matches

    def test_no_path_patterns(self) -> None:
        """A pattern that could never match is a mistake; none at all is none."""
        assert path_patterns(" , ") is None
        with pytest.raises(ValueError, match="each starts with /"):
            path_patterns("/ok,healthz")

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("udp://127.0.0.1:8125", Address("udp", "127.0.0.1", 8125)),
            ("udp://stats.internal", Address("udp", "stats.internal", 8125)),
            ("stats:9125", Address("udp", "stats", 9125)),
            ("127.0.0.1", Address("udp", "127.0.0.1", 8125)),
            ("tcp://stats:1/", Address("tcp", "stats", 1)),
            ("udp://[::1]:8125", Address("udp", "::1", 8125)),
            ("unix:///run/statsd.sock", Address("unix", path="/run/statsd.sock")),
            ("off", Address("off")),
            ("OFF", Address("off")),
            ("0", Address("off")),
        ],
    )
    def test_statsd_address(self, text: str, address: Address) -> None:
        """A scheme, a host, a port; or a path; or off."""
        assert statsd_address(text) == address
        assert statsd_address(str(address)) == address

    @pytest.mark.parametrize(
        "text",
        [
            "http://stats:8125",
            "udp://",
            "udp://:8125",
            "udp://stats:port",
            "udp://stats:99999",
            "udp://stats/path",
            "udp://me:secret@stats",
            "udp://stats?x=1",
            "unix://",
            "unix://relative/path",
            "udp://[::1",
            "::1",
            "udp://stats:0",
            "stats internal",
            "udp://stats,other:8125",
        ],
    )
    def test_no_statsd_address(self, text: str) -> None:
        """Anything else is a mistake that shows every form."""
        with pytest.raises(ValueError, match=r"write udp://.*tcp://.*unix:///path or off"):
            statsd_address(text)

    @pytest.mark.parametrize(
        ("text", "hosts"),
        [
            ("*", ("*",)),
            ("api.example.com", ("api.example.com",)),
            ("*.internal, 10.0.0.7,web_1", ("*.internal", "10.0.0.7", "web_1")),
            ("::1", ("::1",)),
            ("2001:DB8::7,fe80::1%eth0", ("2001:DB8::7", "fe80::1%eth0")),
            ("::ffff:10.0.0.1,fd00:*", ("::ffff:10.0.0.1", "fd00:*")),
            ("off", ()),
        ],
    )
    def test_host_patterns(self, text: str, hosts: tuple[str, ...]) -> None:
        """Names and addresses, with or without stars."""
        assert host_patterns(text) == hosts

    @pytest.mark.parametrize(
        "text",
        [
            "api.example.com:8443",
            "10.0.0.7:80",
            "*:8443",
            "https://api.example.com",
            "//api.example.com",
            "api.example.com/v1",
            "[::1]",
            "[::1]:8443",
            "me@api.example.com",
            "a.example.com b.example.com",
            "a.example.com;b.example.com",
            "a.example.com,b.example.com:80",
            ",",
        ],
    )
    def test_no_host_patterns(self, text: str) -> None:
        """What is no host, and would match none, is a mistake that shows how to write one."""
        with pytest.raises(ValueError, match=r"write hosts alone: api\.example\.com,"):
            host_patterns(text)

    def test_networks(self) -> None:
        """Networks and addresses of both kinds; a host's address stands for its network, and nothing for no restriction."""
        assert [str(network) for network in networks("10.1.2.3/8, 192.168.1.7,::1")] == [
            "10.0.0.0/8",
            "192.168.1.7/32",
            "::1/128",
        ]
        assert networks("") == ()

    @pytest.mark.parametrize(
        "text",
        ["10.0.0.0/8 ::1", "10.0.0.0/33", "10.0.0.0/8;::1", "[::1]", "localhost", "off", ","],
    )
    def test_no_networks(self, text: str) -> None:
        """Anything else, nothing but commas included, is a mistake: it is never no restriction."""
        with pytest.raises(ValueError, match="with commas; write 10"):
            networks(text)


class TestRead:
    """The whole table."""

    def test_defaults(self) -> None:
        """An empty environment gives the defaults, without a word."""
        found, mistakes = read({})

        assert mistakes == []
        assert found.enabled is True
        assert found.statsd == Address("udp", "127.0.0.1", 8125)
        assert (found.statsd_format, found.names, found.children) == ("plain", 1000, "same-python")

    def test_empty_is_unset(self) -> None:
        """An empty value, as an orchestrator leaves it, counts as unset."""
        variables = {setting.variable: "  " for setting in SETTINGS}

        assert read(variables) == read({})

    @pytest.mark.parametrize(
        ("variables", "service"),
        [
            ({"DD_SERVICE": "dd", "OTEL_SERVICE_NAME": "otel"}, "dd"),
            ({"OTEL_SERVICE_NAME": "otel"}, "otel"),
            ({"INTROSPECT_SERVICE": "own", "DD_SERVICE": "dd"}, "own"),
            ({"INTROSPECT_SERVICE": "", "DD_SERVICE": " dd "}, "dd"),
        ],
    )
    def test_fallbacks(self, variables: dict[str, str], service: str) -> None:
        """Where ours is unset, the variables of others are taken, in their order."""
        assert read(variables)[0].service == service

    def test_env_and_version(self) -> None:
        """Environment and version have fallbacks, too."""
        found, _ = read({"DD_ENV": "prod", "DD_VERSION": "1.2"})

        assert (found.env, found.version) == ("prod", "1.2")

    @pytest.mark.parametrize(
        ("variable", "value", "expected"),
        [
            ("INTROSPECT_ENABLED", "maybe", "a switch; write 1 or 0; using 1"),
            ("INTROSPECT_NAMES", "-5", "a whole number from 1; write e.g. 1000; using 1000"),
            ("INTROSPECT_STATSD_FORMAT", "influx", "one of plain, dogstatsd; using plain"),
            ("INTROSPECT_CHILDREN", "some", "one of same-python, none, all; using same-python"),
            ("INTROSPECT_STATSD", "http://x", "unix:///path or off; using udp://127.0.0.1:8125"),
            ("INTROSPECT_IGNORE_PATHS", "x", "as in /healthz,/static/*; leaving it unset"),
        ],
    )
    def test_bad_value(self, variable: str, value: str, expected: str) -> None:
        """A bad value is one line with the variable, the value, and what is expected; the default is used."""
        found, (line,) = read({variable: value})

        assert line.startswith(f"{variable}={value!r} is not ")
        assert line.endswith(expected)
        assert "\n" not in line
        assert found == read({})[0]

    @pytest.mark.parametrize(
        ("variable", "value", "said"),
        [
            ("NETWORKS", "10.0.0.0/8 ::1", "='10.0.0.0/8 ::1' is not a list of networks with commas; write 10.0.0.0/8,::1; u"),
            ("NETWORKS", ",", "=',' is not a list of networks with commas; write 10.0.0.0/8,::1; u"),
            ("NETWORK", "10.0.0.0/8", " is not a setting; did you mean INTROSPECT_SUPERUSER_NETWORKS? U"),
            ("GROUPS", "Technical", " is not a setting; did you mean INTROSPECT_SUPERUSER_GROUP? U"),
        ],
    )  # fmt: skip
    def test_a_restriction_of_technical_pages_that_cannot_be_read(
        self, variable: str, value: str, said: str
    ) -> None:
        """With a mistake in the value or the name of what restricts them, no page is shown, and the one line says so."""
        name = f"INTROSPECT_SUPERUSER_{variable}"
        found, mistakes = read({name: value, "INTROSPECT_SUPERUSER_ERRORS": "1"})

        assert found.superuser_errors is False
        assert mistakes == [f"{name}{said}ntil then no technical page is shown"]

    @pytest.mark.parametrize(
        "variable", ["INTROSPECT_CORRELATION_HOSTS", "INTROSPECT_CORRELATION_HOST"]
    )
    def test_a_restriction_of_hosts_that_cannot_be_read(self, variable: str) -> None:
        """With a mistake in the value or the name of what restricts it, the ID is sent to no host, and the one line says so."""
        found, (line,) = read({variable: "https://api.example.com"})

        assert found.correlation_hosts == ()
        assert line.startswith(variable)
        assert line.lower().endswith("until then the id is sent to no host")

    def test_trust_that_cannot_be_read(self) -> None:
        """Whether inbound IDs are trusted is no longer so once somebody meant to say something of it."""
        found, (line,) = read({"INTROSPECT_CORRELATION_TRUST": "never"})

        assert found.correlation_trust is False
        assert line.endswith("until then inbound IDs are ignored")

    def test_a_restriction_that_can_be_read(self) -> None:
        """What is left over under a mistaken name shuts nothing where the setting itself is there."""
        found, (line,) = read(
            {
                "INTROSPECT_SUPERUSER_ERRORS": "1",
                "INTROSPECT_SUPERUSER_NETWORKS": "10.0.0.0/8",
                "INTROSPECT_SUPERUSER_NETWORK": "10.0.0.0/8",
            }
        )

        assert found.superuser_errors is True
        assert line.endswith("did you mean INTROSPECT_SUPERUSER_NETWORKS?")

    def test_every_mistake_is_told(self) -> None:
        """Several mistakes are several lines, and the other settings hold."""
        found, mistakes = read(
            {"INTROSPECT_NAMES": "x", "INTROSPECT_DEBUG": "x", "INTROSPECT_SERVICE": "front"}
        )

        assert len(mistakes) == 2
        assert found.service == "front"

    @pytest.mark.parametrize(
        ("variable", "nearest"),
        [
            ("INTROSPECT_STATD", "INTROSPECT_STATSD"),
            ("INTROSPECT_ENABLE", "INTROSPECT_ENABLED"),
            ("INTROSPECT_DISABLED", "INTROSPECT_DISABLE"),
            ("INTROSPECT_SLOWREQUEST", "INTROSPECT_SLOW_REQUEST"),
        ],
    )
    def test_unknown(self, variable: str, nearest: str) -> None:
        """An unknown variable is named with the nearest setting."""
        _, mistakes = read({variable: "1"})

        assert mistakes == [f"{variable} is not a setting; did you mean {nearest}?"]

    @pytest.mark.parametrize("variable", ["INTROSPECT_KITCHEN_SINK", "INTROSPECT_BOARD"])
    def test_unknown_and_like_no_other(self, variable: str) -> None:
        """Where no setting has a name like it, the message says where all of them are."""
        _, mistakes = read({variable: "1"})

        assert mistakes == [f"{variable} is not a setting; `introspect tables` lists them all"]

    @pytest.mark.parametrize("variable", ["INTROSPECT_SERVICE", "INTROSPECT_PREFIX"])
    def test_name_that_no_metric_can_bear(self, variable: str) -> None:
        """A name of which nothing is left on the wire is told of, and stays for log lines."""
        found, (line,) = read({variable: "日本:|#\n"})

        assert line.startswith(f"{variable}='日本:|#' has no letter or digit ")
        assert line.endswith("; write some of a-z, A-Z, 0-9")
        assert "日本:|#" in found
        assert read({variable: "a:b|c@d#e\nü"})[1] == []

    def test_others_variables(self) -> None:
        """Variables of others are not ours to judge."""
        assert read({"INTROSPECTION": "1", "introspect_x": "1", "_INTROSPECT_LAUNCH": "x"})[1] == []

    def test_no_secret_is_echoed(self) -> None:
        """A value that may hold a password is not repeated."""
        _, mistakes = read({"INTROSPECT_STATSD": "tcp://me:hunter2@stats:x"})

        assert mistakes
        assert "hunter2" not in "".join(mistakes)

    def test_long_value(self) -> None:
        """A value of a page is not repeated whole."""
        _, (line,) = read({"INTROSPECT_STATSD": "x y" * 5000})

        assert len(line) < 300

    @given(
        st.dictionaries(
            st.sampled_from([setting.variable for setting in SETTINGS]) | st.text(max_size=20),
            st.text(max_size=60),
        )
    )
    def test_never_raises(self, environ: dict[str, str]) -> None:
        """Whatever the environment holds, there are settings, and each mistake is one line."""
        found, mistakes = read(environ)

        assert isinstance(found, Settings)
        assert all("\n" not in mistake for mistake in mistakes)


class TestTable:
    """The table itself."""

    def test_fields(self) -> None:
        """Each variable has its field, in the same order."""
        assert tuple(setting.field for setting in SETTINGS) == Settings._fields

    def test_at_most_forty(self) -> None:
        """There are at most forty, each of a name that a shell can set, and each explained."""
        assert len(SETTINGS) <= 40
        for setting in SETTINGS:
            assert re.fullmatch(r"INTROSPECT(_[A-Z0-9]+)+", setting.variable)
            assert setting.meaning

    def test_defaults_parse(self) -> None:
        """Every default is a good value."""
        for setting in SETTINGS:
            setting.parse(setting.default)

    def test_test_only_switches_are_no_settings(self) -> None:
        """The switches of our own tests are accepted, and stand in no table."""
        assert read({"INTROSPECT_TEST_FAULT": "1"})[1] == []
        assert not settings._TEST_ONLY & {setting.variable for setting in SETTINGS}
