"""What is shown while a start goes on, and what Ctrl-C leaves behind."""

import re
import signal
import sys

import pytest
import trio

from herdpy.client.progress import line

from .conftest import HERD, ROOT, Herd, Server, Terminal, reply

STARTED = reply("(service (version 0) (provides (vm)))", "#f", "Service vm has been started.")


def stage(words: str, done: str = "#f") -> bytes:
    return f'(progress (version 0) (service vm) (stage "{words}") (done {done}))\n'.encode()


class Start:
    """A start that is over once the test says so, or once all that was to be shown of it has been sent."""

    def __init__(self, server: Server, *stages: bytes) -> None:
        self.is_over = trio.Event()
        self.is_watched = trio.Event()
        self.stages = stages
        self.is_over_after_stages = False
        server.answers["start"] = server.answers["restart"] = self.start
        server.answers["progress"] = self.progress

    async def start(self, stream: trio.SocketStream) -> None:
        await self.is_over.wait()
        await stream.send_all(STARTED)

    async def progress(self, stream: trio.SocketStream) -> None:
        self.is_watched.set()
        for piece in self.stages:
            await stream.send_all(piece)
        if self.is_over_after_stages:
            # The client answers the end of a stream with a new one: then it has seen all of this one.
            self.is_over_after_stages = False
            self.stages = ()
            await stream.send_all(reply("(#t)"))
            return
        if not self.stages:
            self.is_over.set()
        await self.is_over.wait()


async def test_without_a_terminal_each_new_stage_is_one_line_on_stderr(server: Server, herd: Herd) -> None:
    start = Start(server, stage("building"), stage("building", "0.5"), stage("boot")[:20], stage("boot")[20:])
    start.is_over_after_stages = True
    done = await herd("start", "vm")
    assert (done.stdout, done.stderr) == (b"Service vm has been started.\n", b"vm: building\nvm: boot\n")


async def test_a_quick_start_opens_no_second_connection(server: Server, herd: Herd) -> None:
    server.answers["start"] = STARTED
    assert (await herd("start", "vm")).returncode == 0
    assert len(server.commands) == 1


async def test_a_server_without_progress_is_waited_for(server: Server, herd: Herd) -> None:
    start = Start(server)

    async def unknown(stream: trio.SocketStream) -> None:
        await stream.send_all(reply("#f", "(error (version 0) action-not-found progress vm)"))
        with trio.move_on_after(1.5):
            await trio.sleep_forever()
        start.is_over.set()

    server.answers["progress"] = unknown
    done = await herd("start", "vm")
    assert (done.stdout, done.stderr) == (b"Service vm has been started.\n", b"")
    assert len(server.commands) == 2, "it asked again"


async def test_on_a_terminal_one_line_is_redrawn_and_taken_away(server: Server, herd: Herd, terminal: Terminal) -> None:
    start = Start(server, stage("building the image", "0.5"))
    await terminal.run([*HERD, "start", "vm"], herd.environment)
    shown = await terminal.until(rb"\x1b\[K")
    assert re.fullmatch(rb"\rvm: building the image  \[#{12}-{12}\]  50%  0:0\d\x1b\[K", shown), shown
    terminal.resize(30)
    shown = await terminal.until(rb"\r[^\r]*0:0[1-9]\x1b\[K")
    assert all(len(drawn) <= 29 for drawn in re.findall(rb"\r(vm: [^\x1b]*[^\]]  0:\d\d)\x1b", shown)), shown
    start.is_over.set()
    assert await terminal.end() == 0
    assert terminal.seen.endswith(b"\r\x1b[KService vm has been started.\r\n"), terminal.seen


async def test_ctrl_c_tells_that_the_start_goes_on(server: Server, herd: Herd, terminal: Terminal) -> None:
    start = Start(server, stage("booting"))
    await terminal.run([*HERD, "start", "vm"], herd.environment)
    await terminal.until(rb"booting")
    await terminal.type(b"\x03")
    assert await terminal.end() == 130
    assert terminal.seen.endswith(b"\r\x1b[Kherd: the start of vm goes on; see: herd status vm\r\n"), terminal.seen
    start.is_over.set()


