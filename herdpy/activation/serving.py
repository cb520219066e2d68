"""inetd's way: one process for each connection, which is its stdin and stdout."""

import msgspec
import trio

from herdpy.activation.connection import peer_words, variables
from herdpy.service import AttendantContext, Connection, End, InternetAddress, Process, StartFailure

SHORTAGE_PAUSE = 1.0
"""Seconds until a connection is tried again for which the host had no descriptor left."""


class ServeConnections(msgspec.Struct, frozen=True, kw_only=True):
    """Accepts connections from the service's sockets, and spawns a process for each."""

    process: Process
    sockets: int
    """So many sockets the service has."""
    max_connections: int
    """At a time; further ones wait until one has ended."""
    max_connections_per_address: int | None = None
    """At a time from one IP address, or from one user by a Unix socket; further ones are closed at once."""

    async def run(self, context: AttendantContext) -> End:
        """Serve until cancelled, which ends the processes; those of a predecessor are taken up again."""
        serving = _Serving(self, context)
        served = {key.partition("-")[0] for key in context.left}
        async with trio.open_nursery() as nursery:
            for key in context.left:
                nursery.start_soon(serving.resume, key)
            for connection in context.connections:
                if connection.key in served:
                    await context.drop(connection)  # its process has a copy
                else:
                    serving.admit(connection, nursery)
            for number in range(self.sockets):
                nursery.start_soon(serving.accept, number, nursery)
            serving.tell()
        raise AssertionError  # it is cancelled


class _Serving:
    def __init__(self, attendant: ServeConnections, context: AttendantContext) -> None:
        self._attendant = attendant
        self._context = context
        self._present = {key: key.partition("-")[2] for key in context.left}
        """The key of each connection's process, and whom it is from."""
        self._awaited = 0
        """Connections that are just being accepted."""
        self._ended = trio.Event()

    def tell(self) -> None:
        self._context.detail("connections", f"{len(self._present)} of at most {self._attendant.max_connections}")

    async def accept(self, number: int, nursery: trio.Nursery) -> None:
        while True:
            await self._context.incoming(number)
            while len(self._present) + self._awaited >= self._attendant.max_connections:
                await self._ended.wait()
            self._awaited += 1
            try:
                connection = await self._context.accept(number)
            except StartFailure as failure:
                self._context.log("connection-not-accepted", reason=failure)
                await trio.sleep(SHORTAGE_PAUSE)
                continue
            finally:
                self._awaited -= 1
            if connection is None:
                continue
            limit = self._attendant.max_connections_per_address
            if limit is not None and list(self._present.values()).count(_origin(connection)) >= limit:
                self._context.log("connection-refused", peer=peer_words(connection), reason=f"it has {limit} already")
                await self._context.drop(connection)
                continue
            self.admit(connection, nursery)

    def admit(self, connection: Connection, nursery: trio.Nursery) -> None:
        self._present[_key(connection)] = _origin(connection)
        self.tell()
        nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        process = self._attendant.process
        process = msgspec.structs.replace(process, environment=process.environment | variables(connection))
        key, peer = _key(connection), peer_words(connection)
        try:
            end = await self._context.execute(process, key=key, connection=connection)
        except StartFailure as failure:
            self._end(key, peer, str(failure))
        else:
            self._end(key, peer, end.reason)

    async def resume(self, key: str) -> None:
        end = await self._context.resume(key)
        self._end(key, self._present[key], end.reason)

    def _end(self, key: str, peer: str, reason: str) -> None:
        self._context.log("connection-ended", peer=peer, reason=reason)
        del self._present[key]
        ended, self._ended = self._ended, trio.Event()
        ended.set()
        self.tell()


def _key(connection: Connection) -> str:
    """Of a connection's process: it says all that a successor has to know."""
    return f"{connection.key}-{_origin(connection)}"


def _origin(connection: Connection) -> str:
    """What the connections of one address have in common."""
    if connection.peer is not None:
        return f"UID {connection.peer[1]}"
    return connection.remote.host if isinstance(connection.remote, InternetAddress) else ""
