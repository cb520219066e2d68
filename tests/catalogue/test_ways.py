"""How a process says that it is ready, how it stays well, what is run beside it: the values that the fields make."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.catalogue import TYPES
from herdpy.catalogue.command import LONGEST
from herdpy.catalogue.common import Declaration
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.catalogue.health import Health, mistakes
from herdpy.catalogue.process import ProcessConfiguration, services
from herdpy.commands import RunCommand, RunOnRequest, SendSignal
from herdpy.configuration import declared_services, remade_services
from herdpy.keeper import message
from herdpy.mistake import Place
from herdpy.qemu.accelerator import Accelerator
from herdpy.readiness.all_of import AllOf
from herdpy.readiness.endpoint import Endpoint, Listening
from herdpy.readiness.health import CheckHealth, CommandProbe, HttpProbe, TcpProbe
from herdpy.readiness.log_line import LogLine
from herdpy.readiness.pid_file import PidFile, RemoveStalePidFile
from herdpy.readiness.succeeded import Succeeded
from herdpy.service import Action, Guard, Notify, Operation, Process, Service, Step, Stop

FACTS = HostFacts(
    uid=0,
    user="root",
    home="/root",
    directories=Directories(
        state="/state", log="/log", configuration="/etc", runtime="/run", socket="/run/socket", secrets="/secrets"
    ),
    system="x86_64-linux",
    guix=None,
    accelerator=Accelerator(kvm=False, reason="there is no /dev/kvm"),
)


class Nowhere:
    def place(self, key: str) -> Place:
        return Place(file="/a.toml", key=key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        return Place(file="/a.toml", key=key)


def configured(**fields: Any) -> ProcessConfiguration:
    return msgspec.convert(
        {"command": ["daemon", "-x"], **{key.replace("_", "-"): value for key, value in fields.items()}},
        ProcessConfiguration,
    )


def made(**fields: Any) -> Service:
    configuration = configured(**fields)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="a", source="/a.toml", type="process", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, FACTS)
    return service


def running(*command: str, **more: Any) -> Process:
    return Process(command=command, **more)


def test_a_pid_file() -> None:
    service = made(ready={"pid-file": "/run/a.pid"})
    [attempt] = service.attempts
    assert attempt.prepare == (RemoveStalePidFile(path="/run/a.pid"),)
    assert attempt.readiness == PidFile(path="/run/a.pid")
    assert attempt.forking
    assert attempt.notify is None
    assert service.aftermath == (RemoveStalePidFile(path="/run/a.pid", insists=False),)


@pytest.mark.parametrize(
    ("ready", "step"),
    [
        ({"listens": "tcp:127.0.0.1:80"}, Listening(endpoint=Endpoint("tcp", "127.0.0.1", 80))),
        ({"listens": ["unix:/x"]}, Listening(endpoint=Endpoint("unix", "/x"))),
        ({"log-line": "ready|up"}, LogLine(pattern="ready|up")),
        ({"command": ["ask", "it"]}, Succeeded(process=running("ask", "it", user="alice"), pause=0.5)),
        ({"command": ["ask"], "interval": 2}, Succeeded(process=running("ask", user="alice"), pause=2.0)),
        (
            {"command": ["ask"], "pid-file": "/x.pid", "listens": ["udp:53", "tcp:53"], "log-line": "up"},
            AllOf(
                (
                    PidFile(path="/x.pid"),
                    LogLine(pattern="up"),
                    Listening(endpoint=Endpoint("udp", "", 53)),
                    Listening(endpoint=Endpoint("tcp", "", 53)),
                    Succeeded(process=running("ask", user="alice"), pause=0.5),
                )
            ),
        ),
        ({"notify": True}, None),
    ],
)
def test_a_way_to_be_ready(ready: dict[str, Any], step: object) -> None:
    [attempt] = made(ready=ready, user="alice").attempts
    assert attempt.readiness == step
    assert attempt.forking is ("pid-file" in ready)


@pytest.mark.parametrize(
    ("fields", "notify"),
    [
        ({}, None),
        ({"notify-access": "all"}, None),
        ({"ready": {"notify": True}}, Notify(socket="/state/notify/a")),
        ({"watchdog": 30}, Notify(socket="/state/notify/a", tells_ready=False, watchdog=30.0)),
        (
            {"ready": {"notify": True}, "watchdog": 2.5, "notify-access": "all"},
            Notify(socket="/state/notify/a", access="all", watchdog=2.5),
        ),
        (
            {"ready": {"notify": True}, "notify-user": "named"},
            Notify(socket="/state/notify/a", user="named"),
        ),
    ],
)
def test_what_it_says_of_itself(fields: dict[str, Any], notify: Notify | None) -> None:
    [attempt] = made(**fields).attempts
    assert attempt.notify == notify


@pytest.mark.parametrize(
    ("health", "guard"),
    [
        (
            {"tcp": "127.0.0.1:80"},
            CheckHealth(probe=TcpProbe("127.0.0.1", 80), interval=10.0, timeout=5.0, failures=3, delay=10.0),
        ),
        (
            {"command": ["ask"], "interval": 1, "timeout": 2, "failures": 1, "delay": 0},
            CheckHealth(probe=CommandProbe(running("ask")), interval=1.0, timeout=2.0, failures=1, delay=0.0),
        ),
    ],
)
def test_a_health_check(health: dict[str, Any], guard: CheckHealth) -> None:
    assert made(health=health).guards == (guard,)
    assert made(health=[health, health]).guards == (guard, guard)
    assert isinstance(guard, Guard)


@pytest.mark.parametrize(
    ("url", "probe"),
    [
        ("http://127.0.0.1:8080/health?x=1", HttpProbe("127.0.0.1", 8080, "/health?x=1")),
        ("http://127.0.0.1", HttpProbe("127.0.0.1", 80, "/")),
        ("http://localhost:1/", HttpProbe("127.0.0.1", 1, "/")),
        ("http://localhost/x", HttpProbe("127.0.0.1", 80, "/x")),
        ("http://[::1]:90/", HttpProbe("::1", 90, "/")),
        ("http://[::1]/a:9", HttpProbe("::1", 80, "/a:9")),
    ],
)
def test_a_url(url: str, probe: HttpProbe) -> None:
    [guard] = made(health={"http": url}).guards
    assert isinstance(guard, CheckHealth)
    assert guard.probe == probe


@given(st.text() | st.from_regex(r"http://[^/]*(/.*)?"))
def test_every_url_is_right_or_refused(url: str) -> None:
    list(mistakes("health", Health(http=url)))


def test_statuses() -> None:
    [guard] = made(health={"http": "http://127.0.0.1/", "statuses": [401, 200]}).guards
    assert isinstance(guard, CheckHealth)
    assert guard.probe == HttpProbe("127.0.0.1", 80, "/", (401, 200))


def test_commands_before_and_after() -> None:
    service = made(
        **{
            "user": "alice",
            "credentials": {"x": "/x"},
            "ready": {"pid-file": "/a.pid"},
            "pre-start": [["-mkdir", "/x"], ["b"]],
            "post-stop": [["c"]],
            "start-timeout": 9,
            "stop-timeout": 8,
        }
    )
    given_to = running("daemon", "-x", user="alice", environment={"CREDENTIALS_DIRECTORY": "/state/credentials/a"})

    def runs(what: str, *command: str, timeout: float, may_fail: bool = False) -> RunCommand:
        process = msgspec.structs.replace(given_to, command=command)
        return RunCommand(what=what, process=process, timeout=timeout, may_fail=may_fail)

    [attempt] = service.attempts
    assert attempt.process == given_to
    assert attempt.prepare[1:] == (
        RemoveStalePidFile(path="/a.pid"),
        runs("pre-start command", "mkdir", "/x", timeout=9.0, may_fail=True),
        runs("pre-start command", "b", timeout=9.0),
    )
    assert service.aftermath[:2] == (
        runs("post-stop command", "c", timeout=8.0),
        RemoveStalePidFile(path="/a.pid", insists=False),
    )
    assert len(service.aftermath) == 3  # then the credentials
    assert all(isinstance(step, Step) for step in (*attempt.prepare, *service.aftermath))


def test_a_stop() -> None:
    assert made().stop == Stop()
    assert made(kill="main-process").stop == Stop(scope="process")
    service = made(**{"stop-command": ["quit"], "stop-timeout": 4, "stop-signal": "INT", "grace-period": 3})
    command = RunCommand(what="stop command", process=running("quit"), timeout=4.0)
    assert service.stop == Stop(graceful=command, graceful_timeout=4.0, signal=2, grace_period=3.0)


def test_actions() -> None:
    service = made(
        **{
            "user": "alice",
            "reload-signal": "USR1",
            "actions": {
                "dump": {"command": ["kill", "-3"], "documentation": "Dump.", "arguments": True, "timeout": 5},
                "show": {"command": ["show"]},
            },
        }
    )

    def runs(*command: str, timeout: float = 300.0, takes_arguments: bool = False) -> RunOnRequest:
        process = running(*command, user="alice")
        return RunOnRequest(process=process, timeout=timeout, takes_arguments=takes_arguments)

    assert service.actions == (
        Action(
            name="reload",
            documentation="Have it read its configuration anew, by signal USR1.",
            operation=SendSignal(signal=10),
        ),
        Action(name="dump", documentation="Dump.", operation=runs("kill", "-3", timeout=5.0, takes_arguments=True)),
        Action(name="show", documentation="", operation=runs("show")),
    )
    assert all(isinstance(action.operation, Operation) for action in service.actions)


@pytest.mark.parametrize(
    ("fields", "key", "words"),
    [
        ({"environment": {"A": "x" * 200_000}}, "command", "it and the environment are longer than 160 KiB"),
        ({"ready": {}}, "ready", "nothing to wait for"),
        ({"ready": {"pid-file": "x"}}, "ready.pid-file", "absolute"),
        ({"ready": {"listens": "tcp:0"}}, "ready.listens", "1 to 65535"),
        ({"ready": {"listens": ["tcp:1", "x"]}}, "ready.listens[1]", "tcp:ADDRESS:PORT"),
        ({"ready": {"log-line": "("}}, "ready.log-line", "no regular expression: missing )"),
        ({"ready": {"log-line": "a{99999999999}"}}, "ready.log-line", "no regular expression"),
        ({"ready": {"log-line": "up(?!per)"}}, "ready.log-line", "not for a log line: invalid perl operator: (?!"),
        ({"ready": {"command": [""]}}, "ready.command[0]", "empty"),
        ({"one-shot": True, "ready": {"notify": True}}, "ready", "one-shot"),
        ({"one-shot": True, "health": {"tcp": "[::1]:1"}}, "health", "one-shot"),
        ({"one-shot": True, "watchdog": 3}, "watchdog", "one-shot"),
        ({"health": {}}, "health", "it gives none of them"),
        ({"health": {"tcp": "[::1]:1", "command": ["a"]}}, "health", "it gives command and tcp"),
        ({"health": [{"tcp": "[::1]:1"}, {"tcp": "x:1"}]}, "health[1].tcp", "IP address"),
        ({"health": {"tcp": "80"}}, "health.tcp", 'such as "127.0.0.1:80"'),
        ({"health": {"tcp": "127.0.0.1:1", "statuses": [200]}}, "health.statuses", "only http"),
        ({"health": {"tcp": "127.0.0.1:1", "interval": float("inf")}}, "health.interval", "up to"),
        ({"health": {"http": "https://127.0.0.1/"}}, "health.http", "TLS"),
        ({"health": {"http": "127.0.0.1"}}, "health.http", "a URL such as"),
        ({"health": {"http": "http://example.org/"}}, "health.http", "IP address"),
        ({"health": {"http": "http://u@127.0.0.1/"}}, "health.http", "without blanks, user and fragment"),
        ({"health": {"http": "http://127.0.0.1/\r\nX: y"}}, "health.http", "without blanks"),
        ({"pre-start": [["a"], ["-"]]}, "pre-start[1][0]", "empty"),
        ({"post-stop": [["a", "\0"]]}, "post-stop[0][1]", "NUL"),
        ({"stop-command": [""]}, "stop-command[0]", "empty"),
        ({"stop-timeout": float("inf")}, "stop-timeout", "number of seconds"),
        ({"watchdog": float("inf")}, "watchdog", "number of seconds"),
        ({"reload-signal": "HUB"}, "reload-signal", "'HUB'"),
        ({"actions": {"stop": {"command": ["a"]}}}, 'actions."stop"', "herd stop is there for every service"),
        ({"actions": {"a b": {"command": ["a"]}}}, "actions", "'a b': an action's name is made of"),
        ({"actions": {"x": {"command": [""]}}}, 'actions."x".command[0]', "empty"),
        ({"actions": {"x": {"command": ["a"], "timeout": float("inf")}}}, 'actions."x".timeout', "number of seconds"),
        ({"reload-signal": 1, "actions": {"reload": {"command": ["a"]}}}, 'actions."reload"', "leave one of them out"),
    ],
)
def test_what_types_cannot_say(fields: dict[str, Any], key: str, words: str) -> None:
    [(found, problem)] = configured(**fields).check()
    assert found == key
    assert words in problem


def test_what_is_told_to_be_too_long_is_what_the_keeper_cannot_be_told() -> None:
    assert LONGEST == message.LIMIT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('\nkill = "some"', '3: kill: expected one of "all", "main-process", got the string "some"'),
        ("\n[ready]\nnotify = 1", "4: ready.notify: expected true or false"),
        ('\n[ready]\npidfile = "/x"', "4: ready.pidfile: unknown key; did you mean pid-file?"),
        ('\n[ready]\nlog-line = "("', "4: ready.log-line: no regular expression"),
        ('\n[[health]]\ntcp = "127.0.0.1:1"\n[[health]]\ntcp = "x"', "6: health[1].tcp: expected a port"),
        ("\n[[health]]\nfailures = 0", "4: health[0].failures: expected a whole number of at least 1"),
        (
            '\npre-start = [["true"], "mkdir /x"]',
            '3: pre-start[1]: expected a list of strings, got the string "mkdir /x"; write ["mkdir", "/x"]',
        ),
        ("\nwatchdog = 0", "3: watchdog: expected a number greater than 0"),
        (
            '\n[actions.x]\ncommand = ["a"]\ntimeout = "1s"',
            '5: actions.x.timeout: expected a number, got the string "1s"',
        ),
        ('\n[actions.start]\ncommand = ["a"]', "3: actions.start: herd start is there for every service"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(f'command = ["true"]\n{text}\n')
    [mistake] = declared_services([str(tmp_path)], TYPES, FACTS, trusted=[str(tmp_path)]).mistakes
    assert str(mistake).startswith(f"{tmp_path}/a.toml:{words}")


def test_what_a_service_carries_along_makes_it_once_more(tmp_path: Path) -> None:
    """The next supervisor makes it from that, should the file be gone."""
    (tmp_path / "a.toml").write_text(
        'command = ["a"]\npre-start = [["-b"]]\nreload-signal = "HUP"\nwatchdog = 3\n[ready]\nlistens = ["tcp:80"]\n'
        '[[health]]\ntcp = "127.0.0.1:80"\n[actions.x]\ncommand = ["c"]\n'
    )
    [service] = declared_services([str(tmp_path)], TYPES, FACTS, trusted=[str(tmp_path)]).services
    assert remade_services(service.declaration, TYPES, FACTS) == (service,)
    [explained] = remade_services(service.declaration, TYPES, FACTS, explained=True)
    assert msgspec.structs.replace(explained, facts=()) == service
    assert {fact.key: fact.text for fact in explained.facts}["command"] == "a"
