"""Waiting for a supervisor that may hang: for as long as it takes, but not for one that answers nobody."""

import select
import sys
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from herdpy.client.connection import ask, connect
from herdpy.client.words import Failure
from herdpy.protocol import Command

PATIENCE = 10.0
"""Seconds of silence after which the supervisor is asked whether it is there at all, and seconds that this may take."""


def until_readable(connection: socket, path: str) -> None:
    """Return once the connection can be read.

    Raises:
        Failure: the supervisor does not answer anybody any more.
    """
    ready = select.poll()
    ready.register(connection, select.POLLIN)
    while not ready.poll(PATIENCE * 1000):
        check(path)


def check(path: str) -> None:
    """Return if the supervisor answers.

    Raises:
        Failure: it does not, or there is none any more.
    """
    try:
        ask(path, Command("help", "root"), PATIENCE)
    except Failure as failure:
        raise Failure(f"{path}: herdpy does not answer: {failure}{_advice(path)}") from None


def _advice(path: str) -> str:
    """Return what to do about a supervisor that hangs, when there is a keeper that would start another."""
    try:
        connection = connect(path)
    except Failure:
        return ""
    keeper = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], sys.byteorder, signed=True)
    try:
        with open(f"/proc/{keeper}/task/{keeper}/children") as file:
            children = file.read().split()
    except OSError:
        return ""
    for child in children:
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                if b"herdpy.supervisor" in file.read().split(b"\0"):
                    return f"; to have its supervisor replaced, services going on: kill -KILL {child}"
        except OSError:
            continue  # it ended meanwhile
    return ""
