"""A real logger; the test is its keeper."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from herdpy.keeper.message import LIMIT, ancillary, decode, encode
from herdpy.keeper.table import make_pipe

PROGRAM = Path(__file__).parent.parent.parent / "herdpy" / "logger" / "__main__.py"
PATIENCE = 20.0


class Logger:
    """A logger and the pipes that it reads."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        self.line.settimeout(PATIENCE)
        self._pipes: dict[int, tuple[int, int]] = {}

    def open(self, path: Path, number: int = 1, *, echo: bool = False) -> int:
        """Pass a new pipe on; return the end to write into."""
        reading, writing = make_pipe()
        self._pipes[number] = reading, writing
        opening = {"kind": "open", "id": number, "path": str(path), "echo": echo}
        self.line.sendmsg([encode(opening)], ancillary([reading]))
        return writing

    def tell(self, kind: str, **fields: Any) -> None:
        self.line.send(encode({"kind": kind, **fields}))

    def expect(self, kind: str, number: int = 1) -> None:
        assert decode(self.line.recv(LIMIT)) == {"kind": kind, "id": number}

    def drain(self, number: int = 1) -> None:
        """Have everything written that has been said so far."""
        self.tell("drain", id=number)
        self.expect("drained", number)

    def close(self, number: int = 1) -> None:
        """Let a pipe come to its end of file."""
        for end in self._pipes.pop(number):
            os.close(end)
        self.expect("closed", number)

    def end(self) -> str:
        """End it; return what it said on stderr."""
        self.tell("end")
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors.decode()
        return errors.decode()

    def clean(self) -> None:
        for number in list(self._pipes):
            for end in self._pipes.pop(number):
                os.close(end)
        self.line.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def logger() -> Iterator[Logger]:
    running = Logger()
    yield running
    running.clean()


def until(happens: Callable[[], Any], what: str) -> None:
    """Wait, bounded, for what cannot be waited for otherwise."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for: {what}"
        select.select([], [], [], 0.005)
