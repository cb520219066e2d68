"""``python -I -m herdpy.keeper OPTIONS``: what a supervisor executes when its keeper was killed."""

import os
import resource
import sys

from herdpy.keeper import Options, run
from herdpy.keeper.message import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal


def main(told: str) -> int:
    """Be the next keeper; returns the exit status."""
    said = decode(b'{"kind":"succession",' + told.encode().removeprefix(b"{"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (said["open_files"], hard))
    if said["ignores_hangup"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    options = Options(
        socket=said["socket"],
        state_directory=said["state_directory"],
        log_directory=said["log_directory"],
        pid_file=said["pid_file"],
        supervisor=said["supervisor"],
        arguments=said["arguments"],
        environment=os.environ,
        held=said["held"],
        stderr=said["stderr"],
    )
    return run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
