"""herdpy's own log: an event's name and its fields, one line each, on stderr.

The keeper made stderr a pipe to the logger, which stamps the lines. structlog takes a fifth of a second to import:
events are kept until a thread has imported it, off the boot's path.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from herdpy.supervisor import events

_waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=10_000)
_write: Callable[..., None] | None = None


def log(event: str, **fields: Any) -> None:
    """Log an event, such as ``log("service-exited", service="foo", status="exited with 1")``, and tell who follows."""
    events.record(event, fields)
    if _write is None:
        _waiting.append((event, fields))
    else:
        _write(event, **fields)


def _load() -> Callable[..., None]:
    import structlog

    def render(_logger: Any, _method: str, fields: Any) -> str:
        event = fields.pop("event")
        trace = fields.pop("exception", None)
        words = [event, *(f"{key}={events.written(value)}" for key, value in fields.items() if value is not None)]
        return " ".join(words) + (f"\n{trace}" if trace else "")

    structlog.configure(
        processors=[structlog.processors.format_exc_info, render],
        logger_factory=_Pen,
        cache_logger_on_first_use=True,
    )
    write: Callable[..., None] = structlog.get_logger().info
    return write


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


def flush() -> None:
    """Write what waits, importing structlog now if need be."""
    global _write  # noqa: PLW0603 - there is one stderr
    if _write is None:
        _write = _load()
    while _waiting:
        event, fields = _waiting.popleft()
        _write(event, **fields)


async def start() -> None:
    """Import structlog in a thread, then write what has waited for it."""
    await trio.to_thread.run_sync(_load)
    flush()
