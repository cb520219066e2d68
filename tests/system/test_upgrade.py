"""herdpy goes on with other code while it runs: nothing is restarted, no line lost or doubled, everyone answered."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import sysconfig
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import herdpy as installed
from herdpy import protocol
from tests.processes import identity, lives

COUNTING = 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.02; done'
PATIENCE = 60
PARTS: tuple[tuple[str, ...], ...] = ((), ("keeper",))
"""What ``herd upgrade root`` takes: nothing means the supervisor, and the logger with it."""


def ask(control: Path, action: str, service: str, *arguments: str) -> bytes:
    """Ask as GNU Shepherd's client does: once."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(control))
        client.sendall(protocol.write_command(protocol.Command(action, service, arguments)))
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
    return reply


class Installation:
    """A herdpy of this test's own, installed where it can be replaced by another version."""

    def __init__(self, herdpy: Any, eventually: Callable[..., None]) -> None:
        self.herdpy = herdpy
        self.eventually = eventually
        place = herdpy.directory / "prefix"
        venv.EnvBuilder(symlinks=True).create(place)
        (self.modules,) = place.glob("lib/python3*/site-packages")
        self.package = self.modules / "herdpy"
        self._stamp = 1_700_000_000
        self.install()
        # The libraries; a line of a .pth file is only a directory, so that an editable herdpy there is not found.
        (self.modules / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        script = place / "bin" / "herdpy"
        script.write_text(
            f"#!{place}/bin/python3\nimport sys\nfrom herdpy.command import main\nsys.exit(main(sys.argv[1:]))\n"
        )
        script.chmod(0o755)
        command = herdpy.command
        herdpy.command = lambda: [str(script) if word.endswith("/bin/herdpy") else word for word in command()]

    def install(self) -> None:
        """Install the version that is tested, whatever is there."""
        # Whoever imports from there meanwhile writes compiled modules, and makes the directories anew for them.
        replaced = self.package.with_name(f"replaced-{self._stamp}")
        if self.package.exists():
            self.package.rename(replaced)
        shutil.copytree(
            Path(installed.__path__[0]),
            self.package,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
        shutil.rmtree(replaced, ignore_errors=True)

    def edit(self, module: str, *changes: tuple[str, str]) -> None:
        """Replace texts in a module, each of which must be there."""
        path = self.package / module
        text = path.read_text()
        for before, after in changes:
            assert before in text, before
            text = text.replace(before, after)
        path.write_text(text)
        # Python knows a compiled module by its source's size and time, in whole seconds: another version has another.
        self._stamp += 1
        os.utime(path, (self._stamp, self._stamp))

    def set_version(self, name: str, number: int) -> None:
        """Let everything that has a version have this one."""
        self.edit("version.py", ('VERSION = "', f'VERSION = "{name}"  # "'))
        self.edit("keeper/message.py", ("\nVERSION = 1\n", f"\nVERSION = {number}\n"))
        self.edit("keeper/journal.py", ("\nVERSION = 1\n", f"\nVERSION = {number}\n"))
        self.edit("keeper/renewal.py", ("\nVERSION = 1\n", f"\nVERSION = {number}\n"))
        self.edit("supervisor/kept_plan.py", ("\nVERSION = 1\n", f"\nVERSION = {number}\n"))
        self.edit("supervisor/note.py", ("\nNOTE_VERSION = 1\n", f"\nNOTE_VERSION = {number}\n"))

    def declare(self, name: str, command: list[str], *lines: str) -> None:
        self.herdpy.declare(name, "\n".join([f"command = {json.dumps(command)}", *lines]))

    def upgrade(self, *what: str) -> str:
        """Upgrade, which must succeed; returns what is printed."""
        return str(self.herdpy.ok("upgrade", "root", *what))

    def refused(self, *what: str) -> str:
        """Upgrade, which must be refused in one line; returns it."""
        done = self.herdpy.herd("upgrade", "root", *what)
        assert done.returncode == 1, (done, self.herdpy.said())
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "nothing is changed" in done.stderr
        return str(done.stderr)

    @property
    def keeper(self) -> int:
        pid: int = self.herdpy.process.pid
        return pid

    def supervisors(self) -> list[int]:
        found: list[int] = self.herdpy.children("herdpy.supervisor")
        return found

    def logger(self) -> int:
        (pid,) = self.herdpy.children("logger/__main__.py")
        found: int = pid
        return found

    def pid(self, name: str) -> int:
        self.eventually(lambda: self.herdpy.status(name)["pid"], PATIENCE)
        pid: int = self.herdpy.status(name)["pid"]
        return pid

    def numbers(self, name: str) -> list[int]:
        """Those of the lines in the log."""
        text = (self.herdpy.log / f"{name}.log").read_text()
        return [int(number) for number in re.findall(r"line (\d+)$", text, re.MULTILINE)]


@pytest.fixture
def installation(herdpy: Any, eventually: Callable[..., None]) -> Iterator[Installation]:
    return Installation(herdpy, eventually)


def state_of(pid: int) -> str:
    """As proc_pid_stat(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def counted(numbers: list[int]) -> bool:
    return numbers == list(range(1, len(numbers) + 1))


def test_supervisor_and_logger_are_others_afterwards_the_keeper_is_not(installation: Installation) -> None:
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    installation.herdpy.start()
    plain = identity(installation.pid("plain"))
    (supervisor,), logger = installation.supervisors(), installation.logger()
    said = installation.upgrade()
    (after,) = installation.supervisors()
    assert after != supervisor
    assert installation.logger() != logger
    lines = said.splitlines()
    assert re.fullmatch(
        rf"The supervisor, herdpy \S+ \(PID {supervisor}\), is herdpy \S+ \(PID {after}\) now\.", lines[0]
    )
    assert lines[1] == f"The logger is PID {installation.logger()} now."
    assert re.fullmatch(r"Nobody was answered for [\d.]+ ms\.", lines[2])
    said = installation.upgrade("keeper")
    assert f"the same process as before (PID {installation.keeper})" in said
    assert b"herdpy.keeper\0renewed" in Path(f"/proc/{installation.keeper}/cmdline").read_bytes()
    assert installation.supervisors() == [after]
    assert identity(installation.pid("plain")) == plain
    at = len(installation.numbers("plain"))
    installation.eventually(lambda: len(installation.numbers("plain")) > at + 5, PATIENCE)
    assert counted(installation.numbers("plain"))


def test_what_is_wrong_with_the_request_is_told(installation: Installation) -> None:
    installation.herdpy.start()
    done = installation.herdpy.herd("upgrade", "root", "kepeer")
    assert done.returncode == 1
    assert "there is no part of herdpy named kepeer; try: herd upgrade root [keeper]" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "what", "reason"),
    [
        ("supervisor/run.py", (), "the second supervisor ended with 1"),
        ("logger/pen.py", (), "the new logger ended with 1"),
        ("keeper/estate.py", ("keeper",), "SyntaxError: invalid syntax"),
    ],
)
def test_broken_code_is_refused_and_nothing_happens(
    installation: Installation, module: str, what: tuple[str, ...], reason: str
) -> None:
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    installation.herdpy.start()
    plain = identity(installation.pid("plain"))
    before = installation.supervisors(), installation.logger()
    installation.edit(
        module,
        ("from __future__", "from from __future__") if "supervisor" not in module else ("import os", "import os os"),
    )
    assert reason in installation.refused(*what)
    assert (installation.supervisors(), installation.logger()) == before
    assert identity(installation.pid("plain")) == plain
    installation.install()
    installation.upgrade(*what)
    assert identity(installation.pid("plain")) == plain
    assert counted(installation.numbers("plain"))


def test_mistaken_declarations_are_refused_and_named(installation: Installation) -> None:
    installation.declare("plain", ["sleep", "1000"], "auto-start = true")
    installation.herdpy.start()
    before = installation.supervisors()
    installation.herdpy.declare("bad", "comand = ['true']")
    reason = installation.refused()
    assert "bad.toml:1" in reason
    installation.eventually(lambda: installation.supervisors() == before, PATIENCE)  # the second one is being ended


NOTIFYING = """
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
notify.send(b"READY=1\\nSTATUS=first")
open(os.environ["GO"]).read()
notify.send(b"STATUS=second")
time.sleep(1000)
"""
LAZY = """
import socket
listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    connection.sendall(b"here")
    connection.close()
"""


def talk(path: Path, words: bytes = b"") -> bytes:
    """Connect to a Unix socket, send something, and return what comes until the other end hangs up."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        if words:
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
    return answer


@pytest.mark.parametrize("what", PARTS)
def test_every_kind_of_service_goes_on(installation: Installation, what: tuple[str, ...]) -> None:
    auto, herdpy = "auto-start = true", installation.herdpy
    lazy, eager, inetd = (herdpy.directory / name for name in ("lazy", "eager", "inetd"))
    go, at_work = herdpy.directory / "go", herdpy.directory / "at-work"
    os.mkfifo(go)
    installation.declare("plain", ["sh", "-c", COUNTING], auto)
    installation.declare("strays", ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], auto)
    installation.declare("quitter", ["false"], auto, "respawn-limit = 2", "respawn-delay = 0.0")
    installation.declare("once", ["echo", "line 1"], auto, "one-shot = true")
    installation.declare("unwanted", ["sleep", "1000"])
    installation.declare("pending", ["sleep", "1000"], auto)
    environment = f"environment = {{ GO = {json.dumps(str(go))} }}"
    installation.declare("notifying", [sys.executable, "-c", NOTIFYING], auto, environment, "ready.notify = true")
    for name, path in (("lazy", lazy), ("eager", eager)):
        listen = f"sockets = [{json.dumps(f'unix:{path}')}]\nactivation = {json.dumps(name)}"
        installation.declare(name, [sys.executable, "-c", LAZY], auto, listen)
    installation.declare("inetd", ["cat"], 'type = "inetd"', auto, f"sockets = [{json.dumps(f'unix:{inetd}')}]")
    tick = f"echo tick; while [ -e {at_work} ]; do sleep 0.05; done"
    installation.declare("timer", ["sh", "-c", tick], 'type = "timer"', auto, 'every = "1s"')
    at_work.write_text("")
    herdpy.start()
    names = ("plain", "strays", "pending", "notifying", "eager")
    running = {name: identity(installation.pid(name)) for name in names}
    installation.eventually(lambda: not herdpy.status("quitter")["enabled"], PATIENCE)
    installation.eventually(lambda: herdpy.status("notifying")["status"] == "running", PATIENCE)
    ticks = herdpy.log / "timer.log"
    installation.eventually(lambda: ticks.exists() and "tick" in ticks.read_text(), PATIENCE)
    installation.declare("pending", ["sleep", "2000"], auto)
    herdpy.ok("reload", "root")
    with socket.socket(socket.AF_UNIX) as talking:
        talking.connect(str(inetd))
        talking.sendall(b"before, ")
        assert talking.recv(100) == b"before, "
        for _ in range(2):
            installation.upgrade(*what)
            assert {name: identity(installation.pid(name)) for name in names} == running
            assert not herdpy.status("quitter")["enabled"]
            assert herdpy.status("unwanted")["status"] == "stopped"
            assert installation.numbers("once") == [1]
            assert "2000" in herdpy.ok("status", "pending")
            assert talk(eager) == b"here"
        talking.sendall(b"after")
        assert talking.recv(100) == b"after"
    assert herdpy.status("lazy")["pid"] is None
    assert talk(lazy) == b"here"
    assert talk(inetd, b"hello") == b"hello"
    assert ticks.read_text().count("tick") == 1, "the run goes on, and there is no other beside it"
    at_work.unlink()
    installation.eventually(lambda: ticks.read_text().count("tick") > 1, PATIENCE)
    go.write_text("")
    installation.eventually(lambda: "second" in herdpy.ok("status", "notifying"), PATIENCE)
    herdpy.ok("restart", "pending")
    assert b"2000" in Path(f"/proc/{installation.pid('pending')}/cmdline").read_bytes()
    herdpy.ok("stop", "strays")
    herdpy.ok("stop", "notifying")
    assert not lives(running["strays"][0])
    assert not lives(running["notifying"][0])
    assert counted(installation.numbers("plain"))
    os.kill(running["plain"][0], signal.SIGKILL)  # whose end is told to whoever is the keeper's code now
    installation.eventually(lambda: installation.pid("plain") != running["plain"][0], PATIENCE)
    assert "signal=9" in herdpy.said() or "killed by" in herdpy.said()


def test_after_five_crashes_a_minimal_supervisor_answers_until_the_real_one_is_there(
    installation: Installation,
) -> None:
    herdpy = installation.herdpy
    stubborn = "trap 'echo line 99; exit 3' USR1; while :; do sleep 0.02; done"
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    installation.declare("stubborn", ["sh", "-c", stubborn], "auto-start = true", 'stop-signal = "SIGUSR1"')
    installation.declare("idle", ["true"])
    herdpy.start()
    plain, first = identity(installation.pid("plain")), installation.pid("stubborn")
    installation.edit("supervisor/registry.py", ("    def take_plan(", "    def no_take_plan("))
    (supervisor,) = installation.supervisors()
    os.kill(supervisor, signal.SIGKILL)
    installation.eventually(lambda: "only herd status and herd stop are answered" in herdpy.said(), PATIENCE)
    assert "its last words were: AttributeError: 'Registry' object has no attribute 'take_plan'" in herdpy.said()
    assert (herdpy.log / "herdpy.log").read_text().count("only herd status and herd stop") == 1
    said = herdpy.ok("status")
    print(said)
    assert "after the repair" in said or "herd upgrade root" in said
    assert herdpy.status("plain")["pid"] == plain[0]
    for words in (("start", "idle"), ("restart", "plain"), ("reload", "root"), ("doc", "plain"), ("enable", "plain")):
        done = herdpy.herd(*words)
        assert done.returncode == 1
        assert "herd upgrade root" in done.stderr
        assert done.stderr.count("\n") == 1
    assert herdpy.herd("stop", "nobody").returncode == 1
    print(herdpy.ok("stop", "stubborn"))
    assert installation.numbers("stubborn") == [99]
    assert not lives(first)
    print(herdpy.ok("status"), herdpy.ok("status", "stubborn"))
    assert "second supervisor" in installation.herdpy.herd("upgrade", "root").stderr
    installation.install()
    installation.upgrade()
    assert len(installation.supervisors()) == 1
    assert identity(installation.pid("plain")) == plain
    assert herdpy.status("stubborn")["status"] == "stopped"
    herdpy.ok("start", "stubborn")
    assert installation.pid("stubborn") != first
    assert counted(installation.numbers("plain"))


def test_the_minimal_supervisor_ends_everything(installation: Installation) -> None:
    herdpy = crashing(installation)
    plain = installation.pid("plain")
    herdpy.ok("stop", "root")
    installation.eventually(lambda: not lives(plain), PATIENCE)
    assert herdpy.process.wait(PATIENCE) == 0
    assert counted(installation.numbers("plain"))


def test_the_minimal_supervisor_obeys_the_signal_to_end(installation: Installation) -> None:
    herdpy = crashing(installation)
    plain = installation.pid("plain")
    assert herdpy.stop() == 0
    assert not lives(plain)


def test_the_minimal_supervisor_becomes_the_keeper_whose_supervisor_may_be_mended(installation: Installation) -> None:
    herdpy = crashing(installation)
    plain = identity(installation.pid("plain"))
    installation.install()
    (minimal,) = herdpy.children("minimal/__main__.py")
    os.kill(installation.keeper, signal.SIGKILL)
    herdpy.let_succeed(minimal)
    installation.eventually(installation.supervisors, PATIENCE)
    assert identity(installation.pid("plain")) == plain
    herdpy.ok("stop", "root")
    installation.eventually(lambda: not lives(minimal), PATIENCE)


def crashing(installation: Installation) -> Any:
    """A herdpy with a service, and a supervisor that crashes again and again."""
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    herdpy = installation.herdpy
    herdpy.start()
    installation.pid("plain")
    installation.edit("supervisor/registry.py", ("    def take_plan(", "    def no_take_plan("))
    (supervisor,) = installation.supervisors()
    os.kill(supervisor, signal.SIGKILL)
    installation.eventually(lambda: herdpy.children("minimal/__main__.py"), PATIENCE)
    return herdpy


@pytest.mark.parametrize("what", PARTS)
def test_one_release_up_and_back_again(installation: Installation, what: tuple[str, ...]) -> None:
    """Whatever has a version has a higher one, and then the lower one again."""
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    installation.declare("asked", ["sleep", "1000"])
    herdpy = installation.herdpy
    herdpy.start()
    herdpy.ok("start", "asked")
    herdpy.ok("disable", "asked")
    running = {name: identity(installation.pid(name)) for name in ("plain", "asked")}
    for name, number, before in (("0.2.0", 2, "0.1.0"), ("0.1.0", 1, "0.2.0"), ("0.0.9", 0, "0.1.0")):
        installation.install()
        installation.set_version(name, number)
        said = installation.upgrade(*what)
        assert re.search(rf"herdpy {before}\b.* is herdpy {name}\b", said), said
        (supervisor,) = installation.supervisors()
        os.kill(supervisor, signal.SIGKILL)  # and the next one of this version knows the notes of both
        assert {name: identity(installation.pid(name)) for name in running} == running
        assert not herdpy.status("asked")["enabled"]
    # A version that is too far away is refused.
    installation.install()
    installation.set_version("0.9.0", 9)
    installation.refused(*what)
    assert {name: identity(installation.pid(name)) for name in running} == running
    herdpy.ok("restart", "plain")
    installation.install()


def test_a_journal_of_the_next_release_is_read(installation: Installation) -> None:
    """All of herdpy is killed, and the one that is started is a release older."""
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    herdpy = installation.herdpy
    installation.set_version("0.2.0", 2)
    herdpy.start()
    plain = identity(installation.pid("plain"))
    for pid in (installation.keeper, *installation.supervisors(), installation.logger()):
        os.kill(pid, signal.SIGSTOP)
    victims = [*installation.supervisors(), installation.logger(), installation.keeper]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    herdpy.process.wait(PATIENCE)
    installation.install()
    herdpy.start()
    assert identity(installation.pid("plain")) == plain


@pytest.mark.parametrize("what", PARTS)
def test_twenty_upgrades_leave_nothing_open(installation: Installation, what: tuple[str, ...]) -> None:
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    installation.herdpy.start()
    plain = identity(installation.pid("plain"))

    def opened() -> dict[str, int]:
        programs = {"keeper": installation.keeper, "logger": installation.logger()}
        (programs["supervisor"],) = installation.supervisors()
        return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in programs.items()}

    installation.upgrade(*what)
    installation.eventually(lambda: len(installation.supervisors()) == 1, PATIENCE)
    before = opened()
    for _ in range(20):
        installation.upgrade(*what)
    installation.eventually(lambda: len(installation.supervisors()) == 1, PATIENCE)
    # The first upgrade's own may have been counted, too; a leak would be of twenty.
    installation.eventually(lambda: all(count <= before[name] for name, count in opened().items()), PATIENCE)
    assert identity(installation.pid("plain")) == plain
    assert counted(installation.numbers("plain"))
    assert len(Path(f"/proc/{installation.keeper}/task/{installation.keeper}/children").read_text().split()) == 3


