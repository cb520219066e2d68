"""Waiting for the host's network: the kernel tells each change over netlink, so nothing is polled."""

import socket
from ipaddress import ip_address

import msgspec
import trio

from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100  # linux/rtnetlink.h
STATE = "network"
"""The detail that says what there is."""


class Networking(msgspec.Struct, frozen=True, kw_only=True):
    """Waits until an interface other than lo is up and has an address that others can reach."""

    patience: float
    """Seconds."""
    is_mandatory: bool

    async def run(self, context: Context) -> None:
        # Told of changes from before the first look on, so that none falls between.
        with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as told:
            await told.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            with trio.move_on_after(self.patience):
                while (found := await in_thread(_reachable, abandon_on_cancel=True)) is None:
                    context.progress("waiting for a network interface other than lo")
                    await _next_change(told)
                context.detail(STATE, found)
                return
        reason = f"no interface other than lo has had an address for {self.patience:g} s"
        if self.is_mandatory:
            raise StartFailure(f"{reason}; see: ip address")
        context.detail(STATE, reason)


async def _next_change(told: trio.socket.SocketType) -> None:
    try:
        await told.recv(65536)
    except OSError:  # ENOBUFS: more has changed than fits
        return


def _reachable() -> str | None:
    """An interface and its address, as ``eth0 192.0.2.2``; None when there is none."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup and name != "lo"}
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        for address in addresses if name in up else ():
            if address.family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            parsed = ip_address(address.address.partition("%")[0])
            if not parsed.is_loopback and not parsed.is_link_local:
                return f"{name} {parsed}"
    return None
