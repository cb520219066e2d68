"""The guests whose logs virtlogd writes, as its open files tell: it knows of them although libvirtd may be down.

A log ends for ever when virtlogd ends: QEMU writes into a pipe whose other end only that process has.
"""

import os
import stat
from collections.abc import Sequence

import msgspec

from herdpy.libvirt.places import runtime_directory
from herdpy.service import Context, ProcessContext, StartFailure
from herdpy.threads import in_thread

LOST = "lost logs"
"""The detail that names guests whose logs have ended."""


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for the guests whose logs a virtlogd writes."""

    own: frozenset[str]
    """Paths of virtlogd's own logs, which are no guest's, though they be renamed meanwhile (logrotate(8))."""
    is_root: bool

    async def guests(self, pid: int) -> tuple[str, ...]:
        """The names of the guests whose logs the process writes, or the logs' paths if they are of none that runs.

        Nothing when it writes none, or has just ended.
        """
        return await in_thread(_guests, pid, self.own, self.is_root, abandon_on_cancel=True)


class KeepLogs(msgspec.Struct, frozen=True, kw_only=True):
    """The consent of virtlogd: it had better run on while it writes logs."""

    logs: Logs

    async def run(self, context: ProcessContext) -> None:
        """Look.

        Raises:
            StartFailure: the guests' names.
        """
        guests = await self.logs.guests(context.pid)
        if guests:
            raise StartFailure(
                f"it writes the logs of {', '.join(guests)}, which would end for ever; shut the guests down first, "
                f"replace the program with herd reexec {context.name}, or insist with herd stop {context.name} --force"
            )


class TellLostLogs(msgspec.Struct, frozen=True, kw_only=True):
    """A step before virtlogd starts: guests that run by now have lost their logs with the last one, and nothing else
    tells."""

    is_root: bool

    async def run(self, context: Context) -> None:
        """Have the status say so."""
        lost = await in_thread(_running, self.is_root, abandon_on_cancel=True)
        text = f"{', '.join(lost)}: the logs ended with the last virtlogd, and begin at each guest's next start"
        context.detail(LOST, text if lost else None)


def _running(is_root: bool) -> list[str]:
    directory = _pid_files(is_root=is_root)
    return sorted(name for name in running(directory) if _is_alive(os.path.join(directory, f"{name}.pid")))


def _is_alive(pid_file: str) -> bool:
    try:
        with open(pid_file, encoding="ascii") as file:
            return os.path.exists(f"/proc/{int(file.read())}")
    except (OSError, ValueError):  # removed meanwhile, or yet to be written
        return False


def _guests(pid: int, own: frozenset[str], is_root: bool) -> tuple[str, ...]:
    files = open_files(pid)
    if not reads_from_others(files):  # it has one pipe of each guest's port, at least
        return ()
    own_files = {(seen.st_dev, seen.st_ino) for seen in filter(None, map(_seen, own))}
    logs = {file.path for file in files if file.is_log and file.identity not in own_files and file.path not in own}
    names = {os.path.basename(log).removesuffix(".log") for log in logs} & running(_pid_files(is_root=is_root))
    return tuple(sorted(names or logs))


class OpenFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a process has open."""

    path: str
    flags: int
    """As of open(2)."""
    mode: int
    """Of what kind it is (inode(7))."""
    identity: tuple[int, int]
    """Its device and inode: a file that was renamed, or is known by a link, has the same."""

    @property
    def is_log(self) -> bool:
        """Whether it is a regular one, for appending."""
        return bool(self.flags & os.O_APPEND) and stat.S_ISREG(self.mode)


def open_files(pid: int) -> list[OpenFile]:
    """What a process has open; nothing when it has just ended."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    return [file for number in numbers if (file := _open_file(f"/proc/{pid}", number)) is not None]


def reads_from_others(files: Sequence[OpenFile]) -> bool:
    """Whether a process has the end to read from of a pipe that it does not write into itself."""
    pipes = [file for file in files if stat.S_ISFIFO(file.mode)]
    written = {pipe.identity for pipe in pipes if pipe.flags & os.O_ACCMODE != os.O_RDONLY}
    return any(pipe.identity not in written for pipe in pipes)


def running(directory: str) -> set[str]:
    """The guests that run, by libvirt's PID and status files: each has a log of its name, and may have others."""
    try:
        names = set(os.listdir(directory))
    except OSError:  # there has never been a guest
        return set()
    guests = {name.removesuffix(".pid") for name in names if name.endswith(".pid")}
    return {guest for guest in guests if f"{guest}.xml" in names}  # libvirtd's own driver.pid has none


def _pid_files(*, is_root: bool) -> str:
    """The directory of the guests' PID files."""
    return "/run/libvirt/qemu" if is_root else os.path.join(runtime_directory(None), "qemu", "run")


def _open_file(process: str, number: str) -> OpenFile | None:
    """What stands behind a descriptor (proc(5), fdinfo); None when it has been closed meanwhile."""
    try:
        with open(f"{process}/fdinfo/{number}", encoding="ascii") as file:
            flags = next((int(line.split()[1], 8) for line in file if line.startswith("flags:")), 0)
        seen = os.stat(f"{process}/fd/{number}")
        path = os.readlink(f"{process}/fd/{number}").removesuffix(" (deleted)")
    except OSError:
        return None
    return OpenFile(path=path, flags=flags, mode=seen.st_mode, identity=(seen.st_dev, seen.st_ino))


def _seen(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