@pytest.mark.parametrize("what", PARTS)
def test_services_that_start_stop_and_respawn_meanwhile(installation: Installation, what: tuple[str, ...]) -> None:
    herdpy = installation.herdpy
    go = herdpy.directory / "go"
    up = f"echo $$ > {go}.pid; while [ ! -e {go} ]; do sleep 0.05; done; echo is up; exec sleep 1000"
    down = f"trap 'while [ ! -e {go} ]; do sleep 0.05; done; exit 0' TERM; while :; do sleep 0.05; done"
    installation.declare("rising", ["sh", "-c", up], "[ready]", 'log-line = "is up"')
    installation.declare("falling", ["sh", "-c", down], "auto-start = true", "grace-period = 60")
    installation.declare(
        "phoenix", ["sh", "-c", "echo line 1; sleep 0.3; exit 3"], "auto-start = true", "respawn-limit = 1000"
    )
    herdpy.start()
    falling = installation.pid("falling")
    start, stop = herdpy.herd_in_background("start", "rising"), herdpy.herd_in_background("stop", "falling")
    installation.eventually(lambda: herdpy.status("rising")["status"] == "starting", PATIENCE)
    installation.eventually(lambda: herdpy.status("falling")["status"] == "stopping", PATIENCE)
    begun_by = Path(f"{go}.pid")
    installation.eventually(lambda: begun_by.exists() and begun_by.read_text().strip(), PATIENCE)
    rising = identity(int(begun_by.read_text()))
    begun = len(installation.numbers("phoenix"))
    installation.upgrade(*what)
    assert herdpy.status("rising")["status"] == "starting"
    assert herdpy.status("falling")["status"] == "stopping"
    assert start.poll() is None
    assert stop.poll() is None
    go.write_text("")
    assert start.wait(PATIENCE) == 0
    assert stop.wait(PATIENCE) == 0
    assert identity(installation.pid("rising")) == rising
    assert not lives(falling)
    installation.eventually(lambda: len(installation.numbers("phoenix")) > begun + 2, PATIENCE)
    assert "killed" not in (herdpy.log / "phoenix.log").read_text()


