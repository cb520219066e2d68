"""An entry of the kernel's table of binary formats, as it is written and as it is read back. Pure.

The kernel's document: Documentation/admin-guide/binfmt-misc.rst.
"""

import msgspec

from herdpy.binfmt.platforms import Platform

LONGEST_LINE = 1920
"""Bytes that the kernel takes at once (fs/binfmt_misc.c, MAX_REGISTER_LENGTH)."""
PREFIX = "qemu-"
"""What the names of our entries begin with; the platform's follows."""
IN_ORDER = "POCF"
"""The kernel's order of flags when it shows them."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the kernel run programs of one kind by an interpreter."""

    name: str
    """Of its file in the table."""
    interpreter: str
    magic: str
    """As :class:`Platform` has it; so the mask."""
    mask: str
    flags: str
    """In the kernel's order: P keeps argv[0], O opens the program for the interpreter, C (which has O along) takes the
    program's own set-user-ID bits, F opens the interpreter now, so that it is there in any chroot."""

    @property
    def line(self) -> bytes:
        """What is written to ``register``."""
        magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(text)) for text in (self.magic, self.mask))
        return f":{self.name}:M::{magic}:{mask}:{self.interpreter}:{self.flags}".encode()


class Found(msgspec.Struct, frozen=True):
    """An entry as the kernel shows it."""

    entry: Entry
    enabled: bool


def entry_of(platform: Platform, interpreter: str, flags: str) -> Entry:
    """The entry of a platform; ``flags`` in any order."""
    return Entry(
        name=PREFIX + platform.name,
        interpreter=interpreter,
        magic=platform.magic,
        mask=platform.mask,
        flags=in_order(flags),
    )


def in_order(flags: str) -> str:
    """Flags as the kernel shows them."""
    shown = {*flags, *("O" if "C" in flags else "")}
    return "".join(flag for flag in IN_ORDER if flag in shown)


def parse(name: str, text: str) -> Found:
    """Read what the kernel shows of an entry; one by a file name's extension, or at an offset, has no magic here."""
    state, *lines = text.splitlines() or [""]
    said = dict(line.partition(" ")[::2] for line in lines)
    magic = said.get("magic", "") if said.get("offset", "0") == "0" else ""
    entry = Entry(
        name=name,
        interpreter=said.get("interpreter", ""),
        magic=magic,
        mask=said.get("mask", "ff" * (len(magic) // 2)),
        flags=said.get("flags:", ""),
    )
    return Found(entry, state == "enabled")
