"""What a child is given beyond its user and its directory, as the kernel tells it."""

import os
from pathlib import Path
from typing import Any

import pytest

from herdpy.kernel import CAPABILITIES, LIMITS
from tests.keeper.conftest import ENVIRONMENT, Running, Supervisor

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can become another user, and give what it has")
may_raise = bool(
    int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")).split()[
            1
        ],
        16,
    )
    >> CAPABILITIES.index("CAP_SYS_RESOURCE")
    & 1
)
"""Root of a container often may not."""
WITHOUT = ("setpriv", "--bounding-set=-sys_resource,-sys_nice,-chown") if is_root else ()
"""What takes root's power over limits, priorities and files from the keeper; others have none."""
NOBODY: dict[str, Any] = {"uid": 65534, "gid": 65534, "groups": []}
BIND, CHOWN, KILL = (1 << CAPABILITIES.index(name) for name in ("CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_KILL"))

LIMIT_LABELS = {
    "nofile": "Max open files",
    "nproc": "Max processes",
    "core": "Max core file size",
    "cpu": "Max cpu time",
}


def limits(text: str) -> dict[str, list[str]]:
    """(soft, hard) of each line of /proc/PID/limits, by its label."""
    return {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()[1:]}


def status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def failed(supervisor: Supervisor, **fields: Any) -> tuple[str, int, str]:
    told = supervisor.spawn("service", "true", **fields)
    assert told["kind"] == "failed", told
    return told["stage"], told["errno"], told["path"]


@pytest.mark.parametrize("identity", [{}, pytest.param(NOBODY, marks=needs_root)], ids=["ourselves", "nobody"])
def test_limits(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    before = limits(supervisor.output("cat", "/proc/self/limits", **identity))
    wanted = [["nofile", 100, 200], ["nproc", 4000, 5000], ["core", 0, 0], ["cpu", 1000, None]]
    found = limits(supervisor.output("cat", "/proc/self/limits", limits=wanted, **identity))
    assert {name: found.pop(label) for name, label in LIMIT_LABELS.items()} == {
        "nofile": ["100", "200"],
        "nproc": ["4000", "5000"],
        "core": ["0", "0"],
        "cpu": ["1000", "unlimited"],
    }
    assert found == {label: values for label, values in before.items() if label in found}


def test_a_hard_limit_is_raised_while_we_may(keeper: Running) -> None:
    keeper.begin(prefix=("sh", "-c", 'ulimit -Hn 500; ulimit -Hc 0; exec "$@"', "sh"))
    supervisor = keeper.supervisor()
    wanted = [["nofile", 600, 700], ["core", -1, None]]
    if not may_raise:
        assert failed(supervisor, limits=wanted)[:2] == ("limits", 1)
        return
    found = limits(supervisor.output("cat", "/proc/self/limits", limits=wanted, **NOBODY))
    assert found["Max open files"] == ["600", "700"]
    assert found["Max core file size"] == ["unlimited", "unlimited"]
    # Nobody else has them, and the keeper's own are as they were.
    assert limits(supervisor.output("cat", "/proc/self/limits"))["Max open files"] == ["500", "500"]
    assert limits(Path(f"/proc/{keeper.pid}/limits").read_text())["Max open files"] == ["500", "500"]


@needs_root
def test_what_the_kernel_refuses_is_told_with_the_limit_s_name(supervisor: Supervisor) -> None:
    too_many = int(Path("/proc/sys/fs/nr_open").read_text()) + 1
    assert failed(supervisor, limits=[["core", 0, 0], ["nofile", 10, too_many]]) == ("limits", 1, "nofile")
    assert supervisor.hello()[0]["kind"] == "listener", "a child that never was is still held"


def test_a_hard_limit_that_may_not_be_raised_is_told(keeper: Running) -> None:
    keeper.begin(prefix=(*WITHOUT, "sh", "-c", 'ulimit -Hc 0; exec "$@"', "sh"))
    assert failed(keeper.supervisor(), limits=[["core", 0, None]]) == ("limits", 1, "core")


def test_an_address_space_too_small_for_python_is_no_mystery(supervisor: Supervisor) -> None:
    """The limit is the program's: it, or the dynamic linker, is who meets it; or else we say so."""
    supervisor.tell_spawn("service", "cat", limits=[["as", 1 << 20, 1 << 20]])
    told = supervisor.receive()
    if told["kind"] == "failed":
        assert (told["stage"], told["errno"]) in (("limits", 12), ("exec", 12), ("exec", 7))
    else:
        assert told["kind"] == "spawned"
        assert supervisor.ended("service") != {"exited": 0}
    # A limit that holds the program, but not the Python that sets it.
    assert supervisor.output("echo", "hi", limits=[["as", 8 << 20, 8 << 20], ["stack", 1 << 20, 1 << 20]]) == "hi\n"


@needs_root
def test_a_limit_is_the_program_s_and_does_not_hinder_what_else_it_is_given(supervisor: Supervisor) -> None:
    """Root's capabilities are read from /proc, which takes a descriptor: the keeper's own are beyond 5 already."""
    given = {"capabilities": ["CAP_KILL"], "oom_score_adjust": 500}
    found = limits(supervisor.output("cat", "/proc/self/limits", limits=[["nofile", 5, 5]], **given))
    assert found["Max open files"] == ["5", "5"]


@needs_root
def test_too_many_processes_of_a_user_are_too_many_for_another(supervisor: Supervisor) -> None:
    someone = {**NOBODY, "uid": 64999}
    for name in ("a", "b"):
        assert supervisor.spawn(name, "sleep", "1000", **someone)["kind"] == "spawned"
    assert failed(supervisor, limits=[["nproc", 1, 1]], **someone)[:2] == ("fork", 11)
    assert supervisor.spawn("c", "true", limits=[["nproc", 20, 20]], **someone)["kind"] == "spawned"


def nice_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])


