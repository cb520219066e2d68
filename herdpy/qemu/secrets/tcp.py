"""Secrets over TCP, for images that know Guix's secret service only; and waiting for SSH, for images that know neither.

QEMU's user network accepts a connection to a forwarded port at once, long before there is a guest: only what comes from
the guest counts. It tries to pass the connection on ever less often, and a guest that has its network but no server yet
refuses it, so there is a new connection every ``INTERVAL``. An earlier one stays open for ``PATIENCE``: Guix's server
accepts a single client, and closing that one before its hello is through would use up the guest's only chance. For the
same reason it is remembered that a guest was sent its secrets: a supervisor that goes on with the start of another does
not wait for a second hello.
"""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from herdpy.qemu.secrets.message import read_payload, unheard
from herdpy.qemu.secrets.serial_port import printable
from herdpy.service import Context, ProcessContext, StartFailure

INTERVAL = 1.5
"""Seconds from one connection to the next, as long as none is answered."""
PATIENCE = 6.0
"""Seconds that a connection may stay silent."""
SSH_PATIENCE = 60.0
"""Seconds from the guest's having its secrets to its SSH server's answer; longer, and it counts as having none."""
SENT = "secrets"
"""The detail that tells which spawn of QEMU was sent the secrets."""
_PAUSE = 0.3
"""Seconds from a refused connection to the next."""
_LONGEST_HELLO = 512
_LONGEST_BANNER = 8192
_CHUNK = 4096


class SendSecretsOverTCP(msgspec.Struct, frozen=True):
    """A readiness step: returns once the guest's secret service has taken all secrets and closed the connection.

    The protocol has no acknowledgement: that the guest could write the files it cannot say. What was sent to the end
    counts as taken by a supervisor that has not seen the connection closed: it may have been, and never be open again.

    Raises:
        StartFailure: the secrets cannot be read, or what answers is no secret service.
    """

    port: int
    """Of the host's 127.0.0.1, forwarded to the guest's 1004."""
    root: str
    """The directory whose files the guest gets."""
    ssh_port: int | None = None
    """Of the host's 127.0.0.1: the guest's SSH server, which starts when it has its secrets, is waited for, too; for
    ``SSH_PATIENCE`` at most, since not every image has one."""

    async def run(self, context: ProcessContext, heard: Callable[[], None] = unheard) -> None:
        if context.details.get(SENT) != _sent_to(context):
            context.detail(SENT, None)
            await self._send(context, heard)
        heard()
        if self.ssh_port is not None:
            with trio.move_on_after(SSH_PATIENCE) as limit:
                await AwaitSSH(self.ssh_port).run(context)
            answers = (
                f"has not answered at 127.0.0.1:{self.ssh_port} within {SSH_PATIENCE:.0f} s of the guest's secrets"
            )
            context.detail("ssh", answers if limit.cancelled_caught else None)

    async def _send(self, context: ProcessContext, heard: Callable[[], None]) -> None:
        message = await read_payload(self.root)
        while True:
            context.progress("booting")
            async with await _first_to_answer(self.port, self._hello) as stream:
                heard()
                try:
                    for start in range(0, len(message), _CHUNK):
                        context.progress("sending secrets", start / len(message))
                        await stream.send_all(message[start : start + _CHUNK])
                    # The kernel has all of it, and delivers it even if we are killed now.
                    context.detail(SENT, _sent_to(context))
                    await context.keep_details()
                    await stream.send_eof()
                    context.progress("waiting for the guest to install its secrets")
                    while await stream.receive_some():
                        pass
                    return
                except trio.BrokenResourceError:
                    # Broken off before it had all of it: from the beginning.
                    context.detail(SENT, None)
                    await context.keep_details()
                    await trio.sleep(_PAUSE)

    async def _hello(self, stream: trio.SocketStream) -> bool:
        """Whether the server's hello, ``(secret-service-server (version 0))``, came through; no line end follows it."""
        received = b""
        while received.count(b")") < 2:
            more = await stream.receive_some(_LONGEST_HELLO)
            if not more:
                return False
            received += more
            if received.strip()[:1] not in (b"", b"(") or len(received) > _LONGEST_HELLO:
                break
        words = received.replace(b"(", b" ( ").replace(b")", b" ) ").split()
        if words != [b"(", b"secret-service-server", b"(", b"version", b"0", b")", b")"]:
            raise StartFailure(
                f'what answers at 127.0.0.1:{self.port} is no secret service: it said "{printable(received, 60)}";'
                " check that the port leads to the guest's port 1004"
            )
        return True


def _sent_to(context: ProcessContext) -> str:
    return f"sent to the guest of PID {context.pid} (spawn {context.spawn})"


class AwaitSSH(msgspec.Struct, frozen=True):
    """A readiness step for images that take no secrets: returns once an SSH server answers (RFC 4253, section 4.2)."""

    port: int
    """Of the host's 127.0.0.1, forwarded to the guest's SSH server."""

    async def run(self, context: Context, heard: Callable[[], None] = unheard) -> None:
        context.progress("waiting for the guest's SSH server")
        async with await _first_to_answer(self.port, _banner):
            heard()


async def _banner(stream: trio.SocketStream) -> bool:
    received = b""
    while len(received) <= _LONGEST_BANNER:
        # Other lines may come before it.
        *lines, _ = received.split(b"\n")
        if any(line.startswith((b"SSH-2.0-", b"SSH-1.99-")) for line in lines):
            return True
        more = await stream.receive_some(_LONGEST_BANNER)
        if not more:
            return False
        received += more
    return False


async def _first_to_answer(port: int, hears: Callable[[trio.SocketStream], Awaitable[bool]]) -> trio.SocketStream:
    """The first connection to ``port`` on which ``hears`` returns true; waits for it without limit.

    Raises:
        StartFailure: when ``hears`` raised it.
    """
    found: list[trio.SocketStream] = []
    failed: list[StartFailure] = []

    async def attempt(scope: trio.CancelScope, over: trio.Event) -> None:
        try:
            with trio.move_on_after(PATIENCE):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                try:
                    if await hears(stream) and not found:
                        found.append(stream)
                        scope.cancel()
                finally:
                    if stream not in found:
                        await trio.aclose_forcefully(stream)
        except StartFailure as failure:
            failed.append(failure)
            scope.cancel()
        except (OSError, trio.BrokenResourceError):
            pass
        over.set()

    try:
        async with trio.open_nursery() as nursery:
            while True:
                over = trio.Event()
                nursery.start_soon(attempt, nursery.cancel_scope, over)
                with trio.move_on_after(INTERVAL):
                    await over.wait()
                    await trio.sleep(_PAUSE)
    except BaseException:
        for stream in found:
            await trio.aclose_forcefully(stream)
        raise
    if not found:
        raise failed[0]
    return found[0]
