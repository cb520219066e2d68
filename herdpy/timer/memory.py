"""What a timer remembers: for its successor in another supervisor, and on disk for another herdpy."""

import os
from typing import Literal

import msgspec

RUNS_KEPT = 10
"""Past runs that are remembered."""
LARGEST_RECORD = 64 * 1024
"""Bytes of a record; ours have a few hundred."""

Why = Literal["scheduled", "made up for", "triggered", "at start"]


class Run(msgspec.Struct):
    """One run of the command, under way, past, or yet to begin."""

    key: str
    """Names its process for the keeper."""
    why: Why
    due: float
    """When it was due, or asked for; this and the others in seconds since the epoch."""
    began: float | None = None
    began_uptime: float = 0.0
    """The same moment in seconds of CLOCK_BOOTTIME, which nobody sets."""
    ended: float | None = None
    """Of a run that never began: when that was decided."""
    seconds: float | None = None
    """How long it took."""
    reason: str = ""
    """How it ended, in words to follow "it"."""
    code: int | None = None
    """Its exit code, if it had one."""


class Memory(msgspec.Struct):
    """A timer's state: everything but its declaration."""

    anchor: float
    """What an interval counts from, in seconds of the schedule's clock."""
    last: float
    """Every moment up to this one, in seconds of the schedule's clock, has been dealt with."""
    count: int = 0
    """Runs so far, for their keys."""
    current: Run | None = None
    """The run that is under way. It is remembered before its process is spawned, and forgotten after that has ended
    but before the keeper lets go of it: whoever finds it here without a process knows that there has been none."""
    waiting: Run | None = None
    past: list[Run] = []
    """Newest first."""
    schedule: str = ""
    """The schedule that the moments are of, in JSON; empty in what a former release remembered."""


class Record(msgspec.Struct):
    """What a persistent timer keeps on disk."""

    last: float
    """Every moment up to this one, in seconds since the epoch, has been dealt with."""
    past: list[Run] = []


def read_memory(text: str) -> Memory | None:
    """What was remembered; None when that was nothing, or is not understood."""
    try:
        return msgspec.json.decode(text, type=Memory) if text else None
    except msgspec.MsgspecError:
        return None


def read_record(path: str) -> Record | None:
    """Read a record; None when there is none yet. Blocks: call it in a thread.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no record.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        text = file.read(LARGEST_RECORD)
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is no record of a timer: {error}") from None


def write_record(path: str, record: Record) -> None:
    """Replace a record: whoever reads it, also after a crash of the host, finds the old one or the new one. Blocks.

    Raises:
        OSError: it cannot be written.
    """
    directory, name = os.path.split(path)
    os.makedirs(directory, 0o700, exist_ok=True)
    beside = os.path.join(directory, f".{name}.new")  # one attendant writes it, one write at a time
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(descriptor)
    os.replace(beside, path)
