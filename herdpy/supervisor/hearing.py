"""What a service's process says of itself (sd_notify(3)), and what the supervisor makes of it.

A message is looked at, acted upon, noted at the keeper, and only then taken out of its socket, which the keeper holds
too: one that a killed supervisor was busy with is there for the next one, and everything said here can be said twice.
It also stays there until the keeper has read the note: what is on the way to a keeper that is killed is lost.
"""

import math
import os
import socket
from typing import TYPE_CHECKING

import msgspec
import trio

from herdpy.service import Notify, Process, StartFailure
from herdpy.supervisor import notify
from herdpy.supervisor.line import KeeperLine, Refused
from herdpy.supervisor.log import log

if TYPE_CHECKING:
    from herdpy.supervisor.incarnation import Incarnation


class Heard(msgspec.Struct):
    """What a process has said so far; the next supervisor reads it from a note."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str | None = None
    error: int | None = None
    """The number that ERRNO= gave (errno(3))."""
    renewing: bool = False
    """Whether it was sent a signal after which it will say READY=1 once more."""
    watchdog: float | None = None
    """Seconds that WATCHDOG_USEC= gave; None when it did not."""


async def prepare(line: KeeperLine, name: str, terms: Notify, process: Process) -> int:
    """Make a service's socket anew, have the keeper hold it, and return its descriptor.

    Raises:
        StartFailure: it cannot be made.
    """
    descriptor = await notify.make_socket(terms, process)
    try:
        of_no_process = left(line, name)
        if of_no_process is not None:
            os.close(of_no_process)
            await line.let_go(_held_name(name))
        await line.hold(_held_name(name), descriptor)
    except Refused as refusal:
        os.close(descriptor)
        raise StartFailure(f"its notification socket cannot be held: {refusal}") from None
    return descriptor


def left(line: KeeperLine, name: str) -> int | None:
    """The descriptor of the socket that the last supervisor made for a service, if it did."""
    return line.listeners.pop(_held_name(name), None)


def remembered(line: KeeperLine, name: str) -> Heard:
    """What a service's process had said when the last supervisor ended."""
    text = line.notes.get(_note_key(name))
    try:
        return Heard() if text is None else msgspec.json.decode(text, type=Heard)
    except msgspec.MsgspecError as error:
        log("note-not-understood", service=name, reason=error)
        return Heard()


async def forget(line: KeeperLine, name: str, terms: Notify) -> None:
    """Remove a service's socket, whose process is gone or never was."""
    await line.let_go(_held_name(name))
    await line.note(_note_key(name), None)
    await notify.remove_socket(terms.socket)


def _held_name(name: str) -> str:
    return f"notify:{name}"


def _note_key(name: str) -> str:
    return f"heard:{name}"


