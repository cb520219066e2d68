"""The listening sockets of a service: bound at its start, held by the keeper, let go when it has stopped.

The keeper has each by a name that says whose it is, ``SERVICE:socket:NUMBER:ADDRESS``, and tells it to the next
supervisor: while there is any socket, nobody who connects is refused. The numbers tell those of one address (of port 0)
apart, in the order of the declaration.
"""

import os
import select
import socket
import stat
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import trio

from herdpy.service import Connection, Service, Socket, StartFailure, UnixAddress
from herdpy.supervisor.line import KeeperLine, Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first
from herdpy.threads import in_thread

if TYPE_CHECKING:
    from herdpy.activation.binding import NotBound

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0)
"""Seconds between attempts to bind an address that is taken, or not there yet."""


CLOSING_PAUSES = (0.0, 0.01, 0.05, 0.2, 0.5)
"""Seconds between attempts to remove a path where a socket is bound still: a child whose exec has failed has its
sockets until it has ended."""


class Sockets:
    """What one service listens on. Made by the service's task."""

    __slots__ = ("_connections", "_line", "_name", "_open", "_wanted", "_watch", "endpoints")

    def __init__(self, name: str, line: KeeperLine) -> None:
        self._name = name
        self._line = line
        self._open: dict[str, socket.socket] = {}
        """By the names that the keeper has them by."""
        self._wanted: dict[str, Socket] = {}
        self._watch: tuple[trio.CancelScope, trio.Event] | None = None
        """What ends the watch, and what tells that it has ended."""
        self.endpoints: tuple[tuple[str, str], ...] = ()
        """Name and address of each, in the order of the declaration, while it listens."""
        self._connections: dict[str, socket.socket] = {}
        """Accepted, but no process has them yet; by their keys."""
        for held in _held_by_keeper(line, name, "socket"):
            self._open[held] = socket.socket(fileno=line.listeners.pop(held))
        for held in _held_by_keeper(line, name, "connection"):
            key = held.rpartition(":")[2]
            self._connections[key] = socket.socket(fileno=line.listeners.pop(held))

    def give_back(self) -> None:
        """Let another :class:`Sockets` have what this one found at the keeper, as far as that is held still."""
        for found in (self._open, {self._held_connection(key): made for key, made in self._connections.items()}):
            for held, made in found.items():
                if held in self._line.lost:
                    made.close()
                else:
                    self._line.listeners[held] = made.detach()
        self._open.clear()
        self._connections.clear()

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return bool(self._open)

    def lend(self) -> tuple[tuple[str, str], ...]:
        """(name at the keeper, name in LISTEN_FDNAMES) of each, for a spawn: as they were when they were made."""
        for bound in self._open.values():
            bound.setblocking(True)  # the last process may have had them otherwise, and they are the same files
        return tuple((held, wanted.name) for held, wanted in self._wanted.items())

    async def open(self, service: Service, progress: Callable[[str], None]) -> None:
        """Bind what the service declares and does not have yet, and let go of what it no longer declares.

        Args:
            progress: told what is waited for.

        Raises:
            StartFailure: one cannot be bound, not even after some seconds.
        """
        self._wanted = self._by_names(service)
        for held in list(self._open):
            wanted = self._wanted.get(held)
            if wanted is None or not await _is_kept(self._open[held], wanted):
                await self._let_go(held)
        for held, wanted in self._wanted.items():
            if held not in self._open:
                made = await _bind(wanted, service.source, progress)
                try:
                    await self._line.hold(held, made.fileno())
                except BaseException:
                    made.close()
                    raise
                self._open[held] = made
        self.resume(service)

    def resume(self, service: Service) -> None:
        """Go on with those that are bound, as by the last supervisor."""
        self._wanted = {held: wanted for held, wanted in self._by_names(service).items() if held in self._open}
        if not self._wanted:
            self.endpoints = ()
            return
        from herdpy.activation.binding import endpoint

        self.endpoints = tuple(
            (wanted.name, endpoint(wanted, self._open[held])) for held, wanted in self._wanted.items()
        )

    def _by_names(self, service: Service) -> dict[str, Socket]:
        """What a service declares, by the names that the keeper has it by, or is to have it by."""
        bound = sorted(self._open, key=_number)
        free = count(_number(bound[-1]) + 1 if bound else 0)
        names = {}
        for wanted in service.sockets:
            held = next((held for held in bound if _address(held) == str(wanted)), None)
            if held is None:
                held = f"{self._name}:socket:{next(free)}:{wanted}"
            else:
                bound.remove(held)
            names[held] = wanted
        return names

    @property
    def has_waiting(self) -> bool:
        """Whether a connection, or a datagram, waits to be taken."""
        poll = select.poll()
        for bound in self._open.values():
            poll.register(bound, select.POLLIN)
        return bool(poll.poll(0))

    def watch(self, nursery: trio.Nursery, delay: float, on_waiting: Callable[[], None]) -> None:
        """Tell, once, when a connection or a datagram waits to be taken; until then nobody else may ask for that.

        Args:
            nursery: where to wait for it.
            delay: seconds before they are looked at.
        """
        scope, over = self._watch = trio.CancelScope(), trio.Event()

        async def watch() -> None:
            with scope:
                await trio.sleep(delay)
                await first(*(partial(trio.lowlevel.wait_readable, bound) for bound in self._open.values()))
            over.set()
            if not scope.cancelled_caught:
                on_waiting()

        nursery.start_soon(watch)

    async def incoming(self, number: int) -> None:
        """Wait until somebody wants to connect to the socket of this number."""
        if number >= len(self._wanted):  # declared since it was started
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._open[tuple(self._wanted)[number]])

    async def accept(self, number: int) -> Connection | None:
        """Have the keeper take a connection from the socket of this number; None when it is gone again.

        Raises:
            StartFailure: the keeper has no room for it now.
        """
        key = str(time.monotonic_ns())
        try:
            descriptor = await self._line.accept(tuple(self._wanted)[number], self._held_connection(key))
        except Refused as refusal:
            raise StartFailure(str(refusal)) from None
        if descriptor is None:
            return None
        accepted = self._connections[key] = socket.socket(fileno=descriptor)
        try:
            accepted.getpeername()
        except OSError:  # it was reset before it was taken (ENOTCONN)
            await self._drop(key)
            return None
        return self._described(key)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """What was accepted and not dropped yet."""
        return tuple(map(self._described, self._connections))

    def _held_connection(self, key: str) -> str:
        return f"{self._name}:connection:{key}"

    def _described(self, key: str) -> Connection:
        from herdpy.activation.connection import describe

        return describe(key, self._connections[key])

    def descriptor_of(self, connection: Connection) -> int:
        """Of a connection that no process has yet."""
        return self._connections[connection.key].fileno()

    async def drop(self, connection: Connection) -> None:
        """Let go of a connection: a process has it, or nobody is to have it."""
        await self._drop(connection.key)

    async def _drop(self, key: str) -> None:
        accepted = self._connections.pop(key, None)
        if accepted is not None:
            accepted.close()
            await self._line.let_go(self._held_connection(key))

    async def rest(self) -> None:
        """Go on listening, for whoever is started next: connections wait for it."""
        for key in list(self._connections):
            await self._drop(key)
        if self._watch is not None:
            scope, over = self._watch
            scope.cancel()
            await over.wait()  # nobody may wait for a descriptor that is closed
            self._watch = None

    async def keep(self, service: Service) -> None:
        """Rest with what the service declares by now: others may want the addresses that it no longer does."""
        await self.rest()
        wanted = self._by_names(service)
        for held in self._open.keys() - wanted:
            await self._let_go(held)
        self.resume(service)

    async def close(self) -> None:
        """Listen no longer; paths of Unix sockets are removed."""
        await self.rest()
        for held in list(self._open):
            await self._let_go(held)
        self._wanted, self.endpoints = {}, ()

    async def _let_go(self, held: str) -> None:
        bound = self._open.pop(held)
        address = bound.getsockname() if bound.family == socket.AF_UNIX else None
        bound.close()
        await self._line.let_go(held)
        if isinstance(address, str) and address:
            from herdpy.activation.binding import remove_stale

            try:
                for pause in CLOSING_PAUSES:
                    await trio.sleep(pause)
                    if await in_thread(remove_stale, address):
                        break
            except OSError as error:
                log("socket-path-not-removed", service=self._name, path=address, reason=error.strerror)


