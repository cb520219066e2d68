"""What the installed libvirt's own lens has to say of a daemon's configuration file, where augeas is there: libvirt's
daemons ignore a key they do not know without a word, and which keys they know changes from release to release.

A lens (augeas(7)) comes with each daemon and has its keys. It knows no values.
"""

import os
import re
import shutil

import trio

from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

DETAIL = "ignored"
PATIENCE = 10.0
"""Seconds; it takes 15 ms."""
FAILED_AT = re.compile(r'^/augeas/files/.*/error/line = "([0-9]+)"$', re.MULTILINE)


async def tell_what_is_ignored(context: Context, path: str, lens: str) -> None:
    """Have the status name the first line of a file that the lens does not know. Nothing that fails here matters.

    Args:
        path: the file's, absolute.
        lens: its module's name, as ``Libvirtd`` (/usr/share/augeas/lenses/libvirtd.aug).
    """
    context.detail(DETAIL, await _first_unknown(context, path, lens))


async def _first_unknown(context: Context, path: str, lens: str) -> str | None:
    program = await in_thread(shutil.which, "augtool", abandon_on_cancel=True)
    if program is None:
        return None
    directory, name = os.path.split(path)
    # The file's directory as its root: nothing else there is read, and no other lens.
    transform = ("--root", directory, "--noautoload", "--transform", f"{lens}.lns incl /{name}")
    with trio.move_on_after(PATIENCE):
        try:
            completed = await context.command((program, *transform, "print", "/augeas/files//error"))
        except StartFailure:
            return None
        failed = FAILED_AT.search(completed.output)
        if failed is not None:
            number = int(failed[1])
            return f"{await in_thread(_line, path, number)}: this libvirt's lens does not know it"
    return None


def _line(path: str, number: int) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()[number - 1]
    except (OSError, IndexError):
        return f"line {number} of {path}"
