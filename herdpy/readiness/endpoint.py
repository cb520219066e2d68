"""Services that are ready when they listen: ``tcp:127.0.0.1:80``, ``udp:53``, ``unix:/run/x.sock``."""

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import trio

from herdpy.readiness import sockets
from herdpy.service import ProcessContext
from herdpy.threads import in_thread
from herdpy.watch import Watch, watching

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.25
"""Seconds between two looks, ever longer, where the kernel tells of nothing. Each is also ten times as long as the last
look took, so that a host with a hundred thousand connections is not kept busy by us."""
MAPPED = bytes(10) + b"\xff\xff"
"""Before an IPv4 address that is written as an IPv6 one (RFC 4291, 2.5.5.2)."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where something listens."""

    protocol: str
    """``tcp``, ``udp`` or ``unix``."""
    address: str
    """An IP address; empty means any. Of a Unix socket the path, or ``@`` and an abstract name."""
    port: int = 0

    def __str__(self) -> str:
        if self.protocol == "unix":
            return f"unix:{self.address}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}:{host}:{self.port}" if host else f"{self.protocol}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that ``tcp:127.0.0.1:80``, ``tcp:[::1]:80``, ``udp:53`` or ``unix:/run/x.sock`` means.

    Raises:
        ValueError: it means none; ``str()`` says what was expected.
    """
    protocol, _, rest = text.partition(":")
    if protocol == "unix":
        if rest[:1] not in {"/", "@"} or len(rest) < 2 or "\0" in rest:
            raise ValueError(f'expected unix: and an absolute path, or "unix:@NAME", got "{text}"')
        if len(os.fsencode(rest)) > 107:
            raise ValueError(f'a Unix socket\'s path has 107 bytes at most (unix(7)), and "{rest}" has more')
        return Endpoint(protocol, rest)
    if protocol not in {"tcp", "udp"}:
        raise ValueError(f'expected tcp:ADDRESS:PORT, udp:ADDRESS:PORT or unix:PATH, got "{text}"')
    host, port = split_port(rest)
    return Endpoint(protocol, host, port)


def split_port(text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:80``, ``[::1]:80`` or ``80``.

    Raises:
        ValueError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f'expected a port from 1 to 65535 at its end, got "{port}"')
    if host[:1] == "[" and host[-1:] == "]" and ":" in host:
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'write an IPv6 address in brackets, such as [::1]:{port}, got "{text}"')
    if colon and packed(host) is None:
        raise ValueError(f'expected an IP address before the port, got "{host}"')
    return host, int(port)


def packed(address: str) -> bytes | None:
    """The 4 or 16 bytes of an IP address; None when it is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
    return None


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when one of the service's processes listens at an endpoint.

    That a Unix socket's file appears is told by inotify(7); of ports the kernel tells nothing, so this looks again,
    ever less often. Nothing connects to the service.
    """

    endpoint: Endpoint

    async def run(self, context: ProcessContext) -> None:
        """Wait for it."""
        pause = FIRST_PAUSE
        with _watch(self.endpoint) as watch:
            while True:
                begin = time.perf_counter()
                problem = await self._look(context.pid, watch)
                if problem is None:
                    return
                context.progress(f"waiting until it listens at {self.endpoint}: {problem}")
                until_next = max(pause, 10 * (time.perf_counter() - begin))
                with trio.move_on_after(math.inf if problem == _NO_FILE else until_next) as pausing:
                    await (trio.sleep_forever() if watch is None else watch.change())
                pause = min(LONGEST_PAUSE, 2 * pause) if pausing.cancelled_caught else FIRST_PAUSE

    async def _look(self, pid: int, watch: Watch | None) -> str | None:
        def look() -> str | None:
            return problem(self.endpoint, pid)

        if watch is None:
            return await in_thread(look, abandon_on_cancel=True)
        return await watch.look(look)


@contextmanager
def _watch(endpoint: Endpoint) -> Iterator[Watch | None]:
    if endpoint.protocol == "unix" and endpoint.address[0] == "/":
        with watching(endpoint.address) as watch:
            yield watch
    else:
        yield None


_NO_FILE = "there is no such file"


def problem(endpoint: Endpoint, pid: int) -> str | None:
    """Why a process does not listen at an endpoint yet, in words; None when it, or a descendant of its, does.

    Blocks for as long as reading /proc takes, or the file system with the Unix socket.
    """
    if endpoint.protocol == "unix":
        if endpoint.address[0] == "/" and not os.path.lexists(endpoint.address):
            return _NO_FILE
        found = list(_unix(endpoint.address, pid))
    else:
        found = list(_inet(endpoint, pid))
    if not found:
        return "nobody does"
    if sockets.has_one_of(pid, found) is not False:
        return None
    other = sockets.holder(found)
    return "another process does" if other is None else f"{other} does, which is not one of its processes"


def _inet(endpoint: Endpoint, pid: int) -> Iterator[int]:
    state = sockets.TCP_LISTENING if endpoint.protocol == "tcp" else sockets.UDP_BOUND
    for table in (endpoint.protocol, f"{endpoint.protocol}6"):
        for bound in sockets.parse_inet(sockets.read_table(pid, table), state):
            if bound.port == endpoint.port and takes(bound.address, endpoint.address):
                yield bound.inode


def takes(bound: bytes, wanted: str) -> bool:
    """Whether a socket bound to an address takes what comes to another one; ``::`` does for IPv4, too (ipv6(7))."""
    address = packed(wanted)
    if address is None or not any(bound):
        return address is None or len(bound) == 16 or len(address) == 4
    return bound == address or bound == MAPPED + address or MAPPED + bound == address


def _unix(path: str, pid: int) -> Iterator[int]:
    wanted = os.fsencode(path)
    real = wanted if wanted[:1] == b"@" else os.path.realpath(wanted)
    names = {os.path.basename(wanted), os.path.basename(real)}
    for bound in sockets.parse_unix(sockets.read_table(pid, "unix")):
        named_alike = os.path.basename(bound.path) in names
        if bound.path == wanted or (named_alike and os.path.realpath(_absolute(bound.path, pid)) == real):
            yield bound.inode


def _absolute(path: bytes, pid: int) -> bytes:
    """A path as it was given to bind(2), perhaps from the process's working directory."""
    try:
        return os.path.join(os.readlink(b"/proc/%d/cwd" % pid), path)
    except OSError:
        return os.path.join(b"/", path)
