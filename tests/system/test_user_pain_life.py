"""Complaints about the life of services under other supervisors, each by its project and number: not under this one."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.daemons import failed_start, program, replace_supervisor, toml

STUBBORN = "trap '' TERM; : > $READY; while :; do sleep 0.02; done"


def sh(script: str, more: str = "") -> str:
    return toml(["sh", "-c", script], more)


def state(pid: int) -> str | None:
    """As proc(5) has it: None when there is no such process, or nobody has taken leave of it yet."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if letter in "ZX" else letter


def number_in(path: Path) -> int:
    return int(path.read_text())


@pytest.fixture
def numbers(tmp_path, eventually):
    """Waits for PIDs that a service's processes write, each into a file of its own."""

    def wait(*names: str) -> list[int]:
        eventually(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text().strip() for name in names))
        return [number_in(tmp_path / name) for name in names]

    return wait


# Orphans


def test_supervisor_1101_a_tree_of_shells_is_gone_after_a_stop(herdpy, tmp_path, numbers):
    """npm starts sh, which starts node: neither passes the signal on."""
    inner = f"echo $$ > {tmp_path}/inner; sleep 1000; :"
    outer = f"echo $$ > {tmp_path}/outer; sh -c '{inner}'; :"
    herdpy.declare("tree", toml(["sh", "-c", f'sh -c "{outer}"; :']))
    herdpy.start()
    herdpy.ok("start", "tree")
    pids = numbers("outer", "inner")
    herdpy.ok("stop", "tree")
    assert [state(pid) for pid in pids] == [None, None]


def test_shepherd_a_grandchild_with_a_session_of_its_own_is_gone_after_a_stop(herdpy, tmp_path, numbers):
    herdpy.declare("one", sh(f"setsid sh -c 'echo $$ > {tmp_path}/stray; exec sleep 1000' & exec sleep 1000"))
    herdpy.start()
    herdpy.ok("start", "one")
    (stray,) = numbers("stray")
    herdpy.ok("stop", "one")
    assert state(stray) is None


def test_shepherd_40672_what_a_dead_process_leaves_gets_the_signal_first_and_is_gone_before_the_next(
    herdpy, tmp_path, numbers, eventually
):
    """The stray writes its last will within the grace period; only then the next process begins."""
    trace = tmp_path / "trace"
    stray = (
        f'trap "sleep 0.3; echo tidied >> {trace}; exit" TERM; echo $$ > {tmp_path}/stray; while :; do sleep 0.02; done'
    )
    herdpy.declare(
        "one",
        toml(
            [
                "sh",
                "-c",
                f"echo begins >> {trace}; test -e {tmp_path}/stray || setsid sh -c '{stray}' & exec sleep 1000",
            ],
            "respawn-delay = 0",
        ),
    )
    herdpy.start()
    herdpy.ok("start", "one")
    (pid,) = numbers("stray")
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)
    eventually(lambda: trace.read_text().count("begins") == 2)
    assert trace.read_text().split() == ["begins", "tidied", "begins"]
    assert state(pid) is None


def test_what_a_dead_process_leaves_and_does_not_go_is_killed(herdpy, tmp_path, numbers, eventually):
    stray = f'trap "" TERM; echo $$ > {tmp_path}/stray; while :; do sleep 0.02; done'
    herdpy.declare("one", sh(f"setsid sh -c '{stray}' & exec sleep 1000", "grace-period = 1.5\nrespawn = false"))
    herdpy.start()
    herdpy.ok("start", "one")
    (pid,) = numbers("stray")
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)
    eventually(lambda: str(herdpy.status("one")["stage"]).startswith("waiting for what is left of it: "))
    eventually(lambda: herdpy.status("one")["status"] == "stopped")
    assert state(pid) is None
    assert "processes-left service=one count=" in herdpy.said()


