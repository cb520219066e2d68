"""A server that speaks literal bytes, the real client as a process, and a terminal for it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parents[2]
HERD = (sys.executable, "-IS", str(ROOT / "bin/herd"))
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LANG": "C",
    "TZ": "UTC",
    "TERM": "xterm",
    "HOME": os.environ.get("HOME", "/"),
}

Speaker = Callable[[trio.SocketStream], Awaitable[None]]


class Server:
    """Answers each command by its action and service, or by its action, with bytes or as a function likes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers: dict[str, bytes | Speaker] = {}
        self.commands: list[str] = []

    async def speak(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while not data.endswith(b"))"):
                piece = await stream.receive_some()
                if not piece:
                    return
                data += piece
            self.commands.append(data.decode())
            found = re.search(rb"\(action ([^ ]+)\) \(service (#\{.*?\}#|[^ ]+)\)", data)
            assert found, data
            action, service = found[1].decode(), found[2].decode()
            # GNU Shepherd's answer to what it does not know, and what ours adds.
            unknown = reply("#f", f"(error (version 0) action-not-found {action} {service})")
            otherwise = unknown if action == "overview" else b""
            answer = self.answers.get(f"{action} {service}", self.answers.get(action, otherwise))
            try:
                if callable(answer):
                    await answer(stream)
                else:
                    await stream.send_all(answer)
            except trio.BrokenResourceError:
                pass


@pytest.fixture
async def server(tmp_path: Path, nursery: trio.Nursery) -> Server:
    path = tmp_path / "socket"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen(20)
    server = Server(str(path))
    nursery.start_soon(trio.serve_listeners, server.speak, [trio.SocketListener(listener)])
    return server


def reply(result: str = "()", error: str = "#f", *messages: str) -> bytes:
    lines = " ".join(f'"{line}"' for line in messages)
    return f"(reply (version 0) (result {result}) (error {error}) (messages ({lines})))".encode()


class Herd:
    """Runs the client against the server of the test."""

    def __init__(self, server: Server) -> None:
        self.environment = {**ENVIRONMENT, "HERDPY_SOCKET": server.path}

    async def __call__(
        self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[bytes]":
        with trio.fail_after(60):
            return await trio.run_process(
                [*HERD, *arguments],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=cwd or "/",
                env={**self.environment, **environment},
            )


@pytest.fixture
async def herd(server: Server) -> Herd:
    return Herd(server)


class Terminal:
    """A pseudo-terminal with a client on it."""

    def __init__(self, master: int, slave: int) -> None:
        self.master = master
        self.slave = slave
        self.seen = b""
        self.process: trio.Process | None = None

    async def run(self, words: Sequence[str], environment: dict[str, str]) -> None:
        """Start a program whose controlling terminal this is, as a login has it."""
        self.process = await trio.lowlevel.open_process(
            ["setsid", "--ctty", *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment,
        )

    async def until(self, pattern: bytes) -> bytes:
        """Wait until the output matches the pattern, and return the output up to the match's end."""
        with trio.move_on_after(20):
            while not (found := re.search(pattern, self.seen, re.DOTALL)):
                await trio.lowlevel.wait_readable(self.master)
                self.seen += os.read(self.master, 65_536)
            before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
            return before
        pytest.fail(f"waited for {pattern!r}, saw {self.seen!r}")

    async def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    async def end(self) -> int:
        """Wait for the end of the program; return its exit code."""
        assert self.process is not None
        with trio.fail_after(60):
            status = await self.process.wait()
        os.set_blocking(self.master, False)
        while True:
            try:
                self.seen += os.read(self.master, 65_536)
            except BlockingIOError:
                return status

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    terminal = Terminal(master, slave)
    terminal.resize(80)
    yield terminal
    if terminal.process is not None and terminal.process.returncode is None:
        terminal.process.kill()
    os.close(master)
    os.close(slave)
