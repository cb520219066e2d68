"""Daemons that fork, and leave the number of the process that remains in a file."""

import errno
import math
import os
import stat
import time
from functools import partial

import msgspec
import trio

from herdpy.service import Context, ProcessContext, StartFailure
from herdpy.threads import in_thread
from herdpy.watch import watching

PAUSE = 0.05
"""Seconds until the next look at what a file holds that is no process of the service's."""
PATIENCE = 5.0
"""Seconds that a file may go on holding what is no process of the service's: whoever writes it may not be done."""
LARGEST_PID = 2**22
"""No process has a greater number (proc(5), /proc/sys/kernel/pid_max)."""
READ = 4096
"""Bytes. The number is in the first line; what daemons write besides does not matter."""


class Found(msgspec.Struct, frozen=True):
    """What a PID file holds."""

    number: int | None = None
    problem: str = ""
    """What is wrong with the file, in words to follow its name; empty when nothing is so far."""
    is_begun: bool = True
    """Whether it holds anything yet: some daemons make the file long before they write it."""


class PidFile(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when a file holds the number of a process of the service's, which is then its main one."""

    path: str

    async def run(self, context: ProcessContext) -> None:
        """Wait for the file, and adopt the process.

        Raises:
            StartFailure: it holds what is no process of the service's, and goes on to.
        """
        pause, left = PAUSE, PATIENCE
        with watching(self.path) as watch:
            while True:
                found = await watch.look(partial(read, self.path))
                problem = found.problem
                if not problem:
                    assert found.number is not None
                    try:
                        await context.adopt(found.number)
                        return
                    except StartFailure as failure:
                        problem = f"holds {found.number}: {failure}"
                context.progress(f"waiting for its PID file: {self.path} {problem}")
                with trio.move_on_after(min(pause, left) if found.is_begun else math.inf) as patience:
                    await watch.change()
                if not patience.cancelled_caught:
                    pause, left = PAUSE, PATIENCE
                    continue
                # Once more, ever less often: where there is no cgroup, a look at the keeper's children may miss one
                # while another one ends (proc_pid_tid_children(5)).
                left -= pause
                pause *= 2
                if left <= 0:
                    raise StartFailure(f"its PID file {self.path} {problem}")


class RemoveStalePidFile(msgspec.Struct, frozen=True, kw_only=True):
    """Remove what an earlier process has left, so that it is not taken for the next one's."""

    path: str
    insists: bool = True
    """Whether it is a failure that the file is none, or not a stale one."""

    async def run(self, context: Context) -> None:
        """Do so; it does not matter when there is nothing.

        Raises:
            StartFailure: it is no PID file, or the process whose number it holds may well have written it.
        """
        try:
            await in_thread(_remove_stale, self.path, abandon_on_cancel=True)
        except StartFailure:
            if self.insists:
                raise


def read(path: str) -> Found:
    """Look into a PID file. Blocks as long as the file system does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Found(problem="is no regular file")
            return parse(file.read(READ))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Found(problem="is not there", is_begun=False)
        return Found(problem=f"cannot be read: {error.strerror}")


def parse(text: bytes) -> Found:
    """What the beginning of a PID file says, which its writer may not have finished."""
    if not text:
        return Found(problem="is empty", is_begun=False)
    digits = text.partition(b"\n")[0].strip()
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 20:
        return Found(problem="holds no process's number")  # its words may be anything: they are not for a message
    number = int(digits)
    if not 1 < number <= LARGEST_PID:
        return Found(number, f"holds {number}, which is no process of a service")
    return Found(number)


def _remove_stale(path: str) -> None:
    next_step = "name another file in pid-file, or remove this one"
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StartFailure(f"cannot look at the PID file {path}: {error.strerror}") from None
    found = read(path) if stat.S_ISREG(seen.st_mode) else Found(problem="is no regular file")
    if not found.is_begun:
        return
    if found.number is None:
        raise StartFailure(f"{path} {found.problem}, so it is no stale PID file that herdpy might remove; {next_step}")
    if not found.problem and _may_have_written(found.number, seen.st_mtime):
        who = f"PID {found.number} ({_program(found.number)})"
        raise StartFailure(f"{path} is the PID file of {who}, which herdpy did not start; stop that first")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartFailure(f"cannot remove the stale PID file {path}: {error.strerror}") from None


def _may_have_written(pid: int, when: float) -> bool:
    """Whether a process runs that was there already when the file was written; its number may have been used anew."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    if fields[0] in (b"Z", b"X"):
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc(5): starttime
    return time.time() - age <= when + 1.0


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "gone"
