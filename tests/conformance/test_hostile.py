"""Clients that send nonsense, half of something, far too much or nothing, or that never read: nobody else notices."""

import contextlib
import os
import re
import resource
import socket
import time
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herdpy import protocol
from herdpy.supervisor import control
from herdpy.supervisor.answers import Answers
from herdpy.supervisor.line import KeeperLine
from herdpy.supervisor.registry import Registry
from herdpy.supervisor.reload import Reloading
from herdpy.supervisor.rights import Groups
from herdpy.supervisor.shutdown import Shutdown

from .conftest import PATIENCE, command, connect, exchange, receive

STATUS = command("status", "root")


@pytest.fixture
def beside(herdpy, eventually):
    """A running herdpy; at the end it has answered, promptly and from the same process, and has let go of everybody."""
    herdpy.declare("foo", 'command = ["sleep", "1000"]')
    herdpy.start()
    supervisor = herdpy.supervisor()
    descriptors = Path(f"/proc/{supervisor}/fd")
    # From then on it watches the declarations, which takes a descriptor, and opens no further one by itself.
    eventually(lambda: any(os.readlink(one) == "anon_inode:inotify" for one in descriptors.iterdir()))
    before = len(list(descriptors.iterdir()))

    def answers() -> None:
        begin = time.monotonic()
        assert exchange(herdpy.socket, STATUS).startswith(b"(reply (version 0) (result (((service ")
        assert time.monotonic() - begin < 20, "a status took long"

    yield answers
    answers()
    assert herdpy.supervisor() == supervisor, "the supervisor was replaced"
    end = time.monotonic() + PATIENCE
    while len(list(descriptors.iterdir())) > before:
        answers()
        assert time.monotonic() < end, "connections were left open"


@pytest.fixture
def many_files():
    """A thousand connections are more than the usual limit of open files allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_connections_that_say_nothing(herdpy, beside, many_files):
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(herdpy.socket))
        beside()


def test_a_slow_sender_is_heard_out_and_holds_nobody_up(herdpy, beside):
    with connect(herdpy.socket) as client:
        for byte in STATUS:
            client.sendall(bytes([byte]))
            if byte == ord(")"):
                beside()
        assert receive(client) == exchange(herdpy.socket, STATUS)


def test_readers_that_never_read(herdpy, beside):
    """What they are to be told is much more than a socket's buffer holds."""
    echo = command("status", "x" * 1_000_000)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(herdpy.socket)) for _ in range(20)]
        for client in clients:
            client.sendall(echo)
        beside()
        assert len(receive(clients[0])) > 1_000_000
    beside()


def test_who_leaves_before_the_answer(herdpy, beside):
    for sent in (STATUS, STATUS[:-1], command("start", "foo"), command("stop", "foo"), b""):
        for _ in range(20):
            with connect(herdpy.socket) as client:
                client.sendall(sent)
    herdpy.ok("start", "foo")
    herdpy.ok("stop", "foo")


@pytest.mark.parametrize(
    "sent",
    [
        b"x" * 10_000_000,
        b"(" + b"x" * 10_000_000,
        b" " * 10_000_000,
        command("doc", "foo", '"' + "x" * 10_000_000 + '"'),
        command("doc", "foo", *['"x"'] * 2_500_000),
        b"(" * 10_000_000,
        b";" * 10_000_000,
        b'(shepherd-command "' + b"\\" * 10_000_000,
        bytes(10_000_000),
    ],
    ids=["word", "list", "blanks", "argument", "arguments", "parentheses", "comment", "backslashes", "zeros"],
)
def test_ten_megabytes_are_no_command(herdpy, beside, sent):
    assert exchange(herdpy.socket, sent, end=True) == b""


def test_what_is_long_but_right_is_answered(herdpy, beside):
    just_below = protocol.COMMAND_SIZE - 1000
    sent = command("doc", "foo", '"full"', '"' + "x" * just_below + '"')
    assert exchange(herdpy.socket, sent) == exchange(herdpy.socket, command("doc", "foo"))


@pytest.mark.parametrize("sent", [b"", STATUS[:50]])
async def test_who_does_not_say_what_he_wants_is_hung_up_on(tmp_path, autojump_clock, sent):
    async with serving(tmp_path) as client:
        await client.send_all(sent or b" ")
        begin = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            assert await client.receive_some() == b""
        assert trio.current_time() - begin == pytest.approx(control.COMMAND_PATIENCE)