def test_supervisor_925_the_next_supervisor_knows_what_runs(herdpy, eventually):
    herdpy.declare("one", toml(["sleep", "1000"]))
    herdpy.start()
    herdpy.ok("start", "one")
    pid = herdpy.status("one")["pid"]
    replace_supervisor(herdpy, eventually)
    assert herdpy.status("one")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: herdpy.status("one")["pid"] not in (None, pid))
    herdpy.ok("stop", "one")


def test_pebble_594_a_restart_is_not_hindered_by_what_is_left_of_the_old_process(herdpy, tmp_path, numbers):
    """A stubborn child holds the port; the next process needs it."""
    holder = """
import os, signal, socket, sys, time
listening = socket.socket()
listening.bind(("127.0.0.1", int(sys.argv[1])))
listening.listen()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("listens", flush=True)
time.sleep(1000)
"""
    port = free_port()
    herdpy.declare(
        "one",
        toml(
            [*program(tmp_path, holder), str(port)], 'ready.log-line = "listens"\ngrace-period = 0.3\nrespawn = false'
        ),
    )
    herdpy.start()
    herdpy.ok("start", "one")
    for _ in range(2):
        herdpy.ok("restart", "one")
    assert herdpy.status("one")["status"] == "running"


def test_process_compose_258_a_stop_that_hangs_is_bounded_and_seen(herdpy, tmp_path, eventually):
    herdpy.declare("one", sh(STUBBORN, f'grace-period = 1.5\nenvironment = {{ READY = "{tmp_path}/ready" }}'))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually((tmp_path / "ready").exists)
    pid = herdpy.status("one")["pid"]
    stop = herdpy.herd_in_background("stop", "one")
    eventually(lambda: herdpy.status("one")["status"] == "stopping")
    assert herdpy.status("one")["pid"] == pid, "which process it is that does not end"
    assert stop.wait(60) == 0
    assert f"grace-period-over service=one seconds=1.5 signal=SIGKILL pid={pid}" in herdpy.said()
    assert state(pid) is None


def test_supervisor_1707_services_do_not_share_a_session(herdpy, tmp_path, numbers):
    for name in ("one", "two"):
        herdpy.declare(name, sh(f"echo $$ > {tmp_path}/{name}; exec sleep 1000"))
    herdpy.start()
    for name in ("one", "two"):
        herdpy.ok("start", name)
    one, two = numbers("one", "two")
    assert (os.getsid(one), os.getsid(two)) == (one, two)
    assert os.getsid(herdpy.process.pid) not in (one, two)


# Restart loops


def test_supervisor_1285_the_limit_holds_for_what_never_runs_for_a_second(herdpy, eventually):
    herdpy.declare("one", toml(["false"], "respawn-delay = 0\nrespawn-limit = 3"))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: not herdpy.status("one")["enabled"])
    status = herdpy.status("one")
    assert len(status["last-respawns"]) == 2, "three processes in all"
    assert status["reason"].startswith("respawning too fast: it ended 3 times")


def test_systemd_10529_a_person_can_start_again_what_was_given_up(herdpy, eventually):
    """Without lifting anything before; the counter begins anew."""
    herdpy.declare("one", toml(["false"], "respawn-delay = 0\nrespawn-limit = 2"))
    herdpy.start()
    for _ in range(2):
        herdpy.ok("start", "one")
        eventually(lambda: not herdpy.status("one")["enabled"])
        assert len(herdpy.status("one")["last-respawns"]) == 1
    herdpy.declare("top", toml(["sleep", "1000"], 'requirement = ["one"]'))
    herdpy.ok("reload", "root")
    refused = failed_start(herdpy, "top")
    assert refused[0].startswith("cannot start one: it was given up (respawning too fast: it ended 2 times")
    assert refused[0].endswith("start it by itself with: herd start one")
    herdpy.ok("disable", "one")
    assert failed_start(herdpy, "one")[0].endswith("enable it with: herd enable one")


