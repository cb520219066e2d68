"""A raw line to a live herdpy, and Guile to read what comes over it."""

import contextlib
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from herdpy import sexp

CLIENT = Path(__file__).with_name("client.scm")
PATIENCE = 60
"""Seconds until a test gives up on an answer."""

Ask = Callable[..., bytes]


def command(action: str, service: str, *arguments: str) -> bytes:
    """The bytes that GNU's client sends; ``arguments`` as they are spelled, with their quotes."""
    return (
        f"(shepherd-command (version 0) (action {action}) (service {service})"
        f' (arguments ({" ".join(arguments)})) (directory "/root"))'
    ).encode()


def exchange(path: Path, sent: bytes, *, end: bool = False) -> bytes:
    """Send bytes and return all that comes until the server closes: no bytes when it closes without an answer.

    Args:
        end: whether to close our side after sending; GNU's client does not.
    """
    with connect(path) as client:
        # A server that has seen enough closes, and what it then has not read of ours is told us as an error.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(sent)
            if end:
                client.shutdown(socket.SHUT_WR)
        return receive(client)


def connect(path: Path) -> socket.socket:
    """Connect, waiting as long as the backlog is full: a socket with Python's timeout would not (EAGAIN, unix(7))."""
    client = socket.socket(socket.AF_UNIX)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE, 0))
    client.connect(str(path))
    client.settimeout(PATIENCE)
    return client


def receive(client: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


class Guile:
    """A Guile that runs ``client.scm``: it reads as GNU's client and Shepherd do."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, question: str, *words: str) -> object:
        """Ask one of the questions that ``client.scm`` answers; the words are strings to it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"({question} {' '.join(map(sexp.write_string, words))})\n")
        self._process.stdin.flush()
        return sexp.read(self._process.stdout.readline())


@pytest.fixture(scope="module")
def guile() -> Iterator[Guile]:
    """One Guile for all the tests of a module."""
    program = shutil.which("guile")
    if program is None:
        pytest.skip("needs guile (the package guile-3.0)")
    with subprocess.Popen(
        [program, "--no-auto-compile", "-q", str(CLIENT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        yield Guile(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
