"""The processes that belong to a service: whom ``signal`` with scope "all", ``release``, ``rest`` and ``adopt`` mean.

With a cgroup the kernel knows. Without one they are found:

* the main process and what descends from it;
* of the orphans that came to us, so that they are some service's for sure, those that say by ``HERDPY_SERVICE`` in
  their environment whose they are, and have not begun before it; where that says nothing, those in its session, or
  whose stdout or stderr is its output; and what descends from them.
"""

from __future__ import annotations

import errno
import os
import select
import time

from herdpy.keeper import death, proc
from herdpy.keeper.cgroup import Emptiness

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Container, Mapping

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.table import Process
else:
    import _signal as signal

VARIABLE = "HERDPY_SERVICE"
"""The environment variable that tells a child its id."""

_TO_ITS_GROUP = 1 << 2
"""<linux/pidfd.h>, PIDFD_SIGNAL_PROCESS_GROUP."""

PATIENCE = 0.25
"""Seconds that we look at most, again and again, until it is clear whose those are that end or execute a program: a
process that a busy host does not let go on may be about to end for some 50 ms. Who takes longer is not waited for a
second time."""

GLANCE = 0.005
"""Seconds of these that we wait for one of them to end, until we look what it executes by now."""

PASSES = 10
"""Times that we look for processes that others have forked meanwhile, when all are to be signalled."""


class Families:
    """Finds out who belongs to whom."""

    def __init__(self, loop: Loop, processes: Mapping[str, Process], own: Callable[[], Container[int]]) -> None:
        """Begin.

        Args:
            processes: what the keeper holds, by id.
            own: returns the PIDs of the children that are no service's orphans: what is held, and the keeper's own.
        """
        self._loop = loop
        self._processes = processes
        self._own = own
        self._seen: list[int] = []
        self._seen_in = -1
        self._stuck: set[int] = set()
        """Orphans that it has not become clear of in time: they are not waited for again."""

    def members(self, process: Process, *, afresh: bool = True) -> list[int]:
        """Return the PIDs of all that live of a service, the main process first if it does.

        Args:
            afresh: whether to look for orphans once more though we did in this turn of the loop.
        """
        found = process.cgroup.pids() if process.cgroup is not None else self._look_for(process, afresh=afresh)
        others = [pid for pid in found if pid != process.pid]
        return [process.pid, *others] if process.status is None else others

    def _look_for(self, process: Process, *, afresh: bool) -> list[int]:
        """Return who lives of a service that has no cgroup.

        Who ends while we look may have left a child that was not ours yet when we listed ours: then we look again.
        """
        gone: set[int] = set()
        end = None
        while True:
            found, unclear = self._look(process, gone, afresh=afresh)
            living = [pid for pid in unclear if _lives(pid)]
            if len(living) == len(unclear) and self._stuck.issuperset(living):
                break
            now = time.monotonic()
            end = end or now + PATIENCE
            if now >= end:
                self._stuck.update(living)
                break
            if living:
                _await_end(living, end - now)
            gone.update(pid for pid in unclear if not _lives(pid))
            afresh = True
        self._stuck.intersection_update(self._seen)
        return found

    def _look(self, process: Process, gone: Container[int], *, afresh: bool) -> tuple[list[int], list[int]]:
        """Look once.

        Args:
            gone: who had ended before this look.

        Returns:
            who lives of the service, and who ended, ends or executes a program, so that something may be missing.
        """
        unclear = []
        # The number of a dead one is its own only as long as it is a zombie of ours.
        is_known = process.status is None or death.is_child(process.pidfd)
        found = [process.pid] if is_known else []
        for pid in self._orphans(afresh=afresh):
            if pid in gone:
                continue
            owner = self._owner(pid)
            if owner is process:
                found.append(pid)
            elif owner is None and proc.is_in_between(pid):
                unclear.append(pid)
        if process.is_foreign:
            found += [pid for pid in _strays(process) if pid not in found]
        for pid in found:  # which grows meanwhile
            found.extend([child for child in proc.children(pid) if child not in found])
        living = [pid for pid in found if _lives(pid)]
        was_known = process.pid if process.status is not None else None  # so its children had come to us before
        unclear += [pid for pid in found if pid not in living and pid not in gone and pid != was_known]
        return living, unclear

    def signal(self, process: Process, number: int) -> bool:
        """Signal all that live of a service; tell whether there was anyone.

        Raises:
            PermissionError: there was, but nobody whom we may signal.
        """
        if number == signal.SIGKILL and process.cgroup is not None:
            return self.kill(process)
        return self._signal_each(process, number)

    def kill(self, process: Process) -> bool:
        """Kill all that live of a service; tell whether there was anyone. They may take a moment to go."""
        if process.cgroup is not None:
            if not process.cgroup.is_populated():
                return False
            if process.cgroup.kill():
                return True
        try:
            return self._signal_each(process, signal.SIGKILL)
        except PermissionError:
            return True  # they became another user's, and have to end by themselves

    def _signal_each(self, process: Process, number: int) -> bool:
        """Signal one after the other. A PID is looked up again after its pidfd was opened: so it is its own."""
        first = self.members(process, afresh=False)
        if first == [process.pid]:
            signal.pidfd_send_signal(process.pidfd, number)
            return True
        opened: dict[int, int] = {}
        reached: set[int] = set()
        refused: PermissionError | None = None
        listed = first
        try:
            for _ in range(PASSES):
                new = [pid for pid in listed if pid not in opened]
                if not new:
                    break
                for pid in new:
                    try:
                        opened[pid] = os.pidfd_open(pid)
                    except OSError:
                        continue  # it has ended
                listed = self.members(process)
                for pid in listed:
                    if pid not in opened or pid in reached:
                        continue
                    try:
                        signal.pidfd_send_signal(opened[pid], number)
                        reached.add(pid)
                    except ProcessLookupError:
                        continue
                    except PermissionError as error:
                        refused = error
        finally:
            for pidfd in opened.values():
                os.close(pidfd)
        if refused is not None and not reached:
            raise refused
        return bool(reached)

    def await_others(self, process: Process, then: Callable[[], None], *, kills: bool = False) -> Others | Emptiness:
        """Wait for those whom a main process that has ended has left behind; see :class:`Others`."""
        if process.cgroup is None:
            return Others(self._loop, self, process, then, kills=kills)
        return Emptiness(self._loop, process.cgroup, then)

    def _orphans(self, *, afresh: bool) -> list[int]:
        """Return our children that are no main process and none of our own."""
        if afresh or self._seen_in != self._loop.turns:
            own = self._own()
            self._seen = [pid for pid in proc.children(os.getpid()) if pid not in own]
            self._seen_in = self._loop.turns
        return self._seen

    def _owner(self, pid: int) -> Process | None:
        seen = proc.stat(pid)
        if seen is None or seen.has_ended():
            return None
        named = proc.environment(pid, VARIABLE.encode())
        if named is not None:
            process = self._processes.get(os.fsdecode(named))
            return process if process is not None and seen.start_time >= process.born else None
        for process in self._processes.values():
            if process.session == seen.session:
                return process
        outputs = proc.writes_to(pid)
        for process in self._processes.values():
            if process.output in outputs and seen.start_time >= process.born:
                return process
        return None


