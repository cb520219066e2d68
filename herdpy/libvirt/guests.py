"""The guests whose logs virtlogd writes, as its open files tell: it knows of them although libvirtd may be down.

A log ends for ever when virtlogd ends: QEMU writes into a pipe whose other end only that process has.
"""

import os
import stat

import msgspec
import trio

from herdpy.service import ProcessContext, StartFailure


class KeepLogs(msgspec.Struct, frozen=True, kw_only=True):
    """The consent of virtlogd: it had better run on while it writes logs."""

    own: frozenset[str]
    """As :func:`logged` takes it."""

    async def run(self, context: ProcessContext) -> None:
        """Look.

        Raises:
            StartFailure: the guests' names.
        """
        guests = await trio.to_thread.run_sync(logged, context.pid, self.own, abandon_on_cancel=True)
        if guests:
            raise StartFailure(
                f"it writes the logs of {', '.join(guests)}, which would end for ever; shut the guests down first, "
                f"replace the program with herd reexec {context.name}, or insist with herd stop {context.name} --force"
            )


def logged(pid: int, own: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The names of the guests whose logs a virtlogd writes; of a log of a person's choosing its path.

    Args:
        own: paths of virtlogd's own logs.
    """
    found = set()
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it has just ended
        return ()
    for number in numbers:
        path = _appended_to(f"/proc/{pid}", number)
        if path is not None and path not in own:
            found.add(_guest(path))
    return tuple(sorted(found))


def _appended_to(process: str, number: str) -> str | None:
    """The path of a regular file that a process has open for appending (proc(5), fdinfo); None of anything else."""
    try:
        with open(f"{process}/fdinfo/{number}", encoding="ascii") as file:
            flags = next((int(line.split()[1], 8) for line in file if line.startswith("flags:")), 0)
        if not flags & os.O_APPEND or not stat.S_ISREG(os.stat(f"{process}/fd/{number}").st_mode):
            return None
        return os.readlink(f"{process}/fd/{number}").removesuffix(" (deleted)")
    except OSError:  # closed meanwhile
        return None


def _guest(path: str) -> str:
    """``build`` of ``/var/log/libvirt/qemu/build.log``, which every guest has."""
    directory, name = os.path.split(path)
    if directory.endswith(("/libvirt/qemu", "/libvirt/qemu/log")) and name.endswith(".log"):
        return name.removesuffix(".log")
    return path
