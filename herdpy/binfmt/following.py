"""What a service of registered platforms does while it runs: it registers anew what was replaced on disk.

With flag F the kernel keeps an interpreter open from the moment it is registered, so that an upgrade of QEMU changes
nothing until then; nor can the file be written to, so that an upgrade always puts another one in its place.
"""

from functools import partial

import msgspec
import trio

from herdpy.binfmt import table
from herdpy.binfmt.entry import Entry
from herdpy.binfmt.registration import Memory, as_told, change, recall
from herdpy.service import AttendantContext, End, StartFailure
from herdpy.threads import in_thread
from herdpy.watch import Watch, watching

QUIET = 2.0
"""Seconds without a change of the file after which an upgrade is taken for done."""
DETAIL = "not registered anew"


class Follow(msgspec.Struct, frozen=True, kw_only=True):
    """The attendant."""

    entries: tuple[Entry, ...]

    async def run(self, context: AttendantContext) -> End:
        """Watch each interpreter until the service is stopped.

        Raises:
            StartFailure: nothing can be watched.
        """
        memory = recall(context) or Memory(entries=await in_thread(as_told, context.details))
        if memory.entries != self.entries:
            await self._catch_up(context, memory)
        paths = {entry.interpreter for entry in self.entries}
        memory.interpreters = {path: seen for path, seen in memory.interpreters.items() if path in paths}
        await _remember(context, memory)
        async with trio.open_nursery(strict_exception_groups=False) as nursery:
            for path in sorted(paths):
                nursery.start_soon(self._follow, path, memory, context)
            await trio.sleep_forever()
        raise AssertionError("a nursery that sleeps for ever is left only by an exception")

    async def _catch_up(self, context: AttendantContext, memory: Memory) -> None:
        """Do what is yet to be done for another declaration: by a predecessor that was killed meanwhile, or by the
        start, which had begun with the last one."""
        try:
            await change(context, memory.entries, self.entries)
        except StartFailure as failure:
            context.log("platforms-not-registered", reason=failure)
            context.detail("problem", str(failure))
        else:
            memory.entries = self.entries

    async def _follow(self, path: str, memory: Memory, context: AttendantContext) -> None:
        with watching(path) as watch:
            while True:
                known = memory.interpreters.get(path)
                found = await watch.look(partial(table.identity, path))
                if found is None or found == known:
                    await watch.change()
                    continue
                entries = [entry for entry in self.entries if entry.interpreter == path]
                if known is not None or await in_thread(table.is_older, entries[0]):
                    found = await self._settled(path, watch)
                    if found is None:
                        continue
                    await self._renew(context, entries)
                memory.interpreters[path] = found
                await _remember(context, memory)

    async def _settled(self, path: str, watch: Watch) -> table.Identity | None:
        """Wait until nothing has happened for a while: a package is unpacked file by file."""
        while True:
            found: table.Identity | None = await watch.look(partial(table.identity, path))
            with trio.move_on_after(QUIET) as quiet:
                await watch.change()
            if quiet.cancelled_caught:
                return found

    async def _renew(self, context: AttendantContext, entries: list[Entry]) -> None:
        for entry in entries:
            try:
                await in_thread(table.renew, entry)
            except table.Refused as refused:
                context.log("platform-not-registered-anew", platform=entry.name, reason=refused)
                context.detail(DETAIL, f"{refused}; the old {entry.interpreter} is used on")
            else:
                context.log("platform-registered-anew", platform=entry.name)
                context.detail(DETAIL, None)


async def _remember(context: AttendantContext, memory: Memory) -> None:
    await context.remember(msgspec.json.encode(memory).decode())