def test_whoever_waits_for_an_answer_gets_one_though_it_asks_but_once(installation: Installation) -> None:
    herdpy = installation.herdpy
    go = herdpy.directory / "go"
    up = f"while [ ! -e {go} ]; do sleep 0.05; done; echo is up; exec sleep 1000"
    installation.declare("rising", ["sh", "-c", up], "[ready]", 'log-line = "is up"')
    installation.declare("other", ["sh", "-c", up], "[ready]", 'log-line = "is up"')
    herdpy.start()
    answers: list[bytes] = []
    askers = [
        threading.Thread(target=lambda service=service: answers.append(ask(herdpy.socket, "start", service)))
        for service in ("rising", "other", "rising")
    ]
    for asker in askers:
        asker.start()
    with socket.socket(socket.AF_UNIX) as hesitant:
        hesitant.settimeout(PATIENCE)
        hesitant.connect(str(herdpy.socket))
        command = protocol.write_command(protocol.Command("status", "other"))
        hesitant.sendall(command[:20])
        for service in ("other", "rising"):
            installation.eventually(lambda service=service: herdpy.status(service)["status"] == "starting", PATIENCE)
        for _ in range(2):
            installation.upgrade()
        hesitant.sendall(command[20:])
        assert b"(provides (other))" in hesitant.recv(65536)
    assert not answers
    go.write_text("")
    for asker in askers:
        asker.join(PATIENCE)
    assert len(answers) == 3
    assert all(b"(error #f)" in answer and b"(running " in answer for answer in answers), answers


