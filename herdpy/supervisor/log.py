"""herdpy's own log: an event's name and its fields, one line each, on stderr.

The keeper made stderr a pipe to the logger, which stamps the lines. structlog takes a fifth of a second to import: a
thread does that, off the boot's path. Until then lines are written without it, at once: what waited would be lost with
a supervisor that is killed.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import trio

from herdpy.supervisor import events


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

    def __init__(self, *_: Any) -> None:
        os.set_blocking(2, False)
        self._lost = 0

    def info(self, line: str) -> None:
        lost = f"{self._lost} lines are lost here\n" if self._lost else ""
        try:
            os.write(2, f"{lost}{line}\n".encode(errors="backslashreplace"))
        except OSError:
            self._lost += 1
        else:
            self._lost = 0


@cache
def _pen() -> _Pen:
    return _Pen()


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
        logger_factory=_Pen,
        cache_logger_on_first_use=True,
    )
    _write = structlog.get_logger().info


async def start() -> None:
    """Do so in a thread."""
    await trio.to_thread.run_sync(load)
