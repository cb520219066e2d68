"""What the keeper remembers of a service, so that the next supervisor goes on where this one ended."""

from typing import Literal

import msgspec

from herdpy.service import End
from herdpy.supervisor.log import log

Status = Literal["stopped", "starting", "running", "stopping"]

NOTE_VERSION = 1


class Note(msgspec.Struct):
    """A service's state, written before what it announces is begun."""

    version: int
    status: Status
    enabled: bool
    stop_asked: bool
    """Of a stopping service: whether someone asked for it, or its process ended by itself."""
    arguments: tuple[str, ...]
    changes: list[tuple[Status, float]]
    respawns: list[float]
    deaths: list[float]
    failures: list[float]
    reason: str | None
    details: dict[str, str]
    declaration: str = ""
    """What the service carried along of its declaration."""
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


def read_note(name: str, text: str | None) -> Note | None:
    """What the keeper kept of a service for the next supervisor; None when that is nothing, or makes no sense."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Note)
    except msgspec.MsgspecError as error:
        log("note-not-understood", service=name, reason=error)
        return None