def test_a_client_that_asks_all_the_time_is_always_answered(installation: Installation) -> None:
    installation.declare("plain", ["sleep", "1000"], "auto-start = true")
    herdpy = installation.herdpy
    herdpy.start()
    pid = installation.pid("plain")
    is_over = threading.Event()
    wrong: list[bytes] = []
    asked = 0

    def ask_on() -> None:
        nonlocal asked
        while not is_over.is_set():
            answer = ask(herdpy.socket, "status", "plain")
            asked += 1
            if f"(running {pid})".encode() not in answer:
                wrong.append(answer)

    asker = threading.Thread(target=ask_on)
    asker.start()
    try:
        for what in (*PARTS, *PARTS):
            installation.upgrade(*what)
    finally:
        is_over.set()
        asker.join(PATIENCE)
    assert asked > 10
    assert wrong == []


@pytest.mark.parametrize("where", ["at its beginning", "when it has all"])
@pytest.mark.parametrize("always", [False, True])
def test_a_keeper_that_fails_only_when_it_is_executed(installation: Installation, where: str, *, always: bool) -> None:
    """As if it had been killed: the supervisor becomes the next one, and the control socket stays where it is."""
    herdpy = installation.herdpy
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    herdpy.start()
    plain = identity(installation.pid("plain"))
    (supervisor,) = installation.supervisors()
    marker = herdpy.directory / "failed"
    fail = f"if {always} or not os.path.exists({str(marker)!r}): open({str(marker)!r}, 'a').close(); raise SystemError"
    if where == "at its beginning":
        installation.edit("keeper/__main__.py", ("        memory = int(", f"        {fail}\n        memory = int("))
    else:
        begin = "        self._signals = signals\n"
        fail = fail.replace("if ", "if self._renewed is not None and (").replace(": open", "): open")
        installation.edit("keeper/keeper.py", (begin, f"{begin}        {fail}\n"))
    socket = herdpy.socket.stat().st_ino
    done = herdpy.herd("upgrade", "root", "keeper")  # which asks the next one once more
    assert done.returncode == (1 if always else 0), done
    lost = re.findall(r"keeper-lost pid=(\d+)", (herdpy.log / "herdpy.log").read_text())
    assert lost[0] == str(supervisor)
    assert (len(lost) > 1) is always
    assert herdpy.socket.stat().st_ino == socket
    herdpy.let_succeed(int(lost[-1]))
    assert identity(installation.pid("plain")) == plain
    installation.install()
    installation.upgrade("keeper")
    at = len(installation.numbers("plain"))
    installation.eventually(lambda: len(installation.numbers("plain")) > at + 5, PATIENCE)
    assert counted(installation.numbers("plain"))
    herdpy.ok("stop", "root")
    herdpy.process.wait(PATIENCE)


