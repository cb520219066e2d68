"""What a start is doing while one waits for it: a line redrawn in place, or a line for each stage."""

import posix
import select
import time

from herdpy.client import waiting
from herdpy.client.connection import connect, send
from herdpy.client.words import Failure, aside, clean, is_terminal
from herdpy.protocol import Command, parse_fields
from herdpy.sexp import Reader, SexpError, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

INTERVAL = 1.0
"""Seconds between two drawings of the clock, and between two attempts to hear of the progress."""
BAR = 24
"""Columns of a bar, when there is room for it."""


def watch(reply: "socket | int", path: str, service: str, patience: float | None = None) -> None:
    """Show the progress of ``service`` on stderr until ``reply`` can be read; then take it away again.

    A server that has no action ``progress`` is simply waited for.

    Args:
        reply: the connection on which the answer comes, or a pidfd.
        patience: seconds of silence after which it is a failure that there is no end; with None the supervisor, which
            may be silent for long, is asked then whether it answers at all.

    Raises:
        Failure: there is no end to be hoped for.
    """
    is_drawn = is_terminal(2) and posix.environ.get(b"TERM", b"dumb") != b"dumb"
    painter = _Line() if is_drawn else _Lines()
    stream: _Stream | None = None
    is_known = True
    started = heard = time.monotonic()
    try:
        while True:
            if stream is None and is_known:
                stream = _Stream.open(path, service)
            sources = [reply] if stream is None else [reply, stream.connection]
            rest = heard + (patience or waiting.PATIENCE) - time.monotonic()
            pause = min(rest, INTERVAL) if is_drawn or (stream is None and is_known) else rest
            ready = select.select(sources, [], [], max(pause, 0))[0]
            if reply in ready:
                return
            if stream is not None and stream.connection in ready:
                heard = time.monotonic()
                is_known = stream.receive(painter) or (stream.is_cut and patience is not None)
                if stream.is_over:
                    stream.connection.close()
                    stream = None
                    if is_known:
                        # A restart stops before it starts: there may be more to see in a moment.
                        painter.show(time.monotonic() - started)
                        if select.select([reply], [], [], INTERVAL)[0]:
                            return
            elif pause == rest:
                if patience is not None:
                    raise Failure(f"all services have stopped, but herdpy itself has not ended within {patience:.0f} s")
                waiting.check(path)
                heard = time.monotonic()
            painter.show(time.monotonic() - started)
    finally:
        painter.clear()
        if stream is not None:
            stream.connection.close()


class _Stream:
    """One connection that speaks of progress."""

    def __init__(self, connection: "socket", service: str) -> None:
        self.connection = connection
        self.service = service
        self.is_over = False
        self.is_cut = False
        """Whether the server hung up in the middle of it."""
        self._reader = Reader()

    @classmethod
    def open(cls, path: str, service: str) -> "_Stream | None":
        try:
            connection = connect(path)
        except Failure:
            return None
        send(connection, Command("progress", service))
        return cls(connection, service)

    def receive(self, painter: "_Lines") -> bool:
        """Give what has come to the painter; return whether it is worth asking again once the stream is over."""
        try:
            data = self.connection.recv(65_536)
            values = [read(text) for text in self._reader.feed(data)]
        except (OSError, SexpError):
            self.is_over = self.is_cut = True
            return False
        self.is_over = self.is_cut = not data
        for value in values:
            fields = parse_fields(value)
            match value:
                case ["progress", *_]:
                    stage, done = fields.get("stage"), fields.get("done")
                    is_share = isinstance(done, (int, float)) and not isinstance(done, bool)
                    painter.set(
                        str(fields.get("service", self.service)),
                        stage if isinstance(stage, str) else "",
                        min(max(float(str(done)), 0.0), 1.0) if is_share else None,
                    )
                case _:
                    self.is_over = True
                    return fields.get("error") is False
        return bool(data)


class _Lines:
    """For what is no terminal: one line for each new stage."""

    def __init__(self) -> None:
        self._said = ("", "")

    def set(self, service: str, stage: str, done: float | None) -> None:
        if stage and (service, stage) != self._said:
            self._said = (service, stage)
            aside(f"{service}: {stage}\n")

    def show(self, elapsed: float) -> None:
        """Nothing is redrawn."""

    def clear(self) -> None:
        """What was said stays."""


class _Line(_Lines):
    """For a terminal: one line, redrawn in place."""

    def __init__(self) -> None:
        self._text = ""
        self._done: float | None = None
        self._is_visible = False

    def set(self, service: str, stage: str, done: float | None) -> None:
        self._text = clean(f"{service}: {stage}", 2).replace("\n", " ").replace("\t", " ")
        self._done = done

    def show(self, elapsed: float) -> None:
        if self._text:
            try:
                columns = posix.get_terminal_size(2)[0] or 80
            except OSError:
                columns = 80
            self._is_visible = True  # before it is: Ctrl-C may come in between
            aside(f"\r{line(self._text, self._done, int(elapsed), columns)}\x1b[K")

    def clear(self) -> None:
        if self._is_visible:
            aside("\r\x1b[K")
            self._is_visible = False


def line(text: str, done: float | None, elapsed: int, columns: int) -> str:
    """Return what fits into ``columns``, less the last one, where a terminal would begin the next line.

    Args:
        done: from 0 to 1, or None when it is not known.
        elapsed: seconds since the beginning.
    """
    room = columns - 1
    clock = f"  {elapsed // 60}:{elapsed % 60:02}"
    measure = ""
    if done is not None:
        share = f" {int(done * 100):3}%"
        # Words before graphics: the bar gives way to what is being done, unless that is a novel.
        bar = min(BAR, room - len(clock) - len(share) - 4 - min(max(len(text), 20), 60))
        measure = share
        if bar >= 8:
            filled = int(done * bar)
            measure = f"  [{'#' * filled}{'-' * (bar - filled)}]{share}"
    for end in (measure + clock, measure, ""):
        if room - len(end) >= 12 or not end:
            return _shorten(text, max(room - len(end), 0)) + end
    return ""


def _shorten(text: str, room: int) -> str:
    if text.isascii():
        return text if len(text) <= room else text[: max(room - 3, 0)] + "..."[: max(room, 0)]
    import unicodedata

    width = 0
    for position, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.combining(character) else 1
        if width > room:
            return _shorten(text[:position].encode("ascii", "replace").decode() + "....", room)
    return text
