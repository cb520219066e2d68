"""The sockets of a declaration, and how its process comes by them."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import Declaration
from herdpy.service import Fact, InternetAddress, Port, Socket, UnixAddress, plain


class SocketTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One socket, where its address does not say it all."""

    address: str
    """Where to listen, such as ``"127.0.0.1:8080"``, ``"[::1]:8080"``, ``"*:8080"`` (every address of both families),
    ``"udp:127.0.0.1:53"``, ``"unix:/run/NAME"`` or ``"unix:@NAME"`` (abstract). Port 0 is one that the kernel chooses;
    ``herd status`` tells which."""
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    """By which the process knows it (LISTEN_FDNAMES); None means the service's name."""
    kind: Literal["stream", "datagram", "seqpacket"] | None = None
    """None means what the address says, else ``"stream"``: TCP, or a Unix stream socket."""
    backlog: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 4096
    """So many connections may wait to be taken; the kernel allows net.core.somaxconn at most."""
    v6_only: bool = True
    """Whether an IPv6 socket leaves IPv4 alone: ``"[::]:80"`` with false listens on every address, as ``"*:80"``."""
    reuse_port: bool = False
    """Whether other programs of the same user may listen there, too (SO_REUSEPORT)."""
    free_bind: bool = False
    """Whether the address may be one that the host does not have yet (IP_FREEBIND)."""
    keep_alive: bool = False
    """Whether the other ends of idle connections are asked whether they are there (SO_KEEPALIVE)."""
    interface: str | None = None
    """The network interface by which all must come in (SO_BINDTODEVICE); None means any."""
    user: str | None = None
    """The owner of a Unix socket's path; None means herdpy's own user."""
    group: str | None = None
    """Its group; None means herdpy's own."""
    mode: str = "666"
    """Its mode in octal digits: who may write may connect. It has it from the beginning."""
    directory_mode: str = "755"
    """The mode of directories that are made for it."""


class SocketMistake(Exception):  # noqa: N818 - it is the declaration's
    """What is wrong with a declared socket: key (empty for the whole) and problem."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


def made(declared: "str | SocketTable", service: str) -> Socket:
    """The socket that is declared.

    Raises:
        SocketMistake: there is none such.
    """
    from herdpy.activation.address import AddressMistake, parse

    table = SocketTable(address=declared) if isinstance(declared, str) else declared
    key = "" if isinstance(declared, str) else ".address"
    try:
        endpoint = parse(table.address)
    except AddressMistake as mistake:
        raise SocketMistake(key, str(mistake)) from None
    if table.kind is not None and endpoint.kind not in {None, table.kind}:
        raise SocketMistake(".kind", f'the address says "{endpoint.kind}"; leave one of the two out')
    kind = table.kind or endpoint.kind or "stream"
    if isinstance(endpoint.address, InternetAddress):
        _check_internet(table, endpoint.address, kind)
    else:
        _check_unix(table, endpoint.address)
    name = table.name or service
    if ":" in name or not name.isprintable():
        raise SocketMistake(".name", f"{name!r}: it is told in a list with ':' between the names, and cannot hold one")
    return Socket(
        address=endpoint.address,
        kind=kind,
        name=name,
        backlog=table.backlog,
        v6_only=table.v6_only,
        reuse_port=table.reuse_port,
        free_bind=table.free_bind,
        keep_alive=table.keep_alive,
        interface=table.interface,
        user=table.user,
        group=table.group,
        mode=_mode(".mode", table.mode),
        directory_mode=_mode(".directory-mode", table.directory_mode),
    )


def _check_internet(table: SocketTable, address: InternetAddress, kind: str) -> None:
    if kind == "seqpacket":
        raise SocketMistake(".kind", 'only Unix sockets can be of the kind "seqpacket"')
    if not table.v6_only and ":" not in address.host:
        raise SocketMistake(".v6-only", "concerns IPv6 addresses only")
    interface = table.interface
    if interface is not None and ("\0" in interface or not 0 < len(interface.encode()) <= LONGEST_INTERFACE):
        raise SocketMistake(".interface", f"{table.interface!r} is no name of a network interface, such as eth0")
    _refuse_set(table, ("user", "group", "mode", "directory_mode"), "concerns Unix sockets only")


LONGEST_INTERFACE = 15
"""Bytes in the name of a network interface (netdevice(7): IFNAMSIZ, with the NUL)."""


def _check_unix(table: SocketTable, address: UnixAddress) -> None:
    keys = ("v6_only", "reuse_port", "free_bind", "keep_alive", "interface")
    _refuse_set(table, keys, "concerns TCP and UDP only")
    if address.path.startswith("@"):
        _refuse_set(table, ("user", "group", "mode", "directory_mode"), "an abstract socket has no path to have it")
    for key, name in (("user", table.user), ("group", table.group)):
        if name is not None and ("\0" in name or (name.isdecimal() and not _is_id(name))):
            raise SocketMistake(f".{key}", f"expected the name of a {key}, or its number, got {name!r}")


def _is_id(digits: str) -> bool:
    """Whether it is a user's or a group's number; the largest of 32 bits is none's (chown(2))."""
    return len(digits) <= 10 and int(digits) < 2**32 - 1


def _refuse_set(table: SocketTable, names: Iterable[str], problem: str) -> None:
    for field in msgspec.structs.fields(table):
        if field.name in names and getattr(table, field.name) != field.default:
            raise SocketMistake(f".{field.encode_name}", problem)


def _mode(key: str, digits: str) -> int:
    if not 3 <= len(digits) <= 4 or not set(digits) <= set("01234567") or int(digits, 8) > 0o777:
        raise SocketMistake(key, f'expected octal digits from "000" to "777", such as "660", got "{digits}"')
    return int(digits, 8)


def socket_mistakes(declared: "Iterable[str | SocketTable]", *, connects: bool = False) -> Iterator[tuple[str, str]]:
    """(key, problem) of each mistake in the sockets of a declaration.

    Args:
        connects: whether only sockets that take connections will do.
    """
    seen = set()
    for index, one in enumerate(declared):
        try:
            wanted = made(one, "NAME")
        except SocketMistake as mistake:
            yield f"sockets[{index}]{mistake.key}", mistake.problem
            continue
        if connects and wanted.kind == "datagram":
            yield (
                f"sockets[{index}]",
                'datagrams make no connections; type = "process" can take them',
            )
        text = wanted.address.shortest if isinstance(wanted.address, UnixAddress) else str(wanted)
        if text in seen and not text.endswith(":0"):
            yield f"sockets[{index}]", f"{wanted} is there twice"
        seen.add(text)


def ports(sockets: Iterable[Socket]) -> tuple[Port, ...]:
    """The ports of the host that sockets claim, unless they are to be shared."""
    return tuple(
        Port(
            port=wanted.address.port,
            address=wanted.address.host.partition("%")[0] or "*",
            protocol="udp" if wanted.kind == "datagram" else "tcp",
            v6_only=wanted.v6_only,
        )
        for wanted in sockets
        if isinstance(wanted.address, InternetAddress) and not wanted.reuse_port
    )


def declared_sockets(declaration: Declaration) -> tuple[Socket, ...]:
    """The sockets of a declaration, which ``check()`` has seen."""
    return tuple(made(one, declaration.name) for one in declaration.configuration.sockets)


def socket_facts(declaration: Declaration) -> Iterator[Fact]:
    """The line of ``herd configuration NAME`` about them."""
    sockets = declared_sockets(declaration)
    if sockets:
        yield plain("sockets", "sockets", [str(wanted) for wanted in sockets])
