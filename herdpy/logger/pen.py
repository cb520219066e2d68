"""The logger's loop: it reads what services write, and writes it into their files."""

from __future__ import annotations

import _socket
import os
import select
import sys

from herdpy.keeper.message import ANCILLARY_SIZE, LIMIT, MessageError, apart, decode, descriptors, encode
from herdpy.logger.file import LogFile
from herdpy.logger.ledger import READ_SIZE, Ledger
from herdpy.logger.rotation import rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal


class Source:
    """A pipe that some process writes into, and the file that it goes to."""

    __slots__ = ("echo", "file", "number", "reading")

    def __init__(self, number: int, reading: int, file: LogFile, *, echo: bool) -> None:
        self.number = number
        self.reading = reading
        self.file = file
        self.echo = echo


class Pen:
    """Reads every pipe that the keeper passes on until its end of file."""

    def __init__(self, line: _socket.socket) -> None:
        self._line: _socket.socket | None = line
        self._epoll = select.epoll()
        self._epoll.register(line.fileno(), select.EPOLLIN)
        self._sources: dict[int, Source] = {}
        self._numbers: dict[int, Source] = {}
        self._files: dict[str, LogFile] = {}
        self._on_file = self._say, self._put_aside  # made once: a bound method for each file would be an object each
        self._said: list[bytes] = []
        """Lines about logging that are to be in herdpy's own log, once nothing is under way."""
        self._ledger: Ledger | None = None
        self._stderr = select.poll()
        self._stderr.register(2, select.POLLOUT)
        self._has_begun = False
        self._is_ending = False
        self._is_leaving = False

    def run(self) -> None:
        """Write until the keeper says that it is over; without a keeper, until nobody writes any more."""
        self._tell("here")
        while self._line is not None and not self._has_begun:
            self._listen(self._line)
            if self._is_leaving:
                return
        while (self._line is not None and not self._is_ending) or (self._line is None and self._sources):
            if self._said:
                self._write_what_was_said()
            for descriptor, _ in self._epoll.poll():
                source = self._sources.get(descriptor)
                if source is not None:
                    self._read(source)
                elif self._line is not None and descriptor == self._line.fileno():
                    self._listen(self._line)
                    if self._is_leaving:
                        return  # nothing is under way, and the next one goes on with the ledger
        for source in tuple(self._sources.values()):
            self._drain(source)
        self._write_what_was_said()

    def _listen(self, line: _socket.socket) -> None:
        try:
            packet, beside, _, _ = line.recvmsg(LIMIT, ANCILLARY_SIZE, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return  # told once, when the keeper is gone with packets of ours unread; what it sent before still comes
        passed = descriptors(beside)
        if not packet:
            # The keeper is gone, its services are not: what they say is still worth keeping.
            self._epoll.unregister(line.fileno())
            line.close()
            self._line = None
            return
        for message in apart(packet):
            try:
                self._obey(decode(message), passed)
            except (MessageError, KeyError, TypeError) as error:
                self._say(f"the keeper sent what makes no sense: {error}")
        for descriptor in passed:
            os.close(descriptor)

    def _obey(self, told: dict[str, Any], passed: list[int]) -> None:
        if told["kind"] == "ledger" and len(passed) == 3 and self._ledger is None:
            self._ledger = Ledger(*passed)
            passed.clear()
        elif told["kind"] == "open" and passed:
            self._open(told, passed.pop(0))
        elif told["kind"] == "open":  # we have no room for its descriptor (cmsg(3), MSG_CTRUNC)
            self._tell("refused", id=told["id"])
        elif told["kind"] == "stderr" and passed:  # what ours leads to is read no longer
            os.dup2(passed[0], 2)
        elif told["kind"] == "begin":
            self._begin()
        elif told["kind"] == "drain":
            source = self._numbers.get(told["id"])
            if source is not None:
                self._drain(source)
            self._tell("drained", id=told["id"])
        elif told["kind"] == "end":
            self._is_ending = True
        elif told["kind"] == "leave":
            self._is_leaving = True

    def _open(self, told: dict[str, Any], reading: int) -> None:
        number, path = told["id"], told["path"]
        if self._ledger is None:
            raise MessageError("a pipe before the ledger")
        file = self._files.get(path)
        if file is None:
            is_own = bool(told.get("echo"))  # what is wrong with herdpy's own log is not for that
            on_file = (self._say_on_stderr, self._put_aside) if is_own else self._on_file
            file = self._files[path] = LogFile(path, self._ledger, *on_file)
        file.users += 1
        try:
            file.rotation = rotation(told.get("rotation"))
        except (ValueError, TypeError) as error:
            self._say(f"cannot rotate {path}: {error}")
        source = Source(number, reading, file, echo=bool(told.get("echo")))
        self._sources[reading] = source
        self._numbers[number] = source
        self._epoll.register(reading, select.EPOLLIN)

    def _begin(self) -> None:
        """Go on, now that every pipe is known, where a logger that was killed has left off."""
        ledger, self._has_begun = self._ledger, True
        if ledger is None:
            return
        for number in ledger.open_lines():
            if number in self._numbers:
                self._numbers[number].file.inherit(number)
            else:
                ledger.mark_line(number, is_open=False)
        if ledger.source in self._numbers:
            source = self._numbers[ledger.source]
            try:
                source.file.resume(source.number, *ledger.resume())
            except Exception as error:  # rather one chunk than every logger from now on
                self._say(f"lost what was under way to {source.file.path}: {error!r}")
        ledger.settle()

    def _read(self, source: Source, most: int = READ_SIZE) -> int:
        """Write what can be read now, at most so many bytes; return how many that was."""
        assert self._ledger is not None
        chunk = self._ledger.take(source.number, source.reading, most)
        if not chunk:
            if chunk is not None:
                self._close(source)
            return 0
        source.file.write(source.number, chunk)
        if source.echo:
            self._echo(chunk)
        return len(chunk)

    def _drain(self, source: Source) -> None:
        """Write what is in the pipe now: more may come for ever, from whoever outlived the service's process."""
        left = readable(source.reading)
        while left > 0:
            count = self._read(source, min(left, READ_SIZE))
            if not count:
                break
            left -= count
        source.file.finish(source.number)

    def _close(self, source: Source) -> None:
        source.file.finish(source.number)
        self._epoll.unregister(source.reading)
        os.close(source.reading)
        del self._sources[source.reading]
        del self._numbers[source.number]
        file = source.file
        file.users -= 1
        if not file.users:
            file.close()
            del self._files[file.path]
        self._tell("closed", id=source.number)

    def _put_aside(self, file: LogFile) -> None:
        """Have the rotated files of a log compressed, and the oldest removed: by a process that may take its time."""
        wanted = file.rotation
        assert wanted is not None
        keeping = {"keep": wanted.keep, "keep_days": wanted.keep_days, "compress": wanted.compress}
        self._tell("archive", path=file.path, **keeping)

    def _tell(self, kind: str, **fields: object) -> None:
        if self._line is not None:
            try:
                self._line.sendmsg((encode({"kind": kind, **fields}),))
            except OSError:
                return  # the keeper is gone, as its end of file will tell

    def _say(self, words: str) -> None:
        """Say something about logging itself, on stderr and in herdpy's own log."""
        self._said.append(self._say_on_stderr(words))

    def _say_on_stderr(self, words: str) -> bytes:
        """Say it there alone; return the line."""
        line = f"logger: {words}\n".encode("utf-8", "backslashreplace")
        self._echo(line)
        return line

    def _write_what_was_said(self) -> None:
        said, self._said = self._said, []
        for source in self._sources.values():
            if source.echo:
                for line in said:
                    source.file.add(line)

    def _echo(self, chunk: bytes) -> None:
        """Write to stderr what it takes without waiting: so much a ready pipe always takes (pipe(7), PIPE_BUF)."""
        for at in range(0, len(chunk), select.PIPE_BUF):
            try:
                if not self._stderr.poll(0):
                    return
                os.write(2, chunk[at : at + select.PIPE_BUF])
            except OSError:
                return


def readable(pipe: int) -> int:
    """Return how many bytes can be read from a pipe now (ioctl_tty(2), FIONREAD)."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def run(descriptor: int) -> int:
    """Be the logger of the keeper at the other end of ``descriptor``; return the exit status."""
    # Whoever ends the keeper's whole control group means the services, whose last words are still to come.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o027)
    line = _socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    Pen(line).run()
    return 0
