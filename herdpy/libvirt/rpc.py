"""libvirt's RPC: packets over a daemon's Unix socket, one call at a time.

The format is XDR (RFC 4506): a packet is its length, a header of six numbers, and what the procedure takes or returns
(https://libvirt.org/kbase/internals/rpc.html).
"""

import os
import struct
from types import TracebackType

import trio

VERSION = 1
CALL, REPLY = 0, 1
OK = 0
HEADER = struct.Struct(">6I")
NUMBER = struct.Struct(">I")
LARGEST = 32 * 1024 * 1024
"""Bytes of a packet: libvirt's own limit."""


class NoAnswer(Exception):  # noqa: N818 - it is what happened
    """A daemon cannot be reached, or does not answer as it should; ``str()`` is a sentence for people."""


class Connection:
    """A connection to a daemon; closed by ``async with``.

    Args:
        program: the number of what is spoken.
    """

    def __init__(self, stream: trio.SocketStream, program: int) -> None:
        self._stream = stream
        self._program = program
        self._serial = 0
        self._received = bytearray()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self._stream)

    async def call(self, procedure: int, *arguments: bytes) -> "Reader":
        """Call a procedure, and return what it returned.

        Args:
            arguments: each as :func:`number` and the like pack it.

        Raises:
            NoAnswer: it failed, or was not answered.
        """
        self._serial += 1
        packet = HEADER.pack(self._program, VERSION, procedure, CALL, self._serial, OK) + b"".join(arguments)
        try:
            await self._stream.send_all(NUMBER.pack(len(packet) + NUMBER.size) + packet)
            while True:  # an event may come in between
                reply = await self._packet()
                program, _, _, kind, serial, status = HEADER.unpack_from(reply)
                if (program, kind, serial) == (self._program, REPLY, self._serial):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise NoAnswer(f"the connection broke: {error.__cause__ or error}") from None
        returned = Reader(reply[HEADER.size :])
        if status != OK:
            raise NoAnswer(returned.error())
        return returned

    async def _packet(self) -> bytes:
        (length,) = NUMBER.unpack(await self._exactly(NUMBER.size))
        if not NUMBER.size + HEADER.size <= length <= LARGEST:
            raise NoAnswer(f"what it said is no packet of libvirt's: its length would be {length}")
        return await self._exactly(length - NUMBER.size)

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            some = await self._stream.receive_some(65536)
            if not some:
                raise NoAnswer("it closed the connection")
            self._received += some
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken


async def connect(path: str, program: int) -> Connection:
    """Connect to a daemon's socket.

    Raises:
        NoAnswer: nobody listens there.
    """
    try:
        return Connection(await trio.open_unix_socket(path), program)
    except OSError as error:
        raise NoAnswer(f"{path}: {os.strerror(error.errno or 0)}") from None


def number(value: int) -> bytes:
    """An unsigned int."""
    return NUMBER.pack(value)


def string(text: str) -> bytes:
    """A string."""
    encoded = text.encode()
    return NUMBER.pack(len(encoded)) + encoded + bytes(-len(encoded) % 4)


def optional_string(text: str) -> bytes:
    """A string where there might be none."""
    return NUMBER.pack(1) + string(text)


class Reader:
    """Reads what a procedure returned.

    Raises:
        NoAnswer: (any method) there is less to read than there should be.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def number(self) -> int:
        """An unsigned int."""
        value: int = NUMBER.unpack(self.take(NUMBER.size))[0]
        return value

    def count(self) -> int:
        """How many items follow."""
        count = self.number()
        if count > len(self._content):
            raise NoAnswer("what it said is shorter than it says")
        return count

    def string(self) -> str:
        """A string."""
        length = self.number()
        text = self.take(length).decode(errors="replace")
        self.take(-length % 4)
        return text

    def error(self) -> str:
        """The message of a remote_error: its code, its domain, and the message if there is one."""
        self.take(2 * NUMBER.size)
        return self.string() if self.number() else "it refused without a reason"

    def take(self, size: int) -> bytes:
        """So many bytes."""
        taken = self._content[self._position : self._position + size]
        if len(taken) != size:
            raise NoAnswer("what it said is shorter than it says")
        self._position += size
        return taken
