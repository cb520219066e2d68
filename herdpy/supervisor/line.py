"""The supervisor's end of the line to the keeper.

The keeper does what is asked and tells what happens; here each process it holds is a :class:`Held`, and each request
waits for its answer. What goes over the line is described in docs/explanation/architecture.md.
"""

import contextlib
import errno
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import trio

from herdpy.keeper import message, succession
from herdpy.supervisor import coding
from herdpy.supervisor import log as own_log
from herdpy.supervisor.flag import Flag
from herdpy.supervisor.log import log
from herdpy.threads import TOO_MANY
from herdpy.version import VERSION

Packet = dict[str, Any]


class SpawnError(OSError):
    """The keeper could not make the child execute its program; ``errno``, ``strerror`` and ``filename`` say why."""

    def __init__(self, errno: int, stage: str, path: str | None) -> None:
        super().__init__(errno, os.strerror(errno), path)
        self.stage = stage

    def in_words(self, program: str) -> str:
        """Say it to a person: what could not be done for which program, and why."""
        if self.filename in (None, program) or self.stage == "exec":
            return f"{program} cannot be executed: {self.strerror}"
        if self.stage in _GIVEN:
            what, advice = _GIVEN[self.stage]
            what = f"{what} {self.filename}" if self.filename else what
            refused = self.errno in (errno.EPERM, errno.EACCES)
            return f"{program} cannot be given {what}: {self.strerror}{advice if refused else ''}"
        if self.stage in _MISSING:
            return (
                f"there is no {_MISSING[self.stage]} for {program}: {self.strerror}{_SCARCE.get(self.errno or 0, '')}"
            )
        return f"{program} cannot be executed: {self.stage} {self.filename}: {self.strerror}"


_GIVEN = {
    "limits": ("its resource limit", "; a hard limit can be raised by root only, and nofile not above fs.nr_open"),
    "nice": ("the nice value", "; below the one that herdpy has, it takes root"),
    "oom": ("the OOM score adjustment", "; below the one that herdpy has, it takes root (CAP_SYS_RESOURCE)"),
    "capabilities": ("its ambient capabilities", "; only root's herdpy can give them, and only those that it has"),
    "no-new-privileges": ("no-new-privileges", ""),
    "descriptors": ("its descriptors", ""),
}
"""Of a stage of the keeper's (herdpy/keeper/spawn.py): what was to be given, and what to do when that is refused."""

_MISSING = {"fork": "process", "output": "output pipe"}
"""Of a stage of the keeper's: what the kernel had none of."""
_SCARCE = {
    errno.EMFILE: "; raise the limit on open files of herdpy's keeper (prlimit --nofile)",
    errno.ENFILE: "; raise fs.file-max",
    errno.EAGAIN: f"; {TOO_MANY}",
}
"""What to do about an errno then."""


class Refused(Exception):  # noqa: N818 - the keeper's word for it
    """The keeper answered ``error``: the supervisor asked for something that makes no sense. ``str()`` says what."""


class Unsendable(Refused):
    """The keeper was not asked: a message cannot say it, since it is too long, above all."""


class Left(Exception):  # noqa: N818 - it names what was found, and is no mistake
    """Others of its service live, so a process that has ended was not released."""


def _until_parcel(waiting: "Iterable[bytes | _Parcel]") -> list[bytes]:
    found = []
    for one in waiting:
        if isinstance(one, _Parcel):
            break
        found.append(one)
    return found


