"""A childhurd's disk as Guix builds it, cross-compiled from an operating system's declaration.

Not run with Guix itself, which cannot be had where herdpy is developed: tested with a command that takes the arguments
of ``guix system image``. Sources: the Guix manual, "Invoking guix system" and "Creating System Images".
"""

import hashlib
import os

import msgspec
import trio

from herdpy.files import make_directories, replace
from herdpy.service import Context, StartFailure

DEFAULT_OS = "(@ (gnu services virtualization) %hurd-vm-operating-system)"


class BuildHurdImage(msgspec.Struct, frozen=True, kw_only=True):
    """A preparation: has ``link`` lead to an image of what is declared by now, and tells how its building goes on."""

    guix: str
    """The command."""
    os: str | None
    """The file of the operating system; None means ``DEFAULT_OS``."""
    size: str
    """Bytes in digits, or ``guess``."""
    link: str
    """Also keeps the image from Guix's garbage collector."""

    async def run(self, context: Context) -> None:
        """Build the image, unless the link leads to one of the same declaration, size and Guix.

        Raises:
            StartFailure: the declaration cannot be read, guix failed (its last lines are the details), or the link's
                directory cannot be written.
        """
        try:
            recipe = await trio.to_thread.run_sync(self._recipe)
            if await trio.to_thread.run_sync(self._is_built, recipe):
                return
            await trio.to_thread.run_sync(self._forget)
            await self._build(context)
            await trio.to_thread.run_sync(replace, self._recipe_file, recipe, 0o644)
        except OSError as error:
            raise StartFailure(f"cannot build the image {self.link}: {error.strerror}: {error.filename}") from None

    async def _build(self, context: Context) -> None:
        context.progress("building the image with Guix")
        source = ["--expression", DEFAULT_OS] if self.os is None else [self.os]
        command = [self.guix, "system", "image", "--image-type=hurd-qcow2", f"--image-size={self.size}"]
        completed = await context.command(
            [*command, f"--root={self.link}", *source],
            on_line=lambda line: context.progress(f"building the image with Guix: {line.strip()[:60]}"),
        )
        lines = completed.output.splitlines()
        if completed.status != 0:
            said = lines[-1] if lines else f"status {completed.status}"
            raise StartFailure(f"guix could not build the image: {said}", lines[-20:-1])
        if not await trio.to_thread.run_sync(os.path.isfile, self.link):
            raise StartFailure(f"guix ended well, but left no image at {self.link}")

    @property
    def _recipe_file(self) -> str:
        return f"{self.link}.recipe"

    def _recipe(self) -> bytes:
        declared = DEFAULT_OS.encode()
        if self.os is not None:
            with open(self.os, "rb") as file:
                declared = file.read()
        # The command leads into the store: another Guix is another path.
        made_of = "\n".join((hashlib.sha256(declared).hexdigest(), self.size, os.path.realpath(self.guix)))
        return f"{made_of}\n".encode()

    def _is_built(self, recipe: bytes) -> bool:
        try:
            with open(self._recipe_file, "rb") as file:
                return file.read() == recipe and os.path.isfile(self.link)
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        # guix replaces no root that is there.
        make_directories(os.path.dirname(self.link), 0o755)
        for path in (self._recipe_file, self.link):
            if os.path.lexists(path):
                os.remove(path)
