"""What a service's processes use of the host, by psutil, which is imported when somebody asks first."""

import os
from typing import TypedDict

from herdpy.threads import in_thread


class Usage(TypedDict):
    """Of all processes of a service."""

    cpu_seconds: float
    """User and system time, that of ended children too, once they were waited for (proc_pid_stat(5), cutime)."""
    memory: int
    """Bytes that are resident; what processes share is counted for each of them."""
    processes: int
    threads: int


async def of_session(pid: int) -> Usage | None:
    """Add up what a process, its descendants and the rest of its session use; None when it is gone.

    Walks all of /proc, hence in a thread.

    Args:
        pid: of a service's main process, which leads a session of its own.
    """
    return await in_thread(_of_session, pid)


def _of_session(pid: int) -> Usage | None:
    import psutil

    try:
        main = psutil.Process(pid)
        pids = {pid, *(child.pid for child in main.children(recursive=True))}
    except psutil.NoSuchProcess:
        return None
    # What was orphaned is the keeper's child, but still of the session.
    pids.update(each for each in psutil.pids() if _session(each) == pid)
    used = Usage(cpu_seconds=0.0, memory=0, processes=0, threads=0)
    for each in pids:
        try:
            process = psutil.Process(each)
            with process.oneshot():
                times = process.cpu_times()
                memory = process.memory_info().rss
                threads = process.num_threads()
        except psutil.Error:
            continue  # it ended meanwhile
        used["cpu_seconds"] += times.user + times.system + times.children_user + times.children_system
        used["memory"] += memory
        used["processes"] += 1
        used["threads"] += threads
    return used if used["processes"] else None


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
