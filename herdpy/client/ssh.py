"""``herd exec``: a command, or a shell, inside a guest by ssh."""

import os
import signal

from herdpy.client.inside import Reach
from herdpy.client.words import Failure, quote


def execute(reach: Reach, command: "list[str]") -> int:
    """Run ``command``, or a login shell when it is empty, in the guest; return its exit code.

    A terminal is passed on where all of ours are one. ssh writes what it has to say into a file of its own (-E), so
    that it is shown when it explains a failure, and only then.

    Raises:
        Failure: when ssh cannot be run, or ends with 255: it could not get there, or lost the way.
    """
    log = os.memfd_create("ssh")
    options = ["-E", f"/proc/{os.getpid()}/fd/{log}"]
    if all(os.isatty(descriptor) for descriptor in ((0, 1, 2) if command else (0, 1))):
        options.append("-t")
    words = [reach.ssh[0], *options, *reach.ssh[1:]]
    if command:
        words.append(quote(command))
    status = _wait(_spawn(words))
    if status != 255:
        return status
    raise Failure(explain(reach.service, os.pread(log, 65_536, 0).decode("utf-8", "replace")), 255)


def explain(service: str, log: str) -> str:
    """Return one line that tells why ssh ended with 255, from what it wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return f"exit code 255: either ssh lost {service} without a word, or the command itself ended with it"
    more = f"; see: herd status {service}" if "Permission denied (" in lines[-1] else ""
    return f"cannot reach {service} by ssh: {lines[-1]}{more}"


def _spawn(words: "list[str]") -> int:
    try:
        return os.posix_spawnp(words[0], words, os.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        raise Failure(f"cannot run {words[0]}: {error.strerror}", 255) from None


def _wait(pid: int) -> int:
    """Wait for ssh, which is in our process group: the keys that interrupt or stop us reach it as well."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status