class Held:
    """A process that the keeper holds, from its spawn (or from the keeper's telling) to its release.

    Its flags are made when somebody asks for them: most processes run on, and nobody waits for anything of theirs.
    """

    __slots__ = ("_alone", "_drained", "_exited", "id", "owner", "pid", "status", "was_killed")

    def __init__(self, process_id: str, pid: int) -> None:
        self.id = process_id
        self.pid = pid
        self.status: Packet | None = None
        """Once it has ended: ``{"exited": N}``, ``{"killed": SIGNAL, "core": BOOL}``; of one that was adopted perhaps
        ``{"unknown": True}``."""
        self.owner: Owner | None = None
        """Is told of its end."""
        self.was_killed = False
        """Whether a grace period was over before it, or what was left of its service, had ended."""
        self._exited: Flag | None = None
        self._drained: Flag | None = None
        self._alone: Flag | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self.status is not None

    @property
    def exited(self) -> Flag:
        """Set when it has ended."""
        if self._exited is None:
            self._exited = Flag(is_set=self.has_ended)
        return self._exited

    @property
    def drained(self) -> Flag:
        """Set when the logger has written its last lines."""
        if self._drained is None:
            self._drained = Flag()
        return self._drained

    @property
    def alone(self) -> Flag:
        """Set when :meth:`KeeperLine.rest` found others of its service, and the last of them has gone."""
        if self._alone is None:
            self._alone = Flag()
        return self._alone

    def end(self, status: Packet) -> None:
        self.status = status
        if self._exited is not None:
            self._exited.set()
        if self.owner is not None:
            self.owner.note_end(self)

    def replace(self, pid: int) -> None:
        """Be another process from now on. Who waits for its end waits for the new one's."""
        self.pid, self.status = pid, None
        self._exited, self._drained, self._alone = map(_unless_set, (self._exited, self._drained, self._alone))


def _unless_set(flag: Flag | None) -> Flag | None:
    return None if flag is not None and flag.is_set() else flag


class Owner(Protocol):
    """Whose process one is."""

    def note_end(self, held: Held) -> None: ...


def _release(held: Held, *, if_alone: bool = False) -> Packet:
    return {"kind": "release", "id": held.id, "if_alone": if_alone, "drained": not held.drained.is_set()}


SILENCE = 10.0
"""Seconds without an answer after which that is told of the keeper, which usually takes a millisecond."""


class _Answer:
    __slots__ = ("asked", "asker", "descriptors", "is_late", "packet", "request")

    def __init__(self, request: Packet) -> None:
        self.request = request
        self.asked = trio.current_time()
        self.is_late = False
        """Whether that has been told."""
        self.asker: trio.lowlevel.Task | None = None
        """Who waits for it."""
        self.packet: Packet = {}
        self.descriptors: list[int] = []

    @property
    def what(self) -> str:
        """The request: its kind, and what it is about."""
        about = self.request.get("id") or self.request.get("name")
        return f"{self.request['kind']} {about}" if about else str(self.request["kind"])

    async def arrival(self) -> None:
        """Wait until it is there. Cannot be cancelled: what it tells must be known."""
        if not self.packet:
            self.asker = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    def arrive(self, packet: Packet, descriptors: list[int]) -> None:
        self.packet, self.descriptors = packet, descriptors
        if self.asker is not None:
            trio.lowlevel.reschedule(self.asker)


