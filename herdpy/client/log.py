"""``herd log SERVICE [-f] [-n N] [--since T]``: what a service has written, from its log file."""

import codecs
import json
import os
import select
import subprocess
from _socket import SO_PEERCRED, SOL_SOCKET
from collections import deque
from datetime import datetime, time, timedelta
from sys import byteorder
from time import tzset

from herdpy.client import archives, status
from herdpy.client.connection import ask, connect
from herdpy.client.log_file import STAMP_LENGTH, Unreadable, is_stamped, offset_of_last, offset_since
from herdpy.client.main import Request
from herdpy.client.words import Failure, clean, is_terminal, say, say_bytes, warn
from herdpy.protocol import Command, ProtocolError, parse_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

WITHOUT_TERMINAL = 100
"""Lines that are shown where there is no screen to fill."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def log_file(request: Request) -> str | None:
    """Return the path of the service's log file, None when the server does not tell of one (GNU Shepherd 0.10).

    Raises:
        Failure: when there is no such service, it has no log, or its answer makes no sense.
    """
    reply = ask(request.socket_path, Command("status", request.service))
    if reply is None:
        raise Failure("premature end-of-file while talking to herdpy")
    if reply.error is not False:
        from herdpy.client.refused import describe_error

        raise Failure(describe_error(reply.error), error=reply.error)
    try:
        (service,) = parse_services(reply.result)
    except (ProtocolError, ValueError) as error:
        raise Failure(f"cannot make out the supervisor's answer: {error}") from None
    if not status.has_processes(service):
        raise Failure(f"{request.service} has no process of its own, and so no log")
    return status.text(service, "log-file") or None


def show(request: Request, path: str) -> int:
    """Show the end of the file, and with -f whatever comes; return the exit code.

    Raises:
        Failure: when it cannot be read, or an option makes no sense.
    """
    stamp = None
    if request.since is not None:
        _take_zone(request.socket_path)
        stamp = moment(request.since, datetime.now()).encode()
    count = request.history
    if count is None and stamp is None:
        count = _screenful()
    try:
        file, rotated = archives.opened(path)
    except Unreadable as problem:
        raise Failure(f"{path} {problem}") from None
    if file is None and not rotated:
        missing = f"{path} is not there yet"
        if not request.is_following:
            raise Failure(f"{missing}: {request.service} has written nothing so far")
        warn(f"{missing}; waiting for what {request.service} will write")
    offset = end = 0
    if file is not None:
        offset = 0 if stamp is None else offset_since(file, stamp)
        if count is not None:
            offset = max(offset, offset_of_last(file, count))
        end = os.fstat(file).st_size
    write = _writer(request)
    if offset == 0:
        left = count if count is None or file is None else count - _count(file)
        for line in _before(rotated, stamp, left):
            write(line)
    if request.is_following:
        _follow(path, archives.from_there_on(path, file, offset, rotated), write)
    elif file is not None:
        while offset < end and (piece := os.pread(file, min(archives.PIECE, end - offset), offset)):
            write(piece)
            offset += len(piece)
    write(b"")
    return 0


def _before(rotated: list[str], stamp: bytes | None, count: int | None) -> "Iterable[bytes]":
    """Return what is to be shown of the rotated files: from ``stamp`` on, the last ``count`` lines."""
    if count is not None and count <= 0:
        return ()
    if stamp is None:
        return archives.last_lines(rotated, count or 0)
    lines = archives.lines_since(rotated, stamp)
    return lines if count is None else deque(lines, maxlen=count)


def _count(file: int) -> int:
    """Return the number of lines in the file, the unfinished last one included."""
    position, lines, last = 0, 0, b"\n"
    while piece := os.pread(file, archives.PIECE, position):
        position += len(piece)
        lines += piece.count(b"\n")
        last = piece[-1:]
    return lines + (last != b"\n")


def _take_zone(socket_path: str) -> None:
    """Let local time be what the stamps are in: the logger's, which has its TZ from the keeper, who listens.

    Where the keeper's environment may not be read (it is another user's, and we are not root), it stays ours.
    """
    connection = connect(socket_path)
    keeper = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], byteorder, signed=True)
    connection.close()
    try:
        with open(f"/proc/{keeper}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return
    os.environ.pop("TZ", None)
    for variable in variables:
        if variable.startswith(b"TZ="):
            os.environb[b"TZ"] = variable.removeprefix(b"TZ=")
    tzset()


def moment(words: str, now: datetime) -> str:
    """Return the stamp that ``--since`` means: ``HH:MM[:SS]`` (the last time it was so late), ``YYYY-mm-dd[
    HH:MM[:SS]]``, or so long ago: a number with ``s``, ``m``, ``h``, ``d`` or ``w`` after it. Local time.

    Raises:
        Failure: when it is none of these.
    """
    try:
        if words[:-1].isdecimal() and words[-1] in UNITS:
            found = now - timedelta(**{UNITS[words[-1]]: int(words[:-1])})
        elif "-" in words:
            found = datetime.fromisoformat(words)
            if found.tzinfo is not None:
                found = found.astimezone().replace(tzinfo=None)
        elif ":" in words:
            found = datetime.combine(now, time.fromisoformat(words))
            if found > now:
                found -= timedelta(days=1)
        else:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        forms = "09:30, 2026-01-31, '2026-01-31 09:30', or 10m, 2h, 1d ago"
        raise Failure(f"--since: cannot make a time of '{words}'; it takes {forms}") from None
    return f"{found:%Y-%m-%d %H:%M:%S}".rjust(STAMP_LENGTH, "0")


def _screenful() -> int:
    """Return the lines that a terminal shows, less one for the prompt, or what is usual elsewhere."""
    if not is_terminal(1):
        return WITHOUT_TERMINAL
    try:
        return max(os.get_terminal_size(1).lines - 1, 10)
    except OSError:
        return WITHOUT_TERMINAL


def _follow(path: str, pieces: "Iterator[bytes]", write: "Callable[[bytes], None]") -> None:
    """Pass on the pieces, and look for more whenever the file or its successor is written to.

    It is GNU tail that tells when: it knows inotify, and the file systems that do not. What it copies is no more than
    a sign: it skips files that come and go between two of its looks. It ends when we do (tail(1) minds the reader of
    its pipe).

    Raises:
        Failure: when there is no tail, it ends, or what is in the file's place cannot be read.
        BrokenPipeError: nobody reads what we write any more, maybe noticed before there is anything to write.
    """
    command = ["tail", "-c", "1", "-F", "--", path]
    try:
        tail = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise Failure(f"cannot run tail, which follows {path}: {error.strerror}") from None
    with tail:
        assert tail.stdout is not None
        pipe = tail.stdout.fileno()
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        ready.register(1, 0)
        try:
            while True:
                while piece := next(pieces):
                    write(piece)
                seen = dict(ready.poll())
                if pipe in seen:
                    if not os.read(pipe, archives.PIECE):
                        break
                elif seen.get(1, 0) & (select.POLLERR | select.POLLNVAL):
                    raise BrokenPipeError
        except Unreadable as problem:
            raise Failure(f"{path} {problem}") from None
        finally:
            tail.terminate()
    raise Failure(f"tail ended with status {tail.returncode}, and with it the following of {path}")


def _writer(request: Request) -> "Callable[[bytes], None]":
    """Return what takes the file's bytes, however they are cut, and at the end nothing."""
    if request.is_json:
        return _JsonLines().write
    if not is_terminal(1):
        return say_bytes
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda piece: say(clean(decoder.decode(piece, not piece)))


class _JsonLines:
    """One object for each line."""

    def __init__(self) -> None:
        self._rest = b""

    def write(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if not piece and self._rest:
            lines, self._rest = [self._rest], b""
        if lines:
            say("".join([f"{json.dumps(_line(line), ensure_ascii=False)}\n" for line in lines]))


def _line(line: bytes) -> "dict[str, str | None]":
    stamp = line[:STAMP_LENGTH].decode() if is_stamped(line) else None
    text = line if stamp is None else line[STAMP_LENGTH + 1 :]
    return {"time": stamp, "line": text.decode("utf-8", "replace")}