class Hearing:
    """Hears a service's process from its spawn to its burial; the service's nursery runs it."""

    def __init__(
        self, name: str, terms: Notify, descriptor: int, line: KeeperLine, incarnation: "Incarnation", heard: Heard
    ) -> None:
        self.heard = heard
        self.ready = trio.Event()
        self.stopping = trio.Event()
        self._renewed = trio.Event()
        self._name = name
        self._terms = terms
        self._line = line
        self._incarnation = incarnation
        self._socket = socket.socket(fileno=descriptor)
        self._scope = trio.CancelScope()
        self._gone = trio.Event()
        self._reading = trio.Lock()
        self.renewing = trio.Lock()
        """Of one signal after the other that it is to answer by READY=1."""
        self._triggered = trio.Event()
        self._leash = trio.CancelScope()
        """Ends when the process has been silent for longer than its watchdog allows."""
        self._complaints: set[str] = set()
        """What was wrong with messages: each is logged once."""
        self._show()

    async def run(self) -> None:
        """Hear what is said until :meth:`leave`."""
        try:
            with self._scope:
                while True:
                    await trio.lowlevel.wait_readable(self._socket)
                    await self.catch_up()
        except Exception as error:
            log("hearing-crashed", service=self._name, exc_info=error)
        finally:
            self._gone.set()

    async def catch_up(self) -> None:
        """Act upon what has been said already."""
        async with self._reading:
            while await self._take():
                pass

    async def leave(self) -> None:
        """Hear no more: the process is gone, and all it said was heard."""
        self._scope.cancel()
        await self._gone.wait()
        self._socket.close()
        self._incarnation.context.detail("status", None)
        await forget(self._line, self._name, self._terms)

    async def expect(self) -> None:
        """Have it known, to our successor too, that it is about to be sent a signal and to say READY=1 after it."""
        self.heard.renewing = True
        self._renewed = trio.Event()
        await self._note()

    async def awaiting_nothing(self) -> None:
        """Wait until it has said READY=1 after whatever signal it was sent."""
        if self.heard.renewing:
            await self._renewed.wait()

    async def watch(self) -> str:
        """Wait until its watchdog is of the opinion that it hangs; returns why."""
        with self._leash:
            self._feed()
            await self._triggered.wait()
            return "triggered its watchdog"
        return f"did not say WATCHDOG=1 for {self._watchdog:g} s"

    @property
    def _watchdog(self) -> float:
        """Seconds of silence that are too many."""
        seconds = self._terms.watchdog if self.heard.watchdog is None else self.heard.watchdog
        return seconds or math.inf

    def _feed(self) -> None:
        self._leash.deadline = trio.current_time() + self._watchdog

    async def _take(self) -> bool:
        """Take one message, if there is one."""
        await trio.lowlevel.checkpoint()  # a process that never ends talking must not keep everyone else waiting
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            message, ancillary, seen, _ = self._socket.recvmsg(
                notify.LARGEST_MESSAGE, notify.PEEKED_SIZE, flags | socket.MSG_PEEK
            )
        except BlockingIOError:
            return False
        if seen & socket.MSG_TRUNC:
            self._complain(f"a message of more than {notify.LARGEST_MESSAGE} bytes")
        else:
            await self._weigh(message, notify.sender(ancillary))
        _, ancillary, _, _ = self._socket.recvmsg(notify.LARGEST_MESSAGE, notify.CONSUMED_SIZE, flags)
        notify.close_descriptors(ancillary)
        return True

    async def _weigh(self, message: bytes, pid: int | None) -> None:
        main = self._incarnation.held.pid
        if pid is None or (pid != main and self._terms.access == "main"):
            self._complain("it is not its main process, and no other is to notify", pid)
        elif not notify.is_of(pid, main):
            self._complain("it is none of the service's processes, or has ended already", pid)
        else:
            await self._act(notify.parse(message))

    async def _act(self, said: dict[str, str]) -> None:
        before = msgspec.structs.replace(self.heard)
        for name, value in said.items():
            match name, value:
                case "MAINPID", _:
                    await self._adopt(value)
                case "EXTEND_TIMEOUT_USEC", _:
                    self._incarnation.extend_patience(notify.microseconds(value) or 0)
                case "STATUS", _:
                    self.heard.status = "".join(c if c.isprintable() else " " for c in value).strip() or None
                case "ERRNO", _ if value.isascii() and value.isdecimal():
                    self.heard.error = int(value)
                case "WATCHDOG_USEC", _:
                    self.heard.watchdog = notify.microseconds(value)
                    self._feed()
                case "WATCHDOG", "1":
                    self._feed()
                case "WATCHDOG", "trigger":
                    self._triggered.set()
                case "RELOADING", "1":
                    self.heard.reloading = True
                case "STOPPING", "1":
                    self.heard.stopping = True
        if said.get("READY") == "1":  # whatever else the message says comes first: it may be the main process's number
            self.heard.ready, self.heard.reloading, self.heard.renewing = True, False, False
        if self.heard != before:
            await self._note()
            self._show(before)
            before.status = self.heard.status
            if self.heard != before:  # nobody waits for a status
                await self._line.confirmed()

    async def _note(self) -> None:
        await self._line.note(_note_key(self._name), msgspec.json.encode(self.heard).decode())

    async def _adopt(self, value: str) -> None:
        if not value.isascii() or not value.isdecimal() or len(value) > 10:
            self._complain(f"MAINPID={value} is no process's number")
            return
        try:
            await self._incarnation.adopt(int(value))
        except StartFailure as failure:
            self._complain(f"MAINPID={value}: {failure}")

    def _show(self, before: Heard | None = None) -> None:
        """Let everyone know who has to."""
        heard, incarnation = self.heard, self._incarnation
        incarnation.context.detail("status", heard.status)
        if heard.ready:
            self.ready.set()
        if not heard.renewing:
            self._renewed.set()
        if heard.reloading or (before is not None and before.reloading):
            incarnation.tell_stage("reloading" if heard.reloading else None)
        if before is not None and heard.reloading != before.reloading:
            log("service-reloading" if heard.reloading else "service-reloaded", service=self._name)
        if heard.stopping and not self.stopping.is_set():
            log("service-stopping-by-itself", service=self._name)
            self.stopping.set()

    def _complain(self, what: str, pid: int | None = None) -> None:
        if what not in self._complaints and len(self._complaints) < 10:
            self._complaints.add(what)
            log("notification-ignored", service=self._name, pid=pid, reason=what)
