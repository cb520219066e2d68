"""Who may ask for what: groups that may read or operate, and everyone else, who gets no connection."""

import multiprocessing
import os
import re
import select
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy import protocol

NOBODY = 65534
READERS, OPERATORS, OTHERS = 61001, 61002, 61003
"""Groups need no name to be had."""
FOO = 'command = ["sleep", "1000"]\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place(herdpy) -> Iterator[Path]:
    """Somewhere that everybody can get to, for the socket; pytest's directories are their owner's alone."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        herdpy.socket = Path(directory, "run", "socket")
        herdpy.log = Path(directory, "log")
        herdpy.environment["HERDPY_SOCKET"] = str(herdpy.socket)
        yield Path(directory)
        if herdpy.process is not None and herdpy.process.poll() is None:
            assert herdpy.stop() == 0


def begin(herdpy, settings: str) -> None:
    herdpy.configure(settings)
    herdpy.declare("foo", FOO)
    herdpy.start()


def become(gids: list[int], path: Path, action: str, service: str, arguments: tuple[str, ...], pipe) -> None:
    os.setgroups(gids)
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    reply = b""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(protocol.write_command(protocol.Command(action, service, arguments, "/")))
            while piece := client.recv(65536):
                reply += piece
    except OSError as error:
        pipe.send(type(error).__name__)
    else:
        pipe.send(reply.decode())


def ask(path: Path, gids: list[int], action: str, service: str, *arguments: str) -> str:
    """What somebody in these groups is answered, or the exception that he gets instead."""
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)
    process = fork.Process(target=become, args=(gids, path, action, service, arguments, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        process.join()


def is_done(reply: str) -> bool:
    return "(error #f)" in reply


GROUPS = {
    "two": f'[control]\nread-groups = ["{READERS}"]\noperate-groups = ["{OPERATORS}"]\n',
    "one": f'[control]\nread-groups = ["{READERS}"]\n',
}


def test_readers_read_operators_operate_and_nobody_else_gets_a_connection(herdpy, place):
    begin(herdpy, GROUPS["two"])
    path = herdpy.socket
    for gids in ([READERS], [OTHERS, OPERATORS]):
        for action in ("status", "doc", "configuration", "progress"):
            assert is_done(ask(path, gids, action, "foo")), action
        for action in ("status", "overview", "help", "events", "doc"):
            assert is_done(ask(path, gids, action, "root")), action
        for action in ("stop", "halt", "power-off", "load", "unload", "reload", "eval", "enable", "disable"):
            assert "takes root or herdpy's own user" in ask(path, gids, action, "root", "x"), action
        # What is added to a command line that runs as root is root's to say.
        assert "takes root or herdpy's own user" in ask(path, gids, "start", "foo", "--as-root")
    for action in ("start", "stop", "restart", "enable", "disable", "reach", "own"):
        assert "takes the right to operate" in ask(path, [READERS], action, "foo"), action
    assert herdpy.status("foo")["status"] == "stopped"
    for action in ("start", "disable", "enable", "restart", "stop", "reach"):
        assert is_done(ask(path, [OPERATORS], action, "foo")), action
    assert "action-not-found own foo" in ask(path, [OPERATORS], "own", "foo")
    assert ask(path, [OTHERS], "status", "root") == "PermissionError"
    assert ask(path, [], "status", "root") == "PermissionError"


def test_what_is_always_there_does_not_come_to_be_for_who_is_refused(herdpy, place):
    begin(herdpy, GROUPS["two"])
    for name, action in (("transient", "spawn"), ("timer", "schedule")):
        assert "takes root or herdpy's own user" in ask(herdpy.socket, [OPERATORS], action, name, "--", "true")
        assert "takes the right to operate" in ask(herdpy.socket, [READERS], "stop", name)
    assert herdpy.ok("status") == "Started:\n + root\nStopped:\n - foo\n"
    assert is_done(ask(herdpy.socket, [READERS], "status", "transient"))


def test_it_is_the_kernel_that_tells_the_groups_not_the_socket_s_mode(herdpy, place):
    """Somebody who got hold of the socket all the same, and gets no answer."""
    begin(herdpy, GROUPS["two"])
    os.removexattr(herdpy.socket.parent, "system.posix_acl_access")
    os.removexattr(herdpy.socket, "system.posix_acl_access")
    os.chmod(herdpy.socket.parent, 0o755)
    os.chmod(herdpy.socket, 0o666)
    assert ask(herdpy.socket, [OTHERS], "status", "root") in ("", "ConnectionResetError", "BrokenPipeError")
    assert is_done(ask(herdpy.socket, [*range(70000, 70300), READERS], "status", "root")), "of 301 groups"
    assert '"reason":"another user","uid":65534' in herdpy.ok("events")


def test_the_socket_is_never_open_to_others_and_is_closed_when_groups_lose_their_right(herdpy, place):
    begin(herdpy, GROUPS["one"])
    directory, path = herdpy.socket.parent, herdpy.socket

    def seen(where: Path) -> tuple[int, int]:
        status = where.stat()
        return status.st_gid, stat.S_IMODE(status.st_mode)

    assert (seen(directory), seen(path)) == ((READERS, 0o710), (READERS, 0o660))
    for settings, right in ((GROUPS["two"], {READERS, OPERATORS}), (GROUPS["one"], {READERS}), ("", set())):
        herdpy.configure(settings)
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        herdpy.ok("status")
        for gid in (READERS, OPERATORS, OTHERS):
            answered = is_done(ask(path, [gid], "status", "root"))
            assert answered == (gid in right), (settings, gid)
    assert seen(path)[1] == 0o600
    assert herdpy.stop() == 0
    herdpy.process.stdout.close()
    herdpy.start()
    assert seen(path)[1] == 0o600


@pytest.mark.parametrize("which", GROUPS)
def test_who_may_read_may_read_the_logs(herdpy, place, which, eventually):
    begin(herdpy, GROUPS[which])
    eventually((herdpy.log / "herdpy.log").exists)
    herdpy.declare("foo", FOO)
    (herdpy.log / "old.log").write_text("old\n")
    (herdpy.log / "old.log").chmod(0o640)
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    herdpy.ok("start", "foo")
    herdpy.ok("stop", "foo")

    def readable(gid: int) -> list[str]:
        fork = multiprocessing.get_context("fork")
        receiving, sending = fork.Pipe(duplex=False)

        def look() -> None:
            os.setgroups([gid])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            sending.send(sorted(entry.name for entry in os.scandir(herdpy.log) if os.access(entry, os.R_OK)))

        process = fork.Process(target=look)
        process.start()
        found = receiving.recv()
        process.join()
        return found

    eventually(lambda: readable(READERS) == ["herdpy.log", "old.log"])
    (herdpy.log / "foo.log").touch(0o640)
    assert readable(READERS) == ["foo.log", "herdpy.log", "old.log"]
    assert readable(OTHERS) == []


def test_a_member_s_command_is_short(herdpy, place):
    begin(herdpy, GROUPS["one"])
    assert is_done(ask(herdpy.socket, [READERS], "doc", "foo", "full", "x" * 60_000))
    assert ask(herdpy.socket, [READERS], "doc", "foo", "full", "x" * 70_000) in (
        "",
        "ConnectionResetError",
        "BrokenPipeError",
    )
    assert herdpy.ok("doc", "foo", "full", "x" * 70_000)


def test_one_user_cannot_take_all_connections(herdpy, place):
    begin(herdpy, GROUPS["one"])
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)

    def take() -> None:
        os.setgroups([READERS])
        os.setresuid(NOBODY, NOBODY, NOBODY)
        clients = []
        for _ in range(100):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(herdpy.socket))
            clients.append(client)
        # They are dealt with in order: once the last one has been hung up on, so have all that are to be.
        assert clients[-1].recv(1) == b""
        ended = sum(bool(select.select([client], [], [], 0)[0]) for client in clients)
        sending.send(ended)

    process = fork.Process(target=take)
    process.start()
    assert herdpy.ok("status")
    assert receiving.recv() == 100 - 64
    process.join()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            '[control]\nread-groups = ["no-such-group"]',
            r":2: control.read-groups\[0\]: there is no group 'no-such-group'",
        ),
        ('[control]\noperate-group = ["x"]', ":2: control.operate-group: unknown key; did you mean operate-groups\\?"),
        ("shutdown-timeout = 0", ":1: shutdown-timeout: expected a number greater than 0"),
        ("shutdown-timeout", ":1: not TOML: "),
    ],
)
def test_a_wrong_file_is_told_in_one_line_by_check_and_at_the_beginning(herdpy, settings, complaint):
    own = herdpy.configure(settings)
    program, *options = herdpy.command()
    options.remove("--pid")
    for words in (["check"], []):
        done = herdpy.run(program, *words, *options)
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if str(own) in line]
        assert len(lines) == 1
        assert re.match(re.escape(str(own)) + complaint, lines[0]), lines
    assert not herdpy.socket.exists()
