"""What tests with daemons of their own share."""

import json
import os
import signal
import sys


def program(directory, text):
    """Write a Python program into a directory; returns the start of its command line."""
    path = directory / f"program-{abs(hash(text))}.py"
    path.write_text(text)
    return [sys.executable, "-S", "-E", str(path)]


def toml(command, more=""):
    """A declaration."""
    return f"command = {json.dumps(command)}\n{more}\n"


def failed_start(herdpy, name="a"):
    """What a start that fails says, line by line."""
    completed = herdpy.herd("start", name)
    assert completed.returncode == 1, completed.stdout
    return completed.stdout.splitlines()


def replace_supervisor(herdpy, eventually):
    """Kill the supervisor, and wait until there is another."""
    old = herdpy.supervisor()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: herdpy.children("herdpy.supervisor") not in ([], [old]))


def is_waiting(herdpy, words, name="a"):
    """Whether its start has come to a stage with these words."""
    status = herdpy.status(name)
    return status["status"] == "starting" and words in (status["stage"] or "")
