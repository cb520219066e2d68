"""The packets that keeper, supervisor and logger exchange.

They travel over ``SOCK_SEQPACKET`` socket pairs, whose bounds the kernel keeps (unix(7)): one packet is one JSON object
with a ``kind``, or several, a line each, when there is much to say at once. Descriptors travel beside it
(``SCM_RIGHTS``). The functions here do no I/O, so that both ends can use them: the keeper's epoll loop and the
supervisor's trio.

The json package imports re, which costs the keeper 1.2 MiB and as much time as the interpreter's own start. Its C half,
``_json``, does all the work and imports nothing.
"""

from __future__ import annotations

import sys
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, NoReturn

VERSION = 1
"""Of the exchange between keeper and supervisor; ``hello`` tells it.

A release raises it by one at most, and then still speaks the one before: what it does not know in a message it leaves
out, what it misses it does without. So keepers and supervisors of neighbouring versions get along, upwards and back.
"""

LIMIT = 160 * 1024
"""Bytes of one packet at most: less than the smallest usual send buffer (net.core.wmem_default, 208 KiB)."""

DESCRIPTORS = 16
"""Descriptors beside one packet at most."""

_DESCRIPTOR = 4  # sizeof(int), which is what SCM_RIGHTS carries
_SOL_SOCKET = 1  # asm-generic/socket.h; importing socket for two numbers would cost 12 ms
_SCM_RIGHTS = 1


class MessageError(ValueError):
    """A message that cannot be sent, or a packet that is none; ``str()`` says what is wrong with it."""


def _refuse(value: object) -> NoReturn:
    raise MessageError(f"{type(value).__name__} cannot be told in JSON")


def _refuse_constant(name: str) -> NoReturn:
    raise MessageError(f"{name} is not JSON")


class _Rules:
    """What the C scanner asks of its context (json.JSONDecoder's attributes)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None  # asked for since Python 3.15
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own; it empties it itself


_scan: Any = make_scanner(_Rules())  # type: ignore[arg-type]  # any object with these attributes does
_encode: Any = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)


def is_near(version: object, to: int = VERSION) -> bool:
    """Tell whether what has this version can be read by what has the other: they are neighbours at most."""
    return type(version) is int and abs(version - to) <= 1


def encode(message: Mapping[str, object]) -> bytes:
    """Return the packet that says ``message``; it is pure ASCII, and undecodable bytes (PEP 383) survive in it.

    Raises:
        MessageError: when it is longer than LIMIT bytes or holds what JSON cannot say.
    """
    try:
        packet = "".join(_encode(message, 0)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(str(error)) from None
    if len(packet) > LIMIT:
        raise MessageError(f"a message of {len(packet)} bytes; at most {LIMIT} can be sent")
    return packet


def decode(packet: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the message that ``packet`` says.

    Raises:
        MessageError: when it is not one JSON object with a ``kind``.
    """
    try:
        text = str(packet, "utf-8", "surrogatepass").strip()
        message, end = _scan(text, 0)
    except (StopIteration, SystemError):  # the latter: the error it wants to raise is the json package's, not loaded
        raise MessageError("a packet that is not JSON") from None
    except (ValueError, RecursionError) as error:
        raise MessageError(f"a packet that is not JSON: {error}") from None
    if end != len(text) or not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise MessageError("a packet that is not one JSON object with a kind")
    return message


def together(messages: Sequence[bytes]) -> tuple[bytes, int]:
    """Return a packet of as many encoded messages as fit into one, the first ones, and how many these are."""
    size, count = len(messages[0]), 1
    while count < len(messages) and size + 1 + len(messages[count]) <= LIMIT:
        size += 1 + len(messages[count])
        count += 1
    return (messages[0] if count == 1 else b"\n".join(messages[:count])), count


def apart(packet: bytes | bytearray | memoryview) -> list[bytes]:
    """Return the encoded messages of a packet."""
    return bytes(packet).split(b"\n")


def ancillary(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Return what ``sendmsg`` needs to pass ``descriptors`` on (cmsg(3))."""
    if not descriptors:
        return []
    return [(_SOL_SOCKET, _SCM_RIGHTS, b"".join(fd.to_bytes(_DESCRIPTOR, sys.byteorder) for fd in descriptors))]


def descriptors(received: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in the ancillary part of what ``recvmsg`` returned; they are the caller's to close."""
    return [
        int.from_bytes(content[at : at + _DESCRIPTOR], sys.byteorder)
        for level, kind, content in received
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS
        for at in range(0, len(content) - len(content) % _DESCRIPTOR, _DESCRIPTOR)
    ]


ANCILLARY_SIZE = 16 + 8 * DESCRIPTORS
"""Bytes of room for ``recvmsg``'s ancillary part (at least CMSG_SPACE of DESCRIPTORS)."""
