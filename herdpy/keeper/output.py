"""What services say, and what we say ourselves: the pipes, the logger that reads them, and who deals with old logs."""

from __future__ import annotations

import fcntl
import os

from herdpy.keeper.archiving import Archiving
from herdpy.keeper.companion import Companion, in_words
from herdpy.keeper.message import MessageError, decode, encode
from herdpy.keeper.table import Pipe, make_ledger, make_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.spawn import Spawner
    from herdpy.keeper.table import Process

LEAVE_PATIENCE = 2.0
"""Seconds that an old logger has to end; killed, it loses nothing either."""


RETRY = 5.0
"""Seconds until a pipe that the logger had no room for is offered to it again."""


class Output:
    """Holds the pipes whatever becomes of the logger, and keeps a logger running.

    Attributes:
        logger: the companion.
        writing: where our own programs write, for our own log.
    """

    def __init__(
        self,
        loop: Loop,
        command: list[str],
        environment: dict[str, str],
        spawner: Spawner,
        log: str,
        on_drained: Callable[[Process], None],
        on_end: Callable[[], None],
        on_closed: Callable[[Pipe], None] = lambda pipe: None,
        own: tuple[int, int] | None = None,
        ledger: tuple[int, int, int] | None = None,
        number: int = 0,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Make our own pipe, or go on with it; nothing is started yet.

        Args:
            command: the logger's.
            log: our own log's path.
            on_drained: called when the last lines of a process that has ended are written.
            on_end: called when the logger has ended.
            on_closed: called when a pipe is held no longer.
            own: both ends of our own pipe, if a keeper before us had one.
            ledger: that keeper's, and
            number: the highest number of any pipe of its.
            on_begin: called when there is a logger, and before that is passed anything.
        """
        reading, self.writing = own or make_pipe()
        _enlarge(self.writing)
        # A description of its own: what we say must never wait, what the supervisor prints may.
        self._saying = os.open(f"/proc/self/fd/{self.writing}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = loop
        self._pipes: dict[int, Pipe] = {}
        self._refused: dict[int, Pipe] = {}
        self._number = 0
        self.ledger = ledger or make_ledger()
        self._on_drained = on_drained
        self._on_closed = on_closed
        self._on_begin = on_begin
        self._on_end = on_end
        self._make_logger: Callable[[], Companion] = lambda: Companion(
            loop, "logger", command, environment, spawner, 2, self.say
        )
        self.logger = self._make_logger()
        self.logger.on_begin = self._tell_new_logger
        self.logger.on_end = on_end
        self.logger.on_message = self._hear_logger
        self._next: Companion | None = None  # a logger that gets ready to follow
        self._is_over = False
        self._when_written: Callable[[], None] | None = None
        self._on_own_drained: Callable[[], None] = lambda: None
        self.archiving = Archiving(loop, command[:-1], environment, spawner, self.writing, self.say)
        self._own = self.keep(reading, log, echo=True)
        self._number = max(self._number, number)

    def pids(self) -> list[int]:
        """Return the PIDs of the logger and of what deals with old logs."""
        following = None if self._next is None else self._next.pid
        return [pid for pid in (self.logger.pid, following, self.archiving.pid) if pid is not None]

    def say(self, words: str) -> None:
        """Put a line into our own log. When nobody reads it for so long that the pipe is full, it is lost."""
        line = f"keeper: {words}\n".encode("utf-8", "backslashreplace")
        try:
            os.write(self._saying, line)
        except OSError:
            return

    def keep(
        self,
        reading: int,
        path: str,
        rotation: Mapping[str, Any] | None = None,
        *,
        echo: bool = False,
        number: int | None = None,
    ) -> Pipe:
        """Take the read end of a pipe, for the logger to write what comes out of it to a file.

        Args:
            number: what a keeper before us called it; else it gets the next one.
        """
        if number is None:
            number = self._number = self._number + 1
        pipe = Pipe(number, reading, path, rotation=rotation, echo=echo)
        self._pipes[pipe.number] = pipe
        if self.logger.line is not None:
            self._open(pipe)
        return pipe

    def pass_stderr(self) -> None:
        """Let the logger have our stderr, which leads elsewhere by now."""
        if self.logger.line is not None:
            self.logger.send(encode({"kind": "stderr"}), (2,))

    def records(self) -> Iterator[dict[str, object]]:
        """Yield what a keeper that executes itself anew has to know of pipes, logger and archiver."""
        for pipe in self._pipes.values():
            if pipe is not self._own:
                yield {
                    "kind": "pipe",
                    "number": pipe.number,
                    "reading": pipe.reading,
                    "path": pipe.path,
                    "rotation": pipe.rotation,
                    "drains": pipe.drains,
                    "process": None if pipe.process is None else pipe.process.id,
                }
        yield self.logger.record()
        yield self.archiving.record()

    def descriptors(self) -> list[int]:
        """Return what is open for them."""
        logger = self.logger
        line = [] if logger.line is None else [logger.line.descriptor, logger.pidfd]
        pipes = [pipe.reading for pipe in self._pipes.values()]
        return [*pipes, self.writing, *self.ledger, *line, *self.archiving.descriptors]

    @property
    def own(self) -> tuple[int, int]:
        """Both ends of our own pipe."""
        return self._own.reading, self.writing

    @property
    def number(self) -> int:
        """The highest number of any pipe so far."""
        return self._number

    @property
    def is_renewing(self) -> bool:
        """Whether a logger gets ready to follow the one there is."""
        return self._next is not None

    def pipes(self) -> list[Pipe]:
        """Return the pipes that are held, our own first."""
        return list(self._pipes.values())

    def next_number(self) -> int:
        """Return the number that the next pipe will have."""
        return self._number + 1

    def drain(self, process: Process) -> None:
        """A process has ended: have its last lines written. ``on_drained`` is called then; now, if there is no pipe."""
        pipe = process.pipe
        if pipe is None or pipe.number not in self._pipes:
            self._on_drained(process)
        else:
            pipe.process = process
            self._ask_to_drain(pipe)

    def when_written(self, then: Callable[[], None]) -> None:
        """Call ``then`` once what we and our programs have said by now is in our own log, or cannot be for too long."""

        def now() -> None:
            waiting, self._when_written = self._when_written, None
            if waiting is not None:
                self._loop.cancel("written")
                waiting()

        self._when_written = then
        self._on_own_drained = now
        self._loop.after(LEAVE_PATIENCE, "written", now)
        self._ask_to_drain(self._own)

    @property
    def log(self) -> str:
        """The path of our own log."""
        return self._own.path

    def forget(self, process: Process) -> None:
        """Nobody wants to know any more when the last lines of a process are written."""
        if process.pipe is not None and process.pipe.process is process:
            process.pipe.process = None

    def end(self) -> bool:
        """Have the logger write all there is and end; tell whether there is a logger."""
        self.archiving.end()
        self._is_over = True
        if self._next is not None:
            self._next.kill()
        self.logger.is_wanted = False
        if self.logger.line is None:
            return False
        self.logger.send(encode({"kind": "end"}))
        return True

    def renew(self, patience: float, then: Callable[[str | None], None]) -> bool:
        """Let the logger be followed by another one, of the code that is there by now.

        It is started first, and must say that it is here; the old one ends between two chunks, and the new one goes on
        with its ledger: what it had under way is nothing, and a line that is not finished is finished by the new one.

        Args:
            patience: seconds that the new one has.
            then: called with what was in the way, in words, or None when it is done.

        Returns:
            False when that is under way already.
        """
        if self._next is not None or self._is_over:
            return False
        old, new = self.logger, self._make_logger()
        new.name, new.is_wanted = "new logger", False
        self._next = new

        answered = False

        def answer(problem: str | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                then(problem)

        def give_up() -> None:
            """Not even the old one's being killed helps, when it waits for a disk: then the new one follows later."""
            if self._next is new and not old.is_wanted:
                answer("the old logger does not end; the new one follows when it does")
            elif self._next is new:
                new.kill()

        def new_ended() -> None:  # before it was in charge
            self._loop.cancel("new logger")
            self._next = None
            status = new.status
            how = "could not be started" if status is None else f"{in_words(status)} before it was ready"
            answer(f"the new logger {how}; herdpy's log, or its stderr, says why")

        def hear_new(packet: bytes) -> None:
            try:
                is_here = decode(packet)["kind"] == "here"
            except MessageError:
                is_here = False
            if is_here and new.pid is not None:
                new.on_end = lambda: None
                old.is_wanted = False
                old.on_end = follow
                if old.line is None:
                    follow()
                else:
                    old.send(encode({"kind": "leave"}))
                    self._loop.after(LEAVE_PATIENCE, "kill old logger", old.kill)

        def follow() -> None:
            for timer in ("new logger", "kill old logger", "begin logger"):
                self._loop.cancel(timer)
            self._next, self.logger = None, new
            new.name, new.is_wanted = old.name, not self._is_over
            new.on_message, new.on_begin, new.on_end = self._hear_logger, self._tell_new_logger, self._on_end
            if new.line is None:  # it has ended meanwhile
                new.begin()
            else:
                self._tell_new_logger()
            if self._is_over and new.line is not None:
                new.send(encode({"kind": "end"}))
            answer(None)

        new.on_message, new.on_end = hear_new, new_ended
        self._loop.after(patience, "new logger", give_up)
        new.begin()
        return True

    def last_words(self) -> bytes:
        """Return what the logger has left unread of our own log."""
        words = b""
        try:
            while chunk := os.read(self._own.reading, 65536):
                words += chunk
        except OSError:
            return words
        return words

    def _open(self, pipe: Pipe) -> None:
        opening = {
            "kind": "open",
            "id": pipe.number,
            "path": pipe.path,
            "rotation": pipe.rotation,
            "echo": pipe.echo,
        }
        self.logger.send(encode(opening), (pipe.reading,), joins=True)

    def _offer_again(self) -> None:
        refused, self._refused = self._refused, {}
        if self.logger.line is not None:  # else the next one is offered all
            for pipe in refused.values():
                self._open(pipe)

    def _ask_to_drain(self, pipe: Pipe) -> None:
        if self.logger.line is not None:
            pipe.drains += 1
            self.logger.send(encode({"kind": "drain", "id": pipe.number}))

    def _tell_new_logger(self) -> None:
        self._on_begin()
        self.logger.send(encode({"kind": "ledger"}), self.ledger)
        for pipe in self._pipes.values():
            self._open(pipe)
        self.logger.send(encode({"kind": "begin"}))
        for pipe in self._pipes.values():
            pipe.drains = 0
            if pipe.process is not None:
                self._ask_to_drain(pipe)

    def _hear_logger(self, packet: bytes) -> None:
        try:
            told = decode(packet)
        except MessageError as error:
            self.say(f"the logger sent {error}")
            return
        if told["kind"] == "archive":
            self.archiving.ask(told["path"], packet)
            return
        pipe = self._pipes.get(told.get("id", 0))
        if pipe is None:
            return
        if told["kind"] == "refused":
            if not self._refused:
                self.say(f"the logger has no descriptor left for what goes to {pipe.path}, which waits; perhaps others")
            self._refused[pipe.number] = pipe
            self._loop.after(RETRY, "offer pipes", self._offer_again)
            return
        if told["kind"] == "drained":
            pipe.drains -= 1
            if pipe.drains > 0:
                return  # it was asked again since, for the end of an adopted process
            if pipe is self._own:
                self._on_own_drained()
        process, pipe.process = pipe.process, None
        if told["kind"] == "closed":
            del self._pipes[pipe.number]
            os.close(pipe.reading)
            self._on_closed(pipe)
        if process is not None:
            self._on_drained(process)


def _enlarge(pipe: int) -> None:
    """Let a pipe hold 1 MiB: the supervisor would have to wait for a logger that waits for a disk."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
    except OSError:
        return  # there is a limit for ordinary users (pipe(7), pipe-user-pages-soft)
