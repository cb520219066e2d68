"""Who may be about to follow a herdpy that has ended."""

import os
import signal
import subprocess

from herdpy.client.ending import may_be_executing


def test_who_lives_may_be_executing_and_who_ends_may_not() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    name = str(child.pid)
    assert may_be_executing(name)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie, whose command line is empty
    assert not may_be_executing(name)
    child.wait()
    assert not may_be_executing(name)
