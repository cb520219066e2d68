"""Addresses of listening sockets as people write them: ``127.0.0.1:80``, ``udp:[::]:53``, ``unix:/run/x``. Pure."""

from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from herdpy.service import InternetAddress, SocketKind, UnixAddress

UNIX_PATH_MAX = 107
"""Bytes in the path or the name of a Unix socket (unix(7): 108, with the NUL at the end, or at the beginning)."""

EXAMPLES = '"127.0.0.1:8080", "[::1]:8080", "*:8080" for every address, "udp:..." or "unix:/run/NAME"'


class AddressMistake(ValueError):  # noqa: N818 - a mistake is what it is called everywhere here
    """A text that is no address; ``str()`` says why, and what to write."""


class Endpoint(NamedTuple):
    """What a text says of where to listen."""

    address: InternetAddress | UnixAddress
    kind: SocketKind | None
    """None where the text leaves it open."""


def parse(text: str) -> Endpoint:
    """The endpoint that a text means; names of hosts are not looked up.

    Raises:
        AddressMistake: it means none.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "unix":
        return Endpoint(_unix_address(rest), None)
    if colon and scheme in {"tcp", "udp"}:
        return Endpoint(_internet_address(rest), "stream" if scheme == "tcp" else "datagram")
    if text.startswith(("/", "@")):
        raise AddressMistake(f"expected an address and a port; for a Unix socket write unix:{text}")
    return Endpoint(_internet_address(text), None)


def _unix_address(text: str) -> UnixAddress:
    if "\0" in text:
        raise AddressMistake("the name of a Unix socket cannot hold a NUL character here")
    if not text.startswith(("/", "@")):
        raise AddressMistake(f"expected an absolute path, or @ and an abstract name, after unix:, got {text!r}")
    if text == "@" or text.endswith("/"):
        raise AddressMistake(f"{text!r} names no socket; write for example unix:/run/NAME or unix:@NAME")
    length = len(text.encode(errors="surrogateescape"))
    if length > UNIX_PATH_MAX:
        raise AddressMistake(f"{length} bytes are too long for a Unix socket's name: {UNIX_PATH_MAX} at most (unix(7))")
    return UnixAddress(text)


def _internet_address(text: str) -> InternetAddress:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise AddressMistake(f"expected an address and a port, got {text!r}; write {EXAMPLES}")
    if host.startswith("[") != host.endswith("]"):
        raise AddressMistake(f"expected an IPv6 address in brackets and a port, such as [::1]:8080, got {text!r}")
    if host.startswith("["):
        return InternetAddress(_ip_address(host[1:-1], port, is_bracketed=True), _port(port))
    if ":" in host:
        raise AddressMistake(f"an IPv6 address is written in brackets, such as [::1]:8080, got {text!r}")
    if host == "*":
        return InternetAddress("", _port(port))
    return InternetAddress(_ip_address(host, port, is_bracketed=False), _port(port))


def _ip_address(host: str, port: str, *, is_bracketed: bool) -> str:
    if host == "localhost":
        raise AddressMistake(f"names are not looked up: write 127.0.0.1:{port}, [::1]:{port}, or both")
    try:
        address = ip_address(host)
    except ValueError:
        if is_bracketed:
            raise AddressMistake(f"{host!r} is no IPv6 address") from None
        raise AddressMistake(f"{host!r} is no IP address, and names are not looked up; write {EXAMPLES}") from None
    if isinstance(address, IPv6Address) != is_bracketed:
        raise AddressMistake(f"only IPv6 addresses are written in brackets; write {host}:{port}")
    return str(address)


def _port(text: str) -> int:
    if not _is_number(text) or int(text) > 65535:
        raise AddressMistake(f"expected a port from 1 to 65535 (0: any free one), got {text!r}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5
