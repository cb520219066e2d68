"""What is told of platforms when asked: ``herd platforms NAME``, ``herd lookup NAME PLATFORM...``."""

import os
from collections.abc import Sequence

import msgspec

from herdpy.binfmt import table
from herdpy.binfmt.entry import PREFIX, Entry
from herdpy.binfmt.platforms import PLATFORMS, nearest
from herdpy.service import ActionContext, ActionFailure
from herdpy.threads import in_thread


class Row(msgspec.Struct, frozen=True, rename="kebab"):
    """What is told of a platform."""

    name: str
    family: str
    registered: str
    """``yes``, ``no``, or what stands there instead."""
    binary: str
    """Its interpreter's path."""
    binary_is_there: bool
    magic: str
    mask: str


class ShowPlatforms(msgspec.Struct, frozen=True, kw_only=True):
    """Tell all platforms."""

    entries: tuple[Entry, ...]
    """As each of them would be registered."""
    own_family: str
    """The host's."""

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Tell them in lines, or with ``--json`` as one text.

        Raises:
            ActionFailure: it was given other arguments.
        """
        if arguments and list(arguments) != ["--json"]:
            raise ActionFailure(f"platforms takes no arguments but --json, and {' '.join(arguments)} was given")
        rows = await in_thread(_rows, self.entries, abandon_on_cancel=True)
        if arguments:
            return msgspec.json.format(msgspec.json.encode(rows)).decode()
        context.print(f"{'platform':13} {'family':13} {'registered':11} binary")
        for row in rows:
            is_own = row.family == self.own_family and row.registered == "no"
            registered = "the host's" if is_own else row.registered
            binary = row.binary if row.binary_is_there else f"missing: {row.binary}"
            context.print(f"{row.name:13} {row.family:13} {registered:11} {binary}")
        return None


class LookUp(msgspec.Struct, frozen=True, kw_only=True):
    """Tell what is known of some platforms."""

    entries: tuple[Entry, ...]

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Tell them in lines, or with ``--json`` first as one text.

        Raises:
            ActionFailure: there is no platform of a name; or none was given.
        """
        is_json = list(arguments[:1]) == ["--json"]
        wanted = arguments[1:] if is_json else arguments
        if not wanted:
            raise ActionFailure(f"name the platforms: herd lookup {context.name} arm aarch64")
        for name in wanted:
            if name not in PLATFORMS:
                raise ActionFailure(unknown(name))
        entries = tuple(entry for name in wanted for entry in self.entries if entry.name == PREFIX + name)
        rows = await in_thread(_rows, entries, abandon_on_cancel=True)
        if is_json:
            return msgspec.json.format(msgspec.json.encode(rows)).decode()
        for row in rows:
            context.print(f"{row.name}:")
            context.print(f"  family      {row.family}")
            context.print(f"  magic       {row.magic}")
            context.print(f"  mask        {row.mask}")
            context.print(f"  binary      {row.binary}{'' if row.binary_is_there else ' (missing)'}")
            context.print(f"  registered  {row.registered}")
        return None


def unknown(name: str) -> str:
    """That there is no such platform, and which may be meant."""
    guesses = nearest(name)
    meant = f"did you mean {' or '.join(guesses)}?" if guesses else f"there are {', '.join(PLATFORMS)}"
    return f"there is no platform {name!r}; {meant}"


def _rows(entries: tuple[Entry, ...]) -> list[Row]:
    return [_row(entry) for entry in entries]


def _row(entry: Entry) -> Row:
    platform = PLATFORMS[entry.name.removeprefix(PREFIX)]
    try:
        found = table.find(entry.name)
    except OSError as error:
        registered = f"unknown: {error.strerror}"
    else:
        registered = "no"
        if found is not None:
            registered = "yes" if found.enabled else "switched off"
            if found.entry != entry:
                registered = f"otherwise, for {found.entry.interpreter}"
    is_there = os.access(entry.interpreter, os.X_OK)
    return Row(platform.name, platform.family, registered, entry.interpreter, is_there, entry.magic, entry.mask)
