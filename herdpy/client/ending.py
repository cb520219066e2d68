"""After ``herd stop root``: the supervisor hangs up before the program that holds its socket has ended."""

import select
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

STEP = 0.01
STEPS = 500
"""Five seconds at most: an init may have started it again at once."""


def wait(path: str) -> None:
    """Return as soon as nobody listens at a control socket any more."""
    for _ in range(STEPS):
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            connection.connect(path)
        except OSError:
            return
        finally:
            connection.close()
        select.select([], [], [], STEP)