def test_dinit_249_what_only_misses_a_requirement_is_not_counted_as_dead(herdpy, tmp_path, eventually):
    gate = tmp_path / "gate"
    herdpy.declare(
        "base", sh(f"test -e {gate} && echo up && exec sleep 1000", 'ready.log-line = "up"\nrespawn-limit = 1')
    )
    herdpy.declare("top", toml(["sleep", "1000"], 'requirement = ["base"]\nrespawn-delay = 0\nrespawn-limit = 2'))
    gate.touch()
    herdpy.start()
    herdpy.ok("start", "top")
    gate.unlink()
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    eventually(lambda: not herdpy.status("base")["enabled"])
    os.kill(herdpy.status("top")["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("top")["status"] == "stopped")
    status = herdpy.status("top")
    assert status["reason"] == "base, which it requires, could not be started"
    assert status["enabled"], "its own limit was not reached"
    gate.touch()
    herdpy.ok("enable", "base")
    herdpy.ok("start", "top")


def test_finit_310_the_delay_of_a_respawn_is_kept(herdpy, tmp_path, eventually):
    times = tmp_path / "times"
    herdpy.declare("one", sh(f"date +%s.%N >> {times}; exit 1", "respawn-delay = 0.5\nrespawn-limit = 3"))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: times.exists() and len(times.read_text().split()) == 3)
    first, second, third = map(float, times.read_text().split())
    assert second - first >= 0.5
    assert third - second >= 0.5


def test_circus_529_nothing_is_respawned_between_the_signal_and_the_kill(herdpy, tmp_path, eventually):
    starts = tmp_path / "starts"
    herdpy.declare(
        "one",
        sh(
            f"echo >> {starts}; {STUBBORN}",
            f'respawn-delay = 0\ngrace-period = 1000\nenvironment = {{ READY = "{tmp_path}/ready" }}',
        ),
    )
    herdpy.start()
    herdpy.ok("start", "one")
    eventually((tmp_path / "ready").exists)
    stop = herdpy.herd_in_background("stop", "one")
    eventually(lambda: herdpy.status("one")["status"] == "stopping")
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)  # somebody else is quicker than the grace period
    assert stop.wait(60) == 0
    assert herdpy.status("one")["status"] == "stopped"
    assert starts.read_text() == "\n"


def test_finit_313_one_that_is_stopped_while_it_crashes_is_stopped(herdpy, eventually):
    herdpy.declare("one", toml(["false"], "respawn-delay = 0.02\nrespawn-limit = 1000"))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually(lambda: len(herdpy.status("one")["last-respawns"]) > 3)
    herdpy.ok("stop", "one")
    status = herdpy.status("one")
    assert (status["status"], status["pid"]) == ("stopped", None)
    assert herdpy.children("false") == []


def test_process_compose_530_stops_and_restarts_at_once_leave_no_second_process(herdpy, eventually):
    herdpy.declare("one", toml(["sleep", "1234"]))
    herdpy.start()
    herdpy.ok("start", "one")
    actions = ["restart", "stop", "restart", "start", "restart", "stop", "start", "restart"]
    clients = [threading.Thread(target=herdpy.herd, args=(action, "one")) for action in actions]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    eventually(lambda: herdpy.status("one")["status"] in ("running", "stopped"))
    pid = herdpy.status("one")["pid"]
    assert herdpy.children("1234") == ([] if pid is None else [pid])
    herdpy.ok("start", "one")
    assert len(herdpy.children("1234")) == 1


def test_shepherd_an_end_that_is_not_respawned_disables_nothing(herdpy, eventually):
    herdpy.declare("one", toml(["false"], "respawn = false"))
    herdpy.start()
    for _ in range(3):
        herdpy.ok("start", "one")
        eventually(lambda: herdpy.status("one")["status"] == "stopped")
        assert herdpy.status("one")["enabled"]


# Order