def test_of_two_that_could_be_the_next_keeper_one_is(installation: Installation) -> None:
    """The keeper is killed when the second supervisor is in charge and the first has not heard so yet."""
    herdpy = installation.herdpy
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    taken = "        answer = self._expect_no_more(serial)\n"
    stop = '        if packet["kind"] == "handed_over":\n            os.kill(os.getpid(), 19)  # SIGSTOP\n'
    installation.edit("supervisor/line.py", (taken, stop + taken))
    herdpy.start()
    installation.install()
    plain = identity(installation.pid("plain"))
    (first,) = installation.supervisors()
    asking = herdpy.herd_in_background("upgrade", "root")
    installation.eventually(lambda: state_of(first) == "T", PATIENCE)
    (second,) = set(installation.supervisors()) - {first}
    os.kill(installation.keeper, signal.SIGSTOP)  # so that both see its end at once
    pidfd = os.pidfd_open(second)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    os.close(pidfd)
    os.kill(installation.keeper, signal.SIGKILL)
    for pid in (first, second):
        os.kill(pid, signal.SIGCONT)
    installation.eventually(lambda: not lives(first) or not lives(second), PATIENCE)
    herdpy.let_succeed(first if lives(first) else second)
    assert asking.wait(PATIENCE) == 0
    assert identity(installation.pid("plain")) == plain
    assert len(installation.supervisors()) == 1
    assert not (lives(first) and lives(second))
    at = len(installation.numbers("plain"))
    installation.eventually(lambda: len(installation.numbers("plain")) > at + 5, PATIENCE)
    assert counted(installation.numbers("plain"))
    assert "Traceback" not in herdpy.said()
    herdpy.ok("stop", "root")
    herdpy.process.wait(PATIENCE)