async def test_interrupting_what_does_not_last_says_nothing(server: Server, herd: Herd, nursery: trio.Nursery) -> None:
    asked = trio.Event()

    async def never(stream: trio.SocketStream) -> None:
        asked.set()
        await stream.receive_some()

    server.answers["status"] = never
    process = await trio.lowlevel.open_process([*HERD, "status"], env=herd.environment, stderr=-1)
    await asked.wait()
    process.send_signal(signal.SIGINT)
    with trio.fail_after(60):
        assert await process.wait() == 130
    assert process.stderr is not None
    assert await process.stderr.receive_some() == b""


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 40, 80, 200])
@pytest.mark.parametrize("text", ["vm: booting", "vm: " + "x" * 300, "vm: 日本語" * 40, ""])
@pytest.mark.parametrize("done", [None, 0.0, 0.999, 1.0])
def test_a_line_never_reaches_the_edge(columns: int, text: str, done: float | None) -> None:
    import unicodedata

    drawn = line(text, done, 3661, columns)
    assert sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in drawn) <= max(columns - 1, 0)


def test_a_bar_is_shown_when_there_is_room() -> None:
    assert line("vm: boot", 0.25, 61, 80) == "vm: boot  [######------------------]  25%  1:01"
    assert line("vm: boot", None, 61, 80) == "vm: boot  1:01"
    assert line("vm: booting", 0.25, 61, 24) == "vm: booting  25%  1:01"


class Replaced:
    """A supervisor that is killed before it answers; the next one answers."""

    def __init__(self, server: Server, *actions: str, times: int = 1) -> None:
        self.left = times
        self.answer = STARTED
        for action in actions:
            server.answers[action] = self

    async def __call__(self, stream: trio.SocketStream) -> None:
        if self.left:
            self.left -= 1
        else:
            await stream.send_all(self.answer)


def asked(server: Server) -> list[str]:
    return [re.findall(r"\(action (\S+)\)", command)[0] for command in server.commands]


async def test_a_start_is_asked_of_the_next_supervisor_when_one_dies_under_it(server: Server, herd: Herd) -> None:
    Replaced(server, "start")
    done = await herd("start", "vm")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Service vm has been started.\n", b"")
    assert asked(server) == ["start", "start"]


async def test_a_restart_is_not_asked_for_twice(server: Server, herd: Herd) -> None:
    """The next supervisor finishes it; a start waits for that."""
    Replaced(server, "restart", "start")
    done = await herd("restart", "vm")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Service vm has been started.\n", b"")
    assert asked(server) == ["restart", "start"]


async def test_what_may_not_be_done_twice_is_asked_once(server: Server, herd: Herd) -> None:
    Replaced(server, "prune")
    done = await herd("prune", "vm")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"it may be done or not" in done.stderr
    assert asked(server) == ["prune"]


async def test_a_server_that_always_hangs_up_is_given_up(server: Server, herd: Herd) -> None:
    Replaced(server, "start", times=100)
    done = await herd("start", "vm")
    assert done.returncode == 1
    assert done.stderr.startswith(b"herd: error: premature end-of-file while talking to herdpy: ")
    assert asked(server) == ["start"] * 4


QUICK = """
import sys
from herdpy.client import main, waiting
waiting.PATIENCE = 0.5
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [("status",), ("status", "vm"), ("start", "vm"), ("enable", "vm"), ("own", "vm")])
async def test_a_supervisor_that_answers_nobody_is_not_waited_for(server: Server, herd: Herd, words) -> None:
    for action in ("overview", "status", "start", "enable", "own", "help", "progress"):
        server.answers[action] = silent
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-c", QUICK, *words],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**herd.environment, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"herdpy does not answer: no answer within 0.5 s" in done.stderr


async def test_one_that_takes_long_but_answers_others_is_waited_for(server: Server, herd: Herd) -> None:
    asked_for_help = trio.Event()

    async def help_(stream: trio.SocketStream) -> None:
        await stream.send_all(reply('("help")'))
        asked_for_help.set()

    async def own(stream: trio.SocketStream) -> None:
        await asked_for_help.wait()
        await stream.send_all(reply('("done")'))

    server.answers.update({"help": help_, "own": own})
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-c", QUICK, "own", "vm"],
            capture_stdout=True,
            env={**herd.environment, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0


async def silent(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass
