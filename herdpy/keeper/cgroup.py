"""A cgroup for each service (cgroups(7), the kernel's cgroup-v2.rst), wherever version 2 is mounted and ours to write.

A process cannot leave its cgroup by any fork, session or double fork, and one write kills all that are in it. A child
has to be born in its cgroup: moved there afterwards, what it has forked by then would be missed. From glibc 2.39 on, a
bare child is, by a vfork (:mod:`herdpy.keeper.posix_spawn`), which costs no more than any. Without, and for the others,
there are two ways. The keeper enters the cgroup, spawns by vfork, and goes home again; it has one thread, so that
nothing else happens meanwhile. That costs some 60 us, if the kernel has just moved something; but if not, it waits
until every processor has come by (an RCU grace period: 6 to 20 ms on Linux 6.18), and we hear nobody. Or the keeper
forks right into the cgroup (clone3(2)), which never waits, but is a fork: 0.5 ms more. So what comes alone is forked,
and what comes in a crowd is spawned from within, unless that has proved slow: other programs' forks make it wait, too.

No controller is enabled: these cgroups only say who belongs together.
"""

from __future__ import annotations

import os
import stat
import time

from herdpy.keeper.posix_spawn import can_spawn_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from herdpy.keeper.loop import Loop
else:
    import _signal as signal

CROWD = 4
WHILE = 0.005
"""So many spawns with less than so many seconds between the end of one and the beginning of the next are a crowd."""
DEAR = 0.002
"""Seconds: what it costs to enter a cgroup and to leave it that is slow. The first of a crowd always is."""
SPARED = 30
"""So many spawns of a crowd are forked then before the next try."""
LONGEST = 100
"""Characters of a process's id in its cgroup's name; a name may have 255 bytes."""


class Cgroup:
    """One service process's cgroup."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def pids(self) -> list[int]:
        """Return who lives in it, and in those below it that its processes have made."""
        found: list[int] = []
        for directory in _below(self.path):
            try:
                found += map(int, _read(f"{directory}/cgroup.procs").split())
            except OSError:
                continue  # gone meanwhile, or threads only: their process is further up
        return [pid for pid in found if pid]  # 0: one outside of our PID namespace

    def is_populated(self) -> bool:
        """Tell whether anyone lives in it or below it."""
        try:
            return _is_populated(_read(f"{self.path}/cgroup.events"))
        except OSError:
            return False

    def kill(self) -> bool:
        """Kill all that is in it and below it, and whatever they are forking.

        Returns:
            False on a kernel that cannot (before 5.14).
        """
        try:
            _write(f"{self.path}/cgroup.kill", b"1")
        except OSError:
            return False
        return True

    def let_go(self) -> None:
        """Mark it, with the sticky bit of its directory: who lives in it from now on is nobody's to take up."""
        try:
            os.chmod(self.path, stat.S_IMODE(os.stat(self.path).st_mode) | stat.S_ISVTX)
        except OSError:
            return  # gone meanwhile, or not ours any more

    def is_let_go(self) -> bool:
        """Tell whether it is marked so."""
        try:
            return bool(os.stat(self.path).st_mode & stat.S_ISVTX)
        except OSError:
            return True

    def remove(self) -> bool:
        """Remove it, and those below it; tell whether it is gone. It stays while anyone lives in it."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return not self.is_populated() and _remove_below(self.path)
        return True


class Cgroups:
    """All of ours, in a cgroup of their own below the one that we were started in.

    Attributes:
        path: that cgroup's directory, or None when there can be none: then every service does without.
        can_vfork: whether a vfork into a cgroup can be tried.
        can_fork: whether a fork into a cgroup has not failed yet.
    """

    def __init__(self, key: str) -> None:
        """Make it, where that can be.

        Args:
            key: what tells this keeper from any other, and is the same for its successor.
        """
        self.path: str | None = None
        self._is_usable = False
        self._home = -1
        self._number = 0
        self.can_vfork, self.can_fork = False, True
        self._crowd = 0
        self._ended = 0.0
        self._spared = 0
        self._was_dear = False
        self._cost = 0.0
        own = find()
        if own is None:
            return
        try:
            # To where we are: nothing moves, but we learn now whether we may come back.
            self._home = os.open(f"{own}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._home, b"0")
            path = f"{own}/herdpy-{key}"
            _remove_below(path)  # a former keeper's
            os.makedirs(path, 0o755, exist_ok=True)
        except OSError:
            return
        self.path, self._is_usable = path, True
        self.can_vfork = can_spawn_into()

    def make(self, name: str) -> Cgroup | None:
        """Make a cgroup for a process; None when that cannot be."""
        if not self._is_usable:
            return None
        tail = readable(name)
        while True:
            self._number += 1
            made = Cgroup(f"{self.path}/{self._number}.{tail}")
            try:
                try:
                    os.mkdir(made.path, 0o755)
                except FileNotFoundError:  # somebody has removed the one above it, while it was empty
                    os.makedirs(made.path, 0o755)
            except FileExistsError:
                continue  # a former keeper's, and somebody lives in it
            except OSError:
                return None  # there may be a limit (cgroup.max.descendants)
            return made

    def comes_alone(self) -> bool:
        """Tell of a spawn that is about to be, whether to fork it into its cgroup rather than to enter that."""
        self._crowd = self._crowd + 1 if time.monotonic() - self._ended < WHILE else 1
        self._spared -= self._spared > 0
        return self.can_fork and (self._crowd < CROWD or self._spared > 0)

    def has_spawned(self) -> None:
        """Learn that a spawn is over."""
        self._ended = time.monotonic()

    def enter(self, cgroup: Cgroup) -> bool:
        """Go to live in a cgroup, until :meth:`leave`; tell whether that could be done."""
        begin = time.monotonic()
        try:
            _write(f"{cgroup.path}/cgroup.procs", b"0")
        except OSError:
            self._is_usable = False  # it will not be otherwise for the next one
            return False
        self._cost = time.monotonic() - begin
        return True

    def leave(self) -> bool:
        """Go home; tell whether that could be done. If not, we live where we must not kill, and make no more."""
        begin = time.monotonic()
        try:
            os.write(self._home, b"0")
        except OSError:
            self._is_usable = False
            return False
        is_dear = self._cost + time.monotonic() - begin > DEAR
        if is_dear and self._was_dear:
            self._spared, is_dear = SPARED, False
        self._was_dear = is_dear
        return True

    def pids_let_go(self) -> list[int]:
        """Return who lives in any of them that was let go."""
        populated = [] if self.path is None else _populated_in(self.path)
        return [pid for cgroup in populated if cgroup.is_let_go() for pid in cgroup.pids()]

    def remove(self) -> None:
        """Remove all that nobody lives in."""
        if self.path is not None:
            _remove_below(self.path)

    def let_go(self) -> None:
        """Remove all that nobody lives in, and let go of the others."""
        self.remove()
        for cgroup in [] if self.path is None else left_in(self.path):
            cgroup.let_go()


class Emptiness:
    """Waits until nobody lives in a cgroup any more.

    Attributes:
        is_waiting: whether anyone does.
    """

    def __init__(self, loop: Loop, cgroup: Cgroup, then: Callable[[], object]) -> None:
        """Begin to wait, if anyone lives there; ``then`` is called once nobody does."""
        self.is_waiting = False
        self._loop = loop
        self._then = then
        try:
            self._events = os.open(f"{cgroup.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self.is_waiting = True
        self._loop.watch_changes(self._events, self._look)
        if not self._is_populated():
            self.close()

    def close(self) -> None:
        """Wait no more."""
        if self.is_waiting:
            self.is_waiting = False
            self._loop.forget(self._events)
            os.close(self._events)

    def _look(self) -> None:
        if self.is_waiting and not self._is_populated():
            self.close()
            self._then()

    def _is_populated(self) -> bool:
        try:
            return _is_populated(os.pread(self._events, 4096, 0))
        except OSError:
            return False  # ENODEV: somebody else has removed it


def key_of(state_directory: str) -> str:
    """Return what tells the keeper that has this directory's lock from all others: the directory's inode does."""
    seen = os.stat(state_directory)
    return f"{seen.st_dev:x}-{seen.st_ino:x}"


def readable(name: str) -> str:
    """Return what stands for a process's id in its cgroup's name."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_:.@") else "_" for letter in name[:LONGEST]
    )


