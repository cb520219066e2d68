"""A cgroup for each service, as far as the host lets us make one; test_family.py has what they are for."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy.keeper.cgroup import Cgroup, Cgroups, directory_in, find
from tests.keeper.conftest import HAS_CGROUPS, PATIENCE, Running, needs_cgroups
from tests.keeper.test_family import leave, lives
from tests.waiting import until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, and move a process")

HYBRID = b"29 23 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
VERSION_1 = b"30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:7 - cgroup cgroup rw,cpu\n"


@pytest.mark.parametrize(
    ("cgroups", "mounts", "directory"),
    [
        (b"9:cpu:/\n0::/\n", VERSION_1 + HYBRID, "/sys/fs/cgroup/unified"),
        (b"0::/a/b:c\n", HYBRID, "/sys/fs/cgroup/unified/a/b:c"),
        (b"0::/\n", b"1 2 0:3 / /odd\\040place rw master:1 - cgroup2 none rw\n", "/odd place"),
        (b"0::/box/in\n", b"1 2 0:3 /box /cg rw - cgroup2 none rw\n", "/cg/in"),
        (b"0::/box\n", b"1 2 0:3 /box /cg rw - cgroup2 none rw\n", "/cg"),
        (b"0::/boxes\n", b"1 2 0:3 /box /cg rw - cgroup2 none rw\n", None),
        (b"0::/\n", b"1 2 0:3 /../.. /cg rw - cgroup2 none rw\n", None),
        (b"0::/../other\n", b"1 2 0:3 /box /cg rw - cgroup2 none rw\n", None),
        (b"0::/\n", VERSION_1, None),
        (b"9:cpu:/\n", HYBRID, None),
        (b"", b"", None),
    ],
)
def test_where_our_cgroup_is(cgroups: bytes, mounts: bytes, directory: str | None) -> None:
    assert directory_in(cgroups, mounts) == directory


def cgroup_of(pid: int) -> str:
    """The v2 cgroup that a process is in, its directory."""
    found = directory_in(Path(f"/proc/{pid}/cgroup").read_bytes(), Path("/proc/self/mountinfo").read_bytes())
    assert found is not None
    return found


def made(keeper: Running) -> list[str]:
    """Names of the services' cgroups."""
    cgroup = keeper.cgroup()
    return [] if cgroup is None else sorted(entry.name for entry in os.scandir(cgroup.path) if entry.is_dir())