class Ending:
    """A signal that ends a process, with the release that follows: one request, answered when both are over.

    Attributes:
        serial: the request's.
        packet: the answer, once it is there: ``released``; ``rest``, when others of the service live; ``signalled``,
            when the release is to be asked for; ``error``.
    """

    __slots__ = ("_arrived", "packet", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.packet: Packet | None = None
        self._arrived = Flag()

    async def arrival(self) -> None:
        """Wait for the answer."""
        await self._arrived.wait()

    def arrive(self, packet: Packet) -> None:
        self.packet = packet
        self._arrived.set()


class _Parcel:
    """A message with descriptors beside it, which are the sender's to close when it is gone."""

    __slots__ = ("descriptors", "error", "message")

    def __init__(self, encoded: bytes, descriptors: Sequence[int]) -> None:
        self.message = encoded
        self.descriptors = descriptors
        self.error: OSError | None = None
        """Why it could not be sent."""


TURN = 64
"""Packets that are taken before others have their turn, and messages that are put into one packet."""
FEW = 4
"""So many requests are sent at once; when more are waited for, they had better go together."""
MUCH = 2 * TURN
"""So many requests that are not answered keep the keeper busy while more are made ready."""


class KeeperLine:
    """Requests to the keeper and the processes it holds. ``run`` reads until the keeper closes the line."""

    def __init__(self, descriptor: int, on_signal: Callable[[int], None]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor)
        self._socket.setblocking(False)
        self._room = memoryview(bytearray(message.LIMIT))
        self._outbox: list[bytes | _Parcel] = []
        """What is to be sent, at the latest when whoever runs now lets others run."""
        self._sender: trio.lowlevel.Task | None = None
        """The task that sends it, while it has nothing to do."""
        self._emptied: trio.Event | None = None
        """Set when all of it is sent, if anyone waits for that."""
        self._silence = trio.CancelScope()
        """Is over when the first of the answers that are waited for is late."""
        self._broken: str | None = None
        """Why nothing can be sent any more."""
        self._serial = 0
        self._answers: dict[int, _Answer] = {}
        self._endings: dict[int, Ending] = {}
        """Whose answers may take as long as a process takes to end."""
        self._leisure: trio.Event | None = None
        """Set when few enough are waited for, if anyone waits for that."""
        self._on_signal = on_signal
        self.held: dict[str, Held] = {}
        self.notes: dict[str, str] = {}
        """The notes as the keeper told them at hello; not kept up to date afterwards."""
        self.listeners: dict[str, int] = {}
        """Descriptors that the keeper held at hello, by name: ``control``, and those of :meth:`hold`; ours to close."""
        self.is_second = False
        """Whether another supervisor is in charge still: nothing may be asked for but :meth:`prepared`."""
        self.changed: set[str] = set()
        """Of a second supervisor: keys of what the keeper told anew, ``note:KEY``, ``process:ID`` and ``held:NAME``."""
        self.lost: set[str] = set()
        """Of a second supervisor: names of descriptors that are held no longer, or others by now."""
        self.began_anew = False
        """Whether somebody started this herdpy after another one was killed, whose services it has taken up."""
        self.is_heard = False
        """Whether an init system wants to hear how we are: see :meth:`announce`."""
        self.watchdog: float | None = None
        """Seconds within which it has to hear of us again."""
        self._copies: dict[str, int] = {}
        """Of all that the keeper holds, for the day that we have to be the keeper."""
        self._succession: Packet = {}
        self._stderr = -1
        """The keeper's."""
        self._ledger: dict[str, int] = {}
        """The logger's: keeper and logger may be killed at once."""
        self._was_ready = False
        self._may_succeed = False
        self._lost = trio.Event()

    async def run(self) -> None:
        """Take what the keeper sends, until it closes the line. If it was killed, this never returns: we become the
        next keeper, on the spot.

        Raises:
            EOFError: the keeper is gone, and had not told yet what its successor has to know, or was never ready.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver)
                nursery.start_soon(self._watch_silence)
                while self._receive():
                    await trio.lowlevel.wait_readable(self._socket)
                if self.is_second:
                    os._exit(0)  # nobody is waiting for us any more, and there is nothing that is ours
                self._succeed()
                nursery.cancel_scope.cancel()
            raise EOFError("the keeper closed the line")
        finally:
            self._broken = self._broken or "the line is closed"
            self._outbox.clear()
            self._lost.set()
            self._socket.close()
            for descriptor in self._copies.values():
                os.close(descriptor)
            self._copies.clear()
            self._close_inheritance()
            # Nobody answers any more, and who waits for an answer does so shielded.
            for serial in (*self._answers, *self._endings):
                self._answer({"kind": "error", "serial": serial, "message": "the line to the keeper is lost"}, [])

    def _receive(self) -> bool:
        """Take what has come; tell whether the line is open still."""
        for _ in range(TURN):
            try:
                length, ancillary, _, _ = self._socket.recvmsg_into(
                    (self._room,), message.ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it ended without reading all; told once, and what it said before is still to be read
            if not length:
                return False
            descriptors = message.descriptors(ancillary) if ancillary else []
            for encoded in message.apart(self._room[:length]):
                self._take(coding.decode(encoded), descriptors)
                descriptors = []
        return True

    async def _deliver(self) -> None:
        """Send what is in the outbox, whenever there is something."""

        def leave(_: object) -> trio.lowlevel.Abort:
            self._sender = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if self.flush():
                self._sender = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(leave)
            else:
                await trio.lowlevel.wait_writable(self._socket)

    def flush(self) -> bool:
        """Send what is to be sent, as far as the keeper's end takes it now; tell whether nothing is left."""
        own_log.flush()
        while self._outbox:
            first = self._outbox[0]
            descriptors: Sequence[int] = ()
            count = 1
            if isinstance(first, _Parcel):
                packet, descriptors = first.message, first.descriptors
            else:
                packet, count = message.together(_until_parcel(self._outbox[:TURN]))
            try:
                self._socket.sendmsg((packet,), message.ancillary(descriptors))
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError) as error:
                self._broken = error.strerror
                self._outbox.clear()
                break
            except OSError as error:  # too many descriptors are on their way (unix(7), ETOOMANYREFS)
                if not isinstance(first, _Parcel):
                    raise
                first.error = error
            del self._outbox[:count]
        if self._emptied is not None:
            self._emptied.set()
            self._emptied = None
        return True

    async def settle(self) -> None:
        """Wait until the keeper's end has all that it was told: it is remembered, whatever becomes of us."""
        if not self.flush():
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()
        # Nobody may be told of a keeper that was killed: if we are to be the next one, we are before this ends.
        if self._broken is not None and self._may_succeed:
            await self._lost.wait()

    def _put(self, packet: Packet, descriptors: Sequence[int] = (), *, along: bool = False) -> "_Parcel | None":
        """Put a message into the outbox.

        Args:
            along: whether it waits for the next one.

        Raises:
            Unsendable: it cannot be sent.
        """
        try:
            encoded = coding.encode(packet)
        except message.MessageError as error:
            raise Unsendable(str(error)) from None
        parcel = _Parcel(encoded, descriptors) if descriptors else None
        if self._broken is None:
            self._outbox.append(parcel or encoded)
            if not along:
                self._wake_sender()
        return parcel

    def _wake_sender(self) -> None:
        if self._sender is not None:
            sender, self._sender = self._sender, None
            trio.lowlevel.reschedule(sender)

    def _take(self, packet: Packet, descriptors: list[int]) -> None:
        match packet["kind"]:
            case "exited":
                if held := self.held.get(packet["id"]):
                    held.end(packet["status"])
            case "drained":
                if held := self.held.get(packet["id"]):
                    held.drained.set()
            case "alone":
                if held := self.held.get(packet["id"]):
                    held.alone.set()
            case "signal":
                self._on_signal(packet["signal"])
            case "process":
                held = Held(packet["id"], packet["pid"])
                self.held[held.id] = held
                self.changed.add(f"process:{held.id}")
                if packet["exited"] is not None:
                    held.end(packet["exited"])
                if packet["drained"]:
                    held.drained.set()
            case "gone":
                self.held.pop(packet["id"], None)
                self.changed.add(f"process:{packet['id']}")
            case "note":
                self.changed.add(f"note:{packet['key']}")
                if packet["text"] is None:
                    self.notes.pop(packet["key"], None)
                else:
                    self.notes[packet["key"]] = packet["text"]
            case "lost":
                self.changed.add(f"held:{packet['name']}")
                self.lost.add(packet["name"])
                if packet["name"] in self.listeners:
                    os.close(self.listeners.pop(packet["name"]))
                if packet["name"] in self._copies:
                    os.close(self._copies.pop(packet["name"]))
            case "listener":
                self.changed.add(f"held:{packet['name']}")
                for descriptor in descriptors:  # none, when we have no room left for it
                    self.listeners[packet["name"]] = descriptor
                    self._copy(packet["name"], descriptor)
            case "succession":
                self._succession, self._was_ready = packet["options"], packet["was_ready"]
                self._close_inheritance()
                self._stderr, self._ledger = succession.descriptors_told(descriptors)
            case _:
                self._answer(packet, descriptors)

    def _answer(self, packet: Packet, descriptors: list[int]) -> None:
        if packet["kind"] == "spawned":
            # Here, not where the request waits: the next packet may already tell of its end.
            self.held[packet["id"]] = Held(packet["id"], packet["pid"])
        elif packet["kind"] == "released":
            self.held.pop(packet.get("id", ""), None)
        elif packet["kind"] == "adopted" and (held := self.held.get(packet["id"])) and held.pid != packet["pid"]:
            held.replace(packet["pid"])
        elif packet["kind"] == "let_go" and packet["name"] in self._copies:
            os.close(self._copies.pop(packet["name"]))
        elif packet["kind"] == "accepted":
            for descriptor in descriptors:
                self._copy(packet["name"], descriptor)
        serial = packet.get("serial", 0)
        if ending := self._endings.pop(serial, None):
            ending.arrive(packet)
            return
        answer = self._expect_no_more(serial)
        if self._leisure is not None and len(self._answers) <= MUCH:
            self._leisure.set()
            self._leisure = None
        if answer is None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if answer.is_late:
            log("keeper-answers", request=answer.what, seconds=round(trio.current_time() - answer.asked))
        answer.arrive(packet, descriptors)

    def _expect(self, serial: int, answer: _Answer) -> None:
        if not self._answers:
            self._silence.deadline = answer.asked + SILENCE
        self._answers[serial] = answer

    def _expect_no_more(self, serial: int) -> _Answer | None:
        answer = self._answers.pop(serial, None)
        if not self._answers:
            self._silence.deadline = math.inf
        return answer

    async def _watch_silence(self) -> None:
        """Tell of answers that are long in coming."""
        while True:
            with self._silence:
                await trio.sleep_forever()
            now, self._silence = trio.current_time(), trio.CancelScope()
            for answer in self._answers.values():
                if not answer.is_late and answer.asked + SILENCE <= now:
                    answer.is_late = True
                    log("keeper-silent", request=answer.what, seconds=SILENCE)
            waiting = [answer.asked for answer in self._answers.values() if not answer.is_late]
            if waiting:
                self._silence.deadline = min(waiting) + SILENCE

    async def _send(self, packet: Packet, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and wait until it is.

        Raises:
            Refused: it cannot be sent.
        """
        parcel = self._put(packet, descriptors)
        await self.settle()
        reason = parcel.error.strerror if parcel is not None and parcel.error is not None else self._broken
        if reason is not None:
            raise Refused(f"cannot ask the keeper: {reason}")

    async def _ask(self, packet: Packet, descriptors: Sequence[int] = ()) -> _Answer:
        self._serial += 1
        serial, answer = self._serial, _Answer(packet)
        if descriptors or self._broken is not None:
            # Once sent, a request is carried out: its answer is always taken, or something would be held unknown.
            with trio.CancelScope(shield=True):
                self._expect(serial, answer)
                try:
                    await self._send({**packet, "serial": serial}, descriptors)
                except Refused:
                    self._answers.pop(serial, None)  # the line's end has answered it, perhaps
                    raise
        else:
            is_lone = self.is_at_leisure
            self._put({**packet, "serial": serial}, along=is_lone)
            self._expect(serial, answer)
            if is_lone and not self.flush():
                self._wake_sender()
        await answer.arrival()
        if answer.packet["kind"] == "error":
            raise Refused(answer.packet["message"])
        return answer

    @property
    def is_at_leisure(self) -> bool:
        """Whether hardly anybody waits for an answer: who asks now is not one of a crowd."""
        return len(self._answers) < FEW

    async def leisure(self) -> None:
        """Let others run, and wait until the keeper has not too much to do: whatever a thousand services are about to
        do at once needs memory for each, and the first could have begun with it."""
        await trio.lowlevel.checkpoint()
        while len(self._answers) > MUCH:
            if self._leisure is None:
                self._leisure = trio.Event()
            await self._leisure.wait()

    @property
    def overdue(self) -> str | None:
        """What the keeper has been asked long ago and has not answered, in a sentence; None when there is nothing."""
        oldest = next(iter(self._answers.values()), None)
        seconds = 0.0 if oldest is None else trio.current_time() - oldest.asked
        if oldest is None or seconds < SILENCE:
            return None
        return f"The keeper (PID {os.getppid()}) has not answered for {seconds:.0f} s: {oldest.what}"

    async def hello(self) -> int | None:
        """Learn what the keeper holds.

        Returns:
            The termination signal that came in while there was no supervisor, if any.
        """
        return self._learn_state(await self._ask({"kind": "hello", "version": message.VERSION}))

    def _learn_state(self, answer: _Answer) -> int | None:
        self.began_anew = answer.packet.get("began_anew", False)  # an older keeper does not say
        self.is_second = answer.packet.get("second", False)
        self._may_succeed = self._was_ready and not self.is_second
        init = answer.packet.get("init")
        self.is_heard, self.watchdog = init is not None, (init or {}).get("watchdog")
        signal: int | None = answer.packet["signal"]
        return signal

    async def prepared(self) -> int | None:
        """As a second supervisor, say that we are ready, and wait until we are in charge; ``changed`` has what is
        otherwise by then than at hello.

        Returns:
            As :meth:`hello`.
        """
        self.changed.clear()
        return self._learn_state(await self._ask({"kind": "prepared", "version": VERSION}))

    async def unprepared(self, reason: str) -> None:
        """As a second supervisor, say why we shall never be in charge; the keeper ends us."""
        await self._send({"kind": "unprepared", "reason": reason})

    async def upgrade(self, patience: int) -> tuple[int, str]:
        """Have a second supervisor get ready beside us, from the code that is installed by now.

        Args:
            patience: seconds that it has for it.

        Returns:
            Its PID and its version; it waits for :meth:`hand_over`, or for :meth:`dismiss`.

        Raises:
            Refused: it did not get ready, and why.
        """
        packet = (await self._ask({"kind": "upgrade", "patience": patience})).packet
        return packet["pid"], packet["version"]

    async def dismiss(self) -> None:
        """Have the second supervisor ended."""
        await self._ask({"kind": "dismiss"})

    async def hand_over(self) -> None:
        """Let the second supervisor be the one in charge; from now on we may ask for nothing.

        Raises:
            Refused: it is gone; we go on.
        """
        await self._ask({"kind": "hand_over"})
        self._may_succeed = False

    async def renew_keeper(self, patience: int) -> Packet:
        """Have the keeper execute itself anew, as the code that is installed by now.

        Returns:
            ``before`` and ``version``, its code's; its ``pid``; and ``pause``, the seconds for which it took no
            request.

        Raises:
            Refused: that code is of no use, and why; the keeper goes on.
        """
        return (await self._ask({"kind": "renew_keeper", "patience": patience})).packet

    async def renew_logger(self, patience: int) -> int:
        """Have the logger followed by one of the code that is installed by now; returns its PID.

        Raises:
            Refused: it did not get ready, and why; the old one goes on.
        """
        pid: int = (await self._ask({"kind": "renew_logger", "patience": patience})).packet["pid"]
        return pid

    async def spawn(
        self,
        process_id: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: str,
        output: Packet | str,
        *,
        ids: tuple[int, int, Sequence[int]] | None = None,
        umask: int | None = None,
        scope: str = "group",
        limits: Sequence[tuple[str, int | None, int | None]] = (),
        nice: int | None = None,
        oom_score_adjust: int | None = None,
        capabilities: Sequence[str] | None = None,
        no_new_privileges: bool = False,
        pid_variable: str | None = None,
        descriptors: Sequence[tuple[str, str]] = (),
        stdin: int | None = None,
        after: Held | None = None,
    ) -> tuple[Held, int | None]:
        """Have the keeper spawn a process.

        Args:
            process_id: a name that no held process has.
            output: ``{"log": PATH, "rotation": {...}}``, ``"supervisor"`` or ``"null"``.
            ids: uid, gid and supplementary gids; None means the keeper's own.
            scope: whether all of its service go with it at its release (``group``), or it goes alone (``process``).
            limits: (name, soft, hard) of each resource limit of its own; None means unlimited.
            capabilities: the ambient ones; None means the keeper's own.
            pid_variable: the name of a variable that tells it its own PID.
            descriptors: (name that it is held by, name in LISTEN_FDNAMES) of each that it has from 3 on, as
                sd_listen_fds(3) says.
            stdin: what is to be its stdin and stdout, such as a connection; ours stays ours to close. The file is made
                blocking.
            after: a process of the same scope that has ended, to be released before, as :meth:`release_if_alone` does
                it, or :meth:`release` if its scope is ``process``.

        Returns:
            The process, and the read end of its output when that was to be the supervisor.

        Raises:
            SpawnError: it could not be executed.
            Refused: the request itself is impossible, such as one with more than 160 KiB of arguments.
            Left: others of the service of ``after`` live, and nothing was done.
        """
        uid, gid, groups = ids or (None, None, None)
        request: Packet = {
            "kind": "spawn",
            "id": process_id,
            "command": list(command),
            "environment": dict(environment),
            "directory": directory,
            "uid": uid,
            "gid": gid,
            "groups": None if groups is None else list(groups),
            "umask": umask,
            "scope": scope,
            "output": output,
            "limits": [list(limit) for limit in limits],
            "nice": nice,
            "oom_score_adjust": oom_score_adjust,
            "capabilities": None if capabilities is None else list(capabilities),
            "no_new_privileges": no_new_privileges,
            "pid_variable": pid_variable,
            "descriptors": [list(pair) for pair in descriptors],
            "stdin": stdin is not None,
        }
        try:
            if after is not None and after.id in self.held:
                answer = await self._release_and_spawn(after, request)
            else:
                answer = await self._ask(request, () if stdin is None else (stdin,))
        except Unsendable:
            longest = message.LIMIT // 1024
            raise Refused(f"its command and environment are longer than {longest} KiB altogether") from None
        packet = answer.packet
        if packet["kind"] == "failed":
            raise SpawnError(packet["errno"], packet["stage"], packet["path"])
        return self.held[process_id], answer.descriptors[0] if answer.descriptors else None

    async def _release_and_spawn(self, ended: Held, request: Packet) -> _Answer:
        """Ask for both at once. Returns the answer to the spawn."""
        self._serial += 1
        serial, answer = self._serial, _Answer(request)
        if_alone = request["scope"] != "process"
        self._expect(serial, answer)
        try:
            packet = (
                await self._ask({**_release(ended, if_alone=if_alone), "then": {**request, "serial": serial}})
            ).packet
            if packet.get("goes_on"):
                await answer.arrival()
        finally:
            self._expect_no_more(serial)
        if packet.get("goes_on"):
            if answer.packet["kind"] == "error":
                raise Refused(answer.packet["message"])
            return answer
        if packet.get("count"):
            raise Left
        if packet["kind"] == "released":  # by a keeper of an earlier herdpy
            self.held.pop(ended.id, None)
        else:  # the last of them has gone in the same moment
            await self.release(ended)
        return await self._ask(request)

    async def signal(self, held: Held, number: int, scope: str = "group") -> None:
        """Send a signal to a ``process``, its ``group``, or ``all`` of its service; to none left, nothing happens."""
        if held.id in self.held:
            try:
                await self._ask({"kind": "signal", "id": held.id, "signal": number, "scope": scope})
            except Refused:
                if held.id in self.held:
                    raise  # else it has been released meanwhile, after an ending that was not waited for

    async def end(self, held: Held, number: int, scope: str, *, if_alone: bool) -> Ending:
        """Send a signal to a process that has not ended, and have it released once it has, without being asked again.

        Args:
            number, scope: as of :meth:`signal`.
            if_alone: whether as :meth:`release_if_alone` does it, else as :meth:`release` does.

        Raises:
            Refused: it cannot be sent.
        """
        if self._broken is not None:
            await self.settle()
            raise Refused(f"cannot ask the keeper: {self._broken}")
        self._serial += 1
        is_lone = len(self._endings) < FEW
        packet = {"kind": "signal", "id": held.id, "signal": number, "scope": scope, "serial": self._serial}
        self._put({**packet, "then": "release", "if_alone": if_alone}, along=is_lone)
        ending = self._endings[self._serial] = Ending(self._serial)
        if is_lone and not self.flush():
            self._wake_sender()
        return ending

    def forget(self, ending: Ending) -> None:
        """Wait for it no longer; the keeper carries it out all the same."""
        self._endings.pop(ending.serial, None)

    async def rest(self, held: Held) -> int:
        """Count what is left of a service, its main process having ended; when the last has gone, ``alone`` is set.

        Returns:
            How many there are; when there are none, ``alone`` is never set.

        Raises:
            Refused: the main process still runs.
        """
        answer = await self._ask({"kind": "rest", "id": held.id})
        count: int = answer.packet["count"]
        return count

    async def adopt(self, held: Held, pid: int) -> None:
        """Let a service's main process be another of its processes, such as a daemon that it forked.

        ``held`` then has its PID, and is running again if it had ended.

        Raises:
            Refused: there is no such process, or it is not the service's; the reason in words.
        """
        await self._ask({"kind": "adopt", "id": held.id, "pid": pid})

    async def release(self, held: Held) -> int:
        """Let go of a process that has ended, once its last lines are written, though the logger is not waited for for
        more than 1 s: the zombie is reaped; all that is left of its service is killed, if its scope is ``group``, and
        waited for, though not for more than 2 s.

        Returns:
            How many do not end even so.
        """
        if self.held.pop(held.id, None) is None:
            await self.settle()
            return 0
        answer = await self._ask(_release(held))
        left: int = answer.packet["left"]
        return left

    async def release_if_alone(self, held: Held) -> int:
        """Do what :meth:`release` does, if nothing of its service is left, else what :meth:`rest` does.

        Returns:
            How many are left; when there are none, it is released.
        """
        if held.id not in self.held:
            await self.settle()
            return 0
        packet = (await self._ask(_release(held, if_alone=True))).packet
        if packet["kind"] == "rest" and packet["count"]:
            count: int = packet["count"]
            return count
        if packet["kind"] == "released":
            self.held.pop(held.id, None)
            return 0
        await self.release(held)  # the last of them has gone in the same moment
        return 0

    async def hold(self, name: str, descriptor: int) -> None:
        """Have the keeper hold a copy of a descriptor, for the next supervisor and for ``spawn``; ours stays ours.

        Every later supervisor finds it in ``listeners``.

        Raises:
            Refused: it holds one by this name already, or has no descriptor left.
        """
        await self._ask({"kind": "hold", "name": name}, (descriptor,))
        self._copy(name, descriptor)

    async def let_go(self, name: str) -> None:
        """Have the keeper close the descriptor that it holds by this name; what we have in ``listeners`` stays ours.

        Raises:
            Refused: there is none.
        """
        await self._ask({"kind": "let_go", "name": name})

    async def accept(self, name: str, connection: str) -> int | None:
        """Have the keeper take a connection from a listening socket, and hold it.

        Args:
            name: that the listening socket is held by; it is nonblocking from now on.
            connection: the name that the connection is held by, if there is one.

        Returns:
            A copy of its descriptor, ours to close; None when nothing waits to be taken.

        Raises:
            Refused: there is no such socket, or the keeper has no descriptor left.
        """
        answer = await self._ask({"kind": "accept", "name": name, "connection": connection})
        return answer.descriptors[0] if answer.descriptors else None

    async def note(self, key: str, text: str | None) -> None:
        """Have the keeper remember a text under a key, for the next supervisor; None forgets it.

        Raises:
            Refused: it is too long.
        """
        await self._send({"kind": "note", "key": key, "text": text})

    async def confirmed(self) -> None:
        """Wait until the keeper has read what it was sent: what it has not is lost if it is killed."""
        with contextlib.suppress(Refused):  # an older keeper, which knows no such request, but has come to it
            await self._ask({"kind": "confirm"})

    async def announce(self, *lines: str) -> None:
        """Tell the init system that has started herdpy how it is (sd_notify(3)); nothing is sent where there is none.
        The first time is the promise to go on, if there is a watchdog."""
        if self.is_heard and lines:
            await self._send({"kind": "announce", "text": "\n".join(lines)})

    def note_soon(self, key: str, text: str, *, along: bool = False) -> None:
        """The same, but it is sent along with what else is: before anything that is asked of the keeper afterwards, and
        for what concerns others, :meth:`settle` waits.

        Args:
            along: whether not before that, in one packet with it: it will be asked for something at once.

        Raises:
            Refused: it is too long.
        """
        self._put({"kind": "note", "key": key, "text": text}, along=along)

    async def ready(self) -> None:
        """Say that the control socket answers: the PID file may appear."""
        await self._send({"kind": "ready"})
        self._may_succeed = True

    async def exit(self, status: int, text: str | None = None) -> None:
        """Have the keeper end with a status (and a text on its stderr) once this program has ended."""
        await self._send({"kind": "exit", "status": status, "message": text})
        self._may_succeed = False  # what is over needs no keeper

    def _copy(self, name: str, descriptor: int) -> None:
        if name in self._copies:
            os.close(self._copies.pop(name))
        try:
            self._copies[name] = os.dup(descriptor)
        except OSError:
            return  # no room: it would be lost with the keeper

    def _close_inheritance(self) -> None:
        for descriptor in (self._stderr, *self._ledger.values()):
            if descriptor >= 0:
                os.close(descriptor)
        self._stderr, self._ledger = -1, {}

    def _succeed(self) -> None:
        if self._may_succeed and self._succession and "control" in self._copies:
            log("keeper-lost", pid=os.getpid())
            own_log.flush()
            self._socket.set_inheritable(False)
            succession.succeed(self._succession, self._stderr, {**self._copies, **self._ledger})
