"""Defects of GNU Shepherd, by the numbers of their reports: not herdpy's."""

import os
import signal
import subprocess
from pathlib import Path

import inotify_simple
import pytest
from inotify_simple import flags

from tests.processes import children, command_line, programs
from tests.system.daemons import failed_start, toml
from tests.system.test_state_directory import traced
from tests.waiting import PATIENCE, until


@pytest.mark.parametrize("then", ["stop", "restart", "end"])
def test_63869_what_is_disabled_stays_so_when_another_declaration_replaces_it(herdpy, eventually, then):
    herdpy.declare("one", toml(["sleep", "1000"], "respawn-delay = 0"))
    herdpy.start()
    herdpy.ok("start", "one")
    pid = herdpy.status("one")["pid"]
    herdpy.ok("disable", "one")
    herdpy.declare("one", toml(["sleep", "2000"], "respawn-delay = 0"))
    herdpy.ok("reload", "root")
    pending = herdpy.status("one")
    assert (pending["pid"], pending["enabled"]) == (pid, False)
    assert "from its next start on" in pending["details"]
    if then == "end":
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: herdpy.status("one")["status"] == "stopped")
    else:
        herdpy.herd(then, "one")
    if then == "restart":
        assert herdpy.status("one")["pid"] == pid, "what could not start again is not stopped"
        herdpy.ok("stop", "one")
    replaced = herdpy.status("one")
    assert (replaced["status"], replaced["enabled"]) == ("stopped", False)
    assert failed_start(herdpy, "one")[0].endswith("enable it with: herd enable one")
    herdpy.ok("enable", "one")
    herdpy.ok("start", "one")
    assert herdpy.status("one")["command"] == ["sleep", "2000"]


@pytest.mark.parametrize("written", ["before", "by the daemon"])
def test_67132_a_pid_file_that_names_a_kernel_thread_is_not_waited_for(herdpy, tmp_path, written):
    """2 is kthreadd's number; in a container it is somebody else's, or nobody's, but no service's."""
    pid_file = tmp_path / "daemon.pid"
    timeout = 60 if written == "before" else 2
    if written == "before":  # what is left from before a boot
        pid_file.write_text("2\n")
        os.utime(pid_file, (0, 0))
        script = f"setsid sleep 1000 & echo $! > {pid_file}"
    else:
        script = f"setsid sleep 1000 & echo 2 > {pid_file}"
    herdpy.declare(
        "one", toml(["sh", "-c", script], f'ready.pid-file = "{pid_file}"\nrespawn = false\nstart-timeout = {timeout}')
    )
    herdpy.start()
    if written == "before":
        herdpy.ok("start", "one")
        assert herdpy.status("one")["pid"] == int(pid_file.read_text()) != 2
    else:
        assert f"waiting for its PID file: {pid_file} holds 2: " in failed_start(herdpy, "one")[0]
        assert herdpy.status("one")["pid"] is None


def test_35550_herdpys_own_pid_file_is_there_whole_or_not_at_all(herdpy, tmp_path):
    """Its directory is watched (inotify(7)): under its name the file is never made or written, only moved there."""
    directory = tmp_path / "pid"
    directory.mkdir()
    with inotify_simple.INotify() as watch:
        watch.add_watch(directory, flags.CREATE | flags.MOVED_TO | flags.MODIFY)
        command = herdpy.command()
        herdpy.command = lambda: [*command[:-1], f"--pid={directory}/herdpy.pid"]
        with (tmp_path / "errors").open("w") as errors:
            herdpy.process = subprocess.Popen(
                herdpy.command(), stdin=subprocess.DEVNULL, stderr=errors, env=herdpy.environment
            )
        until((directory / "herdpy.pid").exists)
        assert (directory / "herdpy.pid").read_text() == f"{herdpy.process.pid}\n"
        assert [event.mask for event in watch.read(0) if event.name == "herdpy.pid"] == [flags.MOVED_TO]


def test_63982_ends_are_heard_of_in_the_background(herdpy, eventually):
    """Shepherd lost SIGCHLD by becoming a daemon."""
    herdpy.declare("one", toml(["sleep", "1000"], "respawn-delay = 0\nauto-start = true"))
    pid_file = herdpy.directory / "pid"
    begun = herdpy.run(*herdpy.command()[:-1], "--background", f"--pid={pid_file}")
    assert begun.returncode == 0, begun.stderr
    keeper = int(pid_file.read_text())
    try:
        eventually(lambda: herdpy.status("one")["status"] == "running")
        for _ in range(3):
            pid = herdpy.status("one")["pid"]
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: herdpy.status("one")["pid"] not in (pid, None))
    finally:
        herdpy.ok("stop", "root")
    eventually(lambda: not Path(f"/proc/{keeper}").exists())


@pytest.mark.parametrize("way", ["", "nice = 5\n"], ids=["spawned", "forked"])
def test_40981_a_signal_to_a_child_before_its_exec_is_the_child_s(herdpy, way):
    """In Shepherd the child still had its parent's ways with signals, and stopped everything."""
    herdpy.declare("other", toml(["sleep", "1000"]))
    herdpy.declare("one", toml(["sleep", "1000"], f"respawn = false\n{way}"))
    herdpy.start()
    herdpy.ok("start", "other")
    other = herdpy.status("other")["pid"]
    keeper = herdpy.process.pid
    own = set(programs(keeper).values())

    def before_its_exec() -> int:
        """The child that still has the keeper's command line."""
        found = [pid for pid in children(keeper) if pid not in own and command_line(pid) == command_line(keeper)]
        return found[0] if found else 0

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        delay = ("-e", "trace=execve", "-e", "inject=execve:delay_enter=60000000")
        with traced(*delay, pids=(keeper,), end=signal.SIGKILL):
            starting = herdpy.herd_in_background("start", "one")
            os.kill(until(before_its_exec), number)
        starting.wait(PATIENCE)  # it goes on when nobody delays it any more
        herdpy.ok("stop", "one")
    assert herdpy.status("other")["pid"] == other
    assert herdpy.process.poll() is None
    assert "signal signal=" not in herdpy.said()
    herdpy.ok("start", "one")
    herdpy.ok("stop", "one")


def test_s1_and_s2_what_could_never_start_is_refused_before_anything_is_started(herdpy):
    """Shepherd hung when it was asked to start such a service, and a cycle ate the machine's memory."""
    herdpy.declare("lonely", toml(["sleep", "1000"], 'requirement = ["nobody"]'))
    herdpy.declare("left", toml(["sleep", "1000"], 'requirement = ["right"]'))
    herdpy.declare("right", toml(["sleep", "1000"], 'requirement = ["left"]'))
    refused = herdpy.run(*herdpy.command())
    assert refused.returncode == 2
    assert "lonely.toml" in refused.stderr and "nobody" in refused.stderr
    assert "left -> right -> left" in refused.stderr
    for name in ("lonely", "left", "right"):
        (herdpy.services / f"{name}.toml").unlink()
    herdpy.start()
    herdpy.declare("lonely", toml(["sleep", "1000"], 'requirement = ["nobody"]'))
    refused = herdpy.herd("reload", "root")
    assert refused.returncode == 1
    assert "nobody" in refused.stdout
    assert herdpy.herd("start", "lonely").returncode == 1
