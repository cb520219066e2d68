"""The first sign of life of a guest, where its accelerator may turn out to boot nothing.

A KVM that cannot boot a guest shows in three ways: QEMU ends, or says "internal error" (which :class:`Watch` sees to),
or the guest is silent for ever, somewhere between the firmware, which still runs, and the kernel's first word. Only the
last takes patience, and none once the guest has shown that it lives.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

import msgspec
import trio

from herdpy.qemu.qmp import QMPError, connect
from herdpy.service import ProcessContext, StartFailure
from herdpy.watch import watching

LONGEST_LOOK = 256 * 1024
"""Bytes of a console's log that are looked at: whoever has written more is not the firmware."""

FIRMWARE = re.compile(rb"SeaBIOS.*Booting from [^\n]*\n", re.DOTALL)
"""What SeaBIOS writes to a serial console (of a machine without graphics) before it jumps into what it boots."""

_CONTROL = re.compile(rb"\x1b\[[0-9;?=]*[A-Za-z]|\x1bc?|[\x00-\x1a\x1c-\x20\x7f]+")


@runtime_checkable
class Hears(Protocol):
    """A readiness step that tells when it first hears of the guest. Implementations are frozen structs.

    Args:
        heard: called when the guest has answered, however much of the step is yet to be done.
    """

    async def run(self, context: ProcessContext, heard: Callable[[], None] = ...) -> None: ...


class LifeSign(msgspec.Struct, frozen=True, kw_only=True):
    """A readiness step: another one, which may take its time once the guest has given a sign of life.

    A sign is a word on the console that is not the firmware's, a write to its disk (which no firmware and no boot
    loader does, but a file system that is checked or mounted does), and whatever the other step hears of it.

    Raises:
        StartFailure: there was none within the patience; and what the other step raises.
    """

    readiness: Hears
    console_log: str
    monitor: str
    """The monitor's Unix socket; it is left free as soon as there was a sign."""
    patience: float
    """Seconds."""

    async def run(self, context: ProcessContext) -> None:
        sign = trio.Event()
        failures: list[StartFailure] = []

        async def get_ready() -> None:
            try:
                await self.readiness.run(context, sign.set)
            except StartFailure as failure:
                failures.append(failure)
            sign.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(get_ready)
            with trio.move_on_after(self.patience):
                await self._await_sign(sign)
            if not sign.is_set():
                nursery.cancel_scope.cancel()
        if not sign.is_set():
            raise StartFailure(f"the guest gave no sign of life within {self.patience:g} s")
        if failures:
            raise failures[0]

    async def _await_sign(self, sign: trio.Event) -> None:
        async def tell(sees: Callable[[], Awaitable[bool]]) -> None:
            if await sees():
                sign.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, self._sees_words)
            nursery.start_soon(tell, self._sees_a_write)
            await sign.wait()
            nursery.cancel_scope.cancel()

    async def _sees_words(self) -> bool:
        try:
            with watching(self.console_log) as watch:
                while not await watch.look(self._has_words):
                    await watch.change()
        except (OSError, StartFailure):  # it cannot be read or watched: then by other signs
            return False
        return True

    def _has_words(self) -> bool:
        with open(self.console_log, "rb") as log:
            return are_words_of_the_guest(log.read(LONGEST_LOOK))

    async def _sees_a_write(self) -> bool:
        try:
            async with connect(self.monitor, wait=True) as monitor:
                for disk in await monitor.execute("query-block"):
                    # An event for the first write beyond the first byte (qapi/block-core.json).
                    threshold = {"node-name": disk["inserted"]["node-name"], "write-threshold": 1}
                    await monitor.execute("block-set-write-threshold", threshold)
                async for event in monitor:
                    if event["event"] == "BLOCK_WRITE_THRESHOLD":
                        return True
        except (OSError, QMPError, KeyError):  # a QEMU of another mind: then by other signs
            return False
        return False


def are_words_of_the_guest(console: bytes) -> bool:
    """Whether what came over a serial console is more than the firmware says."""
    firmware = FIRMWARE.search(console)
    if firmware is None and b"SeaBIOS" in console:
        return len(console) >= LONGEST_LOOK
    return bool(_CONTROL.sub(b"", console[firmware.end() if firmware else 0 :]))
