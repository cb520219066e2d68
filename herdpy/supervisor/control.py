"""The control socket: one command and one reply a connection, in GNU Shepherd's protocol."""

import errno
import os
import socket
import struct

import trio

from herdpy import protocol, sexp
from herdpy.supervisor.answers import Answers
from herdpy.supervisor.log import log

COMMAND_PATIENCE = 30.0
"""Seconds that a client may take to send its command."""
REPLY_PATIENCE = 60.0
"""Seconds that a client may take to read its reply."""
PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): PID, UID, GID."""


async def serve(descriptor: int, answers: Answers) -> None:
    """Accept connections for ever, each in a task of its own, so that no client waits for another.

    Args:
        descriptor: the listening socket, which the keeper holds too.
    """
    listener = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))
    async with trio.open_nursery() as nursery:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED):
                    raise
                log("connection-refused", reason=error.strerror)
                await trio.sleep(0.1)  # the backlog keeps it until there are descriptors again
                continue
            nursery.start_soon(_attend, connection, answers)


async def _attend(connection: trio.socket.SocketType, answers: Answers) -> None:
    with connection:
        _, uid, _ = PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        )
        if uid not in (0, os.geteuid()):
            log("connection-refused", reason="another user", uid=uid)
            return
        stream = trio.SocketStream(connection)

        async def send(piece: bytes) -> None:
            with trio.fail_after(REPLY_PATIENCE):
                await stream.send_all(piece)

        try:
            command = await _read_command(stream)
            if command is not None:
                await answers.give(command, send)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone, or as good as gone: what it asked for goes on
        except Exception as error:
            log("connection-crashed", exc_info=error)


async def _read_command(stream: trio.SocketStream) -> protocol.Command | None:
    """The command a client sends; None, and hence no reply, when it sends none."""
    reader = sexp.Reader(size=protocol.COMMAND_SIZE, depth=protocol.COMMAND_DEPTH)
    with trio.move_on_after(COMMAND_PATIENCE):
        while chunk := await stream.receive_some(64 * 1024):
            try:
                for text in reader.feed(chunk):
                    return protocol.parse_command(text)
            except (protocol.ProtocolError, sexp.SexpError):
                return None
    return None
