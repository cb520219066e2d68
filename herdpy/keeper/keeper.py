"""The hands: they hold what the supervisor asked for, whatever becomes of the supervisor."""

from __future__ import annotations

import errno
import gc
import os
import time

from herdpy.keeper import death, legacy, proc, renewal, request
from herdpy.keeper.cgroup import Emptiness
from herdpy.keeper.clone import forking_into
from herdpy.keeper.companion import Companion
from herdpy.keeper.estate import Estate
from herdpy.keeper.family import VARIABLE, Families, kill_main, signal_group
from herdpy.keeper.init_system import Watchdog
from herdpy.keeper.journal import Journal
from herdpy.keeper.last_words import last_words
from herdpy.keeper.listen import accept
from herdpy.keeper.loop import Loop
from herdpy.keeper.message import VERSION, MessageError, decode, encode, is_near
from herdpy.keeper.output import Output
from herdpy.keeper.posix_spawn import NO_WAY
from herdpy.keeper.renewal import Table, Trial
from herdpy.keeper.request import BadRequest
from herdpy.keeper.second import Retired, Second, answer_changes
from herdpy.keeper.spawn import NotBornThere, Spawner, SpawnFailure, failure, identify
from herdpy.keeper.table import Pipe, Process, identity, intention, make_pipe
from herdpy.version import VERSION as PROGRAM_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from herdpy.keeper.cgroup import Cgroup, Cgroups
    from herdpy.keeper.init_system import InitSystem
    from herdpy.keeper.line import Line
    from herdpy.keeper.place import PidFile
    from herdpy.keeper.spawn import Child
else:
    import _signal as signal

PATIENCE = 2.0
"""Seconds that the end of the supervisor, of killed services and of the logger are each waited for at our own end."""

QUIET_PATIENCE = 10.0
"""Seconds that we wait until nothing is half done, before we execute ourselves anew."""

ORPHANS_DELAY = 0.1
"""Seconds from the end of some child to the look for orphans: by then a service's end is mostly dealt with."""

LAST_WORDS_PATIENCE = 1.0
"""Seconds that the logger has for a process's last lines before its release goes on without them."""

