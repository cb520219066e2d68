"""Looking again and again whether a service that runs is of any use."""

import os
import socket
from typing import Protocol, runtime_checkable

import msgspec
import trio

from herdpy.service import Process, ProcessContext, StartFailure

HEAD = 4096
"""Bytes within which the first line of an answer has to end."""
BODY = 64 * 1024
"""Bytes that are read of an answer, so that the server is not cut off while it writes."""
BODY_PATIENCE = 1.0
"""Seconds for that."""


class Ailing(Exception):  # noqa: N818 - it says how the service is
    """A probe that failed; ``str()`` says how, to follow a colon."""


@runtime_checkable
class Probe(Protocol):
    """One look at a service. Implementations are frozen structs.

    Raises:
        Ailing: it is not well.
    """

    async def probe(self, context: ProcessContext) -> None: ...


class CheckHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A guard that probes a service at intervals, and gives it up after some failures in a row."""

    probe: Probe
    interval: float
    """Seconds from the end of one probe to the next."""
    timeout: float
    """Seconds that a probe may take."""
    failures: int
    delay: float
    """Seconds until the first probe."""

    async def run(self, context: ProcessContext) -> str:
        """Probe until it has failed too often; returns why, in words to follow "it"."""
        in_a_row = 0
        await trio.sleep(self.delay)
        while True:
            problem = await self._once(context)
            in_a_row = 0 if problem is None else in_a_row + 1
            told = "well" if problem is None else f"failed {in_a_row} of {self.failures} times: {problem}"
            context.detail("health", told)
            if in_a_row >= self.failures:
                context.detail("health", None)
                times = "" if in_a_row == 1 else f" {in_a_row} times in a row"
                return f"failed its health check{times}: {problem}"
            await trio.sleep(self.interval)

    async def _once(self, context: ProcessContext) -> str | None:
        with trio.move_on_after(self.timeout):
            try:
                await self.probe.probe(context)
            except Ailing as ailing:
                return str(ailing)
            return None
        return f"no answer within {self.timeout:g} s"


class CommandProbe(msgspec.Struct, frozen=True):
    """Well when a command ends with 0."""

    process: Process

    async def probe(self, context: ProcessContext) -> None:
        """Run it; what it writes is in the service's log.

        Raises:
            Ailing: it ended otherwise, or cannot be executed.
        """
        try:
            end = await context.execute(self.process)
        except StartFailure as failure:
            raise Ailing(str(failure)) from None
        if end.code != 0:
            raise Ailing(f"{self.process.command[0]} {end.reason.removeprefix('it ')}")


class TcpProbe(msgspec.Struct, frozen=True):
    """Well when it takes a connection."""

    address: str
    port: int

    async def probe(self, context: ProcessContext) -> None:
        """Connect, and hang up.

        Raises:
            Ailing: it does not take it.
        """
        (await connect(self.address, self.port)).close()


class HttpProbe(msgspec.Struct, frozen=True):
    """Well when it answers a GET with the right status."""

    address: str
    port: int
    target: str
    """Path and query, as they are to be sent."""
    statuses: tuple[int, ...] = ()
    """None means: from 200 to 399."""

    async def probe(self, context: ProcessContext) -> None:
        """Ask, in HTTP/1.0 so that neither a body in chunks nor a connection kept open is to be expected (RFC 1945).

        Raises:
            Ailing: no answer, none that is HTTP, or one with another status.
        """
        with await connect(self.address, self.port) as connection:
            host = f"[{self.address}]" if ":" in self.address else self.address
            request = f"GET {self.target} HTTP/1.0\r\nHost: {host}:{self.port}\r\nUser-Agent: herdpy\r\n\r\n"
            head = b""
            try:
                await trio.SocketStream(connection).send_all(request.encode("ascii"))
                while b"\n" not in head and len(head) < HEAD and (chunk := await connection.recv(HEAD)):
                    head += chunk
            except (OSError, trio.BrokenResourceError) as error:
                raise Ailing(f"{host}:{self.port} broke the connection off: {error}") from None
            status = read_status(head)
            if status is None:
                raise Ailing(f"{host}:{self.port} does not answer in HTTP")
            if status not in self.statuses and (self.statuses or not 200 <= status <= 399):
                raise Ailing(f"GET {self.target} was answered with status {status}")
            await _hear_out(connection)


def read_status(head: bytes) -> int | None:
    """The status in the first line of an answer; None when it is no HTTP (RFC 9112, section 4)."""
    words = head.partition(b"\n")[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        return None
    return int(words[1])


async def connect(address: str, port: int) -> trio.socket.SocketType:
    """A connection to a port of an IP address.

    Raises:
        Ailing: there is none to be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await connection.connect((address, port))
    except OSError as error:
        connection.close()
        why = str(error) if error.errno is None else os.strerror(error.errno)  # trio's own words name the port again
        raise Ailing(f"cannot connect to {address}:{port}: {why}") from None
    except BaseException:
        connection.close()
        raise
    return connection


async def _hear_out(connection: trio.socket.SocketType) -> None:
    left = BODY
    with trio.move_on_after(BODY_PATIENCE):
        try:
            while left > 0 and (chunk := await connection.recv(left)):
                left -= len(chunk)
        except OSError:
            return  # its answer was all that we wanted
