"""What a child finds, and what is said when there is none."""

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.keeper.conftest import ENVIRONMENT, Running, Supervisor, read_to_end
from tests.waiting import until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY: dict[str, Any] = {"uid": 65534, "gid": 65534, "groups": []}

# As ourselves by vfork, as someone else by fork: a child must find the same.
ways = pytest.mark.parametrize("identity", [{}, pytest.param(NOBODY, marks=needs_root)], ids=["vfork", "fork"])

GLIBC_OWN = 0b11 << 31
"""Signals 32 and 33: glibc's posix_spawn leaves its own ignored, and takes them when it needs them."""


@ways
def test_the_answer_identifies_the_process(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    told = supervisor.spawn("service", "sleep", "1000", **identity)
    assert told["kind"] == "spawned"
    assert told["id"] == "service"
    process = psutil.Process(told["pid"])
    # The kernel lets a vfork's parent go a moment before the new command line is there.
    until(lambda: process.cmdline() == ["sleep", "1000"], "the program")
    ticks = Path(f"/proc/{told['pid']}/stat").read_text().rpartition(")")[2].split()[19]
    assert told["start_time"] == int(ticks)


AHEAD = ("unshare", "--time", "--boottime=1000000", "--fork", "--kill-child")
"""In a time namespace whose clock is a million seconds ahead (time_namespaces(7)); so is /proc, to who is in there."""


@pytest.mark.parametrize("prefix", [(), pytest.param(AHEAD, marks=needs_root)], ids=["here", "ahead"])
def test_the_start_times_are_those_of_proc(keeper: Running, prefix: tuple[str, ...]) -> None:
    """Mostly the clock tells, without a look into /proc; some of so many begin when a tick is over."""
    keeper.begin(prefix=prefix)
    supervisor = keeper.supervisor()
    for number in range(40):
        name = f"service-{number}"
        told = supervisor.spawn(name, "cat", "/proc/self/stat", output="supervisor")
        said = read_to_end(supervisor.passed[0])
        assert told["start_time"] == int(said.rpartition(b")")[2].split()[19])
        supervisor.ended(name)


@ways
def test_a_child_inherits_no_descriptor_but_0_1_2(keeper: Running, identity: dict[str, Any]) -> None:
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        keeper.begin(prefix=("sh", "-c", f'exec 9<{__file__}; exec "$@"', "sh"))
    supervisor = keeper.supervisor()
    supervisor.spawn("another", "sleep", "1000", output={"log": str(keeper.place / "log" / "another.log")})
    # ls itself has the directory open.
    assert supervisor.output("ls", "/proc/self/fd", **identity).split() == ["0", "1", "2", "3"]
    assert "/dev/null" in supervisor.output("readlink", "/proc/self/fd/0", **identity)


@ways
def test_a_child_begins_with_no_signal_blocked_or_ignored(keeper: Running, identity: dict[str, Any]) -> None:
    # As nohup and a careless parent would start us.
    careless = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    keeper.begin(prefix=(sys.executable, "-c", careless))
    status = keeper.supervisor().output("cat", "/proc/self/status", **identity)
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
    }
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & ~GLIBC_OWN == 0
    assert masks["SigCgt"] == 0


