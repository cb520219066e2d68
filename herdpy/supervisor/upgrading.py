"""Another supervisor, of the code that is installed by now, takes our place between two requests.

It gets ready beside us, and we go on meanwhile. Then we accept nobody any more, have the keeper hold the connections of
those who still wait for an answer, say that we hand over, and end: to every service that is what our being killed would
be, and any next supervisor is made for that.
"""

import os
import socket
import time

import msgspec
import trio

from herdpy import protocol
from herdpy.protocol import Command, write_command, write_reply
from herdpy.sexp import Symbol
from herdpy.supervisor import log as own_log
from herdpy.supervisor.control import Client, Door, can_pass
from herdpy.supervisor.line import KeeperLine, Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.shutdown import Shutdown
from herdpy.version import VERSION

PATIENCE = 30
"""Seconds that each new program has to get ready."""
NOTE = "upgrade"
"""The key of the note that tells our successor of the one who asked for it."""
REQUEST = "request:"
"""What the names of held connections begin with whose requests are left to our successor, and the keys of the notes
that say what was read from them."""


class _Handed(msgspec.Struct, frozen=True):
    """What our successor tells the one who asked."""

    asker: str
    """The name that his connection is held by."""
    version: str
    pid: int
    closed: float
    """When we accepted the last connection: CLOCK_MONOTONIC seconds."""
    logger: int | None = None
    """The PID of the new one, if there is one."""


class Upgrading:
    """One upgrade at a time."""

    def __init__(self, line: KeeperLine, door: Door, shutdown: Shutdown) -> None:
        self._line = line
        self._door = door
        self._shutdown = shutdown
        self._is_under_way = False

    async def carry_out(self, command: Command, client: Client) -> None:
        """Do it, and answer why it cannot be done; when it is done, our successor answers, and this never returns."""
        if self._is_under_way:
            reason = "another upgrade is under way"
        elif self._shutdown.asked.is_set():
            reason = "herdpy is being stopped"
        else:
            self._is_under_way = True
            try:
                if command.arguments:
                    await client.send(await self._keeper(command))
                    return
                reason = await self._supervisor(client)
            finally:
                self._is_under_way = False
        await client.send(_refusal(command, reason))

    async def _keeper(self, command: Command) -> bytes:
        try:
            told = await self._line.renew_keeper(PATIENCE)
        except Refused as refusal:
            return _refusal(command, str(refusal))
        before, now, pid = told["before"], told["version"], told["pid"]
        pause = told["pause"] * 1000
        log("keeper-upgraded", before=before, now=now, pid=pid, pause=f"{pause:.1f} ms")
        lines = (
            f"The keeper, herdpy {before}, is herdpy {now} now, the same process as before (PID {pid}).",
            f"It took no request of the supervisor for {pause:.1f} ms.",
        )
        return write_reply([True], messages=lines)

    async def _supervisor(self, asker: Client) -> str:
        line = self._line
        try:
            pid, version = await line.upgrade(PATIENCE)
            log("second-supervisor-prepared", pid=pid, version=version)
            logger = await line.renew_logger(PATIENCE)
        except Refused as refusal:
            await line.dismiss()
            return str(refusal)
        await self._door.settle(asker)
        if self._shutdown.asked.is_set():
            await line.dismiss()
            return "herdpy is being stopped"
        held: list[str] = []
        try:
            held.append(await self._pass_on(asker, 0))
            self._door.close()
            closed = time.monotonic()
            for client in self._door.clients:
                if client in self._door.clients and client is not asker and can_pass(client):
                    held.append(await self._pass_on(client, len(held)))
            handed = _Handed(held[0], VERSION, os.getpid(), closed, logger)
            await line.note(NOTE, msgspec.json.encode(handed).decode())
            log("handing-over", to=pid, version=version)
            await line.hand_over()
        except Refused as refusal:
            await self._take_back(held)
            await line.dismiss()
            return str(refusal)
        # What is under way here belongs to the other by now: nothing of it may be ended, undone or told any more.
        own_log.flush()
        os._exit(0)

    async def _pass_on(self, client: Client, number: int) -> str:
        """Have the keeper hold a client's connection, and note what was read from it; returns its name."""
        descriptor = client.pass_on()
        name, received = f"{REQUEST}{number}", client.received
        if client.command is not None and client.command.names[0] == "restart":
            # It was noted that it has begun, and the next supervisor finishes it anyway.
            received = write_command(Command("start", client.command.service))
        try:
            await self._line.note(name, received.decode("latin-1"))
            await self._line.hold(name, descriptor)
        finally:
            os.close(descriptor)
        return name

    async def _take_back(self, names: list[str]) -> None:
        for name in names:
            await self._line.let_go(name)
            await self._line.note(name, None)
        await self._line.note(NOTE, None)
        for client in self._door.clients:
            client.take_back()
        self._door.open()


def _refusal(command: Command, reason: str) -> bytes:
    log("upgrade-refused", reason=reason)
    text = f"{reason}; nothing is changed"
    return write_reply(error=protocol.action_exception(command.action, Symbol("root"), text))


async def go_on(line: KeeperLine, door: Door, opened: float) -> None:
    """As the one that took over, answer whom the last supervisor has left to us.

    Args:
        opened: when we began to accept connections: CLOCK_MONOTONIC seconds.
    """
    text = line.notes.get(NOTE)
    handed = None if text is None else _read(text)
    for name in [name for name in line.listeners if name.startswith(REQUEST)]:
        connection = socket.socket(fileno=line.listeners.pop(name))
        if handed is not None and name == handed.asker:
            await _tell(connection, handed, opened)
        else:
            door.resume(connection, line.notes.get(name, "").encode("latin-1", "replace"))
        await line.let_go(name)
        await line.note(name, None)
    if text is not None:
        await line.note(NOTE, None)


def _read(text: str) -> _Handed | None:
    """What the last supervisor has noted; None when it makes no sense: then nobody is told, and we go on."""
    try:
        return msgspec.json.decode(text, type=_Handed)
    except msgspec.MsgspecError as error:
        log("note-not-understood", key=NOTE, reason=error)
        return None


async def _tell(connection: socket.socket, handed: _Handed, opened: float) -> None:
    """Tell the one who asked what was, and what is now."""
    silence = (opened - handed.closed) * 1000
    log("upgraded", before=handed.version, now=VERSION, pid=os.getpid(), silence=f"{silence:.1f} ms")
    lines = [
        f"The supervisor, herdpy {handed.version} (PID {handed.pid}), is herdpy {VERSION} (PID {os.getpid()}) now.",
        *([] if handed.logger is None else [f"The logger is PID {handed.logger} now."]),
        f"Nobody was answered for {silence:.1f} ms.",
    ]
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
    connection.setblocking(False)
    async with stream:
        with trio.move_on_after(1):
            try:
                await stream.send_all(write_reply([True], messages=lines))
            except trio.BrokenResourceError:
                log("asker-gone")