@pytest.mark.parametrize("nice", [pytest.param(-20, marks=needs_root), pytest.param(-1, marks=needs_root), 7, 19])
def test_nice(supervisor: Supervisor, nice: int) -> None:
    pid = supervisor.spawn("service", "sleep", "1000", nice=nice, **(NOBODY if is_root else {}))["pid"]
    assert nice_of(pid) == nice


@pytest.mark.parametrize("score", [*([-1000] if may_raise else []), 321, 1000])
def test_oom_score(supervisor: Supervisor, score: int) -> None:
    pid = supervisor.spawn("service", "sleep", "1000", oom_score_adjust=score, **(NOBODY if is_root else {}))["pid"]
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == score


def test_what_a_child_was_given_is_not_the_keeper_s(supervisor: Supervisor, keeper: Running) -> None:
    ours = Path(f"/proc/{keeper.pid}/oom_score_adj").read_text(), nice_of(keeper.pid)
    given = {"nice": 9, "oom_score_adjust": 500, "no_new_privileges": True}
    assert supervisor.spawn("service", "sleep", "1000", **given)["kind"] == "spawned"
    assert (Path(f"/proc/{keeper.pid}/oom_score_adj").read_text(), nice_of(keeper.pid)) == ours
    assert status(Path(f"/proc/{keeper.pid}/status").read_text())["NoNewPrivs"] == "0"


def test_an_oom_score_that_may_not_be_is_told(keeper: Running) -> None:
    keeper.begin(prefix=WITHOUT)
    assert failed(keeper.supervisor(), oom_score_adjust=-999) == ("oom", 13, "-999")


def test_what_takes_root_is_refused_others(keeper: Running) -> None:
    keeper.begin(prefix=WITHOUT)
    supervisor = keeper.supervisor()
    assert failed(supervisor, nice=-5) == ("nice", 13, "-5")
    assert failed(supervisor, capabilities=["CAP_CHOWN"])[:2] == ("capabilities", 1)


@needs_root
@pytest.mark.parametrize("more", [{}, {"no_new_privileges": True}], ids=["", "no-new-privileges"])
def test_another_user_has_these_capabilities_and_no_others(supervisor: Supervisor, more: dict[str, Any]) -> None:
    wanted = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_CHOWN"]
    found = status(supervisor.output("cat", "/proc/self/status", capabilities=wanted, **NOBODY, **more))
    assert found["Uid"].split() == ["65534"] * 4
    for each in ("CapAmb", "CapEff", "CapPrm", "CapInh"):
        assert int(found[each], 16) == BIND | CHOWN, each


@needs_root
def test_capabilities_pass_on_to_what_a_child_executes(supervisor: Supervisor, public: Path) -> None:
    theirs = public / "theirs"
    theirs.touch()
    command = ("sh", "-c", 'chown 1234 "$0" && cat /proc/self/status', str(theirs))
    found = status(supervisor.output(*command, capabilities=["CAP_CHOWN"], **NOBODY))
    assert theirs.stat().st_uid == 1234
    assert int(found["CapEff"], 16) == CHOWN


@needs_root
def test_no_capabilities_at_all(supervisor: Supervisor) -> None:
    found = status(supervisor.output("cat", "/proc/self/status", capabilities=[], **NOBODY))
    assert [int(found[each], 16) for each in ("CapAmb", "CapEff", "CapPrm", "CapInh")] == [0] * 4


@needs_root
@pytest.mark.parametrize("more", [{}, {"no_new_privileges": True}], ids=["", "no-new-privileges"])
def test_root_keeps_what_it_has(supervisor: Supervisor, public: Path, more: dict[str, Any]) -> None:
    private = public / "private"
    private.mkdir(mode=0o700)
    os.chown(private, 65534, 65534)
    before = status(supervisor.output("cat", "/proc/self/status"))
    fields = {"capabilities": ["CAP_KILL"], "directory": str(private), **more}
    found = status(supervisor.output("cat", "/proc/self/status", **fields))
    assert found["CapEff"] == before["CapEff"]
    assert found["CapPrm"] == before["CapPrm"]
    assert int(found["CapAmb"], 16) == KILL


