"""The console: raw while it lasts, and the terminal as it was before."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from .conftest import HERD, Herd, Server, Terminal, reply


class Guest:
    """A socket as QEMU offers it: one connection at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard, self._hears = b"", trio.Condition()
        self.stream: trio.SocketStream | None = None
        self.is_left = trio.Event()

    async def serve(self, listener: trio.SocketListener) -> None:
        self.stream = await listener.accept()
        await self.stream.send_all(b"login: ")
        with contextlib.suppress(trio.ClosedResourceError):
            async for piece in self.stream:
                self.heard += piece
                async with self._hears:
                    self._hears.notify_all()
        self.is_left.set()

    async def until(self, text: bytes) -> None:
        with trio.fail_after(60):
            async with self._hears:
                while text not in self.heard:
                    await self._hears.wait()


@pytest.fixture
async def guest(tmp_path: Path, server: Server, nursery: trio.Nursery) -> AsyncIterator[Guest]:
    path = str(tmp_path / "console")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(1)
    guest = Guest(path)
    server.answers["reach"] = reply(f'((reach (version 0) (running? #t) (ssh ()) (console "{path}") (console-log #f)))')
    nursery.start_soon(guest.serve, trio.SocketListener(listener))
    yield guest
    listener.close()


async def test_every_key_reaches_the_guest_and_ctrl_bracket_leaves(
    guest: Guest, herd: Herd, terminal: Terminal
) -> None:
    before = terminal.attributes()
    await terminal.run([*HERD, "console", "vm"], herd.environment)
    await terminal.until(rb"Connected to the console of vm; Ctrl-\] leaves\.\r\nlogin: ")
    assert terminal.attributes() != before
    await terminal.type(b"root\r\x03\x04\x1a\x11\x1c\xff")
    await guest.until(b"root\r\x03\x04\x1a\x11\x1c\xff")
    assert guest.stream is not None
    await guest.stream.send_all(b"a\nb\x1b[1m")
    await terminal.until(rb"a\nb\x1b\[1m")
    await terminal.type(b"\x1d")
    assert await terminal.end() == 0
    assert b"Left the console of vm." in terminal.seen
    assert terminal.attributes() == before
    with trio.fail_after(60):
        await guest.is_left.wait()


async def test_the_guests_end_and_a_signal_restore_the_terminal(guest: Guest, herd: Herd, terminal: Terminal) -> None:
    before = terminal.attributes()
    await terminal.run([*HERD, "console", "vm"], herd.environment)
    await terminal.until(rb"login: ")
    assert terminal.process is not None
    terminal.process.terminate()
    assert await terminal.end() == 143
    assert terminal.attributes() == before


async def test_the_guest_closes(guest: Guest, herd: Herd, terminal: Terminal) -> None:
    before = terminal.attributes()
    await terminal.run([*HERD, "console", "vm"], herd.environment)
    await terminal.until(rb"login: ")
    assert guest.stream is not None
    await guest.stream.aclose()
    assert await terminal.end() == 0
    assert b"vm closed its console." in terminal.seen
    assert terminal.attributes() == before


async def test_pipes_do_as_well(guest: Guest, herd: Herd) -> None:
    done = await herd("console", "vm", stdin=b"echo \x1d hello\n" * 10_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"login: ", b"")
    assert guest.heard == b"echo \x1d hello\n" * 10_000


async def test_a_console_in_use_says_so(guest: Guest, herd: Herd) -> None:
    async with await trio.open_unix_socket(guest.path) as other:
        assert await other.receive_some() == b"login: "
        done = await herd("console", "vm")
    assert (done.returncode, done.stderr) == (
        1,
        b"herd: error: the console of vm is in use; only one herd console can have it\n",
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply("((reach (version 0) (running? #f)))"), "vm is not running; start it with: herd start vm"),
        (
            reply("((reach (version 0) (running? #t) (ssh ()) (console #f)))"),
            "vm has no console; its configuration says what it has: herd configuration vm",
        ),
        (
            reply("#f", "(error (version 0) action-not-found reach vm)"),
            "service 'vm' is no machine that one could get into",
        ),
        (reply("#f", "(error (version 0) service-not-found vm)"), "service 'vm' could not be found"),
        (
            reply('((reach (version 0) (running? #t) (ssh ()) (console "/nonexistent/console")))'),
            "the console of vm (/nonexistent/console) is gone; has it just stopped? See: herd status vm",
        ),
    ],
)
async def test_no_way_in(server: Server, herd: Herd, answer: bytes, words: str) -> None:
    server.answers["reach"] = answer
    done = await herd("console", "vm")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"herd: error: {words}\n")
