"""A machine's network as QEMU's options say it: made here, and read here when a person has written it.

Source: qemu-system-x86_64(1), "-netdev user": ``hostfwd=[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT``.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from herdpy.service import Port

_ALL = "0.0.0.0"  # noqa: S104 - read, not bound
_RULE = re.compile(r"(tcp|udp)?:(\[[^]]*\]|[^:]*):(\d{1,5})-(\[[^]]*\]|[^:]*):(\d{1,5})")


class Forwarding(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the host that leads to a port of the guest."""

    host: int
    guest: int
    protocol: str = "tcp"
    address: str = "127.0.0.1"
    """The host's; empty means all of IPv4."""

    @property
    def port(self) -> Port:
        """What it claims of the host."""
        return Port(port=self.host, address=self.address or _ALL, protocol=self.protocol)

    def __str__(self) -> str:
        return f"{'udp ' if self.protocol == 'udp' else ''}{self.port.address}:{self.host} -> {self.guest}"


def virtio_network(forwardings: Iterable[Forwarding], *, is_open: bool) -> tuple[str, ...]:
    """QEMU's user network on a card of virtio's.

    Args:
        is_open: whether the guest may reach the host and the world; what is forwarded to it works either way.
    """
    user = f"user,id=net0,restrict={'off' if is_open else 'on'}"
    return ("-netdev", user + _rules(forwardings), "-device", "virtio-net-pci,netdev=net0,romfile=")


def rtl8139_network(forwardings: Iterable[Forwarding]) -> tuple[str, ...]:
    """QEMU's user network on a card that GNU Mach knows, in the words of Guix's ``hurd-vm-net-options``."""
    return ("--device", "rtl8139,netdev=net0", "--netdev", f"user,id=net0{_rules(forwardings)}")


def _rules(forwardings: Iterable[Forwarding]) -> str:
    return "".join(f",hostfwd={one.protocol}:{one.address}:{one.host}-:{one.guest}" for one in forwardings)


def forwardings_in(options: Sequence[str]) -> tuple[Forwarding, ...]:
    """The forwardings among options that somebody has written.

    Raises:
        ValueError: one of them cannot be understood; its words.
    """
    found = []
    for option in options:
        for part in option.split(","):
            key, _, rule = part.partition("=")
            if key != "hostfwd":
                continue
            match = _RULE.fullmatch(rule)
            if match is None or not all(1 <= int(port) <= 65535 for port in (match[3], match[5])):
                raise ValueError(part)
            protocol, address, host, _, guest = match.groups()
            one = Forwarding(protocol=protocol or "tcp", address=address.strip("[]"), host=int(host), guest=int(guest))
            found.append(one)
    return tuple(found)


def host_port(forwardings: Iterable[Forwarding], *guest: int) -> int | None:
    """The TCP port of the host's loopback that leads to one of these ports of the guest, the first of them first."""
    usable = {one.guest: one.host for one in forwardings if one.protocol == "tcp" and one.address in _LOOPBACK}
    return next((usable[port] for port in guest if port in usable), None)


_LOOPBACK = frozenset({"", _ALL, "127.0.0.1", "localhost"})
"""Addresses at which 127.0.0.1 reaches what listens."""
