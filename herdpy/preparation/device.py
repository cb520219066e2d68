"""A device that a process opens, and that may come later than the process could be started, and go again."""

import errno
import glob
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from herdpy.preparation import udev
from herdpy.service import Context, StartFailure
from herdpy.watch import Watch, watching

PORTS = "/dev/virtio-ports"
"""Where udev links each virtio-serial port by the name that its host has given it."""
NAMES = "/sys/class/virtio-ports/*/name"
"""What the kernel tells of them."""
NETLINK_KOBJECT_UEVENT, FROM_KERNEL = 15, 1  # linux/netlink.h; the group is the kernel's own


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """Waits until a device is there: one is told of it by inotify(7) or by the kernel, not by looking again."""

    path: str
    patience: float
    """Seconds after which who asked for the start is told that it waits on."""
    advice: str
    """What to look at when it does not come."""

    async def run(self, context: Context) -> None:
        """Wait for it, however long: that there is none is no failure of the process, and no reason to give it up.

        Raises:
            StartFailure: nothing can be watched, or a port cannot be linked.
        """
        with watching(self.path) as watch:
            if os.path.dirname(self.path) != PORTS:
                await self._wait_on(context, watch, trio.sleep_forever)
                return
            with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as told:
                # Told of devices from before the first look on, so that none falls between.
                await told.bind((0, FROM_KERNEL))
                await self._wait_on(context, watch, partial(_device_added, told))

    async def _wait_on(self, context: Context, watch: Watch, other_sign: Callable[[], Awaitable[None]]) -> None:
        while not await self._is_there_in_time(context, watch, other_sign):
            context.wait_on(f"there has been no {self.path} for {self.patience:g} s, and it waits on; {self.advice}")

    async def _is_there_in_time(
        self, context: Context, watch: Watch, other_sign: Callable[[], Awaitable[None]]
    ) -> bool:
        """Wait as long as who asked does; returns whether it is there."""
        with trio.move_on_after(self.patience):
            while not await watch.look(self._find):
                context.progress(f"waiting for {self.path}; {self.advice}")
                async with trio.open_nursery() as nursery:

                    async def await_sign(nursery: trio.Nursery = nursery) -> None:
                        await other_sign()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(await_sign)
                    await watch.change()
                    nursery.cancel_scope.cancel()
            return True
        return False

    def _find(self) -> bool:
        """Whether it is there. Where no udev links ports by their names, it is linked by us, as udev would."""
        if os.path.exists(self.path):
            return True
        node = None if udev.runs() else self._node()
        if node is None:
            return False
        try:
            os.makedirs(PORTS, exist_ok=True)
            if os.path.islink(self.path):  # to one that is gone
                os.unlink(self.path)
            os.symlink(node, self.path)
        except OSError as error:
            advice = f'name the port itself: device = "{node}"'
            raise StartFailure(f"cannot link {self.path} to {node}: {error.strerror}; {advice}") from None
        return True

    def _node(self) -> str | None:
        """The device of a virtio-serial port, by the name that it would have if udev ran."""
        directory, name = os.path.split(self.path)
        for path in glob.glob(NAMES) if directory == PORTS else ():
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    node = os.path.join("/dev", os.path.basename(os.path.dirname(path)))
                    if file.read().strip() == name and os.path.exists(node):
                        return node
            except OSError:  # it has just gone
                continue
        return None

    def lack(self) -> str | None:
        """What is wrong, and how to mend it."""
        if os.path.exists(self.path) or self._node() is not None:
            return None
        return f"there is no {self.path}; {self.advice}"


async def _device_added(told: trio.socket.SocketType) -> None:
    """Wait until the kernel has told of another device: "add@/devices/..."."""
    while True:
        try:
            if (await told.recv(65536)).startswith(b"add@"):
                return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more has come than fits: any may have been added
                raise
            return