@needs_root
def test_a_capability_reaches_the_directory_and_the_program(supervisor: Supervisor, public: Path) -> None:
    private = public / "private"
    private.mkdir(mode=0o700)
    program = private / "program"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    assert failed(supervisor, directory=str(private), **NOBODY) == ("directory", 13, str(private))
    told = supervisor.spawn("service", str(program), directory="/", **NOBODY)
    assert (told["kind"], told["errno"]) == ("failed", 13)
    reach = {"capabilities": ["CAP_DAC_READ_SEARCH"], "directory": str(private), **NOBODY}
    assert supervisor.output(str(program), **reach) == f"{private}\n"


@pytest.mark.parametrize("identity", [{}, pytest.param(NOBODY, marks=needs_root)], ids=["ourselves", "nobody"])
def test_no_new_privileges(supervisor: Supervisor, identity: dict[str, Any]) -> None:
    assert status(supervisor.output("cat", "/proc/self/status", **identity))["NoNewPrivs"] == "0"
    found = status(supervisor.output("cat", "/proc/self/status", no_new_privileges=True, **identity))
    assert found["NoNewPrivs"] == "1"


def test_a_child_of_our_own_with_limits_finds_what_any_child_finds(supervisor: Supervisor) -> None:
    pid = supervisor.spawn("service", "sleep", "1000", nice=3)["pid"]
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert supervisor.output("ls", "/proc/self/fd", nice=3).split() == ["0", "1", "2", "3"]
    found = status(supervisor.output("cat", "/proc/self/status", nice=3))
    assert int(found["SigBlk"], 16) == int(found["SigCgt"], 16) == 0
    told = supervisor.spawn("other", "true", nice=3, directory="/nowhere")
    assert (told["stage"], told["errno"], told["path"]) == ("directory", 2, "/nowhere")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limits": {"nofile": 5}}, "list of [name, soft, hard]"),
        ({"limits": [["nofile", 5]]}, "list of [name, soft, hard]"),
        ({"limits": [["nofiles", 5, 5]]}, "'nofiles' is no limit's name"),
        ({"limits": [[["nofile"], 5, 5]]}, "is no limit's name"),
        ({"limits": [["ofile", 5, 5]]}, "'ofile' is no limit's name"),
        ({"limits": [["nofile", 5, 5], ["nofile", 6, 6]]}, "twice"),
        ({"limits": [["nofile", 6, 5]]}, "not be above"),
        ({"limits": [["nofile", None, 5]]}, "not be above"),
        ({"limits": [["nofile", -2, 5]]}, "nofile must be a number"),
        ({"limits": [["nofile", True, 5]]}, "nofile must be a number"),
        ({"limits": [["nofile", 1, 2**53 + 1]]}, "nofile must be a number"),
        ({"nice": 20}, "nice must be a number from -20 to 19"),
        ({"nice": -21}, "nice"),
        ({"nice": True}, "nice"),
        ({"oom_score_adjust": 1001}, "oom_score_adjust must be a number from -1000 to 1000"),
        ({"oom_score_adjust": "5"}, "oom_score_adjust"),
        ({"capabilities": "CAP_KILL"}, "list of strings"),
        ({"capabilities": ["CAP_KILL", "CAP_NONE"]}, "'CAP_NONE' is no capability's name"),
        ({"capabilities": [["CAP_KILL"]]}, "is no capability's name"),
        ({"no_new_privileges": 1}, "no_new_privileges must be true or false"),
        ({"pid_variable": 7}, "pid_variable must be a string"),
        ({"pid_variable": "A=B"}, "pid_variable: 'A=B' is no variable's name"),
    ],
)
def test_a_bad_request_is_answered_with_what_is_bad(supervisor: Supervisor, fields: dict[str, Any], words: str) -> None:
    request = {"id": "x", "command": ["true"], "environment": ENVIRONMENT, "scope": "group", "output": "null"}
    told = supervisor.ask("spawn", **{**request, **fields})
    assert told["kind"] == "error", told
    assert words in told["message"]
    assert supervisor.spawn("good", "true")["kind"] == "spawned"


def test_the_names_are_the_kernel_s() -> None:
    """Of capabilities by their number, as far as this kernel knows them; of limits by the numbers in setrlimit(2)."""
    assert len(CAPABILITIES) == 41
    assert CAPABILITIES.index("CAP_NET_BIND_SERVICE") == 10
    assert CAPABILITIES.index("CAP_SYS_ADMIN") == 21
    assert CAPABILITIES.index("CAP_CHECKPOINT_RESTORE") == 40
    assert {"as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack"} <= LIMITS.keys()
