"""Trying a daemon of libvirt's with a configuration file before the one that runs is made to take it: virtlogd has no
way back, and libvirtd would be down.

The one that is tried has a /run/libvirt of its own, in memory, so that it meets neither the sockets nor the PID file of
the one that runs. It is ended as soon as it has said that it is ready: libvirtd has begun to see to its drivers then,
but finds no domain and no network that it would start.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Sequence

import msgspec
import trio

from herdpy.service import Completed, Context, StartFailure
from herdpy.threads import in_thread

PATIENCE = 20.0
"""Seconds; an idle host takes 50 ms."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HIDDEN = ("/run/libvirt",)
HIDE = 'while [ "$1" != -- ]; do mkdir -p "$1" && mount -t tmpfs none "$1" || exit; shift; done; shift; exec "$@"'
DIRECTORIES_OF_A_USER = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
IDLE_LIMIT = "30"
"""Seconds after which the one that is tried ends by itself, should nobody end it (``--timeout``)."""
STAMP = re.compile(r"\A(?:[0-9-]{10} [0-9:.+]+: [0-9]+|libvirt): +(?:error|warning) : (?:\w+:\d+ : )?")
"""What libvirt's daemons write before a message."""


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How to try it."""

    program: str
    is_root: bool
    hidden: tuple[str, ...] = HIDDEN
    """Directories in whose places it has empty ones; an ordinary user's has all its directories of its own."""

    async def run(self, context: Context, path: str) -> None:
        """Start one with the configuration file ``path``, and end it once it is ready.

        Raises:
            StartFailure: it does not get ready; why.
        """
        if self.is_root:
            alone = (
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                HIDE,
                "sh",
                *self.hidden,
                "--",
            )
            completed = await _until_ready(context, (*alone, *self._command(path, "/run/libvirt/tried.pid")), {})
            if completed is not None and completed.output.startswith(("unshare:", "mount:", "mkdir:")):
                return  # this host (a container, mostly) lets nobody try it: what was checked before has to do
        else:
            completed = await self._try_as_user(context, path)
        if completed is not None:
            said = completed.output.strip().rpartition("\n")[2]
            why = STAMP.sub("", said) or f"it ended with {completed.status}"
            raise StartFailure(f"{self.program} does not start with it: {why}")

    async def _try_as_user(self, context: Context, path: str) -> Completed | None:
        directory = await in_thread(lambda: tempfile.mkdtemp(prefix="herdpy-", dir=os.environ.get("XDG_RUNTIME_DIR")))
        try:
            command = self._command(path, os.path.join(directory, "tried.pid"))
            return await _until_ready(context, command, dict.fromkeys(DIRECTORIES_OF_A_USER, directory))
        finally:
            with trio.CancelScope(shield=True):  # a few files in memory
                await in_thread(shutil.rmtree, directory)

    def _command(self, path: str, pid_file: str) -> tuple[str, ...]:
        return (self.program, "-f", path, "-p", pid_file, "-t", IDLE_LIMIT)


async def _until_ready(context: Context, command: Sequence[str], variables: dict[str, str]) -> Completed | None:
    """Run a command until it says READY=1 (sd_notify(3)), then end it; if it ended by itself, how.

    Raises:
        StartFailure: it cannot be executed, or does neither in time.
    """
    name = f"herdpy-{os.urandom(16).hex()}"  # abstract (unix(7)): its own /run hides no such name
    completed: Completed | None = None
    failure: StartFailure | None = None
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        await heard.bind(f"\0{name}")
        with trio.move_on_after(PATIENCE) as waiting:
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    while b"READY=1" not in (await heard.recv(4096)).split(b"\n"):
                        pass
                    nursery.cancel_scope.cancel()

                nursery.start_soon(hear)
                environment = {
                    "PATH": os.environ.get("PATH", PATH),
                    "HOME": os.environ.get("HOME", "/"),
                    "NOTIFY_SOCKET": f"@{name}",
                }
                try:
                    completed = await context.command(command, environment=environment | variables)
                except StartFailure as problem:
                    failure = problem
                nursery.cancel_scope.cancel()
    if waiting.cancelled_caught:
        raise StartFailure(f"{command[-7]} with it was not ready after {PATIENCE:g} s")
    if failure is not None:
        raise failure
    return completed