@needs_cgroups
@pytest.mark.parametrize("fields", [{}, {"nice": 5}], ids=["vfork", "fork"])
def test_each_service_has_one_and_we_are_at_home(keeper: Running, fields: dict[str, int]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    names = ["a:main:0:17", "file-system-/x/ä ..\n", "/" * 300]
    pids = [supervisor.spawn(name, "sleep", "1000", **fields)["pid"] for name in names]
    assert made(keeper) == ["1.a:main:0:17", "2.file-system-_x___.._", "3." + "_" * 100]
    for pid, name in zip(pids, made(keeper), strict=True):
        assert os.path.basename(cgroup_of(pid)) == name
        assert Cgroup(cgroup_of(pid)).pids() == [pid]
    home = cgroup_of(os.getpid())
    for pid in (keeper.pid, supervisor.pid, keeper.logger()):
        assert cgroup_of(pid) == home
    for name in names:
        supervisor.ask("signal", id=name, signal=9, scope="all")
        supervisor.ended(name)
        supervisor.ask("release", id=name)
    assert made(keeper) == []


@needs_cgroups
@pytest.mark.parametrize("fields", [{}, {"nice": 5}], ids=["vfork", "fork"])
def test_none_is_left_of_a_spawn_that_failed(keeper: Running, fields: dict[str, int]) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    assert supervisor.spawn("service", "/nowhere", **fields)["kind"] == "failed"
    until(lambda: made(keeper) == [], "it is removed")
    assert cgroup_of(keeper.pid) == cgroup_of(os.getpid())


@needs_cgroups
def test_what_outlives_its_service_keeps_its_own_until_it_ends(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service", "setsid", scope="process")
    supervisor.ask("release", id="service")
    assert made(keeper) == ["1.service"]
    assert supervisor.spawn("service", "sleep", "1000")["kind"] == "spawned"
    assert made(keeper) == ["1.service", "2.service"]
    left.kill()
    until(lambda: made(keeper) == ["2.service"], "it is removed")


@needs_cgroups
def test_what_a_service_made_below_its_own_goes_with_it(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    pid = supervisor.spawn("service", "sleep", "1000")["pid"]
    below = Path(cgroup_of(pid)) / "payload" / "inner"
    below.mkdir(parents=True)
    child = subprocess.Popen(["sh", "-c", f"echo 0 >{below}/cgroup.procs; exec sleep 1000"])
    try:
        until(lambda: Path(cgroup_of(child.pid)) == below, "it is in there")
        assert sorted(Cgroup(str(below.parent.parent)).pids()) == sorted([pid, child.pid])
        supervisor.ask("signal", id="service", signal=15, scope="process")
        supervisor.ended("service")
        assert supervisor.ask("rest", id="service")["count"] == 1
        assert supervisor.ask("release", id="service")["left"] == 0
        assert child.wait(60) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    assert made(keeper) == []


@needs_cgroups
def test_a_keeper_removes_what_a_killed_one_left_but_nobody_s_home(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    left = leave(supervisor, "left", "setsid")
    supervisor.spawn("gone", "sleep", "1000")
    children = keeper.children()
    assert keeper.process is not None
    keeper.process.kill()  # before its logger, which it would start anew
    for child in children:
        if child.pid not in (supervisor.pid, left.pid):
            child.kill()
    keeper.process.communicate(timeout=PATIENCE)
    supervisor.close()
    supervisor.drop_listener()  # it was a copy of the control socket
    assert made(keeper) == ["1.left", "2.gone"]
    (keeper.place / "state" / "journal").unlink()
    ours = keeper.cgroup()
    assert ours is not None
    Cgroup(f"{ours.path}/1.left").let_go()  # else who lives there is taken up
    keeper.begin()
    second = keeper.supervisor()
    assert made(keeper) == ["1.left"]
    assert f"a former herdpy let go there still run, left alone: PID {left.pid}\n" in keeper.logged("former")
    assert second.spawn("left", "sleep", "1000")["kind"] == "spawned"
    assert made(keeper) == ["1.left", "2.left"]
    second.tell("exit", status=0)
    second.end()
    keeper.wait()
    assert made(keeper) == ["1.left"]
    assert lives(left)
    left.kill()


@needs_cgroups
def test_one_that_somebody_removed_is_made_anew(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    cgroup = keeper.cgroup()
    assert cgroup is not None
    assert cgroup.remove()
    supervisor.spawn("service", "sleep", "1000")
    assert made(keeper) == ["1.service"]


@pytest.fixture
def box() -> Iterator[Path]:
    """A cgroup to put a keeper into."""
    own = find()
    if own is None or not HAS_CGROUPS:
        yield Path()
        return
    directory = Path(own) / f"keeper-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    Cgroup(str(directory)).kill()
    until(Cgroup(str(directory)).remove, "the box is empty")


@needs_cgroups
@needs_root
@pytest.mark.parametrize("is_namespace", [False, True], ids=["", "in a namespace of its own"])
def test_a_keeper_that_is_in_one_makes_them_below(keeper: Running, box: Path, is_namespace: bool) -> None:
    mounted = find()
    inside = (
        "unshare",
        "--cgroup",
        "--mount",
        "sh",
        "-c",
        f'umount {mounted} && mount -t cgroup2 none {mounted} && exec "$@"',
        "sh",
    )
    enter = ("sh", "-c", f'echo 0 >{box}/cgroup.procs && exec "$@"', "sh")
    keeper.begin(prefix=(*enter, *(inside if is_namespace else ())))
    supervisor = keeper.supervisor()
    pid = supervisor.spawn("service", "sleep", "1000")["pid"]
    (top,) = (entry for entry in box.iterdir() if entry.is_dir())
    assert Path(cgroup_of(pid)) == top / "1.service"
    assert Path(cgroup_of(keeper.pid)) == box
    supervisor.tell("exit", status=0)
    supervisor.end()
    keeper.wait()
    assert not top.exists()


@needs_cgroups
@needs_root
@pytest.mark.parametrize("is_delegated", [False, True])
def test_an_ordinary_user_makes_them_where_they_are_delegated(box: Path, is_delegated: bool) -> None:
    if is_delegated:
        for path in (box, box / "cgroup.procs"):
            os.chown(path, 65534, 65534)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            (box / "cgroup.procs").write_text("0")
            os.setresuid(65534, 65534, 65534)
            cgroups = Cgroups("test")
            cgroup = cgroups.make("service")
            status = 10 if cgroup is None or not cgroups.enter(cgroup) else 20 + cgroups.leave() + cgroup.remove()
            cgroups.remove()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (22 if is_delegated else 10)
    assert [entry.name for entry in box.iterdir() if entry.is_dir()] == []


def test_without_any_nothing_is_said_and_all_goes_on(keeper: Running) -> None:
    own = find()
    hide = ("unshare", "--mount", "sh", "-c", f'mount -o bind,ro {own} {own} && exec "$@"', "sh") if HAS_CGROUPS else ()
    keeper.begin(prefix=hide)
    supervisor = keeper.supervisor()
    left = leave(supervisor, "service", "setsid")
    assert supervisor.ask("release", id="service")["left"] == 0
    assert not lives(left)
    assert made(keeper) == []
    supervisor.tell("exit", status=0)
    supervisor.end()
    assert keeper.wait()[2] == f"supervisor {supervisor.pid} is here\n"


@needs_cgroups
def test_a_quick_fork_is_born_there(keeper: Running) -> None:
    """A hundred children, each of which forks before anyone could have moved it."""
    keeper.begin()
    supervisor = keeper.supervisor()
    for number in range(100):
        supervisor.tell_spawn(f"s{number}", "sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & exit")
    told = [supervisor.receive() for _ in range(300)]
    assert sum(message["kind"] == "spawned" for message in told) == 100
    counts = [supervisor.ask("rest", id=f"s{number}")["count"] for number in range(100)]
    assert counts == [2] * 100
    for number in range(100):
        assert supervisor.ask("release", id=f"s{number}")["left"] == 0


@needs_cgroups
def test_a_child_is_born_in_its_cgroup_alone_and_in_a_crowd(keeper: Running) -> None:
    """Whichever way it is spawned: what it forks at once is in there, too."""
    keeper.begin()
    supervisor = keeper.supervisor()
    for size in (1, 30):
        for number in range(size):
            supervisor.tell_spawn(f"s{size}-{number}", "sh", "-c", "setsid sleep 1000 & exec sleep 1000")
        spawned = [supervisor.expect("spawned") for _ in range(size)]
        homes = {Path(f"/proc/{one['pid']}/cgroup").read_text().rpartition("0::")[2].strip() for one in spawned}
        assert len(homes) == size
        assert all("herdpy-" in home for home in homes)
