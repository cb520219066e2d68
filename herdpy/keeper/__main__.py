"""``python -I -m herdpy.keeper OPTIONS``: what a supervisor executes when its keeper was killed.

With ``renewed DESCRIPTOR`` instead, it is what a keeper executes in its own place; with ``check DESCRIPTOR``, the trial
before that.
"""

from __future__ import annotations

import os
import resource
import sys

from herdpy.keeper import Options, run
from herdpy.keeper.message import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
else:
    import _signal as signal


def main(arguments: Sequence[str]) -> int:
    """Be the next keeper; returns the exit status."""
    table = None
    if arguments[0] == "check":
        from herdpy.keeper.renewal import check

        return check()
    if arguments[0] == "renewed":
        from herdpy.keeper.renewal import read

        memory = int(arguments[1])
        table = read(memory)
        os.close(memory)
        said = {**table.options, "held": None, "stderr": None}
    else:
        said = decode(b'{"kind":"succession",' + arguments[0].encode().removeprefix(b"{"))
    if table is None:
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
        table=table,
        init=said.get("init", {}),
        has_own_socket=said.get("has_own_socket", True),
    )
    return run(options)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # as herdpy/command.py has it
