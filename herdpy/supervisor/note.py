"""What the keeper remembers of a service, so that the next supervisor goes on where this one ended."""

from typing import Literal

import msgspec

from herdpy.keeper.message import is_near
from herdpy.service import End
from herdpy.supervisor.log import log

Status = Literal["stopped", "starting", "running", "stopping"]

NOTE_VERSION = 1
"""As of the keeper's line (herdpy/keeper/message.py): neighbours understand each other, for what one does not know it
leaves out, and what it misses has a default."""


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change of a service's state."""

    status: Status
    at: float
    """Seconds since the epoch."""


class Note(msgspec.Struct, omit_defaults=True):
    """A service's state, written before what it announces is begun."""

    version: int
    status: Status
    enabled: bool = True
    stop_asked: bool = False
    """Of a stopping service: whether someone asked for it, or its process ended by itself."""
    arguments: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    respawns: tuple[float, ...] = ()
    deaths: tuple[float, ...] = ()
    failures: tuple[float, ...] = ()
    reason: str | None = None
    details: dict[str, str] = {}
    running_since: float | None = None
    streak: int = 0
    memory: str = ""
    """What its attendant asked to be remembered."""
    complaint: str | None = None
    """Of a stopping service: why its process is being ended although nobody asked, in words that follow "it"."""
    due: float | None = None
    """Of one that is to be respawned: when, in seconds of CLOCK_BOOTTIME."""
    activating: bool = False
    """Of a lazy service: whether its process is being spawned, or has yet to get ready."""
    end: End | None = None
    """How its process ended, from before the keeper forgets that until it has been dealt with."""
    stop_signal: int | None = None
    """What its processes are sent to stop it, and"""
    grace_period: float | None = None
    """the seconds from that to SIGKILL: for a supervisor that reads no declarations (herdpy/minimal)."""
    given_up: bool = False
    """Of a disabled one: whether it was respawned too often, not disabled by hand."""
    untold: tuple[str, str] | None = None
    """The process whose end is yet to be told, by its id, and the reason: it is buried along with the spawn of the next
    one."""
    has_run: bool = True
    """Of one that is starting: whether it has run since it was started."""
    owed: tuple[str, ...] = ()
    """The services of which it is to be started as soon as one runs."""


def key_of_state(name: str) -> str:
    """The key of the note that holds a service's :class:`Note`."""
    return f"service:{name}"


def key_of_declaration(name: str) -> str:
    """The key of the note that holds what a service carries along of its declaration (``Service.declaration``): it is
    long, and seldom another than it was when its state is."""
    return f"declaration:{name}"


def read_note(name: str, text: str | None) -> Note | None:
    """What the keeper kept of a service for the next supervisor; None when that is nothing, or makes no sense."""
    if text is None:
        return None
    try:
        note = msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError as error:
        log("note-not-understood", service=name, reason=error)
        return None
    if not is_near(note.version, NOTE_VERSION):
        log("note-not-understood", service=name, reason=f"it has version {note.version}, and this is {NOTE_VERSION}")
        return None
    return note
