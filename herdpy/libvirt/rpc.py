"""Asking libvirtd through its socket: as much of libvirt's RPC as telling whether it answers, and what runs, takes.

The format is XDR (RFC 4506): a packet is its length, a header of six numbers, and what the procedure takes or returns
(https://libvirt.org/kbase/internals/rpc.html; procedures and structures: remote_protocol.x of libvirt). What is spoken
here has not changed since libvirt 0.9.13, which is what the protocol promises.
"""

import os
import struct
from types import TracebackType

import msgspec
import trio

PROGRAM = 0x20008086
VERSION = 1
OPEN, CLOSE, AUTH_LIST, AUTH_POLKIT, LIST_ALL_DOMAINS = 1, 2, 66, 70, 273
CALL, REPLY = 0, 1
OK = 0
AUTH_NONE, AUTH_SASL, AUTH_POLKIT_TYPE = 0, 1, 2
HEADER = struct.Struct(">6I")
NUMBER = struct.Struct(">I")
LARGEST = 32 * 1024 * 1024
"""Bytes of a packet: libvirt's own limit."""

ACTIVE = 1
STATES = (("running", 16), ("paused", 32), ("in another state", 128 | ACTIVE))
"""What a domain that runs does, and the flags that list those (virConnectListAllDomainsFlags)."""


class NoAnswer(Exception):  # noqa: N818 - it is what happened
    """libvirtd cannot be reached, or does not answer as it should; ``str()`` is a sentence for people."""


class Domain(msgspec.Struct, frozen=True):
    """A domain that runs."""

    name: str
    id: int
    """What libvirtd counts it by; another one after each start."""
    state: str


class Connection:
    """A connection to libvirtd; opened and closed by ``async with``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._serial = 0
        self._received = bytearray()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self._stream)

    async def open(self, uri: str) -> None:
        """Prove who we are, and open a URI; libvirtd answers when its drivers are up.

        Raises:
            NoAnswer: it refuses, or demands a password (SASL).
        """
        kinds = _Reader(await self._call(AUTH_LIST, b"")).numbers()
        if AUTH_NONE not in kinds and AUTH_POLKIT_TYPE in kinds:
            await self._call(AUTH_POLKIT, b"")
        elif AUTH_SASL in kinds:
            raise NoAnswer("it demands a name and a password (SASL), and herdpy has none")
        await self._call(OPEN, NUMBER.pack(1) + _string(uri) + NUMBER.pack(0))

    async def domains(self) -> list[Domain]:
        """The domains that run, in any state.

        Raises:
            NoAnswer: it did not tell.
        """
        found = []
        for state, flags in STATES:
            reply = _Reader(await self._call(LIST_ALL_DOMAINS, NUMBER.pack(1) + NUMBER.pack(flags)))
            found += [Domain(name, number, state) for name, number in reply.domains()]
        return found

    async def close(self) -> None:
        """Tell libvirtd that this was all: it logs an error of one who just hangs up.

        Raises:
            NoAnswer: it did not answer.
        """
        await self._call(CLOSE, b"")

    async def _call(self, procedure: int, arguments: bytes) -> bytes:
        self._serial += 1
        packet = HEADER.pack(PROGRAM, VERSION, procedure, CALL, self._serial, OK) + arguments
        try:
            await self._stream.send_all(NUMBER.pack(len(packet) + NUMBER.size) + packet)
            while True:
                reply = await self._packet()
                program, _, _, kind, serial, status = HEADER.unpack_from(reply)
                if (program, kind, serial) == (PROGRAM, REPLY, self._serial):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise NoAnswer(f"the connection broke: {error.__cause__ or error}") from None
        except struct.error:
            raise NoAnswer("what it said is no packet of libvirt's") from None
        if status != OK:
            raise NoAnswer(_Reader(reply[HEADER.size :]).error())
        return reply[HEADER.size :]

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


async def connect(path: str) -> Connection:
    """Connect to libvirtd's socket.

    Raises:
        NoAnswer: nobody listens there.
    """
    try:
        return Connection(await trio.open_unix_socket(path))
    except OSError as error:
        raise NoAnswer(f"{path}: {os.strerror(error.errno or 0)}") from None


def _string(text: str) -> bytes:
    encoded = text.encode()
    return NUMBER.pack(len(encoded)) + encoded + bytes(-len(encoded) % 4)


class _Reader:
    """Reads XDR.

    Raises:
        NoAnswer: (any method) there is less to read than there should be.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def number(self) -> int:
        value: int = NUMBER.unpack(self._take(NUMBER.size))[0]
        return value

    def signed(self) -> int:
        value = self.number()
        return value - (1 << 32) if value >> 31 else value

    def string(self) -> str:
        length = self.number()
        text = self._take(length).decode(errors="replace")
        self._take(-length % 4)
        return text

    def numbers(self) -> list[int]:
        return [self.number() for _ in range(self._count())]

    def domains(self) -> list[tuple[str, int]]:
        found = []
        for _ in range(self._count()):
            name = self.string()
            self._take(16)  # the UUID
            found.append((name, self.signed()))
        return found

    def error(self) -> str:
        """The message of a remote_error."""
        self.number()
        self.number()
        return self.string() if self.number() else "it refused without a reason"

    def _count(self) -> int:
        count = self.number()
        if count > len(self._content):
            raise NoAnswer("what it said is shorter than it says")
        return count

    def _take(self, size: int) -> bytes:
        taken = self._content[self._position : self._position + size]
        if len(taken) != size:
            raise NoAnswer("what it said is shorter than it says")
        self._position += size
        return taken
