"""Going into the background: who started herdpy gets its prompt back once the control socket answers."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def go() -> Callable[[], None]:
    """Go on in a child that is a session of its own; the parent passes on what is said until it is ready, then ends.

    The parent never returns: it ends with 0 when the child is ready, else with the child's own status.

    Returns:
        What the child has to call when it is ready: from then on its stderr leads nowhere.
    """
    ready, announce = os.pipe2(os.O_CLOEXEC)
    said, saying = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(announce)
        os.close(saying)
        os._exit(_wait(pid, ready, said))
    os.close(ready)
    os.close(said)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(saying, 2)
    os.close(saying)

    def is_ready() -> None:
        os.dup2(null, 2)  # first: nobody reads what is said once the parent has ended
        os.write(announce, b"\n")
        os.close(announce)

    return is_ready


def _wait(pid: int, ready: int, said: int) -> int:
    """Copy what the child says to our stderr until it is ready or has ended; return our exit status."""
    waiting = select.poll()
    waiting.register(ready, select.POLLIN)
    waiting.register(said, select.POLLIN)
    while True:
        events = dict(waiting.poll())
        if said in events:
            words = os.read(said, 65536)
            if words:
                os.write(2, words)
                continue  # all it says before it is ready comes first
            waiting.unregister(said)
        if ready in events:
            if os.read(ready, 1):
                return 0
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF
