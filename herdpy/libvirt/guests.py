"""The guests whose logs virtlogd writes, as its open files tell: it knows of them although libvirtd may be down.

A log ends for ever when virtlogd ends: QEMU writes into a pipe whose other end only that process has.
"""

import os
import stat

import msgspec
import trio

from herdpy.libvirt.places import runtime_directory
from herdpy.service import Context, ProcessContext, StartFailure

LOST = "lost logs"
"""The detail that names guests whose logs have ended."""


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for the guests whose logs a virtlogd writes."""

    own: frozenset[str]
    """Paths of virtlogd's own logs, which are no guest's."""
    is_root: bool

    async def guests(self, pid: int) -> tuple[str, ...]:
        """The names of the guests whose logs the process writes, or the logs' paths if they are of none that runs.

        Nothing when it writes none, or has just ended.
        """
        return await trio.to_thread.run_sync(_guests, pid, self.own, self.is_root, abandon_on_cancel=True)


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
        lost = await trio.to_thread.run_sync(_running, self.is_root, abandon_on_cancel=True)
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
    logs = logs_of(pid) - own
    names = {os.path.basename(log).removesuffix(".log") for log in logs} & running(_pid_files(is_root=is_root))
    return tuple(sorted(names or logs))


def logs_of(pid: int) -> set[str]:
    """The regular files that a process has open for appending, by their paths."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it has just ended
        return set()
    return {path for number in numbers if (path := _appended_to(f"/proc/{pid}", number)) is not None}


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