@ways
def test_a_child_leads_a_session_of_its_own(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    pid = supervisor.spawn("service", "sleep", "1000", **identity)["pid"]
    assert os.getsid(pid) == os.getpgid(pid) == pid


@ways
def test_directory_and_umask(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    script = ("sh", "-c", "pwd; umask")
    assert supervisor.output(*script, directory="/usr", umask=0o027, **identity).split() == ["/usr", "0027"]
    assert supervisor.output(*script, directory="/usr", umask=0, **identity).split() == ["/usr", "0000"]
    ours = os.umask(0o022)
    os.umask(ours)
    assert supervisor.output(*script, **identity).split() == ["/", f"{ours:04o}"]


@ways
def test_the_environment_is_the_one_that_was_asked_for(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LETTERS": "päp \udcff", "EMPTY": ""}
    told = supervisor.spawn("output", "env", "-0", output="supervisor", environment=environment, **identity)
    assert told["kind"] == "spawned"
    found = read_to_end(supervisor.passed[0]).split(b"\0")
    asked_for = [b"PATH=/usr/bin:/bin", "LETTERS=päp ".encode() + b"\xff", b"EMPTY="]
    assert sorted(found) == sorted([b"", *asked_for, b"HERDPY_SERVICE=output"])


@needs_root
def test_identity(supervisor: Supervisor) -> None:
    identity = supervisor.output("cat", "/proc/self/status", uid=1234, gid=2345, groups=[10, 20])
    words = {line.split(":")[0]: line.split()[1:] for line in identity.splitlines()}
    assert words["Uid"] == ["1234"] * 4
    assert words["Gid"] == ["2345"] * 4
    assert words["Groups"] == ["10", "20"]


@ways
def test_limits_are_the_ones_we_were_started_with(keeper: Running, identity: dict[str, Any]) -> None:
    keeper.begin(prefix=("sh", "-c", 'ulimit -Sn 333; exec "$@"', "sh"))
    supervisor = keeper.supervisor()
    assert supervisor.output("sh", "-c", "ulimit -Sn; ulimit -Hn", **identity).split()[0] == "333"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours = psutil.Process(keeper.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert ours == (hard, hard)


@ways
def test_more_children_than_the_limit_that_children_have(keeper: Running, identity: dict[str, Any]) -> None:
    keeper.begin(prefix=("sh", "-c", 'ulimit -Sn 20; exec "$@"', "sh"))
    supervisor = keeper.supervisor()
    for number in range(30):
        log = {"log": str(keeper.place / "log" / f"{number}.log")}
        assert supervisor.spawn(f"s{number}", "sleep", "1000", output=log, **identity)["kind"] == "spawned"
    assert supervisor.output("sh", "-c", "ulimit -Sn", **identity) == "20\n"


@ways
def test_the_program_is_looked_up_in_the_child_s_path(
    supervisor: Supervisor, public: Path, identity: dict[str, Any]
) -> None:
    program = public / "very-own-program"
    program.write_text("#!/bin/sh\necho found $0\n")
    program.chmod(0o755)
    path = f"/nowhere:{__file__}:{public}"
    assert supervisor.output("very-own-program", environment={"PATH": path}, **identity) == f"found {program}\n"
    assert supervisor.output("./very-own-program", directory=str(public), **identity) == "found ./very-own-program\n"
    # Not the keeper's PATH, and without any the system's.
    assert supervisor.spawn("a", "sh", environment={"PATH": "/nowhere"}, **identity)["kind"] == "failed"
    assert supervisor.output("sh", "-c", "echo hi", environment={}, **identity) == "hi\n"


@ways
def test_why_an_exec_failed(supervisor: Supervisor, public: Path, identity: dict[str, Any]) -> None:
    script, plain, empty = public / "script", public / "plain", public / "empty"
    script.write_text("#! /nowhere/interpreter -x\n")
    script.chmod(0o755)
    plain.write_text("no program")
    empty.write_bytes(b"\x7fELF and no more")
    empty.chmod(0o755)

    def why(program: str, **fields: Any) -> tuple[str, int, str]:
        told = supervisor.spawn("service", program, **fields, **identity)
        assert told["kind"] == "failed", told
        return told["stage"], told["errno"], told["path"]

    assert why("/nowhere/program") == ("exec", 2, "/nowhere/program")
    assert why("no-such-program") == ("exec", 2, "no-such-program")
    assert why(str(script)) == ("interpreter", 2, "/nowhere/interpreter")
    assert why(str(plain)) == ("exec", 13, str(plain))
    assert why(str(empty)) == ("exec", 8, str(empty))
    assert why("script", environment={"PATH": str(public)}) == ("interpreter", 2, "/nowhere/interpreter")
    assert why("plain", environment={"PATH": f"{public}:/usr/bin"}) == ("exec", 13, str(plain))
    assert why("true", directory="/nowhere") == ("directory", 2, "/nowhere")
    assert why("true", directory=str(plain)) == ("directory", 20, str(plain))
    assert supervisor.hello()[0]["kind"] == "listener", "a child that never was is still held"


@needs_root
def test_the_user_must_be_allowed_into_the_directory(supervisor: Supervisor, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    told = supervisor.spawn("service", "true", directory=str(tmp_path), **NOBODY)
    assert (told["kind"], told["stage"], told["errno"], told["path"]) == ("failed", "directory", 13, str(tmp_path))


def test_who_may_not_become_another_user_is_told(keeper: Running) -> None:
    # Root may not either, without the capability (capabilities(7)).
    keeper.begin(prefix=("setpriv", "--bounding-set=-setuid", "--") if os.geteuid() == 0 else ())
    told = keeper.supervisor().spawn("service", "true", uid=65534)
    assert (told["kind"], told["stage"], told["errno"]) == ("failed", "uid", 1)


def test_a_failed_child_leaves_no_zombie(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    logger = keeper.logger()
    for _ in range(5):
        assert supervisor.spawn("service", "/nowhere", uid=os.getuid(), groups=[4242] * 3)["kind"] == "failed"
    until(lambda: {child.pid for child in keeper.children()} == {supervisor.pid, logger}, "no child left")


def test_output_comes_back_to_the_supervisor(supervisor: Supervisor) -> None:
    assert supervisor.output("sh", "-c", "echo out; echo err >&2") == "out\nerr\n"


def test_output_to_nowhere(supervisor: Supervisor) -> None:
    assert supervisor.spawn("service", "sh", "-c", "echo out; readlink /proc/self/fd/1")["kind"] == "spawned"
    assert supervisor.ended("service") == {"exited": 0}


@ways
def test_a_child_can_open_its_output_anew(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    script = ("sh", "-c", "echo again >/dev/stdout && echo more >>/dev/stderr")
    assert supervisor.output(*script, **identity) == "again\nmore\n"


def test_a_missing_reader_kills_no_writer(supervisor: Supervisor, public: Path) -> None:
    fifo = public / "fifo"
    os.mkfifo(fifo)
    supervisor.spawn("service", "sh", "-c", f"read line <{fifo}; echo x; env echo y; exit $?", output="supervisor")
    os.close(supervisor.passed[0])
    fifo.write_text("go on\n")
    assert supervisor.ended("service") == {"exited": 0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": []}, "command"),
        ({"command": "ls"}, "command"),
        ({"command": ["ls", 1]}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["a\0b"]}, "NUL"),
        ({"command": ["a\ud800"]}, "encoded"),
        ({"environment": None}, "environment"),
        ({"environment": {"A=B": "c"}}, "A=B"),
        ({"environment": {"": "c"}}, "''"),
        ({"environment": {"A": 1}}, "A must be a string"),
        ({"directory": 1}, "directory"),
        ({"uid": "root"}, "uid"),
        ({"uid": -1}, "uid"),
        ({"gid": True}, "gid"),
        ({"groups": [1, "x"]}, "groups"),
        ({"umask": "022"}, "umask"),
        ({"scope": "everyone"}, "scope"),
        ({"output": {"log": "relative"}}, "output"),
        ({"output": None}, "output"),
        ({"id": 5}, "id"),
    ],
)
def test_a_bad_spawn_is_answered_with_what_is_bad(supervisor: Supervisor, fields: dict[str, Any], words: str) -> None:
    request = {"id": "x", "command": ["true"], "environment": ENVIRONMENT, "scope": "group", "output": "null"}
    told = supervisor.ask("spawn", **{**request, **fields})
    assert told["kind"] == "error", told
    assert words in told["message"]
    assert supervisor.spawn("good", "true")["kind"] == "spawned"


@pytest.mark.parametrize("field", ["uid", "gid", "umask"])
def test_numbers_too_large_for_the_kernel_are_answered(supervisor: Supervisor, field: str) -> None:
    told = supervisor.spawn("x", "true", **{field: 2**70})
    assert told["kind"] in ("error", "failed")
    assert supervisor.spawn("good", "true")["kind"] == "spawned"


def test_an_id_twice_is_refused(supervisor: Supervisor) -> None:
    first = supervisor.spawn("service", "sleep", "1000")
    told = supervisor.spawn("service", "sleep", "1000")
    assert told["kind"] == "error"
    assert "'service'" in told["message"]
    assert psutil.pid_exists(first["pid"])


def test_a_thousand_services(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    begin = time.monotonic()
    for number in range(1000):
        log = {"log": str(keeper.place / "log" / f"{number}.log")}
        supervisor.tell_spawn(f"s{number}", "sleep", "1000", output=log)
    spawned_ones = [supervisor.expect("spawned") for _ in range(1000)]  # in the order in which their programs ran
    assert {one["id"] for one in spawned_ones} == {f"s{number}" for number in range(1000)}
    pids = {one["pid"] for one in spawned_ones}
    spawned = time.monotonic() - begin
    assert len(pids) == 1000
    pss = next(
        int(line.split()[1])
        for line in Path(f"/proc/{keeper.pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    begin = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    events = [supervisor.receive() for _ in range(2000)]
    assert {event["id"] for event in events if event["kind"] == "exited"} == {f"s{number}" for number in range(1000)}
    assert {event["id"] for event in events if event["kind"] == "drained"} == {f"s{number}" for number in range(1000)}
    for number in range(1000):
        supervisor.tell("release", id=f"s{number}")
    for _ in range(1000):
        supervisor.expect("released")
    ended = time.monotonic() - begin
    logger = keeper.logger()
    assert {child.pid for child in keeper.children()} == {supervisor.pid, logger}
    until(lambda: len(os.listdir(f"/proc/{keeper.pid}/fd")) < 24, "pipes are closed")
    print(f"1000: spawned in {spawned:.2f} s, ended in {ended:.2f} s, keeper's PSS {pss / 1024:.1f} MiB")
    assert pss < 16 * 1024


def test_a_supervisor_that_reads_late_misses_nothing(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    supervisor.spawn("blocker", "sleep", "1000")
    asked = 3000  # answers of some 200 bytes: far more than the socket holds
    for number in range(asked):
        supervisor.tell("signal", id=f"nobody-{number}", signal=0, scope="process")
    logger = keeper.logger()
    os.kill(logger, 0)
    for number in range(asked):
        assert f"nobody-{number}'" in supervisor.expect("error")["message"]
    assert supervisor.ask("signal", id="blocker", signal=0, scope="process")["delivered"] is True
