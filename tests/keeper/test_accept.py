"""Connections that the keeper accepts: none is lost with the supervisor."""

import os
import socket
from collections.abc import Iterator

import pytest

from tests.keeper.conftest import Running
from tests.keeper.test_descriptors import hold, listeners, open_descriptors


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def test_a_connection_that_was_accepted_survives_the_supervisor(keeper: Running, listening: socket.socket) -> None:
    keeper.begin()
    first = keeper.supervisor()
    hold(first, "web", listening.fileno())
    with socket.create_connection(listening.getsockname()) as client:
        client.settimeout(60)
        assert first.ask("accept", name="web", connection="c") == {
            "kind": "accepted",
            "serial": first.serial,
            "name": "c",
        }
        [copy] = first.passed
        os.close(copy)
        first.kill()
        found = listeners(keeper.supervisor(greeted=False))
        assert found.keys() == {"control", "web", "c"}
        with socket.socket(fileno=found["c"]) as connection:
            assert connection.getpeername() == client.getsockname()
            connection.sendall(b"hello")
            assert client.recv(10) == b"hello"
        assert keeper.supervisors[-1].ask("let_go", name="c")["kind"] == "let_go"
        assert client.recv(10) == b""
        for name in ("control", "web"):
            os.close(found[name])


def test_when_nothing_waits_the_keeper_does_not_either(keeper: Running, listening: socket.socket) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    assert os.get_blocking(listening.fileno())
    hold(supervisor, "web", listening.fileno())
    answer = supervisor.ask("accept", name="web", connection="c")
    assert answer == {"kind": "accepted", "serial": supervisor.serial, "name": None}
    assert supervisor.passed == []
    assert supervisor.ask("let_go", name="c")["kind"] == "error"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "nobody", "connection": "c"}, "accept: there is no descriptor 'nobody'"),
        ({"name": "web", "connection": "web"}, "accept: there is a descriptor 'web' already; let it go first"),
        ({"name": "file", "connection": "c"}, "accept: Socket operation on non-socket"),
        ({"name": "web"}, "connection"),
        ({"connection": "c"}, "name"),
    ],
)
def test_what_makes_no_sense_is_refused_and_costs_nothing(
    keeper: Running, listening: socket.socket, fields: dict[str, str], problem: str
) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    hold(supervisor, "web", listening.fileno())
    file = os.open("/dev/null", os.O_RDONLY)
    hold(supervisor, "file", file)
    os.close(file)
    before = open_descriptors(keeper)
    with socket.create_connection(listening.getsockname()):
        answer = supervisor.ask("accept", **fields)
        assert answer["kind"] == "error"
        assert problem in answer["message"]
    assert open_descriptors(keeper) == before
