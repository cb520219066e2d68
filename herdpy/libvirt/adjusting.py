"""Settings that a daemon of libvirt takes while it runs, through the socket that virt-admin uses, too (virt-admin(1)).

Procedures and structures are of libvirt's admin_protocol.x.
"""

import msgspec
import trio

from herdpy.libvirt.places import runtime_directory
from herdpy.libvirt.rpc import Connection, NoAnswer, connect, number, optional_string, string
from herdpy.service import Context, StartFailure

PROGRAM = 0x06900690
OPEN, CLOSE, SET_THREADS, SET_CLIENTS, SET_OUTPUTS, SET_FILTERS = 1, 2, 7, 13, 16, 17
UNSIGNED = 2
"""The type of a parameter (virTypedParameterType)."""
PATIENCE = 10.0
"""Seconds for all of it; it takes milliseconds."""

THREADS = {"min_workers": "minWorkers", "max_workers": "maxWorkers", "prio_workers": "prioWorkers"}
CLIENTS = {"max_clients": "nclients_max", "max_anonymous_clients": "nclients_unauth_max"}
"""The parameters that keys of the configuration file are about."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What one of a daemon's servers is told. It has one for its clients, by its own name, and ``admin``."""

    name: str
    threads: tuple[tuple[str, int], ...] = ()
    clients: tuple[tuple[str, int], ...] = ()


class Adjust(msgspec.Struct, frozen=True, kw_only=True):
    """A step: have a running daemon take other settings. It need not know them by its configuration file."""

    daemon: str
    """``libvirtd`` or ``virtlogd``."""
    directory: str | None
    """Of its sockets, as :func:`~herdpy.libvirt.places.runtime_directory` takes it."""
    servers: tuple[Server, ...] = ()
    filters: str | None = None
    """None leaves them as they are."""
    outputs: str | None = None

    async def run(self, context: Context) -> None:
        """Tell it, and wait until it has taken everything.

        Raises:
            StartFailure: it refuses, or does not answer; it may have taken some of it.
        """
        try:
            with trio.fail_after(PATIENCE):
                await self._tell()
        except NoAnswer as problem:
            raise StartFailure(f"{self.daemon} does not take its new settings: {problem}") from None
        except trio.TooSlowError:
            raise StartFailure(f"{self.daemon} has not answered for {PATIENCE:g} s") from None

    async def _tell(self) -> None:
        prefix = "libvirt" if self.daemon == "libvirtd" else self.daemon
        path = f"{runtime_directory(self.directory)}/{prefix}-admin-sock"
        async with await connect(path, PROGRAM) as connection:
            await connection.call(OPEN, number(0))
            for server in self.servers:
                await _set(connection, SET_THREADS, server.name, server.threads)
                await _set(connection, SET_CLIENTS, server.name, server.clients)
            if self.filters is not None:
                await connection.call(SET_FILTERS, optional_string(self.filters), number(0))
            if self.outputs is not None:
                await connection.call(SET_OUTPUTS, optional_string(self.outputs), number(0))
            await connection.call(CLOSE)


async def _set(connection: Connection, procedure: int, server: str, parameters: tuple[tuple[str, int], ...]) -> None:
    if parameters:
        packed = (string(name) + number(UNSIGNED) + number(value) for name, value in parameters)
        await connection.call(procedure, string(server), number(len(parameters)), *packed, number(0))
