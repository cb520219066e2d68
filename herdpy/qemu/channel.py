"""The Unix sockets on which QEMU listens, and what comes from them: lines."""

import trio


async def connect_when_there(path: str) -> trio.SocketStream:
    """Connect to the Unix socket ``path``, however long it takes until QEMU listens on it; cancel it to give up.

    Neither trio nor the standard library can wait for a file to appear (inotify(7)), so this looks again, ever less
    often, at most four times a second.

    Raises:
        OSError: what waiting does not mend, such as a missing permission.
    """
    delay = 0.01
    while True:
        try:
            return await trio.open_unix_socket(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            # Not yet made; left behind by a QEMU that is gone; or QEMU's backlog is full.
            await trio.sleep(delay)
            delay = min(delay * 1.5, 0.25)


class Lines:
    """The lines that come from a stream, without their ends; cancelling a wait for one loses nothing.

    Args:
        stream: the one who sends them.
        limit: bytes; a longer line is dropped, whatever its length, without being held.
    """

    def __init__(self, stream: trio.abc.ReceiveStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._received = bytearray()
        self._searched = 0
        self._overlong = False

    def __aiter__(self) -> "Lines":
        return self

    async def __anext__(self) -> bytes:
        """The next line.

        Raises:
            StopAsyncIteration: at the end of the stream (a last line without an end is none).
        """
        while True:
            end = self._received.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                self._searched = 0
                if self._overlong or len(line) > self._limit:
                    self._overlong = False
                    # Lines that are skipped cost no wait: let others have their turn.
                    await trio.lowlevel.checkpoint()
                    continue
                return line.rstrip(b"\r")
            self._searched = len(self._received)
            if self._searched > self._limit:
                self._overlong = True
                self._received.clear()
                self._searched = 0
            try:
                received = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                received = b""
            if not received:
                raise StopAsyncIteration
            self._received += received
