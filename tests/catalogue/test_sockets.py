"""Sockets in declarations: of the type process, and of the type inetd."""

from typing import Any

import msgspec
import pytest

from herdpy.activation.serving import ServeConnections
from herdpy.catalogue import inetd, process
from herdpy.catalogue.common import Declaration
from herdpy.service import InternetAddress, Port, Process, Service, Socket, UnixAddress
from herdpy.supervisor.plan import make_plan
from tests.catalogue.test_process import Nowhere, facts

MODULES = {"process": process, "inetd": inetd}


def declared(type_name: str, **fields: Any) -> Any:
    return msgspec.convert({"command": ["cat"], **fields}, MODULES[type_name].TYPE.configuration)


def mistakes(type_name: str, **fields: Any) -> dict[str, str]:
    return dict(declared(type_name, **fields).check())


def made(type_name: str, name: str = "a", **fields: Any) -> Service:
    configuration = declared(type_name, **fields)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name=name, source=f"/{name}.toml", type=type_name, configuration=configuration, locations=Nowhere()
    )
    [service] = MODULES[type_name].services(declaration, facts())
    return service


def test_a_process_with_sockets_is_lazy() -> None:
    service = made("process", sockets=["127.0.0.1:80", {"address": "unix:/run/a", "mode": "600", "name": "own"}])
    assert service.sockets == (
        Socket(address=InternetAddress("127.0.0.1", 80), name="a"),
        Socket(address=UnixAddress("/run/a"), name="own", mode=0o600),
    )
    assert service.lazy
    assert service.ports == (Port(port=80, v6_only=True),)


def test_unless_it_is_to_be_eager_or_has_none() -> None:
    assert not made("process", sockets=["127.0.0.1:80"], activation="eager").lazy
    assert not made("process").lazy


def test_every_field_of_a_socket_arrives() -> None:
    table = {
        "address": "[::1]:80",
        "backlog": 7,
        "v6-only": False,
        "reuse-port": True,
        "free-bind": True,
        "keep-alive": True,
        "interface": "eth0",
    }
    path = {"address": "unix:/run/a", "user": "u", "group": "g", "mode": "620", "directory-mode": "0711"}
    internet, unix = made("process", sockets=[table, path | {"kind": "seqpacket"}]).sockets
    assert internet == Socket(
        address=InternetAddress("::1", 80),
        name="a",
        backlog=7,
        v6_only=False,
        reuse_port=True,
        free_bind=True,
        keep_alive=True,
        interface="eth0",
    )
    assert unix == Socket(
        address=UnixAddress("/run/a"),
        kind="seqpacket",
        name="a",
        user="u",
        group="g",
        mode=0o620,
        directory_mode=0o711,
    )


def test_inetd_runs_a_process_for_each_connection() -> None:
    service = made("inetd", sockets=["*:80"], **{"max-connections": 3, "max-connections-per-address": 2})
    assert service.attempts == ()
    assert service.attendant == ServeConnections(
        process=Process(command=("cat",)), sockets=1, max_connections=3, max_connections_per_address=2
    )
    assert service.ports == (Port(port=80, address="*", v6_only=True),)


@pytest.mark.parametrize(
    ("table", "key", "problem"),
    [
        ("80", "sockets[0]", "expected an address and a port"),
        ({"address": "80"}, "sockets[0].address", "expected an address and a port"),
        ({"address": "udp:*:80", "kind": "stream"}, "sockets[0].kind", 'the address says "datagram"'),
        ({"address": "*:80", "kind": "seqpacket"}, "sockets[0].kind", "only Unix sockets"),
        ({"address": "*:80", "mode": "600"}, "sockets[0].mode", "concerns Unix sockets only"),
        ({"address": "*:80", "user": "u"}, "sockets[0].user", "concerns Unix sockets only"),
        ({"address": "127.0.0.1:80", "v6-only": False}, "sockets[0].v6-only", "IPv6 addresses only"),
        ({"address": "*:80", "interface": 16 * "x"}, "sockets[0].interface", "no name of a network interface"),
        ({"address": "*:80", "interface": "eth0\0"}, "sockets[0].interface", "no name of a network interface"),
        ({"address": "unix:/x", "user": "99999999999"}, "sockets[0].user", "name of a user, or its number"),
        ({"address": "unix:/x", "user": "4294967295"}, "sockets[0].user", "name of a user, or its number"),
        ({"address": "unix:/x", "group": "a\0b"}, "sockets[0].group", "name of a group, or its number"),
        ({"address": "unix:/x", "reuse-port": True}, "sockets[0].reuse-port", "concerns TCP and UDP only"),
        ({"address": "unix:/x", "interface": "lo"}, "sockets[0].interface", "concerns TCP and UDP only"),
        ({"address": "unix:@x", "mode": "600"}, "sockets[0].mode", "no path"),
        ({"address": "unix:/x", "mode": "rw"}, "sockets[0].mode", "octal digits"),
        ({"address": "unix:/x", "mode": "1777"}, "sockets[0].mode", "octal digits"),
        ({"address": "unix:/x", "directory-mode": "9"}, "sockets[0].directory-mode", "octal digits"),
        ({"address": "*:80", "name": "a:b"}, "sockets[0].name", "cannot hold one"),
    ],
)
def test_what_is_wrong_with_a_socket_is_told(table: Any, key: str, problem: str) -> None:
    for type_name in MODULES:
        found = mistakes(type_name, sockets=[table])
        assert found.keys() == {key}
        assert problem in found[key]


def test_what_does_not_go_together() -> None:
    assert mistakes("process", activation="lazy").keys() == {"activation"}
    assert mistakes("process", sockets=["*:80"], **{"one-shot": True}).keys() == {"one-shot"}
    assert mistakes("process", sockets=["*:80", "*:80"]).keys() == {"sockets[1]"}
    assert mistakes("process", sockets=["unix:/x", "unix://x"]).keys() == {"sockets[1]"}
    assert mistakes("process", sockets=["127.0.0.1:0", "127.0.0.1:0"]) == {}
    assert mistakes("inetd", sockets=["*:80", "udp:*:80"]).keys() == {"sockets[1]"}
    assert mistakes("process", sockets=["*:80", "udp:*:80"]) == {}


def test_an_inetd_without_sockets_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        declared("inetd", sockets=[])


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("0.0.0.0:80", "[::]:80", False),
        ("[::1]:80", "[::]:80", True),
        ("127.0.0.1:80", "[::]:80", False),
        ("127.0.0.1:80", "*:80", True),
        ("[::]:80", "*:80", True),
        ("127.0.0.1:80", "udp:127.0.0.1:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/run/a", "unix:/run/a", True),
        ("unix:/run/a", "unix://run/./a", True),
        ("unix:@a", "unix:@a", True),
        ("unix:/run/a", "unix:/run/b", False),
        ("unix:/a", "unix:@/a", False),
    ],
)
def test_the_plan_refuses_what_two_listen_on(first: str, second: str, clash: bool) -> None:
    for one, other in ((first, second), (second, first)):
        services = [
            made("process", "a", sockets=[one]),
            made("inetd" if "udp" not in other else "process", "b", sockets=[other]),
        ]
        plan, problems = make_plan(services)
        assert (plan is None) == clash, problems


def test_a_shared_port_is_no_clash() -> None:
    shared = {"address": "127.0.0.1:80", "reuse-port": True}
    plan, _ = make_plan([made("process", "a", sockets=[shared]), made("process", "b", sockets=[shared])])
    assert plan is not None
