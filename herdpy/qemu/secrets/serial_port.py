"""Secrets over a virtio-serial port: the host's end of the conversation in docs/explanation/architecture.md.

The port's Unix socket can be opened by the user that QEMU runs as and by nobody else, so that only the guest can
answer, and it holds back what is written until the guest opens its end. What a supervisor that was killed in
mid-transfer has left in it, the guest reads as an unfinished session, which the next ``hello`` ends.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable

import msgspec
import trio

from herdpy.qemu.channel import Lines, connect_when_there
from herdpy.qemu.secrets.message import read_payload, unheard
from herdpy.service import Context, StartFailure

_LONGEST_LINE = 4096
_DATA = 57
"""Bytes to a line: 76 characters of base64."""
_LINES = 64
"""Lines written at once, between two reports of progress."""


class SendSecrets(msgspec.Struct, frozen=True):
    """A readiness step: returns once the guest says that it has installed all its secrets and can be reached.

    Raises:
        StartFailure: the secrets cannot be read, the socket cannot be opened, or the guest refused.
    """

    socket_path: str
    root: str
    """The directory whose files the guest gets."""
    interval: float = 2.0
    """Seconds between two hellos."""
    patience: float = 60.0
    """Seconds from the last byte to the guest's answer; then everything is sent anew. The guest answers when its sshd
    listens, for which it takes up to half of this."""

    async def run(self, context: Context, heard: Callable[[], None] = unheard) -> None:
        message = await read_payload(self.root)
        # An answer to any of these is an answer to this message: a guest that was only slow is heard out.
        sent: set[bytes] = set()
        while True:
            context.progress("booting")
            try:
                stream = await connect_when_there(self.socket_path)
            except OSError as error:
                raise StartFailure(f"cannot open {self.socket_path} to send secrets: {error.strerror}") from None
            async with stream:
                try:
                    if await self._converse(stream, message, sent, context, heard):
                        return
                except trio.BrokenResourceError:
                    pass
            # QEMU has closed it. Either QEMU is ending, which is for others to notice, or it takes another client.
            await trio.sleep(0.25)

    async def _converse(
        self,
        stream: trio.SocketStream,
        message: bytes,
        sent: set[bytes],
        context: Context,
        heard: Callable[[], None],
    ) -> bool:
        lines = Lines(stream, _LONGEST_LINE)
        while True:
            nonce = secrets.token_hex(16).encode("ascii")
            answer: bytes | None = await self._greet(stream, lines, nonce, sent)
            if answer:
                heard()
            if answer == b"ready":
                await _transfer(stream, message, nonce, context)
                sent.add(nonce)
                context.progress("waiting for the guest to install its secrets")
                answer = None
                with trio.move_on_after(self.patience):
                    answer = await _answer(lines, nonce, sent)
            if answer is not None:
                return answer == b"installed"

    async def _greet(self, stream: trio.SocketStream, lines: Lines, nonce: bytes, sent: set[bytes]) -> bytes:
        while True:
            # The empty line ends what an earlier writer may have left unfinished.
            await stream.send_all(b"\nhello %s\n" % nonce)
            with trio.move_on_after(self.interval):
                return await _answer(lines, nonce, sent)


async def _transfer(stream: trio.SocketStream, message: bytes, nonce: bytes, context: Context) -> None:
    context.progress("sending secrets", 0.0)
    await stream.send_all(b"begin %s %s\n" % (nonce, hashlib.sha256(message).hexdigest().encode("ascii")))
    step = _DATA * _LINES
    for start in range(0, len(message), step):
        end = min(start + step, len(message))
        pieces = (base64.b64encode(message[place : min(place + _DATA, end)]) for place in range(start, end, _DATA))
        await stream.send_all(b"".join(b"data %s\n" % piece for piece in pieces))
        context.progress("sending secrets", end / len(message))
    await stream.send_all(b"end %s\n" % nonce)


async def _answer(lines: Lines, nonce: bytes, sent: set[bytes]) -> bytes:
    """The guest's next word that means something to us; empty when the line is dead.

    Raises:
        StartFailure: it is ``failed``.
    """
    async for line in lines:
        match line.split(b" ", 2):
            case [b"ready", name] if name == nonce and nonce not in sent:
                return b"ready"
            case [b"installed", name, count] if name in sent and count.isdigit():
                return b"installed"
            case [b"failed", name, *reason] if name == nonce and nonce in sent:
                raise StartFailure(f"the guest refused its secrets: {printable(b' '.join(reason))}")
    return b""


def printable(text: bytes, limit: int = 200) -> str:
    """What a guest wrote, fit for a person's terminal: no control characters, no more than ``limit`` characters."""
    words = "".join(character if character.isprintable() else "?" for character in text.decode("utf-8", "replace"))
    return words if len(words) <= limit else words[: limit - 1] + "…"
