"""Device files: udevd's, or whoever's they are on a host without it."""

import errno
import os
import socket

import msgspec
import trio

from herdpy.service import Context

CONTROL = "/run/udev/control"
"""The socket that udevd listens on (udevadm(8), control)."""
STATE = "udev"
"""The detail that says what there is."""


class Udev(msgspec.Struct, frozen=True, kw_only=True):
    """Waits until udevd has dealt with the devices it knows of; a container has none, and needs none."""

    patience: float
    """Seconds."""

    async def run(self, context: Context) -> None:
        if not runs():
            context.detail(STATE, "no udevd here; /dev is as it is")
            return
        completed = None
        with trio.move_on_after(self.patience + 1):
            completed = await context.command(["udevadm", "settle", f"--timeout={self.patience:.0f}"])
        if completed is None or completed.status != 0:
            context.detail(STATE, f"udevd was still at work after {self.patience:g} s")


def runs() -> bool:
    """Whether udevd listens; its socket is made by systemd, and stays in a container that took /run along."""
    if not os.path.exists(CONTROL):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(CONTROL) != errno.ECONNREFUSED  # EACCES, too, means that somebody listens
