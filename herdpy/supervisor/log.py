"""herdpy's own log: an event's name and its fields, one line each, on stderr.

The keeper made stderr a pipe to the logger, which stamps the lines. structlog takes a fifth of a second to import: a
thread does that, off the boot's path. Until then lines are written without it.

What is said in one go is written in one go, before anything of it is told to the keeper or to a client
(:meth:`herdpy.supervisor.line.KeeperLine.flush`): so what a supervisor that is killed has not written has not happened.
"""

import os
import select
from collections.abc import Callable
from functools import cache
from typing import Any

import trio

from herdpy.supervisor import events
from herdpy.threads import in_thread

ROOM = 64
"""Bytes in a write for saying how many lines were lost before."""


def log(event: str, **fields: Any) -> None:
    """Log an event, such as ``log("service-exited", service="foo", status="exited with 1")``, and tell who follows."""
    events.record(event, fields)
    _write(event, **fields)


def _render(_logger: Any, _method: str, fields: Any) -> str:
    event = fields.pop("event")
    trace = fields.pop("exception", None)
    words = [event, *(f"{key}={events.written(value)}" for key, value in fields.items() if value is not None)]
    return " ".join(words) + (f"\n{trace}" if trace else "")


class _Pen:
    """Writes lines to stderr, and never waits for it: the pipe is full only when the logger hangs on its disk."""

    def __init__(self) -> None:
        os.set_blocking(2, False)
        self._lines: list[bytes] = []
        self._lost = 0
        self._writer: trio.lowlevel.Task | None = None
        self._has_writer = False

    def info(self, line: str) -> None:
        self._lines.append(f"{line}\n".encode(errors="backslashreplace"))
        if not self._has_writer:
            self.flush()
        elif self._writer is not None and trio.lowlevel.in_trio_run():
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    def flush(self) -> None:
        """Write what there is to write, many lines at once, but not so many that half of them could be taken."""
        while self._lines:
            count, size = 1, len(self._lines[0])
            while count < len(self._lines) and size + len(self._lines[count]) <= select.PIPE_BUF - ROOM:
                size += len(self._lines[count])
                count += 1
            lost = b"%d lines are lost here\n" % self._lost if self._lost else b""
            try:
                os.write(2, lost + b"".join(self._lines[:count]))
            except OSError:
                self._lost += count
            else:
                self._lost = 0
            del self._lines[:count]

    async def write(self) -> None:
        """Write what those say who run now, when they have said it."""

        def leave(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._has_writer = True
        try:
            while True:
                self.flush()
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(leave)
        finally:
            self._has_writer = False
            self.flush()


@cache
def _pen() -> _Pen:
    return _Pen()


def flush() -> None:
    """Write what has been logged, now."""
    _pen().flush()


async def write() -> None:
    """Write what is logged, from now on many lines at once, until cancelled."""
    await _pen().write()


def _write_early(event: str, **fields: Any) -> None:
    error = fields.pop("exc_info", None)
    if error is not None:
        from traceback import format_exception

        fields["exception"] = "".join(format_exception(error)).rstrip("\n")
    _pen().info(_render(None, "info", {"event": event, **fields}))


_write: Callable[..., None] = _write_early


def load() -> None:
    """Import structlog, and let it write from then on."""
    global _write  # noqa: PLW0603 - there is one stderr
    import structlog

    structlog.configure(
        processors=[structlog.processors.format_exc_info, _render],
        logger_factory=lambda *_: _pen(),
        cache_logger_on_first_use=True,
    )
    _write = structlog.get_logger().info


async def start() -> None:
    """Do so in a thread."""
    await in_thread(load)
