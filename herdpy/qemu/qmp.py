"""QEMU's monitor: pressing the guest's power button, and seeing how the guest ends.

The QEMU Machine Protocol: one JSON object a line (QEMU ends its own with CR LF); a greeting, ``qmp_capabilities``, then
commands and their answers, with events between them. Source: QEMU's docs/interop/qmp-spec and qapi/run-state.json.
"""

import collections
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from herdpy.qemu.channel import Lines, connect_when_there
from herdpy.service import Context, End, StartFailure

ANSWER_TIMEOUT = 30.0
"""Seconds that QEMU may take for one answer: its main loop waits for disks, and the host may be busy."""

LONGEST_LINE = 16 * 1024 * 1024
"""Bytes; the longest answers are descriptions of QEMU itself, of a few hundred kilobytes."""


class QMPError(Exception):
    """A command that QEMU refused, or a monitor that does not answer; ``str()`` is one sentence."""


class MonitorClosedError(QMPError):
    """QEMU closed the monitor: it is about to end, or has."""


class Monitor:
    """A monitor that is ready for commands, for one task; iterate over it for the events, until QEMU closes it.

    Nothing is read in the background: events that come before an answer are kept for the iteration, and a wait for
    either can be cancelled without losing any.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines = Lines(stream, LONGEST_LINE)
        self._events: collections.deque[dict[str, Any]] = collections.deque(maxlen=1000)
        self._serial = 0

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Have QEMU execute ``command``, and return what it returns.

        Raises:
            MonitorClosedError: it closed the monitor before it answered.
            QMPError: it refused, in its words, or did not answer within ``ANSWER_TIMEOUT``.
        """
        self._serial += 1
        request: dict[str, Any] = {"execute": command, "id": self._serial}
        if arguments is not None:
            request["arguments"] = arguments
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                await self._stream.send_all(msgspec.json.encode(request) + b"\n")
                while True:
                    message = await self._message()
                    if "event" in message:
                        self._events.append(message)
                    elif message.get("id") == self._serial:
                        break
        except trio.TooSlowError:
            raise QMPError(f"QEMU did not answer {command} within {ANSWER_TIMEOUT:.0f} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise MonitorClosedError(f"QEMU closed its monitor before it answered {command}") from None
        if "error" in message:
            raise QMPError(f"QEMU refused {command}: {message['error'].get('desc', message['error'])}")
        return message.get("return")

    def __aiter__(self) -> "Monitor":
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The next event, as QEMU sent it: ``event``, ``timestamp`` and mostly ``data``."""
        if self._events:
            return self._events.popleft()
        try:
            while "event" not in (message := await self._message()):
                pass
        except MonitorClosedError:
            raise StopAsyncIteration from None
        return message

    async def _message(self) -> dict[str, Any]:
        async for line in self._lines:
            try:
                message = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(message, dict):
                return message
        raise MonitorClosedError("QEMU closed its monitor")


@asynccontextmanager
async def connect(path: str, *, wait: bool = False) -> AsyncIterator[Monitor]:
    """Connect to the monitor at the Unix socket ``path`` and make it ready for commands; leaving closes it.

    Args:
        wait: until there is one, however long that takes.

    Raises:
        OSError: it cannot be connected to.
        QMPError: it does not greet (a monitor serves one client, the next one waits), or what greets is no QEMU.
    """
    stream = await connect_when_there(path) if wait else await trio.open_unix_socket(path)
    async with stream:
        monitor = Monitor(stream)
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                greeting = await monitor._message()
        except trio.TooSlowError:
            raise QMPError(
                f"the monitor at {path} did not greet within {ANSWER_TIMEOUT:.0f} s; is another client connected to it?"
            ) from None
        if "QMP" not in greeting:
            raise QMPError(f"what listens at {path} is not a QEMU monitor")
        await monitor.execute("qmp_capabilities")
        yield monitor


_CANNOT_GO_ON = frozenset({"internal-error", "guest-panicked", "prelaunch", "shutdown"})
"""States in which no guest runs that could see its power button (RunState in qapi/run-state.json)."""


class Powerdown(msgspec.Struct, frozen=True):
    """A graceful stop: the guest's power button (ACPI), pressed again and again until QEMU is gone.

    Returns when QEMU has closed the monitor. A guest that is not running has nobody to see the button: QEMU is told to
    quit. There is no limit of time here: the one who stops the service sets it, and cancels.

    Raises:
        StartFailure: the button cannot be pressed, because there is no monitor, or it refuses; a signal is next.
    """

    path: str
    """The monitor's Unix socket; nobody else may be connected to it."""
    interval: float = 5.0
    """Seconds between presses: a guest that was still booting at the first one does not know of it."""

    async def run(self, context: Context) -> None:
        try:
            async with connect(self.path) as monitor:
                status = await monitor.execute("query-status")
                press = "quit" if status["status"] in _CANNOT_GO_ON else "system_powerdown"
                while True:
                    await monitor.execute(press)
                    with trio.move_on_after(self.interval):
                        async for _ in monitor:
                            pass
                        return
        except MonitorClosedError:
            return
        except (OSError, QMPError) as error:
            raise StartFailure(f"cannot press the guest's power button: {error}") from None


class Watch(msgspec.Struct, frozen=True):
    """A companion of QEMU that learns from its monitor why the guest ended.

    QEMU is expected to run with ``-no-reboot``, and with ``-device pvpanic-pci`` to tell a panic from a reboot. Where
    QEMU would keep a guest that can run no more (an internal error of the accelerator, a panic with ``-action
    panic=pause``), it is told to quit. A guest that QEMU has paused because its disk cannot be written is told in the
    detail ``paused`` for as long as it lasts.
    """

    path: str
    """The Unix socket of a monitor of its own: the one for stopping must stay free."""
    has_screen: bool = False
    """Whether the guest's screen can be seen over VNC; the detail ``vnc`` then tells where."""

    async def run(self, context: Context) -> End | None:
        try:
            async with connect(self.path, wait=True) as monitor:
                if self.has_screen:
                    context.detail("vnc", await _vnc(monitor))
                # What happened before we were connected shows in the state alone.
                if (end := await _end_by_state(monitor, context)) is not None:
                    return end
                async for event in monitor:
                    if event["event"] in ("STOP", "RESUME"):
                        end = await _end_by_state(monitor, context)
                    else:
                        end = await _end_by_event(monitor, event)
                    if end is not None:
                        return end
        except MonitorClosedError:
            return None
        except (OSError, QMPError) as error:
            context.detail("monitor", f"cannot watch the guest: {error}")
        return None


async def _vnc(monitor: Monitor) -> str | None:
    """Where QEMU's VNC server listens (VncInfo in qapi/ui.json), such as ``127.0.0.1:5900``."""
    screen = await monitor.execute("query-vnc")
    return f"{screen['host']}:{screen['service']}" if screen["enabled"] and "host" in screen else None


async def _end_by_state(monitor: Monitor, context: Context) -> End | None:
    status = (await monitor.execute("query-status"))["status"]
    if status == "internal-error":
        await _quit(monitor)
        return End(reason="QEMU stopped the guest: internal error of the accelerator")
    if status == "guest-panicked":
        await _quit(monitor)
        return End(reason="the guest panicked")
    context.detail(
        "paused",
        "QEMU paused the guest: its disk cannot be written; is the file system full?" if status == "io-error" else None,
    )
    return None


async def _end_by_event(monitor: Monitor, event: dict[str, Any]) -> End | None:
    content = event.get("data") or {}
    match event["event"], content.get("reason") or content.get("action"):
        case "GUEST_PANICKED", "pause":
            await _quit(monitor)
            return End(reason="the guest panicked")
        case ("GUEST_PANICKED", "poweroff") | ("SHUTDOWN", "guest-panic"):
            return End(reason="the guest panicked")
        case "SHUTDOWN", "guest-shutdown":
            return End(reason="the guest powered itself off", wanted=True)
        case "SHUTDOWN", "guest-reset":
            return End(reason="the guest rebooted")
        case "SHUTDOWN", "host-error":
            return End(reason="QEMU shut the guest down after an error on the host")
    return None


async def _quit(monitor: Monitor) -> None:
    try:
        await monitor.execute("quit")
    except QMPError:
        # It closed the monitor first; or it hangs, and whoever stops the service has the signal.
        return
