"""The keeper's end of a line to the supervisor or the logger: never blocks, loses nothing, keeps the order."""

from __future__ import annotations

import _socket
import errno
import os

from herdpy.keeper.message import ANCILLARY_SIZE, DESCRIPTORS, LIMIT, ancillary, together
from herdpy.keeper.message import descriptors as descriptors_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TOGETHER = 64
"""Messages in one packet at most."""

_room = memoryview(bytearray(LIMIT + 1))


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Return our end of a new line, nonblocking, and the other's (unix(7), SOCK_SEQPACKET).

    Raises:
        OSError: when there are no descriptors left.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * LIMIT)
    ours.setblocking(False)
    return ours, theirs


def resumed(descriptor: int) -> Line:
    """Return our end of a line that was there before we executed ourselves anew."""
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
    socket.setblocking(False)
    return Line(socket)


class Line:
    """One connection. What the other end does not take yet waits here.

    Attributes:
        beside: the descriptors that came beside the packet received last, close-on-exec. Whoever keeps one takes it
            out; the others are closed by the next :meth:`receive`, or by :meth:`close`.
    """

    def __init__(self, socket: _socket.socket) -> None:
        self.beside: list[int] = []
        self._socket: _socket.socket | None = socket
        self._waiting: list[tuple[bytes, Sequence[int], bool, bool]] = []
        self.descriptor = socket.fileno()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._waiting

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def put(self, message: bytes, descriptors: Sequence[int] = (), *, give: bool = False, joins: bool = False) -> int:
        """Keep a message until :meth:`flush`; return how many are kept.

        Args:
            descriptors: go beside it; they must stay open until they are gone.
            give: whether we close them then.
            joins: whether it may be in one packet with others that have descriptors, since the other end knows how many
                it takes.
        """
        self._waiting.append((message, descriptors, give, joins or not descriptors))
        return len(self._waiting)

    def flush(self) -> bool:
        """Send what waits, as far as the other end takes it; tell whether nothing waits any more."""
        while self._waiting:
            packet, count, passed = self._next()
            if self._socket is not None:
                try:
                    self._socket.sendmsg((packet,), ancillary(passed))
                except BlockingIOError:
                    return False
                except OSError as error:
                    # Too many descriptors of ours are on their way (unix(7)): the other end must take some first.
                    if error.errno in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                        return False
                    # The other end is gone; the end of its process is told by its pidfd.
            for _, descriptors, give, _ in self._waiting[:count]:
                if give:
                    _close(descriptors)
            del self._waiting[:count]
        return True

    def _next(self) -> tuple[bytes, int, Sequence[int]]:
        """Return the next packet, how many messages it is, and what goes beside it."""
        message, descriptors, _, joins = self._waiting[0]
        if len(self._waiting) == 1 or not joins:
            return message, 1, descriptors
        messages, passed = [message], list(descriptors)
        for message, descriptors, _, joins in self._waiting[1:TOGETHER]:
            if not joins or len(passed) + len(descriptors) > DESCRIPTORS:
                break
            messages.append(message)
            passed += descriptors
        packet, count = together(messages)
        return packet, count, passed if count == len(messages) else _first(self._waiting[:count])

    def receive(self) -> memoryview | None:
        """Return the next packet, valid until the next call; empty at the end; None when there is none now."""
        self._drop_beside()
        if self._socket is None:
            return None
        try:
            length, passed, flags, _ = self._socket.recvmsg_into((_room,), ANCILLARY_SIZE, _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return self.receive()  # it is gone with our packets unread: told once, ahead of what it said before that
        except OSError:
            return _room[:0]
        self.beside = descriptors_in(passed)
        if flags & _socket.MSG_TRUNC or length > LIMIT:
            return memoryview(b"\0")  # no JSON: it is refused as such
        return _room[:length]

    def close(self) -> None:
        """Close it; what waited is lost."""
        self._drop_beside()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for _, descriptors, give, _ in self._waiting:
            if give:
                _close(descriptors)
        self._waiting.clear()

    def _drop_beside(self) -> None:
        if self.beside:
            passed, self.beside = self.beside, []
            _close(passed)


def _first(waiting: Sequence[tuple[bytes, Sequence[int], bool, bool]]) -> list[int]:
    return [descriptor for _, descriptors, _, _ in waiting for descriptor in descriptors]


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