@pytest.mark.parametrize("victim", ["first", "second", "keeper", "logger"])
def test_a_kill_in_the_middle_of_an_upgrade(installation: Installation, victim: str) -> None:
    herdpy = installation.herdpy
    installation.declare("plain", ["sh", "-c", COUNTING], "auto-start = true")
    herdpy.start()
    plain = identity(installation.pid("plain"))
    (first,) = installation.supervisors()
    keeper = installation.keeper
    # The second one waits, in the middle of getting ready, for what the test does.
    gate = herdpy.directory / "gate"
    os.mkfifo(gate)
    installation.edit(
        "supervisor/registry.py",
        ("    def take_plan(self", f"    open({str(gate)!r}).read()\n\n    def take_plan(self"),
    )
    asking = herdpy.herd_in_background("upgrade", "root")
    held_open: list[int] = []

    def is_at_the_gate() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads yet
            held_open.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held_open)

    installation.eventually(is_at_the_gate, PATIENCE)
    (second,) = set(installation.supervisors()) - {first}
    dead = {"first": first, "second": second, "keeper": keeper, "logger": installation.logger()}[victim]
    installation.install()
    os.kill(dead, signal.SIGKILL)
    if victim == "keeper":
        herdpy.let_succeed(first)
    else:
        installation.eventually(lambda: not lives(dead), PATIENCE)
    if victim == "logger":
        os.close(held_open.pop())
        assert asking.wait(PATIENCE) == 0
    else:
        # The first one tells that there is no second; of one that was killed, herd asks the next once more.
        assert asking.wait(PATIENCE) == (1 if victim == "second" else 0)
        os.close(held_open.pop())
    installation.eventually(lambda: len(installation.supervisors()) == 1, PATIENCE)
    installation.eventually(lambda: not lives(second) or victim == "logger", PATIENCE)
    assert identity(installation.pid("plain")) == plain
    assert (installation.supervisors() == [first]) == (victim == "second")
    for what in PARTS:
        installation.upgrade(*what)
    assert identity(installation.pid("plain")) == plain
    at = len(installation.numbers("plain"))
    installation.eventually(lambda: len(installation.numbers("plain")) > at + 5, PATIENCE)
    assert counted(installation.numbers("plain"))
    herdpy.ok("stop", "root")
    herdpy.process.wait(PATIENCE)