def are_left(service: str, line: KeeperLine) -> bool:
    """Whether the last supervisor had sockets bound, or connections accepted, for a service that has no
    :class:`Sockets` yet."""
    return any(_held_by_keeper(line, service, kind) for kind in ("socket", "connection"))


def owners(line: KeeperLine) -> set[str]:
    """Services that the last supervisor had sockets bound for, and that have no :class:`Sockets` yet."""
    return {held.partition(":")[0] for held in line.listeners if held.split(":")[1:2] == ["socket"]}


def _is_lost(bound: socket.socket, wanted: Socket) -> bool:
    """Whether nobody can connect any more: a process that had it has shut it down (shutdown(2)), or a Unix socket's
    path was removed, or has become another file's."""
    poll = select.poll()
    poll.register(bound, 0)
    if poll.poll(0):  # POLLHUP
        return True
    if not isinstance(wanted.address, UnixAddress) or wanted.address.path.startswith("@"):
        return False
    try:
        return not stat.S_ISSOCK(os.lstat(wanted.address.path).st_mode)
    except OSError:
        return True


def _held_by_keeper(line: KeeperLine, service: str, kind: str) -> list[str]:
    return [held for held in line.listeners if held.startswith(f"{service}:{kind}:")]


def _number(held: str) -> int:
    return int(held.split(":", 3)[2])


def _address(held: str) -> str:
    return held.split(":", 3)[3]


async def _is_kept(bound: socket.socket, wanted: Socket) -> bool:
    """Let a socket that is bound already be as it is declared now; False if it has to be bound anew.

    Raises:
        StartFailure: it cannot be so, and would not be after that.
    """
    from herdpy.activation.binding import NotBound, adjust

    try:
        return await in_thread(lambda: not _is_lost(bound, wanted) and adjust(bound, wanted))
    except NotBound as refusal:
        raise StartFailure(f"cannot listen on {wanted}: {refusal}") from None


async def _bind(wanted: Socket, source: str, progress: Callable[[str], None]) -> socket.socket:
    from herdpy.activation.binding import NotBound, bind

    for pause in (*PAUSES, None):
        try:
            return await in_thread(bind, wanted)
        except NotBound as refusal:
            if pause is None or not refusal.may_pass:
                raise StartFailure(await _why(wanted, refusal, source)) from None
            progress(f"waiting to listen on {wanted}: {refusal}")
        await trio.sleep(pause)
    raise AssertionError


async def _why(wanted: Socket, refusal: "NotBound", source: str) -> str:
    reason = f"cannot listen on {wanted}: {refusal}"
    if not refusal.is_taken:
        return reason
    from herdpy.activation.holder import holder

    by = await in_thread(holder, wanted, abandon_on_cancel=True)
    change = f"; change sockets in {source}" if source else ""
    return f"{reason}{by and ' '}{by}{change}"
