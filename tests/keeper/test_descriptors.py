"""Descriptors that the keeper holds for the supervisor, and what of them a child gets."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from herdpy.keeper.message import encode
from herdpy.supervisor.line import KeeperLine, Refused
from tests.keeper.conftest import ENVIRONMENT, Running, Supervisor, read_to_end
from tests.waiting import until

OTHER: dict[str, Any] = {"nice": 5}
"""What makes a spawn go by fork."""

TELL = """
import os, socket
print(os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"], int(os.environ["LISTEN_PID"]) == os.getpid())
print(sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1])
for number in range(3, 3 + int(os.environ["LISTEN_FDS"])):
    print(socket.socket(fileno=os.dup(number)).getsockname())
"""


@pytest.fixture
def listening(place: Path) -> Iterator[dict[str, socket.socket]]:
    """Three listening sockets."""
    sockets = {}
    for name in ("a", "b", "c"):
        sockets[name] = one = socket.socket(socket.AF_UNIX)
        one.bind(str(place / name))
        one.listen()
    yield sockets
    for one in sockets.values():
        one.close()


def hold(supervisor: Supervisor, name: str, /, *descriptors: int, **fields: Any) -> dict[str, Any]:
    supervisor.serial += 1
    request = {"kind": "hold", "serial": supervisor.serial, "name": name, **fields}
    socket.send_fds(supervisor.line, [encode(request)], descriptors)
    return supervisor.receive()


def spawn_with(supervisor: Supervisor, *beside: int, **fields: Any) -> dict[str, Any]:
    """Spawn with descriptors beside the request."""
    supervisor.serial += 1
    request = {
        "kind": "spawn",
        "serial": supervisor.serial,
        "id": "service",
        "command": ["cat"],
        "environment": ENVIRONMENT,
        "scope": "group",
        "output": "null",
        "stdin": True,
        **fields,
    }
    socket.send_fds(supervisor.line, [encode(request)], beside)
    while (told := supervisor.receive()).get("serial") != supervisor.serial:
        pass
    return told


def listeners(supervisor: Supervisor) -> dict[str, int]:
    """Say hello, and return the descriptors told, by name."""
    serial = supervisor.tell("hello", version=1)
    found: dict[str, int] = {}
    while (told := supervisor.receive())["kind"] != "state":
        if told["kind"] == "listener":
            assert told["serial"] == serial
            (found[told["name"]],) = supervisor.passed
    return found


def open_descriptors(keeper: Running) -> int:
    """Count them once it has done what it was asked, and its logger has begun."""
    keeper.logger()
    assert keeper.supervisors[-1].ask("release", id="nobody")["kind"] == "error"
    return len(os.listdir(f"/proc/{keeper.pid}/fd"))


def test_what_is_held_survives_the_supervisor(keeper: Running, listening: dict[str, socket.socket]) -> None:
    keeper.begin()
    first = keeper.supervisor()
    assert hold(first, "a", listening["a"].fileno()) == {"kind": "held", "serial": first.serial, "name": "a"}
    assert hold(first, "b", listening["b"].fileno())["kind"] == "held"
    assert first.ask("let_go", name="b") == {"kind": "let_go", "serial": first.serial, "name": "b"}
    path = listening["a"].getsockname()
    listening["a"].close()
    first.kill()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)  # nobody there to accept, and not refused
        found = listeners(keeper.supervisor(greeted=False))
        assert found.keys() == {"control", "a"}
        os.close(found["control"])
        with socket.socket(fileno=found["a"]) as again:
            again.accept()[0].close()


def test_let_go_closes_it(keeper: Running, listening: dict[str, socket.socket]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    path = listening["a"].getsockname()
    hold(supervisor, "a", listening["a"].fileno())
    listening["a"].close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    supervisor.ask("let_go", name="a")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(path)


def test_held_descriptors_are_a_child_s_from_3_on(supervisor: Supervisor, listening: dict[str, socket.socket]) -> None:
    for name, one in listening.items():
        hold(supervisor, name, one.fileno())
    # Another order than the keeper's, and one of them twice: each must make room for the others.
    pairs = [["c", "third"], ["a", ""], ["b", "second"], ["c", "again"]]
    for fields in ({}, OTHER):
        told = supervisor.output(sys.executable, "-c", TELL, descriptors=pairs, **fields).splitlines()
        assert told[0] == "4 third::second:again True"
        assert told[1] == "[0, 1, 2, 3, 4, 5, 6]"
        assert told[2:] == [listening[name].getsockname() for name in ("c", "a", "b", "c")]


def test_so_many_that_they_are_where_the_keeper_s_own_are(keeper: Running, listening: dict[str, socket.socket]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    hold(supervisor, "a", listening["a"].fileno())
    given = [["a", ""]] * 60
    told = supervisor.output("sh", "-c", "echo $LISTEN_FDS; ls /proc/self/fd", descriptors=given).split()
    assert sorted(map(int, told[1:])) == list(range(64))  # ls itself has the directory open
    assert told[0] == "60"
    # What cannot be executed is told all the same.
    told_failed = supervisor.spawn("service", "/nowhere", descriptors=given)
    assert (told_failed["kind"], told_failed["stage"], told_failed["errno"]) == ("failed", "exec", 2)


@pytest.mark.parametrize("fields", [{}, OTHER], ids=["vfork", "fork"])
def test_a_connection_is_stdin_and_stdout(keeper: Running, fields: dict[str, Any]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    before = open_descriptors(keeper)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)  # as trio has them: a plain program would trip over it
        command = ["sh", "-c", "echo beside >&2; cat; echo $LISTEN_FDS."]
        told = spawn_with(supervisor, theirs.fileno(), command=command, output="supervisor", **fields)
        assert told["kind"] == "spawned"
        theirs.close()
        ours.send(b"hello\n")
        ours.shutdown(socket.SHUT_WR)
        assert read_to_end(supervisor.passed[0]) == b"beside\n"
        assert ours.makefile().read() == "hello\n.\n"  # its end of file comes: the keeper has no copy
    assert supervisor.ended("service") == {"exited": 0}
    supervisor.ask("release", id="service")
    until(lambda: open_descriptors(keeper) == before, "nothing is left open")


@pytest.mark.parametrize(
    ("number", "fields", "words"),
    [
        (0, {}, "one descriptor must come beside it, not 0"),
        (2, {}, "one descriptor must come beside it, not 2"),
        (1, {"name": None}, "name must be a string"),
        (1, {"name": "control"}, "there is a descriptor 'control' already"),
        (1, {"name": "there"}, "there is a descriptor 'there' already"),
        (1, {"serial": "x"}, "serial must be a number"),
    ],
)
def test_a_bad_hold_is_refused_and_leaks_nothing(
    keeper: Running, number: int, fields: dict[str, Any], words: str
) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    assert hold(supervisor, "there", 0)["kind"] == "held"
    before = open_descriptors(keeper)
    told = hold(supervisor, "a", *[0, 1][:number], **fields)
    assert told["kind"] == "error"
    assert words in told["message"]
    assert supervisor.ask("let_go", name="a")["message"] == "let_go: there is no descriptor 'a'"
    assert open_descriptors(keeper) == before


@pytest.mark.parametrize(
    ("beside", "fields", "words"),
    [
        ([], {}, "one descriptor must come beside it, not 0"),
        ([0, 1], {}, "one descriptor must come beside it, not 2"),
        ([0], {"stdin": 1}, "stdin must be true or false"),
        ([0], {"command": []}, "command"),
        ([0], {"descriptors": "a"}, "list of at most 128"),
        ([0], {"descriptors": [["a", ""]] * 129}, "list of at most 128"),
        ([0], {"descriptors": [["a"]]}, "list of [held name, name for the child]"),
        ([0], {"descriptors": [["there", 1]]}, "must be a string"),
        ([0], {"descriptors": [["there", "a:b"]]}, "'a:b' cannot be a name in LISTEN_FDNAMES"),
        ([0], {"descriptors": [["there", "a\nb"]]}, "cannot be a name"),
        ([0], {"descriptors": [["there", "ä"]]}, "cannot be a name"),
        ([0], {"descriptors": [["there", "x" * 256]]}, "cannot be a name"),
        ([0], {"descriptors": [["nowhere", ""]]}, "there is no descriptor 'nowhere'"),
    ],
)
def test_a_bad_spawn_with_descriptors_is_refused_and_leaks_nothing(
    keeper: Running, beside: list[int], fields: dict[str, Any], words: str
) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    assert hold(supervisor, "there", 0)["kind"] == "held"
    before = open_descriptors(keeper)
    told = spawn_with(supervisor, *beside, **fields)
    assert told["kind"] == "error", told
    assert words in told["message"]
    assert open_descriptors(keeper) == before


@pytest.mark.parametrize("fields", [{}, OTHER], ids=["vfork", "fork"])
def test_a_spawn_that_fails_leaks_nothing(keeper: Running, fields: dict[str, Any]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    before = open_descriptors(keeper)
    assert spawn_with(supervisor, 0, command=["/nowhere"], output="supervisor", **fields)["kind"] == "failed"
    only_named = os.open("/", os.O_PATH)
    told = spawn_with(supervisor, only_named, output="supervisor", **fields)
    os.close(only_named)
    assert (told["kind"], told["stage"], told["errno"]) == ("failed", "descriptors", 9)
    until(lambda: open_descriptors(keeper) == before, "nothing is left open")


def test_the_control_socket_is_not_let_go(supervisor: Supervisor) -> None:
    assert supervisor.ask("let_go", name="control")["message"] == "let_go: 'control' is the keeper's own"
    assert listeners(supervisor).keys() == {"control"}


def test_more_than_may_come_beside_a_packet_leaks_nothing(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    before = open_descriptors(keeper)
    told = hold(supervisor, "a", *[0] * 100)
    assert "one descriptor must come beside it" in told["message"]
    supervisor.ask("let_go", name="a")
    assert open_descriptors(keeper) == before


async def test_the_supervisor_s_end(keeper: Running, listening: dict[str, socket.socket]) -> None:
    keeper.begin()
    played = keeper.supervisor(greeted=False)
    line = KeeperLine(os.dup(played.line.fileno()), lambda number: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.run)
            await line.hello()
            await line.hold("a", listening["a"].fileno())
            with pytest.raises(Refused, match="already"):
                await line.hold("a", listening["b"].fileno())
            held, reading = await line.spawn(
                "service:main:0:1",
                [sys.executable, "-c", "import os; print(os.environ['LISTEN_FDNAMES']); print(input())"],
                ENVIRONMENT,
                "/",
                "supervisor",
                descriptors=[("a", "web")],
                stdin=theirs.fileno(),
            )
            theirs.close()
            assert reading is not None
            os.close(reading)
            ours.send(b"line\n")
            await held.exited.wait()
            assert ours.recv(100) == b"web\nline\n"
            await line.release(held)
            await line.hello()
            assert line.listeners.keys() == {"control", "a"}
            for descriptor in line.listeners.values():
                os.close(descriptor)
            await line.let_go("a")
            with pytest.raises(Refused, match="there is no descriptor"):
                await line.let_go("a")
            nursery.cancel_scope.cancel()


async def test_a_dead_line_refuses(listening: dict[str, socket.socket]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    line = KeeperLine(ours.detach(), lambda number: None)
    with trio.fail_after(60), pytest.raises(Refused, match="cannot ask the keeper"):
        await line.hold("a", listening["a"].fileno())
    assert listening["a"].fileno() >= 0
