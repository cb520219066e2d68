"""A childhurd's disk as Guix builds it: the one of its own childhurd service, cross-compiled.

Not run with Guix itself, which cannot be had where herdpy is developed: the expression is evaluated by Guile with
modules that stand in for Guix's, the command is one that takes the arguments of ``guix system image``. Sources: the
Guix manual, "Invoking guix system" and "The Hurd in a Virtual Machine"; the modules ``(gnu services virtualization)``
and ``(guix ui)``.
"""

import hashlib
import os

import msgspec

from herdpy.files import content, make_directories
from herdpy.qemu.guix import string
from herdpy.service import Context, StartFailure
from herdpy.threads import in_thread

LARGEST_OS = 1 << 20
"""Bytes of a file that declares an operating system."""

USER_MODULES = "((gnu system) (gnu services) (gnu system shadow))"
"""What ``guix system`` has a declaration see without asking."""


class BuildHurdImage(msgspec.Struct, frozen=True, kw_only=True):
    """A preparation: has ``link`` lead to an image of what is declared by now, and tells how its building goes on.

    It leads there by a second link, named for what was built, which keeps the image from Guix's garbage collector: Guix
    knows a link by its path, so that one cannot be renamed. What led to an image keeps doing so until there is another.
    """

    guix: str
    """The command."""
    os: str | None
    """The file of the operating system; None means Guix's own, ``%hurd-vm-operating-system``."""
    size: str
    """Bytes in digits, or ``guess``."""
    offloading: bool
    """Whether the guest gets an account that the host's Guix offloads builds to."""
    link: str

    async def run(self, context: Context) -> None:
        """Build the image, unless there is one of the same declaration, size and Guix.

        Only what is written in the file ``os`` itself counts, not the files and channels that it takes more from.

        Raises:
            StartFailure: the declaration cannot be read, guix failed (its last lines are the details), or the link's
                directory cannot be written.
        """
        try:
            built = await in_thread(self._place)
            if not await in_thread(os.path.isfile, built):
                await in_thread(_make_way, built)
                await self._build(context, built)
            await in_thread(self._lead_to, built)
        except OSError as error:
            raise StartFailure(f"cannot build the image {self.link}: {error.strerror}: {error.filename}") from None

    @property
    def expression(self) -> str:
        """Guile Scheme whose value is the image.

        Guix adds to the operating system what makes a childhurd of it: its secret service, its network, the account.
        """
        size = "'guess" if self.size == "guess" else self.size
        fields = [
            f"(disk-size {size})",
            f"(offloading? {'#t' if self.offloading else '#f'})",
        ]
        if self.os is not None:
            module = f"((@ (guix ui) make-user-module) '{USER_MODULES})"
            fields.append(f"(os ((@ (guix ui) load*) {string(self.os)} {module}))")
        configuration = f"(hurd-vm-configuration {' '.join(fields)})"
        return f"(begin (use-modules (gnu services virtualization)) (hurd-vm-disk-image {configuration}))"

    async def _build(self, context: Context, root: str) -> None:
        context.progress("building the image with Guix")
        completed = await context.command(
            [self.guix, "system", "image", f"--root={root}", "--expression", self.expression],
            on_line=lambda line: context.progress(f"building the image with Guix: {line.strip()[:60]}"),
        )
        lines = completed.output.splitlines()
        if completed.status != 0:
            said = lines[-1] if lines else f"status {completed.status}"
            raise StartFailure(f"guix could not build the image: {said}", lines[-20:-1])
        if not await in_thread(os.path.isfile, root):
            raise StartFailure(f"guix ended well, but left no image at {root}")

    def _place(self) -> str:
        """Where the link of an image of this declaration, size and Guix is."""
        declared = b"" if self.os is None else content(self.os, LARGEST_OS)
        # The command leads into the store: another Guix is another path.
        made_of = (self.expression.encode(), declared, os.path.realpath(self.guix).encode())
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in made_of)).hexdigest()[:16]
        return f"{self._beginning}{key}"

    @property
    def _beginning(self) -> str:
        return f"{self.link}."

    def _lead_to(self, built: str) -> None:
        """Let the link lead there, and Guix's garbage collector have what it led to before."""
        target = os.path.basename(built)
        if not os.path.islink(self.link) or os.readlink(self.link) != target:
            beside = f"{self._beginning}new"
            if os.path.lexists(beside):
                os.remove(beside)
            os.symlink(target, beside)
            os.rename(beside, self.link)
        directory, beginning = os.path.split(self._beginning)
        for name in os.listdir(directory):
            if name.startswith(beginning) and name != target:
                os.remove(os.path.join(directory, name))


def _make_way(root: str) -> None:
    # guix replaces no root that is there, not even one whose image was collected.
    make_directories(os.path.dirname(root), 0o755)
    if os.path.lexists(root):
        os.remove(root)
