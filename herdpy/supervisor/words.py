"""How processes end, in words."""

import signal
from typing import Any


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``signal 77`` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_in_words(status: dict[str, Any]) -> str:
    """Say how a process ended, to follow "it": ``exited with 1``, ``was killed by SIGSEGV (core dumped)``."""
    if "killed" in status:
        core = " (core dumped)" if status.get("core") else ""
        return f"was killed by {signal_name(status['killed'])}{core}"
    if "exited" in status:
        return f"exited with {status['exited']}"
    return "ended, nobody knows how"