LAST_PID = 2**22
"""Of 64-bit systems (proc(5), sys/kernel/pid_max)."""

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for services that nobody stops as they want to be stopped."""

MADE = 10_000
"""So many objects more than were dropped until the collector looks for cycles among them. The usual 700 are made for
three services, and a tenth of the time that a thousand of them take would go by with that; 10,000 have 1 MiB."""

TRIES = 5
"""So many supervisors that ended before they were ready, when none has ever been, and we give up."""


class Keeper:
    """Holds processes, pipes and notes; does what the supervisor says; decides nothing.

    Attributes:
        status: what we end with.
        message: what there is to say on stderr at the end, or None.
    """

    def __init__(
        self,
        *,
        supervisor: list[str],
        logger: list[str],
        minimal: Sequence[str] = (),
        environment: dict[str, str],
        log: str,
        listener: tuple[str, int],
        pid_file: PidFile,
        spawner: Spawner,
        cgroups: Cgroups,
        journal: str,
        elsewhere: str,
        succession: Mapping[str, object],
        init: InitSystem,
        estate: Estate | Table | None = None,
        lock: int = -1,
        keep_place: Callable[[], str | None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Hold what a keeper before us has left, if there is any; nothing is started yet.

        Args:
            minimal: the command of what answers when the supervisor crashes again and again; the reason follows.
            journal: its path.
            elsewhere: its path while it cannot be written there.
            succession: what the supervisor needs to be our successor (:mod:`herdpy.keeper.succession`).
            init: who wants to hear how we are.
            estate: what is left; of a keeper that has executed itself anew, what it had.
            lock: the descriptor of the state directory's lock.
            keep_place: sees that we still have that; returns why we do not, in words.
        """
        self.status = 0
        self.message: str | None = None
        self._loop = Loop(self._mistake)
        self._processes: dict[str, Process] = {}
        self._pids: set[int] = set()
        self._on_readable = self._look  # of all pidfds: each look-up of a method makes an object
        self._notes: dict[str, bytes] = {}
        self._control, control = listener
        self._held = {self._control: control}
        self._pid_file = pid_file
        self._on_ready: Callable[[], None] | None = on_ready
        self._spawner = spawner
        self._cgroups = cgroups
        self._families = Families(self._loop, self._processes, self._own_children)
        self._releases: dict[str, tuple[Mapping[str, Any], Line | None, float]] = {}  # that wait for last lines
        self._farewells: dict[str, tuple[Mapping[str, Any], Line | None]] = {}  # releases that wait for an end
        self._is_known = False  # to the supervisor there is now: it has said hello
        self._was_ready = False  # any supervisor
        self._is_ending = False
        self._is_alone = False  # as we end, no supervisor being of any use
        self._asked_to_end = 0
        self._signal: int | None = None
        self._signals = -1

        self._output = Output(
            self._loop,
            logger,
            environment,
            spawner,
            log,
            self._drained,
            self._logger_ended,
            lambda pipe: self._journal.append({"kind": "closed", "number": pipe.number}),
            None if estate is None else estate.own,
            None if estate is None else estate.ledger,
            0 if estate is None else estate.pipe_number,
            lambda: self._journal.append(*self._programs()),
        )
        self.say = self._say = self._output.say
        self._succession = succession
        self._lock = lock
        self._trial: Trial | None = None
        self._renewal: tuple[int, float] | None = None  # whose request it is, and since when we take no others
        self._renewed: Table | None = None
        self._journal = Journal(
            journal,
            elsewhere,
            self._content,
            self._say,
            lambda seconds, then: self._loop.after(seconds, "journal", then),
            self._loop.soon,
            keep_place,
        )
        writing = self._output.writing
        self._supervisor = Companion(self._loop, "supervisor", supervisor, environment, spawner, writing, self._say)
        self._second: Second | None = None
        self._upgrade_serial: int | None = None  # the request that the second one's getting ready answers
        self._retired = Retired(self._loop, 2 * PATIENCE)
        self._be_supervisor(self._supervisor)
        self._command, self._environment, self._minimal = supervisor, environment, minimal
        self._is_ready = False  # the supervisor that there is
        self._crashes = 0  # of supervisors in a row
        self._init = init
        self._watchdog = Watchdog(self._loop, init, lambda: self._supervisor, self._say)
        self._began_anew = False  # by someone who found a journal, until the supervisor is ready
        if estate is not None:
            self._take_up(estate)
        if isinstance(estate, Table):
            self._resume(estate)
        self._requests: dict[str, Callable[[Mapping[str, Any], bytes], None]] = {
            "hello": self._hello,
            "spawn": self._spawn,
            "signal": self._send_signal,
            "adopt": self._adopt,
            "rest": self._tell_rest,
            "release": self._release,
            "hold": self._hold,
            "let_go": self._let_go,
            "accept": self._accept,
            "note": self._note,
            "confirm": self._confirm,
            "announce": self._announce,
            "ready": self._ready,
            "exit": self._exit,
            "upgrade": self._upgrade,
            "dismiss": self._dismiss,
            "hand_over": self._hand_over,
            "renew_logger": self._renew_logger,
            "renew_keeper": self._renew_keeper,
        }

    def run(self, signals: int) -> None:
        """Keep until told to end. ``signals`` is where the numbers of signals come in (signal.set_wakeup_fd)."""
        self._signals = signals
        self._loop.watch(signals, lambda: self._hear_signals(signals))
        left = self._cgroups.pids_let_go()
        if left:
            self._say(f"of what a former herdpy let go there still run, left alone: PID {', '.join(map(str, left))}")
        self._journal.begin()
        for companion in (self._supervisor, self._output.logger):
            if companion.pid is None:
                companion.begin()
        if self._renewed is not None:
            self._tell_renewed(self._renewed)
            self._loop.after(ORPHANS_DELAY, "orphans", self._reap_orphans)
        self._journal.append(*self._programs())
        gc.set_threshold(MADE)
        self._loop.run()
        death.reap_orphans(())  # and what was held, too: nothing more can be done to it
        self._cgroups.let_go()
        self._journal.end()

    # What a keeper before us has left, and what we leave.

    def _take_up(self, estate: Estate | Table) -> None:
        """Hold what there is of an estate, from now on."""
        for packet in estate.notes:
            self._notes[decode(packet)["key"]] = packet
        self._held.update(estate.held)
        self._signal, self._asked_to_end = estate.signal, int(estate.signal is not None)
        self._was_ready = estate.was_ready
        self._began_anew = not estate.is_inherited
        pipes = {
            number: self._output.keep(reading, path, rotation, number=number)
            for number, reading, path, rotation in estate.pipes
        }
        for process in estate.processes:
            process.pipe = None if estate.pipe_of[process.id] is None else pipes.get(estate.pipe_of[process.id] or 0)
            self._processes[process.id] = process
            if process.status is None:
                self._pids.add(process.pid)
                self._watch(process)
            else:
                if process.pidfd >= 0 and death.is_child(process.pidfd):  # else its number is free for others
                    self._pids.add(process.pid)
                if isinstance(estate, Estate):
                    process.drained = process.pipe is None
                    if process.pipe is not None:
                        process.pipe.process = process
        for words in estate.words():
            self._say(words)

    def _content(self) -> Iterator[bytes]:
        """Yield what the journal has to say if it is written now, as packets."""
        yield encode(legacy.head(self._cgroups.path))
        yield from map(encode, self._programs())
        yield encode({"kind": "ledger", "identities": list(map(identity, self._output.ledger))})
        if self._signal in (signal.SIGTERM, signal.SIGINT):
            yield encode({"kind": "signal", "signal": self._signal})
        if self._was_ready:
            yield encode({"kind": "ready"})
        whose = {process.pipe.number: process for process in self._processes.values() if process.pipe is not None}
        for pipe in self._output.pipes():
            writer = whose.get(pipe.number)
            yield encode(pipe.record() if writer is None else pipe.record(writer.id, writer.scope))
        for process in self._processes.values():
            yield from map(encode, process.records())
        for name, descriptor in self._held.items():
            yield encode({"kind": "held", "name": name, "identity": identity(descriptor)})
        yield from self._notes.values()
        yield encode(legacy.head(self._cgroups.path))

    def _programs(self) -> list[dict[str, object]]:
        return [
            {"kind": "program", "name": name, "pid": program.pid, "start_time": proc.start_time(program.pid)}
            for name, program in (
                ("supervisor", self._supervisor),
                ("second", None if self._second is None else self._second.companion),
                ("logger", self._output.logger),
            )
            if program is not None and program.pid is not None
        ]

    # What comes from outside.

    def _hear_signals(self, signals: int) -> None:
        try:
            numbers = os.read(signals, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGCHLD:
                self._loop.after(ORPHANS_DELAY, "orphans", self._reap_orphans)
            elif number == signal.SIGHUP:
                if self._signal is None and not self._is_known:
                    self._signal = number
                self._tell({"kind": "signal", "signal": number})
            else:
                self._asked(number)

    def _asked(self, number: int) -> None:
        """SIGTERM or SIGINT: told to every supervisor from now on, for the next one must go on shutting down."""
        self._signal = number
        self._journal.append({"kind": "signal", "signal": number})
        self._asked_to_end += 1
        if self._asked_to_end == 2:
            self._say("asked to end for the second time; a third will kill every service")
        if self._asked_to_end == 3 and not self._is_ending:
            self._give_up("asked to end three times while services were still being stopped: killed them")
        self._tell({"kind": "signal", "signal": number})

    def _reap_orphans(self) -> None:
        death.reap_orphans(self._own_children())

    def _own_children(self) -> set[int]:
        """The PIDs of what is held, and of our own programs."""
        second = None if self._second is None else self._second.companion.pid
        supervisors = [pid for pid in (self._supervisor.pid, second) if pid is not None]
        trial = () if self._trial is None else (self._trial.pid,)
        return self._pids.union(supervisors, trial, self._retired.pids(), self._output.pids())

    def _hear_supervisor(self, packet: bytes) -> None:
        try:
            asked = decode(packet)
        except MessageError as error:
            self._answer({"kind": "error", "serial": None, "message": str(error)})
        else:
            self._do(asked, packet)

    def _do(self, asked: Mapping[str, Any], packet: bytes) -> None:
        """Do what the supervisor asks for, or tell it why not."""
        try:
            self._requests.get(asked["kind"], _refuse)(asked, packet)
        except (BadRequest, MessageError) as error:
            self._answer({"kind": "error", "serial": _serial(asked), "message": str(error)})
        except Exception as error:
            self._mistake(error)
            self._answer(
                {"kind": "error", "serial": _serial(asked), "message": f"a mistake of the keeper's: {error!r}"}
            )

    # Requests.

    def _hello(self, asked: Mapping[str, Any], _: bytes) -> None:
        self._greet(self._supervisor, asked)
        self._is_known = True
        self._watchdog.know()

    def _greet(self, companion: Companion, asked: Mapping[str, Any]) -> None:
        """Tell a supervisor, be it in charge or not yet, what there is."""
        serial = request.number(asked, "serial")
        version = request.number(asked, "version")
        if not is_near(version):
            raise BadRequest(f"this keeper speaks version {VERSION} of the line, and {version} is too far from it")
        for process in self._processes.values():
            companion.send(encode(process.told(serial)))
        for packet in self._notes.values():
            companion.send(packet)
        for name, descriptor in self._held.items():
            # A copy: the supervisor may have us let go of it before it has read this.
            told = encode({"kind": "listener", "serial": serial, "name": name})
            companion.send(told, (os.dup(descriptor),), give=True)
        self._tell_succession(companion)
        self._tell_state(companion, serial)

    def _tell_succession(self, companion: Companion) -> None:
        succession = encode({"kind": "succession", "options": self._succession, "was_ready": self._was_ready})
        # Stderr last: it is all that former versions know of.
        companion.send(succession, tuple(map(os.dup, (*self._output.ledger, 2))), give=True)

    def _tell_state(self, companion: Companion, serial: int) -> None:
        is_second = companion is not self._supervisor
        state = {
            "kind": "state",
            "serial": serial,
            "version": VERSION,
            "signal": self._signal,
            "began_anew": self._began_anew,
            "second": is_second,
        }
        if self._init.address is not None:
            state["init"] = {"watchdog": self._init.watchdog}
        companion.send(encode(state))
        if self._signal == signal.SIGHUP and not is_second:
            self._signal = None

    def _spawn(self, asked: Mapping[str, Any], _: bytes) -> None:
        serial = request.number(asked, "serial")
        name = request.text(asked, "id")
        if name in self._processes:
            raise BadRequest(f"spawn: there is a process {name!r} already; release it first")
        if self._is_ending:
            raise BadRequest("spawn: the keeper is about to end")
        rotation = asked["output"].get("rotation") if isinstance(asked.get("output"), dict) else None
        if rotation is not None and not isinstance(rotation, dict):
            raise BadRequest("spawn: output: rotation must be an object or null")
        child, scope, output = request.child(asked), request.scope(asked), request.output(asked)
        child.listening = [(self._descriptor(held, "spawn"), name) for held, name in request.descriptors(asked)]
        child.stdin = self._beside("spawn") if request.takes_stdin(asked) else None
        child.environment = {**child.environment, VARIABLE: name}
        reading, writing = -1, -1
        cgroup = None
        try:
            try:
                if output != "null":
                    reading, writing = make_pipe(child.uid, child.gid)
            except OSError as error:
                raise SpawnFailure(error.errno or errno.EIO, "output", "") from None
            intended = cgroup = self._cgroups.make(name)
            self._intend(child, name, scope, reading, cgroup, output, rotation)
            before = proc.now()
            try:
                pid, errors, cgroup = self._spawn_in(cgroup, child, None if writing < 0 else writing)
            finally:
                self._cgroups.has_spawned()
            pidfd = identify(pid)
            start_time = proc.start_time_since(before, pid)
        except SpawnFailure as error:
            if reading >= 0:
                os.close(reading)
            self._forsake(cgroup)
            self._journal.append({"kind": "gone", "id": name})
            self._answer(_failed(serial, error))
            return
        finally:
            if writing >= 0:
                os.close(writing)
        pipe = self._output.keep(reading, output[0], rotation) if isinstance(output, tuple) else None
        seen = None if pipe is None else pipe.identity
        process = Process(name, pid, pidfd, start_time, scope, pipe, seen or identity(reading), cgroup)
        self._processes[name] = process
        self._changed("processes", name)
        self._journal.append(*(process.records() if cgroup is not intended else (process.outcome(),)))
        self._pids.add(pid)
        self._watch(process)
        process.asker, process.serial = self._supervisor.line, serial
        process.reading = reading if output == "supervisor" else None
        if errors is None:
            self._spawned(process)
        else:
            process.errors = errors
            self._loop.watch(errors, lambda: self._hear_child(process))

    def _spawn_in(
        self, cgroup: Cgroup | None, child: Child, output: int | None
    ) -> tuple[int, int | None, Cgroup | None]:
        """Spawn a child in a cgroup; also returns that, or None when it came to be outside of any.

        Raises:
            SpawnFailure: there is no child.
        """
        cgroups = self._cgroups
        if cgroup is not None and cgroups.can_vfork and child.is_bare():
            try:
                return *self._spawner.spawn(child, output, cgroup=cgroup.path), cgroup
            except NotBornThere as refusal:
                cgroups.can_vfork = refusal.errno not in NO_WAY
        if cgroup is not None and cgroups.comes_alone():
            try:
                return *self._spawner.spawn(child, output, forking_into(cgroup.path)), cgroup
            except SpawnFailure as error:
                if error.stage != "fork" or error.errno in (errno.EAGAIN, errno.ENOMEM):
                    raise
                cgroups.can_fork = False  # an older kernel, or a filter of system calls
        if cgroup is not None and not cgroups.enter(cgroup):
            cgroup.remove()
            cgroup = None
        try:
            pid, errors = self._spawner.spawn(child, output)
        finally:
            if cgroup is not None and not cgroups.leave():
                self._say(f"cannot leave the cgroup {cgroup.path}: from now on, no service has one")
                cgroup = None
        return pid, errors, cgroup

    def _intend(
        self,
        child: Child,
        name: str,
        scope: str,
        reading: int,
        cgroup: Cgroup | None,
        output: str | tuple[str, ...],
        rotation: Mapping[str, Any] | None,
    ) -> None:
        """Put into the journal what is about to be spawned."""
        number, records = None, []
        if isinstance(output, tuple):
            number = self._output.next_number()
            records.append(Pipe(number, reading, output[0], rotation=rotation).record(name, scope))
        path = None if cgroup is None else cgroup.path
        records.append(intention(name, scope, proc.now(), child.uid, path, identity(reading), number))
        self._journal.append(*records)
        self._journal.sync()

    def _watch(self, process: Process) -> None:
        self._loop.watch_for(process.pidfd, self._on_readable, process)

    def _hear_child(self, process: Process) -> None:
        """Learn whether the exec of a fork succeeded."""
        if process.errors is None:
            return
        try:
            words = os.read(process.errors, 8192)
        except BlockingIOError:
            return
        self._loop.forget(process.errors)
        os.close(process.errors)
        process.errors = None
        if not words:
            self._spawned(process)
        elif process.asker is self._supervisor.line and process.asker is not None:
            self._drop(process)  # it is an orphan now, to be reaped like any other
            self._answer(_failed(process.serial, failure(words)))
        else:  # who asked is gone; to the next one it is a process that ended with 127, as a shell has it
            self._spawned(process)

    def _spawned(self, process: Process) -> None:
        reading, process.reading = process.reading, None
        if process.asker is not None and process.asker is self._supervisor.line:
            answer = encode(
                {
                    "kind": "spawned",
                    "serial": process.serial,
                    "id": process.id,
                    "pid": process.pid,
                    "start_time": process.start_time,
                }
            )
            self._supervisor.send(answer, () if reading is None else (reading,), give=True)
        elif reading is not None:
            os.close(reading)
        process.asker = process.serial = None

    def _send_signal(self, asked: Mapping[str, Any], _: bytes) -> None:
        process = self._find(asked)
        number = request.number(asked, "signal", 64)
        serial = request.number(asked, "serial")
        scope = request.scope(asked, "all")
        self._journal.sync()  # who comes next has to know the notes that say why
        try:
            if scope == "all":
                delivered = self._families.signal(process, number)
            elif scope == "process" or not signal_group(process, number):
                delivered = process.status is None
                if process.pidfd >= 0:
                    signal.pidfd_send_signal(process.pidfd, number)
            else:
                delivered = True
        except ProcessLookupError:
            delivered = False
        except OSError as error:
            raise BadRequest(f"cannot send signal {number} to {process.id}: {error.strerror}") from None
        if asked.get("then") == "release":
            self._release_at_its_end(process, asked)
        else:
            self._answer({"kind": "signalled", "serial": serial, "delivered": delivered})

    def _release_at_its_end(self, process: Process, asked: Mapping[str, Any]) -> None:
        """Go on with a release, whose answer is the only one, when the process ends that was sent a signal."""
        self._leave_release_to_supervisor(process.id)
        if_alone = asked.get("if_alone") is True
        release = {
            "kind": "release",
            "id": process.id,
            "serial": asked["serial"],
            "drained": True,
            "if_alone": if_alone,
        }
        if process.status is None:
            self._farewells[process.id] = release, self._supervisor.line
        else:
            self._do(release, b"")

    def _leave_release_to_supervisor(self, name: str) -> None:
        """Answer for the signal alone, if a release was to follow: it does no longer."""
        farewell = self._farewells.pop(name, None)
        if farewell is not None:
            asked, asker = farewell
            self._answer_to(asker, {"kind": "signalled", "serial": asked["serial"], "delivered": True})

    def _release(self, asked: Mapping[str, Any], _: bytes) -> None:
        process = self._find(asked)
        serial = request.number(asked, "serial")
        if process.status is None:
            raise BadRequest(f"release: {process.id} (PID {process.pid}) still runs")
        if process.is_going and process.asker is self._supervisor.line:
            raise BadRequest(f"release: {process.id} is being released")
        if asked.get("drained") is True and not process.drained and not process.is_going:
            self._releases[process.id] = asked, self._supervisor.line, time.monotonic() + LAST_WORDS_PATIENCE
            self._loop.after(LAST_WORDS_PATIENCE, "last words", self._release_undrained)
            return
        self._releases.pop(process.id, None)
        is_alone = process.cgroup is not None and process.cgroup.remove()
        if is_alone:
            process.cgroup = None  # so there is nobody, and nothing to look for
        elif asked.get("if_alone") is True and not process.is_going:
            is_alone = not self._families.members(process)
            if not is_alone:
                self._tell_rest(asked, _)
                return
        was_going, process.is_going = process.is_going, True
        process.asker, process.serial = self._supervisor.line, serial
        if was_going:
            return
        if not is_alone and process.scope == "group" and self._families.kill(process):
            self._wait_for_others(process, lambda: self._released(process), kills=True)
            if process.others is not None:
                self._loop.after(PATIENCE, f"release {process.id}", lambda: self._released(process, is_late=True))
                return
        self._released(process, then=asked.get("then"))

    def _go_on_releasing(self, process: Process) -> None:
        """Its last lines are written, or have been waited for long enough."""
        asked, asker, _ = self._releases.pop(process.id)
        if asker is not None and asker is self._supervisor.line:  # else the next one will ask again
            self._do({**asked, "drained": False}, b"")

    def _release_undrained(self) -> None:
        """Wait no longer for those last lines that the logger has had long enough."""
        now = time.monotonic()
        late = [name for name, (_, _, end) in self._releases.items() if end <= now]
        for name in late:
            self._go_on_releasing(self._processes[name])
        if self._releases:
            first = min(end for _, _, end in self._releases.values())
            self._loop.after(first - now, "last words", self._release_undrained)

    def _released(self, process: Process, *, is_late: bool = False, then: Mapping[str, Any] | None = None) -> None:
        """Nobody is left of a service that is being released, or they have been waited for long enough.

        Args:
            then: the spawn that was to follow at once, with an answer of its own; who is told that it does not
                (``goes_on``), because others were waited for, asks for it again.
        """
        if self._processes.get(process.id) is not process:
            return
        self._loop.cancel(f"release {process.id}")
        self._forget_others(process)
        asker, process.asker, process.is_going = process.asker, None, False
        if asker is None or asker is not self._supervisor.line:
            return  # who asked is gone, and the next one will ask again
        left = len(self._families.members(process)) if is_late else 0
        self._drop(process)
        answer = {"kind": "released", "serial": process.serial, "id": process.id, "left": left}
        if not isinstance(then, dict):
            self._answer(answer)
        else:
            self._answer({**answer, "goes_on": True})
            self._do({**then, "kind": "spawn"}, b"")

    def _tell_rest(self, asked: Mapping[str, Any], _: bytes) -> None:
        process = self._find(asked)
        serial = request.number(asked, "serial")
        if process.status is None:
            raise BadRequest(f"rest: {process.id} (PID {process.pid}) still runs")
        if process.is_going:
            raise BadRequest(f"rest: {process.id} is being released")
        count = len(self._families.members(process))
        if count and process.others is None:
            self._wait_for_others(process, lambda: self._alone(process))
            if process.others is None:
                count = 0
        self._answer({"kind": "rest", "serial": serial, "id": process.id, "count": count})

    def _alone(self, process: Process) -> None:
        process.others = None
        self._tell({"kind": "alone", "id": process.id})

    def _wait_for_others(self, process: Process, then: Callable[[], None], *, kills: bool = False) -> None:
        self._forget_others(process)
        others = self._families.await_others(process, then, kills=kills)
        process.others = others if others.is_waiting else None

    def _forget_others(self, process: Process) -> None:
        if process.others is not None:
            process.others.close()
            process.others = None

    def _adopt(self, asked: Mapping[str, Any], _: bytes) -> None:
        process = self._find(asked)
        serial = request.number(asked, "serial")
        pid = request.number(asked, "pid", LAST_PID, 1)
        if process.errors is not None or process.is_going:
            state = "is being released" if process.is_going else "has not begun yet"
            raise BadRequest(f"adopt: the service's process {state}")
        if pid != process.pid or process.status is not None:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                raise BadRequest(f"adopt: there is no process {pid} ({error.strerror})") from None
            try:
                seen = self._look_at_heir(process, pid, pidfd)
            except BadRequest:
                os.close(pidfd)
                raise
            self._replace(process, pid, pidfd, seen)
        self._answer(
            {
                "kind": "adopted",
                "serial": serial,
                "id": process.id,
                "pid": process.pid,
                "start_time": process.start_time,
            }
        )

    def _look_at_heir(self, process: Process, pid: int, pidfd: int) -> proc.Stat:
        """See that a process may be adopted.

        Raises:
            BadRequest: it may not, and why.
        """
        seen = proc.stat(pid)
        if seen is None or seen.has_ended():
            raise BadRequest(f"adopt: process {pid} has ended")
        if pid in self._own_children() or pid not in self._families.members(process):
            raise BadRequest(f"adopt: process {pid} ({proc.name(pid)}) is not one of the service's")
        if death.has_ended(pidfd):  # else it was the same one all the time
            raise BadRequest(f"adopt: process {pid} has ended")
        return seen

    def _replace(self, process: Process, pid: int, pidfd: int, seen: proc.Stat) -> None:
        """Let a service's main process be another one from now on."""
        if process.pidfd >= 0:
            self._loop.forget(process.pidfd)
            if process.status is not None:
                death.reap(process.pidfd)  # else it is an orphan's end, when it ends
            os.close(process.pidfd)
        self._pids.discard(process.pid)
        self._pids.add(pid)
        self._forget_others(process)
        self._output.forget(process)
        process.pid, process.pidfd, process.start_time = pid, pidfd, seen.start_time
        process.inode = os.fstat(pidfd).st_ino
        process.session = seen.session if seen.parent == os.getpid() else None
        process.status, process.drained, process.is_adopted = None, False, True
        self._changed("processes", process.id)
        self._journal.append(process.outcome())
        self._watch(process)

    def _hold(self, asked: Mapping[str, Any], _: bytes) -> None:
        serial = request.number(asked, "serial")
        name = request.text(asked, "name")
        descriptor = self._beside("hold")
        if name in self._held:
            raise BadRequest(f"hold: there is a descriptor {name!r} already; let it go first")
        self._take_beside(descriptor)
        self._held[name] = descriptor
        self._changed("held", name)
        self._journal.append({"kind": "held", "name": name, "identity": identity(descriptor)})
        self._answer({"kind": "held", "serial": serial, "name": name})

    def _let_go(self, asked: Mapping[str, Any], _: bytes) -> None:
        serial = request.number(asked, "serial")
        name = request.text(asked, "name")
        descriptor = self._descriptor(name, "let_go")
        if name == self._control:
            raise BadRequest(f"let_go: {name!r} is the keeper's own")
        del self._held[name]
        self._changed("held", name)
        self._journal.append({"kind": "let_go", "name": name})
        os.close(descriptor)
        self._answer({"kind": "let_go", "serial": serial, "name": name})

    def _accept(self, asked: Mapping[str, Any], _: bytes) -> None:
        """Take a connection, and hold it: one that a supervisor had taken would be lost with it."""
        serial = request.number(asked, "serial")
        name = request.text(asked, "connection")
        listening = self._descriptor(request.text(asked, "name"), "accept")
        if name in self._held:
            raise BadRequest(f"accept: there is a descriptor {name!r} already; let it go first")
        try:
            os.set_blocking(listening, False)  # it may be gone again, and we must never wait
            connection = accept(listening)
        except (BlockingIOError, ConnectionAbortedError, PermissionError):  # the last by a firewall's doing
            self._answer({"kind": "accepted", "serial": serial, "name": None})
            return
        except OSError as error:
            raise BadRequest(f"accept: {error.strerror}") from None
        self._held[name] = connection
        self._changed("held", name)
        self._journal.append({"kind": "held", "name": name, "identity": identity(connection)})
        answer = encode({"kind": "accepted", "serial": serial, "name": name})
        self._supervisor.send(answer, (os.dup(connection),), give=True)

    def _descriptor(self, name: str, kind: str) -> int:
        descriptor = self._held.get(name)
        if descriptor is None:
            raise BadRequest(f"{kind}: there is no descriptor {name!r}")
        return descriptor

    def _beside(self, kind: str) -> int:
        """Return the descriptor beside the request; it is closed after the request unless it is taken."""
        assert self._supervisor.line is not None
        if len(self._supervisor.line.beside) != 1:
            raise BadRequest(f"{kind}: one descriptor must come beside it, not {len(self._supervisor.line.beside)}")
        return self._supervisor.line.beside[0]

    def _take_beside(self, descriptor: int) -> None:
        assert self._supervisor.line is not None
        self._supervisor.line.beside.remove(descriptor)

    def _note(self, asked: Mapping[str, Any], packet: bytes) -> None:
        """Keep a note as the packet it came in: it is sent back as it was, whatever it says."""
        key = request.text(asked, "key")
        if isinstance(asked.get("text"), str | None):
            self._journal.append_packet(packet)
        self._changed("notes", key)
        if asked.get("text") is None:
            self._notes.pop(key, None)
        elif isinstance(asked["text"], str):
            self._notes[key] = packet
        else:
            raise BadRequest("note: text must be a string or null")

    def _confirm(self, asked: Mapping[str, Any], _: bytes) -> None:
        """Answer: what was sent before this has been read, and the journal is written before an answer goes out."""
        self._answer({"kind": "confirmed", "serial": request.number(asked, "serial")})

    def _announce(self, asked: Mapping[str, Any], _: bytes) -> None:
        self._watchdog.pass_on(request.text(asked, "text"))

    def _ready(self, asked: Mapping[str, Any], _: bytes) -> None:
        if not self._was_ready:
            self._journal.append({"kind": "ready"})
        self._was_ready, self._began_anew, self._is_ready = True, False, True
        problem = self._pid_file.write()
        if problem is not None:
            self._say(problem)
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            before = os.fstat(2)
            on_ready()
            if not os.path.samestat(before, os.fstat(2)):  # we are in the background, and so are they
                self._output.pass_stderr()
                self._tell_succession(self._supervisor)
        self._watchdog.tell("READY=1")

    def _exit(self, asked: Mapping[str, Any], _: bytes) -> None:
        status = request.number(asked, "status")
        message = None if asked.get("message") is None else request.text(asked, "message")
        if self._is_ending:
            return
        self.status, self.message = status & 0xFF, message
        self._end()

    # Upgrades.

    def _upgrade(self, asked: Mapping[str, Any], _: bytes) -> None:
        """Start a second supervisor; the answer comes when it is ready, or will never be."""
        serial = request.number(asked, "serial")
        patience = request.number(asked, "patience", 3600, 1)
        if self._second is not None:
            raise BadRequest("upgrade: a second supervisor gets ready already")
        if self._is_ending or self._signal in (signal.SIGTERM, signal.SIGINT):
            raise BadRequest("upgrade: herdpy is being stopped")
        self._upgrade_serial = serial
        self._second = Second(
            self._loop,
            self._command,
            self._environment,
            self._spawner,
            self._output.writing,
            self._say,
            patience=patience,
            greet=self._greet,
            on_prepared=self._second_prepared,
            on_failure=self._second_failed,
            on_begin=lambda: self._journal.append(*self._programs()),
        )
        self._second.begin()

    def _second_prepared(self) -> None:
        serial, self._upgrade_serial = self._upgrade_serial, None
        if self._second is not None and serial is not None:
            pid, version = self._second.companion.pid, self._second.version
            self._answer({"kind": "prepared", "serial": serial, "pid": pid, "version": version})

    def _second_failed(self, reason: str) -> None:
        second, self._second = self._second, None
        if second is not None:
            self._retired.add(second.companion)
        serial, self._upgrade_serial = self._upgrade_serial, None
        if serial is not None:
            self._answer({"kind": "error", "serial": serial, "message": reason})
        else:
            self._say(reason)

    def _dismiss(self, asked: Mapping[str, Any], _: bytes) -> None:
        """A second supervisor is not wanted any more."""
        serial = request.number(asked, "serial")
        self._end_second()
        self._answer({"kind": "dismissed", "serial": serial})

    def _end_second(self) -> None:
        second, self._second, self._upgrade_serial = self._second, None, None
        if second is not None:
            second.end()
            self._retired.add(second.companion)

    def _hand_over(self, asked: Mapping[str, Any], _: bytes) -> None:
        serial = request.number(asked, "serial")
        if self._second is None or self._second.prepared is None:
            raise BadRequest("hand_over: there is no second supervisor any more")
        before = self._supervisor
        self._promote_second()
        # The last word to the one that was in charge: it may end now, and must not be the next keeper any more.
        before.send(encode({"kind": "handed_over", "serial": serial}))

    def _promote_second(self) -> None:
        second, self._second = self._second, None
        self._is_ready, self._crashes = False, 0
        assert second is not None
        assert second.prepared is not None
        serial = second.prepared
        self._retired.add(self._supervisor)
        self._supervisor = second.promote()
        self._supervisor.is_wanted = True
        self._supervisor.name = "supervisor"
        self._be_supervisor(self._supervisor)
        self._is_known = True
        self._watchdog.begin()
        self._watchdog.know()
        answer_changes(second, serial, self._notes, self._processes, self._held)
        self._tell_state(self._supervisor, serial)
        self._journal.append(*self._programs())

    def _be_supervisor(self, companion: Companion) -> None:
        companion.on_end = self._supervisor_ended
        companion.on_message = self._hear_supervisor
        companion.on_begin = self._supervisor_began
        companion.before_sending = self._journal.sync

    def _changed(self, what: str, key: str) -> None:
        """Something is otherwise than a second supervisor was told."""
        if self._second is not None:
            self._second.note_change(getattr(self._second, what), key)

    def _renew_logger(self, asked: Mapping[str, Any], _: bytes) -> None:
        """Have the logger followed by one of the code that is installed by now."""
        serial = request.number(asked, "serial")
        patience = request.number(asked, "patience", 3600, 1)
        asker = self._supervisor.line

        def then(problem: str | None) -> None:
            if problem is not None:
                self._answer_to(asker, {"kind": "error", "serial": serial, "message": problem})
                return
            self._journal.append(*self._programs())
            self._answer_to(asker, {"kind": "renewed", "serial": serial, "pid": self._output.logger.pid})

        if self._is_ending or not self._output.renew(patience, then):
            raise BadRequest("renew_logger: the logger is being replaced already")

    # The keeper itself (herdpy/keeper/renewal.py).

    def _renew_keeper(self, asked: Mapping[str, Any], _: bytes) -> None:
        """Try the code that is installed by now; if it can go on with what we hold, execute it in our place."""
        serial = request.number(asked, "serial")
        patience = request.number(asked, "patience", 3600, 1)
        if self._trial is not None or self._renewal is not None:
            raise BadRequest("renew_keeper: that is under way")
        if self._is_ending or self._signal in (signal.SIGTERM, signal.SIGINT):
            raise BadRequest("renew_keeper: herdpy is being stopped")
        if self._second is not None or self._output.is_renewing:
            raise BadRequest("renew_keeper: supervisor or logger is being replaced")
        asker = self._supervisor.line

        def then(problem: str | None) -> None:
            self._trial = None
            if problem is None and asker is not self._supervisor.line:
                return  # the next one may ask for it again
            if problem is not None:
                self._answer_to(asker, {"kind": "error", "serial": serial, "message": problem})
                return
            # No more requests: those that come wait in the line, and our successor takes them.
            self._renewal = serial, time.monotonic()
            self._supervisor.pause()
            self._loop.on_turn = self._renew_when_quiet
            self._loop.after(QUIET_PATIENCE, "renewal", lambda: self._not_renewed("it is not quiet for long enough"))

        try:
            self._trial = Trial(
                self._loop, self._spawner, self._environment, renewal.write(self._table(serial)), patience, then
            )
        except (SpawnFailure, OSError) as error:
            raise BadRequest(f"renew_keeper: {error}") from None

    def _renew_when_quiet(self) -> None:
        """Execute ourselves anew, unless something is half done."""
        if self._renewal is None:
            return
        if self._is_ending or self._second is not None or self._output.is_renewing:
            self._not_renewed("herdpy is being stopped, or its supervisor has ended")
            return
        for name in tuple(self._farewells):
            self._leave_release_to_supervisor(name)
        if not self._is_quiet():
            return
        self._retired.kill()
        try:
            with renewal.SignalsBlocked():
                self._hear_signals(self._signals)  # what comes from now on is our successor's
                if self._is_ending or not self._is_quiet():
                    return
                memory = renewal.write(self._table(self._renewal[0]))
                try:
                    renewal.execute(memory, self._descriptors())
                finally:
                    os.close(memory)
        except OSError as error:
            self._not_renewed(f"it cannot be executed: {error.strerror}")

    def _is_quiet(self) -> bool:
        """Tell whether nothing is half done."""
        return (
            self._supervisor.is_quiet
            and self._output.logger.is_quiet
            and not self._releases
            and not any(process.errors is not None or process.is_going for process in self._processes.values())
        )

    def _not_renewed(self, reason: str) -> None:
        if self._renewal is not None:
            (serial, _), self._renewal = self._renewal, None
            self._loop.on_turn = None
            self._loop.cancel("renewal")
            self._supervisor.unpause()
            self._answer({"kind": "error", "serial": serial, "message": f"the keeper goes on as it is: {reason}"})

    def _table(self, serial: int) -> Iterator[dict[str, object]]:
        """Yield all that we have, for ourselves."""
        yield {
            "kind": "table",
            "version": renewal.VERSION,
            "program": PROGRAM_VERSION,
            "options": self._succession,
            "lock": self._lock,
            "has_pid_file": self._pid_file.is_there,
            "serial": serial,
            "paused": 0.0 if self._renewal is None else self._renewal[1],
            "is_known": self._is_known,
            "signal": self._signal,
            "asked_to_end": self._asked_to_end,
            "was_ready": self._was_ready,
            "began_anew": self._began_anew,
            "own": self._output.own,
            "ledger": self._output.ledger,
            "pipe_number": self._output.number,
            "spawner": self._spawner.descriptors,
        }
        yield self._supervisor.record()
        yield from self._output.records()
        yield from map(renewal.process_record, self._processes.values())
        for name, descriptor in self._held.items():
            yield {"kind": "held", "name": name, "descriptor": descriptor}
        yield from map(decode, self._notes.values())

    def _descriptors(self) -> list[int]:
        """Return what of all that is open."""
        line = self._supervisor.line
        supervisor = [] if line is None else [line.descriptor, self._supervisor.pidfd]
        pidfds = [process.pidfd for process in self._processes.values() if process.pidfd >= 0]
        return [
            self._lock,
            *self._spawner.descriptors,
            *supervisor,
            *self._output.descriptors(),
            *pidfds,
            *self._held.values(),
        ]

    def _resume(self, table: Table) -> None:
        """Go on where we were before we executed ourselves anew; what an estate has, too, is taken up already."""
        self._renewed = table
        self._is_known, self._asked_to_end = table.is_known, table.asked_to_end
        if table.is_known:
            self._watchdog.know()
        self._began_anew = table.began_anew
        self._is_ready = table.is_known and table.was_ready
        for pipe in self._output.pipes():
            drains, name = table.drains.get(pipe.number, (0, None))
            pipe.drains, pipe.process = drains, None if name is None else self._processes.get(name)
        for name in table.alone:
            process = self._processes[name]
            self._wait_for_others(process, lambda process=process: self._alone(process))  # type: ignore[misc]
        self._supervisor.resume(table.programs["supervisor"])
        self._output.logger.resume(table.programs["logger"])
        if table.archiving is not None:
            self._output.archiving.resume(table.archiving)

    def _tell_renewed(self, table: Table) -> None:
        """Answer the one who asked for it, and tell whom nobody is left of that was waited for."""
        self._answer(
            {
                "kind": "renewed",
                "serial": table.serial,
                "pid": os.getpid(),
                "before": table.version,
                "version": PROGRAM_VERSION,
                "pause": time.monotonic() - table.paused,
            }
        )
        for name in table.alone:
            if self._processes[name].others is None:
                self._tell({"kind": "alone", "id": name})

    def _find(self, asked: Mapping[str, Any]) -> Process:
        name = request.text(asked, "id")
        process = self._processes.get(name)
        if process is None:
            raise BadRequest(f"{asked['kind']}: there is no process {name!r}")
        return process

    # Processes and their output.

    def _look(self, process: Process) -> None:
        """See whether a process has ended, and tell."""
        if process.status is not None or self._processes.get(process.id) is not process:
            return
        if process.is_adopted:
            status = death.status_of_any(process.pidfd, process.pid, process.start_time)
        else:
            status = death.status(process.pidfd)
        if status is None:
            return
        self._hear_child(process)  # before its end: the exec it owes an answer for
        if self._processes.get(process.id) is not process:
            return
        process.status = status
        self._changed("processes", process.id)
        self._journal.append({"kind": "exited", "id": process.id, "status": status})
        self._loop.forget(process.pidfd)
        if process.is_adopted and not death.is_child(process.pidfd):
            self._pids.discard(process.pid)  # its number is free for others
        self._tell({"kind": "exited", "id": process.id, "status": status})
        self._output.drain(process)
        release, asker = self._farewells.pop(process.id, (None, None))
        if release is not None and asker is self._supervisor.line:  # else the next one will ask
            self._do(release, b"")
        if self._is_ending:
            self._end_when_alone()
        self._end_alone_if_all_ended()

    def _drained(self, process: Process) -> None:
        process.drained = True
        self._changed("processes", process.id)
        _, asker, _ = self._releases.get(process.id, (None, None, None))
        if asker is None or asker is not self._supervisor.line:
            self._tell({"kind": "drained", "id": process.id})  # else the answer to the release does
        if process.id in self._releases:
            self._go_on_releasing(process)

    def _drop(self, process: Process) -> None:
        del self._processes[process.id]
        self._releases.pop(process.id, None)
        self._farewells.pop(process.id, None)
        self._changed("processes", process.id)
        self._journal.append({"kind": "gone", "id": process.id})
        self._forget_others(process)
        self._forsake(process.cgroup)
        self._pids.discard(process.pid)
        if process.pidfd >= 0:
            death.reap(process.pidfd)
            self._loop.forget(process.pidfd)
            os.close(process.pidfd)
        if process.reading is not None:
            os.close(process.reading)
            process.reading = None
        self._output.forget(process)

    def _forsake(self, cgroup: Cgroup | None) -> None:
        """Remove a cgroup, as soon as nobody lives in it."""
        if cgroup is None or cgroup.remove():
            return
        cgroup.let_go()
        if not Emptiness(self._loop, cgroup, cgroup.remove).is_waiting:
            cgroup.remove()

    # Telling.

    def _tell(self, event: Mapping[str, object]) -> None:
        """Tell the supervisor something by ourselves. One that has not said hello will ask."""
        if self._is_known:
            self._answer(event)

    def _answer_to(self, asker: Line | None, message: Mapping[str, object]) -> None:
        """Answer what took its time, unless who asked is gone: the next one's serials mean other requests."""
        if asker is not None and asker is self._supervisor.line:
            self._answer(message)

    def _answer(self, message: Mapping[str, object]) -> None:
        if self._supervisor.line is not None:
            self._supervisor.send(encode(message))

    def _mistake(self, error: Exception) -> None:
        """Survive a mistake of our own: whatever it was, the services must not pay for it."""
        import traceback

        self._say("".join(traceback.format_exception(error)))

    # Companions and the end.

    def _supervisor_began(self) -> None:
        self._journal.append(*self._programs())
        self._watchdog.begin()

    def _supervisor_ended(self) -> None:
        self._is_known = False
        self._not_renewed("its supervisor has ended")
        was_ready, self._is_ready = self._is_ready, False
        if self._second is not None and self._second.prepared is not None and not self._is_ending:
            self._loop.cancel("begin supervisor")
            self._promote_second()
            return
        self._end_second()
        if self._is_ending:
            self._end_services()
        elif not self._was_ready and self._supervisor.ends >= TRIES:
            self._give_up(
                f"the supervisor does not start: {TRIES} tries, see above; tried: {self._supervisor.command[0]}"
            )
        elif self._was_ready and self._minimal:
            self._choose_supervisor(was_ready=was_ready)

    def _choose_supervisor(self, *, was_ready: bool) -> None:
        """Decide which supervisor comes after one that has ended: the real one, or the minimal one.

        Five crashes in a row are too many. To be killed when it was ready is none: somebody wanted that.
        """
        supervisor = self._supervisor
        is_minimal = supervisor.command is not self._command
        if is_minimal and was_ready:
            return
        if is_minimal and self._signal in (signal.SIGTERM, signal.SIGINT):
            self._end_without_supervisor()
            return
        if is_minimal:  # not even that one works: the real one may have been mended meanwhile
            supervisor.command, self._crashes = self._command, TRIES - 1
            return
        is_killed = not supervisor.has_hung_up and (supervisor.status or {}).get("killed") == signal.SIGKILL
        if was_ready and is_killed:
            self._crashes = 0
        else:
            self._crashes = self._crashes + 1 if supervisor.ends > 1 else 1  # after a while, the first again
        if self._crashes >= TRIES:
            self._loop.cancel("begin supervisor")
            self._output.when_written(self._begin_minimal)

    def _end_without_supervisor(self) -> None:
        """We are to end, and no supervisor works that would stop the services one by one: they get SIGTERM together."""
        if self._is_ending or self._is_alone:
            return
        self._is_alone = True
        self._say(f"asked to end, and no supervisor works; SIGTERM for every service, and SIGKILL after {GRACE:g} s")
        for process in self._processes.values():
            try:
                if process.scope == "group":
                    self._families.signal(process, signal.SIGTERM)
                elif process.pidfd >= 0:
                    signal.pidfd_send_signal(process.pidfd, signal.SIGTERM)
            except OSError:
                continue  # it has ended, or is not ours to signal
        self._loop.after(GRACE, "end alone", self._end_alone)
        self._end_alone_if_all_ended()

    def _end_alone(self) -> None:
        self._give_up("asked to end, and no supervisor works, see above: ended every service")

    def _end_alone_if_all_ended(self) -> None:
        if self._is_alone and not self._is_ending and all(one.status for one in self._processes.values()):
            self._end_alone()

    def _begin_minimal(self) -> None:
        """Let the minimal supervisor answer, and say why."""
        if self._is_ending or self._supervisor.pid is not None:
            return
        words = last_words(self._output.log)
        reason = f"herdpy's supervisor has crashed {self._crashes} times in a row"
        reason += f", and its last words were: {words}" if words else ""
        self._say(
            f"{reason}; until that is mended, only herd status and herd stop are answered; then: herd upgrade root"
        )
        self._watchdog.tell(f"STATUS={' '.join(reason.splitlines())}; repair it, then: herd upgrade root")
        self._supervisor.command = [*self._minimal, reason]
        self._supervisor.begin()

    def _logger_ended(self) -> None:
        if not self._output.logger.is_wanted:
            self._loop.stop()

    def _give_up(self, why: str) -> None:
        self._say(why)
        self.status, self.message = 1, why
        self._end()
        self._supervisor.kill()

    def _end(self) -> None:
        """Begin to end: first the supervisor by itself, then what it left running, then the logger."""
        self._is_ending = True
        self._end_second()
        self._retired.kill()
        self._supervisor.is_wanted = False
        self._loop.after(2 * PATIENCE, "kill supervisor", self._supervisor.kill)
        if self._supervisor.pid is None:
            self._end_services()

    def _end_services(self) -> None:
        running = [process.id for process in self._processes.values() if self._kill(process)]
        if running:
            self._say(f"killing what still runs: {', '.join(running)}")
        self._loop.after(PATIENCE, "forget services", self._end_logger)
        self._end_when_alone()

    def _end_when_alone(self) -> None:
        if self._supervisor.pid is not None or any(process.status is None for process in self._processes.values()):
            return
        for process in self._processes.values():
            if process.scope == "group":
                self._wait_for_others(process, self._end_when_alone, kills=True)
        if all(process.others is None for process in self._processes.values()):
            self._end_logger()

    def _kill(self, process: Process) -> bool:
        """Kill what runs of a service, or its main process when that is its scope; tell whether there was anyone."""
        found = process.scope == "group" and self._families.kill(process)
        if process.status is None:
            kill_main(process)  # also one that has left its cgroup
        return found or process.status is None

    def _end_logger(self) -> None:
        if not self._output.logger.is_wanted:
            return
        if not self._output.end():
            self._loop.stop()
            return
        self._loop.after(PATIENCE, "kill logger", self._output.logger.kill)
        self._loop.after(2 * PATIENCE, "end", self._loop.stop)

    def last_words(self) -> bytes:
        """Return what the logger has left unread of our own log."""
        return self._output.last_words()


def _refuse(asked: Mapping[str, Any], _: bytes) -> None:
    raise BadRequest(f"there is no request {asked['kind']!r}")


def _failed(serial: int | None, error: SpawnFailure) -> dict[str, object]:
    return {"kind": "failed", "serial": serial, "errno": error.errno, "stage": error.stage, "path": error.path}


def _serial(asked: Mapping[str, Any]) -> int | None:
    serial = asked.get("serial")
    return serial if type(serial) is int else None
