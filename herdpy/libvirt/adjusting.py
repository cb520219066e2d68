"""Settings that a daemon of libvirt takes while it runs, through the socket that virt-admin uses, too (virt-admin(1)).

Procedures and structures are of libvirt's admin_protocol.x.
"""

from collections.abc import Awaitable, Callable

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
ADMIN_THREADS = {"admin_min_workers": "minWorkers", "admin_max_workers": "maxWorkers"}
ADMIN_CLIENTS = {"admin_max_clients": "nclients_max"}
"""The parameters that keys of the configuration file are about; those of virt-admin's own server, too."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What one of a daemon's servers is told. It has one for its clients, by its own name, and ``admin``."""

    name: str
    threads: tuple[tuple[str, int], ...] = ()
    clients: tuple[tuple[str, int], ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon is told. It need not know it by its configuration file."""

    servers: tuple[Server, ...] = ()
    filters: str | None = None
    """None leaves them as they are."""
    outputs: str | None = None

    def calls(self) -> list[tuple[int, tuple[bytes, ...]]]:
        """(procedure, arguments) of each call. The outputs come first, which only the daemon can tell that it cannot
        open; what comes then was checked before."""
        calls: list[tuple[int, tuple[bytes, ...]]] = []
        if self.outputs is not None:
            calls.append((SET_OUTPUTS, (optional_string(self.outputs), number(0))))
        if self.filters is not None:
            calls.append((SET_FILTERS, (optional_string(self.filters), number(0))))
        for server in self.servers:
            for procedure, parameters in ((SET_THREADS, server.threads), (SET_CLIENTS, server.clients)):
                if parameters:
                    packed = (string(name) + number(UNSIGNED) + number(value) for name, value in parameters)
                    calls.append((procedure, (string(server.name), number(len(parameters)), *packed, number(0))))
        return calls


class Adjust(msgspec.Struct, frozen=True, kw_only=True):
    """A step: have a running daemon take other settings, all of them or none."""

    daemon: str
    """``libvirtd`` or ``virtlogd``."""
    directory: str | None
    """Of its sockets, as :func:`~herdpy.libvirt.places.runtime_directory` takes it."""
    before: Settings
    """What it has been told until now, of the same things."""
    after: Settings

    async def run(self, context: Context) -> None:
        """Tell it, and wait until it has taken everything.

        Raises:
            StartFailure: it refuses, or does not answer; then it has again what it had.
        """
        begun = 0

        async def tell(connection: Connection) -> None:
            nonlocal begun
            for procedure, arguments in self.after.calls():
                begun += 1
                await connection.call(procedure, *arguments)

        try:
            await self._converse(tell)
        except BaseException as problem:
            await self._undo(context, begun, problem)
            raise

    async def take_back(self, context: Context) -> None:
        """Have it take again what it had, after :meth:`run`; what else went wrong meanwhile is told by the caller.

        It goes on although it is cancelled, for a while.
        """
        await self._undo(context, len(self.after.calls()), None)

    async def _undo(self, context: Context, begun: int, problem: BaseException | None) -> None:
        """Take back the first calls, and the one that failed: it may have taken some of that."""
        calls = self.before.calls()[:begun]
        if not calls:
            return

        async def tell(connection: Connection) -> None:
            for procedure, arguments in reversed(calls):
                await connection.call(procedure, *arguments)

        with trio.CancelScope(shield=True):  # it has its own patience
            try:
                await self._converse(tell)
            except StartFailure as failure:
                first = "" if problem is None else f"{problem}; "
                raise StartFailure(
                    f"{first}it may have taken some of its new settings all the same: {failure}"
                ) from None

    async def _converse(self, converse: Callable[[Connection], Awaitable[None]]) -> None:
        prefix = "libvirt" if self.daemon == "libvirtd" else self.daemon
        path = f"{runtime_directory(self.directory)}/{prefix}-admin-sock"
        try:
            with trio.fail_after(PATIENCE):
                async with await connect(path, PROGRAM) as connection:
                    await connection.call(OPEN, number(0))
                    await converse(connection)
                    await connection.call(CLOSE)
        except NoAnswer as problem:
            raise StartFailure(f"{self.daemon} does not take its new settings: {problem}") from None
        except trio.TooSlowError:
            raise StartFailure(f"{self.daemon} has not answered for {PATIENCE:g} s") from None