def left_in(path: str) -> list[Cgroup]:
    """Return the services' cgroups below the one of a keeper's that somebody lives in, but those that were let go."""
    return [cgroup for cgroup in _populated_in(path) if not cgroup.is_let_go()]


def _populated_in(path: str) -> list[Cgroup]:
    try:
        with os.scandir(path) as entries:
            found = [Cgroup(entry.path) for entry in entries if entry.name.partition(".")[0].isdecimal()]
    except OSError:
        return []
    return [cgroup for cgroup in found if cgroup.is_populated()]


def end_all_in(cgroup: Cgroup) -> list[int]:
    """Kill whoever lives in a cgroup; return their PIDs, of which one may be another's by now."""
    found = cgroup.pids()
    if not cgroup.kill():  # before Linux 5.14
        for pid in found:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if pid in cgroup.pids():
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except OSError:
                pass  # it has just ended, or is another user's
            finally:
                os.close(pidfd)
    return found


def find(pid: int | None = None) -> str | None:
    """Return the directory of the v2 cgroup that a process is in, or we are, wherever it is mounted; None when there is
    none."""
    try:
        return directory_in(_read(f"/proc/{pid or 'self'}/cgroup"), _read("/proc/self/mountinfo"))
    except OSError:
        return None


def directory_in(cgroups: bytes, mounts: bytes) -> str | None:
    """Return a process's directory from what /proc/PID/cgroup (cgroups(7)) and /proc/PID/mountinfo say.

    In hybrid set-ups version 2 is mounted beside version 1; in a container the mount may show another part of the tree
    than the one that the process is in.
    """
    own = next((line[3:] for line in cgroups.splitlines() if line.startswith(b"0::")), None)
    if own is None:
        return None
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        if not after.startswith(b"cgroup2 "):
            continue
        root, directory = (_unescape(field) for field in before.split(b" ")[3:5])
        below = root.rstrip(b"/")
        if own == root or own.startswith(below + b"/"):
            return os.fsdecode(directory + own[len(below) :].rstrip(b"/"))
    return None


def _is_populated(events: bytes) -> bool:
    """Tell what a cgroup.events file says."""
    return b"populated 1" in events


def _unescape(field: bytes) -> bytes:
    """See proc_pid_mountinfo(5): space, tab, newline and backslash are octal."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _below(path: str) -> Iterator[str]:
    """Yield a cgroup's directory and those below it, outer ones first."""
    yield path
    try:
        if os.stat(path).st_nlink == 2:
            return  # its own name and "." lead there, and no ".." of another: it has two dozen files to list
        with os.scandir(path) as entries:
            directories = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for directory in directories:
        yield from _below(directory)


def _remove_below(path: str) -> bool:
    """Remove a cgroup's directory and all below it, but those that someone lives in; tell whether all are gone."""
    is_gone = True
    for directory in reversed(list(_below(path))):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            is_gone = False
    return is_gone


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    content = b""
    try:
        while chunk := os.read(file, 65536):
            content += chunk
    finally:
        os.close(file)
    return content


def _write(path: str, words: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, words)
    finally:
        os.close(file)