async def test_who_does_not_read_is_hung_up_on(tmp_path, autojump_clock):
    echo = command("status", "x" * 1_000_000)
    async with serving(tmp_path) as client:
        begin = trio.current_time()
        await client.send_all(echo)
        await trio.sleep(control.REPLY_PATIENCE + 1)
        seen = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while piece := await client.receive_some():
                seen += piece
        assert 0 < len(seen) < 1_000_000
        assert trio.current_time() - begin == pytest.approx(control.REPLY_PATIENCE + 1)


@contextlib.asynccontextmanager
async def serving(directory):
    """The control socket in this process, where the clock is ours, and a connection to it."""
    path = str(directory / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        registry = Registry(None, str(directory), Shutdown())
        answers = Answers(registry, Reloading(registry, lambda: None, str(directory), ()), lambda file: None)
        ours, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line = KeeperLine(ours.detach(), lambda number: None)
        nursery.start_soon(control.Door(answers, Groups(), line).serve, listener.detach())
        async with await trio.open_unix_socket(path) as client:
            yield client
        keeper.close()
        nursery.cancel_scope.cancel()


TOKENS = re.compile(r'"[^"]*"|[()]|[^\s()]+|\s+')
SOUND = [
    TOKENS.findall(sound.decode())
    for sound in (
        STATUS,
        command("doc", "foo", '"action"', '"x y"'),
        command("help", "root"),
        command("nope", "foo", '"é"'),
    )
]
WORDS = [
    *("(", ")", "[", "]", "'", "`", ",", ";", '"', "#", ".", "|", "\\", "{", "}", " ", "\n", "\t", "\0", "\x7f"),
    *("#f", "#t", "#:k", "#{", "}#", "#{a b}#", "#|", "|#", "#;", "#<x>", "#\\a", "#true", "#nil", "#!eof", "#(1)"),
    *("(version 0)", "(version 0 1)", "(action doc)", "(service foo)", "(service root)", "(arguments ())", '"x"', "()"),
    *("status", "doc", "help", "foo", "root", "version", "0", "00", "-0", "1/2", "1e3", "+inf.0", "1" * 5000, "é"),
    *(r"\x41", r'"\x41;"', r'"\q"', "\N{LINE SEPARATOR}", "\xa0", "\U0001f411", "(a . b)", "( . )", "(a . )"),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from((0, 0, 1, 1, 2, 5)), st.sampled_from(["", *WORDS])), max_size=3
)


def edited(tokens: "list[str]", edits: "list[tuple[int, int, str]]") -> str:
    tokens = tokens[:]
    for position, length, replacement in edits:
        tokens[position : position + length] = [replacement]
    return "".join(tokens)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.sampled_from(SOUND), edits=EDITS)
def test_whatever_is_sent_the_answer_is_a_reply_or_nothing(herdpy, guile, tokens, edits):
    """Guile reads along: it says whether an answer is a reply, and whether Shepherd would have answered at all.

    We answer nothing in some cases in which Shepherd does: an argument that is no string, a vector, a symbol with #{
    within it. No client sends such things.
    """
    if herdpy.process is None:
        herdpy.declare("foo", 'command = ["sleep", "1000"]')
        herdpy.start()
    sent = edited(tokens, edits)
    got = exchange(herdpy.socket, sent.encode(), end=True).decode()
    if not got:
        assert "#" in sent or guile("command", sent) != "sensible", "Shepherd would have taken it for a command"
    else:
        assert isinstance(guile("reply", got), list), got
        assert guile("problem", got) != "something else", got
        assert guile("command", sent), "Shepherd would not have taken it for a command"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.integers(0, len(STATUS)), st.integers(0, len(STATUS)))
def test_whatever_bytes_are_sent_the_supervisor_lives_on(herdpy, junk, begin, end):
    if herdpy.process is None:
        herdpy.start()
        herdpy.first = herdpy.supervisor()
    exchange(herdpy.socket, STATUS[:begin] + junk + STATUS[end:], end=True)
    assert Path(f"/proc/{herdpy.first}/exe").exists(), "the supervisor died"