def test_process_compose_274_what_requires_a_failed_start_is_not_started(herdpy, tmp_path):
    herdpy.declare("base", toml(["false"], "ready.notify = true\nrespawn = false"))
    herdpy.declare("top", sh(f": > {tmp_path}/started; sleep 1000", 'requirement = ["base"]'))
    herdpy.start()
    lines = failed_start(herdpy, "top")
    assert lines[0] == "cannot start base: it exited with 1 before it was ready"
    assert lines[-2:] == ["Service top depends on base.", "Service top could not be started."]
    assert not (tmp_path / "started").exists()


def test_finit_285_a_restart_of_what_is_stopped_or_has_crashed_starts_it(herdpy, eventually):
    herdpy.declare("one", toml(["sleep", "1000"], "respawn = false"))
    herdpy.start()
    herdpy.ok("restart", "one")
    os.kill(herdpy.status("one")["pid"], signal.SIGSEGV)
    eventually(lambda: herdpy.status("one")["status"] == "stopped")
    herdpy.ok("restart", "one")
    assert herdpy.status("one")["status"] == "running"


def test_circus_776_a_slow_stop_hinders_nobody_else(herdpy, tmp_path, eventually):
    herdpy.declare("slow", sh(STUBBORN, f'grace-period = 1000\nenvironment = {{ READY = "{tmp_path}/ready" }}'))
    herdpy.declare("quick", toml(["sleep", "1000"]))
    herdpy.start()
    herdpy.ok("start", "slow")
    eventually((tmp_path / "ready").exists)
    stop = herdpy.herd_in_background("stop", "slow")
    eventually(lambda: herdpy.status("slow")["status"] == "stopping")
    for action in ("start", "restart", "stop"):
        herdpy.ok(action, "quick")
    assert herdpy.status("slow")["status"] == "stopping"
    os.kill(herdpy.status("slow")["pid"], signal.SIGKILL)
    assert stop.wait(60) == 0


def test_shepherd_54786_a_service_is_not_started_twice(herdpy, tmp_path):
    herdpy.declare("one", sh(f"echo >> {tmp_path}/starts; exec sleep 1000"))
    herdpy.start()
    clients = [threading.Thread(target=herdpy.ok, args=("start", "one")) for _ in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    herdpy.ok("stop", "one")
    assert (tmp_path / "starts").read_text() == "\n"


def test_shepherd_58485_when_a_stop_is_answered_the_process_is_gone(herdpy, tmp_path, eventually):
    script = f"trap 'sleep 0.3; exit 0' TERM; : > {tmp_path}/ready; while :; do sleep 0.02; done"
    herdpy.declare("one", sh(script))
    herdpy.start()
    herdpy.ok("start", "one")
    eventually((tmp_path / "ready").exists)
    pid = herdpy.status("one")["pid"]
    herdpy.ok("stop", "one")
    assert state(pid) is None


def test_shepherd_63869_what_is_disabled_stays_so_whoever_supervises(herdpy, eventually):
    herdpy.declare("one", toml(["sleep", "1000"], "respawn-delay = 0"))
    herdpy.start()
    herdpy.ok("start", "one")
    herdpy.ok("disable", "one")
    replace_supervisor(herdpy, eventually)
    assert not herdpy.status("one")["enabled"]
    os.kill(herdpy.status("one")["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("one")["status"] == "stopped")
    assert failed_start(herdpy, "one")[0].endswith("enable it with: herd enable one")


def test_shepherd_57567_a_service_inherits_nothing_that_is_open(herdpy, tmp_path, eventually):
    script = "import json, os, sys; fds = sorted(map(int, os.listdir('/proc/self/fd')))[:-1]; print(json.dumps(fds))"
    herdpy.declare("one", toml(["python3", "-c", script], "one-shot = true"))
    herdpy.start()
    herdpy.ok("start", "one")
    log = herdpy.log / "one.log"
    eventually(lambda: log.exists() and log.read_text())
    assert json.loads(log.read_text().partition("[")[1] + log.read_text().partition("[")[2]) == [0, 1, 2]
