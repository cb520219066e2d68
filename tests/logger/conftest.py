"""A real logger; the test is its keeper."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from herdpy.keeper.message import LIMIT, ancillary, decode, encode
from herdpy.keeper.table import make_ledger, make_pipe

PROGRAM = Path(__file__).parent.parent.parent / "herdpy" / "logger" / "__main__.py"
PATIENCE = 60.0


class Logger:
    """A logger and the pipes that it reads."""

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        self._prefix = prefix
        self._ledger = make_ledger()
        self._pipes: dict[int, tuple[int, int]] = {}
        self._openings: dict[int, dict[str, object]] = {}
        self.rotated: list[dict[str, Any]] = []
        self._begin()

    def _begin(self) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        self.line.settimeout(PATIENCE)
        self.line.sendmsg([encode({"kind": "ledger"})], ancillary(self._ledger))
        for number, opening in self._openings.items():
            self.line.sendmsg([encode(opening)], ancillary([self._pipes[number][0]]))
        self.tell("begin")

    def kill(self) -> None:
        """Kill it, and start another, as the keeper does."""
        self.process.kill()
        self.process.communicate()
        self.line.close()
        self._begin()

    def open(
        self, path: Path, number: int = 1, *, echo: bool = False, rotation: dict[str, object] | None = None
    ) -> int:
        """Pass a new pipe on; return the end to write into."""
        reading, writing = make_pipe()
        self._pipes[number] = reading, writing
        opening = {"kind": "open", "id": number, "path": str(path), "rotation": rotation, "echo": echo}
        self._openings[number] = opening
        self.line.sendmsg([encode(opening)], ancillary([reading]))
        return writing

    def tell(self, kind: str, **fields: Any) -> None:
        self.line.send(encode({"kind": kind, **fields}))

    def expect(self, kind: str, number: int = 1) -> None:
        told = self.receive()
        assert told == {"kind": kind, "id": number}

    def receive(self) -> dict[str, Any]:
        """Return what it says next, but for rotated files, which are collected, and that it is here."""
        while (told := decode(self.line.recv(LIMIT)))["kind"] in ("archive", "here"):
            if told["kind"] == "archive":
                self.rotated.append(told)
        return told

    def drain(self, number: int = 1) -> None:
        """Have everything written that has been said so far."""
        self.tell("drain", id=number)
        self.expect("drained", number)

    def close(self, number: int = 1) -> None:
        """Let a pipe come to its end of file."""
        del self._openings[number]
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
        for descriptor in self._ledger:
            os.close(descriptor)
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
