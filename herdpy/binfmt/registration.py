"""The steps of a service that has programs of other platforms run: registering them, and undoing it."""

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import trio

from herdpy.binfmt import table
from herdpy.binfmt.entry import PREFIX, Entry
from herdpy.binfmt.platforms import PLATFORMS
from herdpy.preparation.insisting import Insisting, insist
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

DETAIL = "registered"
"""The detail that says which platforms are: their names, or that none is."""
SEPARATOR, NOTHING = ", ", "nothing"
PATIENCE = 5.0
"""Seconds for undoing what was half done; it takes microseconds."""
PACKAGE = "qemu-user-static"


class Interpreters(Insisting, frozen=True, kw_only=True):
    """See that the emulators are there: before anything is registered, and all that are missing at once."""

    paths: tuple[str, ...]
    known: tuple[str, ...]
    """Of all platforms. Who wants none yet is told when there is not a single one: that QEMU is not installed."""
    where: str
    """Where others can be named: ``qemu in FILE``."""

    def lack(self) -> str | None:
        """What is missing, and how to get it; it may wait for a disk."""
        missing = [path for path in self.paths if not os.path.exists(path)]
        if not self.paths and not any(os.path.exists(path) for path in self.known):
            missing = list(self.known)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return f"not installed: there is no {missing[0]}{more}; apt-get install {PACKAGE}, or set {self.where}"
        for path in self.paths:
            if not os.path.isfile(path) or not os.access(path, os.X_OK):
                return f"{path} cannot be executed; set {self.where}"
        return None


class KernelTable(msgspec.Struct, frozen=True):
    """See that the kernel has the table, loading its module if need be. Mounting it is the next step's."""

    async def run(self, context: Context) -> None:
        """Look.

        Raises:
            StartFailure: it has none.
        """
        if await in_thread(self.lack, abandon_on_cancel=True) is None:
            return
        with trio.move_on_after(PATIENCE):
            with contextlib.suppress(StartFailure):  # a host without modules has no modprobe
                await context.command(["modprobe", "binfmt_misc"])
        await insist(self)

    def lack(self) -> str | None:
        """What is missing, and how to get it."""
        if os.path.isdir(table.DIRECTORY):
            return None
        return "this kernel has no binfmt_misc, or its module is not loaded; as root of the host: modprobe binfmt_misc"


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Register platforms: all of them, or none."""

    entries: tuple[Entry, ...]

    async def run(self, context: Context) -> None:
        """Register each; one that is there already, just so, is taken over.

        Raises:
            StartFailure: one could not be registered, and those that were are no longer.
        """
        await insist(self)
        await change(context, (), self.entries)

    def lack(self) -> str | None:
        """What keeps us from it, and how to mend that; nothing is known while the table is not mounted."""
        status = os.path.join(table.DIRECTORY, "status")
        try:
            with open(status, encoding="ascii") as file:
                if file.read().strip() == "disabled":
                    return f"binfmt_misc is switched off for the whole host; switch it on: echo 1 > {status}"
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"cannot read {status}: {error.strerror}"
        try:
            os.close(os.open(os.path.join(table.DIRECTORY, "register"), os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            return table.cannot_write("register", error)
        return None


class Unregister(msgspec.Struct, frozen=True, kw_only=True):
    """Remove what was registered, and nothing of anybody else's."""

    entries: tuple[Entry, ...]
    """As it is declared; what was registered may have been declared otherwise."""

    async def run(self, context: Context) -> None:
        """Remove each that is still ours.

        Raises:
            StartFailure: one cannot be removed.
        """
        if context.details.get(DETAIL) is None:
            return
        memory = recall(context)
        registered = await in_thread(as_told, context.details) if memory is None else memory.entries
        for entry in dict.fromkeys((*registered, *self.entries)):
            await _at_the_table(partial(table.remove, entry))
        context.detail(DETAIL, None)


class Become(msgspec.Struct, frozen=True, kw_only=True):
    """Come from what was registered to what is to be, touching nothing that both have."""

    before: tuple[Entry, ...]
    after: tuple[Entry, ...]

    async def run(self, context: Context) -> None:
        """Do it.

        Raises:
            StartFailure: it could not be done, and everything is as it was.
        """
        await change(context, self.before, self.after)


class Memory(msgspec.Struct):
    """What the attendant remembers: its successor in another supervisor must know it, and who undoes all of it."""

    entries: tuple[Entry, ...] = ()
    """What is registered."""
    interpreters: dict[str, table.Identity] = {}
    """By path: those that it is registered with."""


def recall(context: Context) -> Memory | None:
    """What the attendant remembers, if there has been one since the start."""
    return msgspec.json.decode(context.memory, type=Memory) if context.memory else None


def as_told(details: Mapping[str, str]) -> tuple[Entry, ...]:
    """What a start has just registered, as its details tell and the table shows: it may have begun when the service was
    declared otherwise. What is not for the platform's programs somebody else has put in its place."""
    entries = []
    for name in details.get(DETAIL, NOTHING).split(SEPARATOR):
        platform = PLATFORMS.get(name)
        if platform is None:
            continue
        try:
            there = table.find(PREFIX + name)
        except OSError:
            continue
        if there is not None and (there.entry.magic, there.entry.mask) == (platform.magic, platform.mask):
            entries.append(there.entry)
    return tuple(entries)


async def change(context: Context, before: tuple[Entry, ...], after: tuple[Entry, ...]) -> None:
    """Come from some entries to others: all the way, or not at all.

    Raises:
        StartFailure: the table refused something.
    """
    known = {entry.name: entry for entry in before}
    wanted = {entry.name for entry in after}
    undo: list[Callable[[], object]] = []
    try:
        for entry in after:
            old = known.get(entry.name)
            if old is not None and old != entry:
                await _at_the_table(partial(table.renew, entry))
                undo.append(partial(table.renew, old))
            elif await _at_the_table(partial(table.add, entry)):
                undo.append(partial(table.remove, entry))
        for entry in before:
            if entry.name in wanted:
                continue
            if await _at_the_table(partial(table.remove, entry)):
                undo.append(partial(table.add, entry))
    except BaseException:
        with trio.move_on_after(PATIENCE, shield=True):
            for step in reversed(undo):
                try:
                    await _at_the_table(step)
                except StartFailure as failure:
                    context.progress(f"undoing what was half done: {failure}")
        raise
    tell(context, after)


def tell(context: Context, entries: tuple[Entry, ...]) -> None:
    """Have the status say what is registered."""
    context.detail(DETAIL, SEPARATOR.join(entry.name.removeprefix(PREFIX) for entry in entries) or NOTHING)


async def _at_the_table(do: Callable[[], object]) -> object:
    """Do one thing whole: who is cancelled must know whether it was done."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        return await in_thread(do)
    except table.Refused as refused:
        raise StartFailure(str(refused)) from None
