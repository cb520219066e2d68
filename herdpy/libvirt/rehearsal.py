"""Trying a virtlogd with a configuration file before the one that runs is made to take it: that one has no way back.

The one that is tried has a /run/libvirt of its own, in memory, so that it meets neither the sockets nor the PID file of
the one that runs. It is ended as soon as it has said that it is ready.
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

PATIENCE = 20.0
"""Seconds; an idle host takes 50 ms."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_RUN = (
    *("unshare", "--mount", "--propagation", "private"),
    *("sh", "-c", 'mkdir -p /run/libvirt && mount -t tmpfs none /run/libvirt && exec "$@"', "sh"),
)
IDLE_LIMIT = "30"
"""Seconds after which the one that is tried ends by itself, should nobody end it (``--timeout``)."""
STAMP = re.compile(r"\A(?:[0-9-]{10} [0-9:.+]+: [0-9]+|libvirt): +(?:error|warning) : (?:\w+:\d+ : )?")
"""What libvirt's daemons write before a message."""


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How to try it."""

    program: str
    is_root: bool

    async def run(self, context: Context, path: str) -> None:
        """Start a virtlogd with the configuration file ``path``, and end it once it is ready.

        Raises:
            StartFailure: it does not get ready; why.
        """
        if self.is_root:
            completed = await _until_ready(context, (*OWN_RUN, *self._command(path, "/run/libvirt/virtlogd.pid")), {})
            if completed is not None and completed.output.startswith(("unshare:", "mount:")):
                return  # this host (a container, mostly) lets nobody try it: what was checked before has to do
        else:
            completed = await self._try_as_user(context, path)
        if completed is not None:
            said = completed.output.strip().rpartition("\n")[2]
            why = STAMP.sub("", said) or f"it ended with {completed.status}"
            raise StartFailure(f"{self.program} does not start with it: {why}")

    async def _try_as_user(self, context: Context, path: str) -> Completed | None:
        directory = await trio.to_thread.run_sync(
            lambda: tempfile.mkdtemp(prefix="herdpy-", dir=os.environ.get("XDG_RUNTIME_DIR"))
        )
        try:
            command = self._command(path, os.path.join(directory, "virtlogd.pid"))
            return await _until_ready(context, command, {"XDG_RUNTIME_DIR": directory})
        finally:
            with trio.CancelScope(shield=True):  # a few files in memory
                await trio.to_thread.run_sync(shutil.rmtree, directory)

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
