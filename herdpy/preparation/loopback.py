"""The loopback network interface: up in a host that has booted, down in a new network namespace or container."""

import fcntl
import socket
import struct

import msgspec

from herdpy.service import Context, StartFailure

NAME = b"lo"
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
IFF_UP = 1
REQUEST = struct.Struct("16sh22x")
"""struct ifreq of netdevice(7), with the flags."""


class Loopback(msgspec.Struct, frozen=True):
    """Brings lo up; the kernel then gives it 127.0.0.1 and ::1 by itself."""

    async def run(self, context: Context) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
            try:
                _, flags = REQUEST.unpack(fcntl.ioctl(asked, SIOCGIFFLAGS, REQUEST.pack(NAME, 0)))
                if not flags & IFF_UP:
                    fcntl.ioctl(asked, SIOCSIFFLAGS, REQUEST.pack(NAME, flags | IFF_UP))
            except PermissionError:
                raise StartFailure(
                    "the interface lo is down, and only root can bring it up: ip link set lo up"
                ) from None
            except OSError as error:
                raise StartFailure(f"the interface lo cannot be brought up: {error.strerror}") from None