def signal_group(process: Process, number: int) -> bool:
    """Signal the group that a held process is in, dead or alive: so the number is its own.

    Returns:
        False when there is no such group: a child of a fork has none until it has come to its setsid. Nor is there one
        for an adopted process that is another's child, unless it leads its group and the kernel finds that by a pidfd
        (6.9): its number is not ours to keep.

    Raises:
        PermissionError: when there is nobody in it whom we may signal.
    """
    try:
        if not process.is_adopted:
            os.killpg(process.pid, number)
        elif death.is_child(process.pidfd):
            os.killpg(os.getpgid(process.pid), number)
        else:
            signal.pidfd_send_signal(process.pidfd, number, None, _TO_ITS_GROUP)
    except ProcessLookupError:
        return False
    except OSError as error:
        if process.is_adopted and error.errno == errno.EINVAL:
            return False
        raise
    return True


def kill_main(process: Process) -> None:
    """Kill a main process."""
    try:
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    except OSError:
        return  # it became another user's, and will have to end by itself


class Others:
    """Waits for the end of those whom a service's main process has left behind, where no cgroup tells.

    Attributes:
        is_waiting: whether there is anyone left.
    """

    def __init__(
        self, loop: Loop, families: Families, process: Process, then: Callable[[], None], *, kills: bool
    ) -> None:
        """Begin to wait, if there is anyone.

        Args:
            process: its main process has ended.
            then: called once nobody is left.
            kills: whether to kill those who turn up meanwhile.
        """
        self.is_waiting = True
        self._loop = loop
        self._families = families
        self._process = process
        self._then = then
        self._kills = kills
        self._pidfds: dict[int, int] = {}
        self._look_for_more()

    def close(self) -> None:
        """Wait no more."""
        self.is_waiting = False
        for pid in list(self._pidfds):
            self._forget(pid)

    def _look_for_more(self) -> None:
        if self._kills:
            self._families.kill(self._process)
        for _ in range(PASSES):
            new = [pid for pid in self._families.members(self._process) if pid not in self._pidfds]
            missed = [pid for pid in new if not self._watch(pid)]
            if not missed:
                break  # else those have ended meanwhile, and may have left somebody
        self.is_waiting = bool(self._pidfds)

    def _watch(self, pid: int) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False  # it has ended
        self._pidfds[pid] = pidfd
        self._loop.watch(pidfd, lambda: self._look(pid))
        return True

    def _look(self, pid: int) -> None:
        pidfd = self._pidfds.get(pid)
        if pidfd is None or not death.has_ended(pidfd):
            return
        self._forget(pid)
        self._look_for_more()  # what descended from it is an orphan now
        if not self.is_waiting:
            self._then()

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        self._loop.forget(pidfd)
        os.close(pidfd)


def _strays(process: Process) -> list[int]:
    """Return those who are of a service that a keeper before us has spawned: their orphans came to somebody else.

    None of them has begun before it. Their environment says its id, which no other spawn of this boot has had; or says
    nothing, and they are in its session or write to its output.
    """
    found = []
    for pid in proc.all_pids():
        seen = proc.stat(pid)
        if seen is None or seen.has_ended() or seen.start_time < process.born or pid == process.pid:
            continue
        named = proc.environment(pid, VARIABLE.encode())
        if named is not None:
            belongs = os.fsdecode(named) == process.id
        else:
            in_session = process.session is not None and seen.session == process.session and pid != process.session
            belongs = in_session or process.output in proc.writes_to(pid)
        if belongs:
            found.append(pid)
    return found


def _await_end(pids: list[int], patience: float) -> None:
    """Wait until one of these processes has ended, or until it is time to see what they execute by now.

    Args:
        patience: seconds that are left for all of that.
    """
    ends = select.poll()
    opened = []
    try:
        for pid in pids:
            opened.append(os.pidfd_open(pid))
            ends.register(opened[-1], select.POLLIN)
        ends.poll(min(patience, GLANCE) * 1000)
    except OSError:
        return  # it has ended, or there is no descriptor left to wait with
    finally:
        for pidfd in opened:
            os.close(pidfd)


def _lives(pid: int) -> bool:
    seen = proc.stat(pid)
    return seen is not None and not seen.has_ended()
