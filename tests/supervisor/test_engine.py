"""The engine with plain processes, through the installed programs: what a person with a prompt would see."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from herdpy import protocol

HERD = [str(Path(sys.executable).parent / "herd")]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def service(trace: Path, name: str, more: str = "") -> str:
    """A declaration of a service that writes down its start and its stop."""
    script = (
        f"trap 'echo {name} stops >> {trace}; exit 0' TERM; echo {name} starts >> {trace}; while :; do sleep 0.02; done"
    )
    return f"command = {json.dumps(['sh', '-c', script])}\n{more}\n"


def test_requirements_start_before_and_dependents_stop_before(herdpy, trace, eventually):
    herdpy.declare("base", service(trace, "base"))
    herdpy.declare("middle", service(trace, "middle", 'requirement = ["base"]'))
    herdpy.declare("top", service(trace, "top", 'requirement = ["middle"]'))
    herdpy.start()
    assert herdpy.ok("start", "top") == "Service top has been started.\n"
    eventually(lambda: trace.read_text().count("starts") == 3)
    herdpy.ok("stop", "base")
    lines = trace.read_text().splitlines()
    assert sorted(lines[:3]) == ["base starts", "middle starts", "top starts"]
    assert lines[3:] == ["top stops", "middle stops", "base stops"]


def test_stop_answers_with_all_that_was_stopped(herdpy, trace):
    herdpy.declare("base", service(trace, "base"))
    herdpy.declare("top", service(trace, "top", 'requirement = ["base"]'))
    herdpy.start()
    herdpy.ok("start", "top")
    reply = ask(herdpy, "stop", "base")
    assert reply.result == ["base", "top"]
    assert ask(herdpy, "stop", "base").result == []


def test_restart_brings_dependents_back(herdpy, trace):
    herdpy.declare("base", service(trace, "base"))
    herdpy.declare("top", service(trace, "top", 'requirement = ["base"]'))
    herdpy.start()
    herdpy.ok("start", "top")
    before = herdpy.status("top")["pid"]
    herdpy.ok("restart", "base")
    after = herdpy.status("top")
    assert after["status"] == "running"
    assert after["pid"] != before


def test_independent_services_stop_at_once_at_shutdown(herdpy, trace, eventually):
    """None of six services ends before all have been asked to: one after the other they would never end."""
    asked = f"[ $(grep -c asked {trace}) = 6 ]"
    script = f"trap 'echo asked >> {trace}' TERM; echo up >> {trace}; until {asked}; do sleep 0.02; done"
    for number in range(6):
        herdpy.declare(f"slow{number}", f"command = {json.dumps(['sh', '-c', script])}\nauto-start = true\n")
    herdpy.start()
    eventually(lambda: trace.read_text().count("up") == 6)
    assert herdpy.stop() == 0
    assert "grace-period-over" not in herdpy.said()


def start_stubborn(herdpy, directory, keys):
    """A service that ignores SIGTERM, once there is a file ``ready``; ``keys`` are further ones of its declaration."""
    script = f"trap '' TERM; : > {directory}/ready; while :; do sleep 0.02; done"
    herdpy.declare("stubborn", f"command = {json.dumps(['sh', '-c', script])}\n{keys}")
    herdpy.start()
    herdpy.ok("start", "stubborn")


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(herdpy, tmp_path, eventually):
    start_stubborn(herdpy, tmp_path, "grace-period = 0.3\n")
    eventually((tmp_path / "ready").exists)
    herdpy.ok("stop", "stubborn")
    assert herdpy.status("stubborn")["status"] == "stopped"
    assert "grace-period-over service=stubborn" in herdpy.said()


def test_the_whole_process_group_is_gone_after_a_stop(herdpy, tmp_path, eventually):
    child = tmp_path / "child"
    script = f"(trap '' TERM; sleep 1000) & echo $! > {child}; exec sleep 1000"
    herdpy.declare("family", f"command = {json.dumps(['sh', '-c', script])}\n")
    herdpy.start()
    herdpy.ok("start", "family")
    eventually(lambda: child.exists() and child.read_text().strip() != "")
    pid = int(child.read_text())
    herdpy.ok("stop", "family")
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_process_that_dies_is_respawned(herdpy, eventually):
    herdpy.declare("sleeper", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "sleeper")
    first = herdpy.status("sleeper")["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: herdpy.status("sleeper")["pid"] not in (first, None))
    status = herdpy.status("sleeper")
    assert status["reason"] == "it was killed by SIGKILL"
    assert len(status["last-respawns"]) == status["respawn-count"] == 1
    assert "  Respawned 1 time since it was started.\n" in herdpy.ok("status", "sleeper")
    herdpy.ok("restart", "sleeper")
    assert herdpy.status("sleeper")["respawn-count"] == 0
    assert "Respawned" not in herdpy.ok("status", "sleeper")


def test_a_respawn_that_is_yet_to_come_is_none_so_far(herdpy, eventually, tmp_path):
    mark = tmp_path / "mark"
    script = f"if [ -e {mark} ]; then exec sleep 1000; fi; : > {mark}; exit 1"
    herdpy.declare("late", f"command = {json.dumps(['sh', '-c', script])}\nrespawn-delay = 3\n")
    herdpy.start()
    herdpy.ok("start", "late")
    eventually(lambda: (herdpy.status("late")["stage"] or "").startswith("to be respawned at "))
    assert herdpy.status("late")["last-respawns"] == []
    assert "Last respawned" not in herdpy.ok("status", "late")
    eventually(lambda: herdpy.status("late")["status"] == "running")
    status = herdpy.status("late")
    _, starting = status["status-changes"][:2]
    (respawn,) = status["last-respawns"]
    assert respawn["time"] - starting["time"] >= 2


def test_respawn_stops_after_five_in_seven_seconds_and_says_why(herdpy, eventually):
    herdpy.declare("failing", 'command = ["sh", "-c", "exit 3"]')
    herdpy.start()
    herdpy.ok("start", "failing")
    eventually(lambda: not herdpy.status("failing")["enabled"])
    status = herdpy.status("failing")
    assert status["status"] == "stopped"
    assert len(status["last-respawns"]) == 4
    why = "respawning too fast: it ended 5 times in 7 s, the last time because it exited with 3"
    assert status["reason"] == why
    assert why in herdpy.ok("status", "failing")
    herdpy.ok("start", "failing")  # by hand it may always be tried again


def test_a_program_that_is_not_there_is_a_failed_start(herdpy):
    herdpy.declare("ghost", 'command = ["/nonexistent/program"]')
    herdpy.start()
    failed = herdpy.herd("start", "ghost")
    assert failed.returncode == 1
    assert failed.stdout == (
        "cannot start ghost: /nonexistent/program cannot be executed: No such file or directory\n"
        "Service ghost could not be started.\n"
    )
    assert failed.stderr == "herd: error: failed to start service ghost\n"


def test_a_failed_requirement_is_named(herdpy):
    herdpy.declare("ghost", 'command = ["/nonexistent/program"]')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["ghost"]')
    herdpy.start()
    failed = herdpy.herd("start", "top")
    assert failed.returncode == 1
    assert "Service top depends on ghost.\n" in failed.stdout


def test_a_service_that_is_started_twice_at_once_runs_once(herdpy, trace, eventually):
    herdpy.declare("base", service(trace, "base"))
    herdpy.start()
    clients = [
        subprocess.Popen(
            [*HERD, "start", "base"], env=herdpy.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(5)
    ]
    for client in clients:
        output, _ = client.communicate(timeout=60)
        assert client.returncode == 0, output
    eventually(lambda: trace.exists() and "starts" in trace.read_text())
    assert trace.read_text().count("starts") == 1


def test_auto_start(herdpy, eventually):
    herdpy.declare("by-itself", 'command = ["sleep", "1000"]\nauto-start = true')
    herdpy.declare("by-hand", 'command = ["sleep", "1000"]')
    herdpy.start()
    eventually(lambda: herdpy.status("by-itself")["status"] == "running")
    assert herdpy.status("by-hand")["status"] == "stopped"


def test_output_is_stamped_and_complete(herdpy, eventually):
    herdpy.declare("speaker", 'command = ["sh", "-c", "echo one; echo two >&2; printf three"]\nrespawn = false')
    herdpy.start()
    herdpy.ok("start", "speaker")
    eventually(lambda: herdpy.status("speaker")["status"] == "stopped")
    lines = (herdpy.log / "speaker.log").read_text().splitlines()
    assert [line[20:] for line in lines] == ["one", "two", "three"]
    assert all(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S") for line in lines)


def test_a_killed_supervisor_is_no_event_for_a_service(herdpy, trace):
    herdpy.declare("base", service(trace, "base"))
    herdpy.declare("off", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "base")
    herdpy.ok("disable", "off")
    before = herdpy.status("base")
    for _ in range(3):
        os.kill(herdpy.supervisor(), signal.SIGKILL)
        # The client's connection waits in the backlog for the next supervisor.
        assert herdpy.status("base") == before
    assert herdpy.status("off")["enabled"] is False
    assert trace.read_text() == "base starts\n"
    herdpy.ok("stop", "base")
    assert trace.read_text() == "base starts\nbase stops\n"


def test_one_that_is_disabled_by_hand_keeps_the_reason_of_its_end(herdpy, eventually):
    herdpy.declare("sleeper", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "sleeper")
    herdpy.ok("disable", "sleeper")
    os.kill(herdpy.status("sleeper")["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("sleeper")["status"] == "stopped")
    said = herdpy.ok("status", "sleeper")
    assert "Reason: it was killed by SIGKILL\n" in said
    assert "Why:" not in said


def test_one_that_is_disabled_while_it_waits_to_be_respawned_does_so_no_longer(herdpy, eventually):
    herdpy.declare("failing", 'command = ["false"]\nrespawn-delay = 1000')
    herdpy.start()
    herdpy.herd("start", "failing")
    eventually(lambda: "to be respawned" in (herdpy.status("failing")["stage"] or ""))
    herdpy.ok("disable", "failing")
    eventually(lambda: herdpy.status("failing")["status"] == "stopped")
    told = herdpy.status("failing")
    assert (told["reason"], told["stage"], told["startup-failures"]) == ("it exited with 1", None, [])
    refused = herdpy.herd("start", "failing").stdout
    assert "cannot start failing: it is disabled; enable it with: herd enable failing\n" in refused
    herdpy.ok("enable", "failing")
    assert herdpy.status("failing")["status"] == "stopped"


def test_what_ended_while_there_was_no_supervisor_is_treated_by_its_policy(herdpy, eventually):
    herdpy.declare("sleeper", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "sleeper")
    pid = herdpy.status("sleeper")["pid"]
    supervisor = herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: herdpy.status("sleeper")["pid"] not in (pid, None))
    assert herdpy.status("sleeper")["reason"] == "it was killed by SIGTERM"


def test_a_stop_that_the_supervisor_did_not_live_to_see_is_finished(herdpy, tmp_path, eventually):
    start_stubborn(herdpy, tmp_path, "grace-period = 2\n")
    eventually((tmp_path / "ready").exists)
    stop = subprocess.Popen([*HERD, "stop", "stubborn"], env=herdpy.environment, stderr=subprocess.DEVNULL)
    eventually(lambda: herdpy.status("stubborn")["status"] == "stopping")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: herdpy.status("stubborn")["status"] == "stopped")
    assert stop.wait(60) == 0, "the next supervisor was not asked"


def test_a_shutdown_that_the_supervisor_did_not_live_to_see_is_finished(herdpy, tmp_path, eventually):
    start_stubborn(herdpy, tmp_path, "grace-period = 2\n")
    eventually((tmp_path / "ready").exists)
    supervisor = herdpy.supervisor()
    herdpy.process.send_signal(signal.SIGTERM)
    eventually(lambda: "service-stopping service=stubborn" in herdpy.said())
    os.kill(supervisor, signal.SIGKILL)
    assert herdpy.process.wait(60) == 0


def test_stop_root_ends_everything_and_answers_nothing(herdpy, trace, eventually):
    herdpy.declare("base", service(trace, "base", "auto-start = true"))
    herdpy.start()
    eventually(lambda: herdpy.status("base")["status"] == "running" and trace.exists())
    assert ask_raw(herdpy, "stop", "root") == b""
    assert herdpy.process.wait(60) == 0
    assert trace.read_text().endswith("base stops\n")


def test_mistakes_in_the_configuration_keep_it_from_starting(herdpy):
    herdpy.declare("one", 'command = ["sleep", "1"]\nautostart = true')
    herdpy.declare("two", 'command = ["sleep", "1"]\nrequirement = ["none"]')
    completed = subprocess.run(
        herdpy.command(), capture_output=True, text=True, env=herdpy.environment, timeout=60, check=False
    )
    assert completed.returncode == 2
    assert f"{herdpy.services}/one.toml:2: autostart: unknown key; did you mean auto-start?" in completed.stderr
    assert "two requires none, which nothing provides" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_mistake_made_meanwhile_does_not_end_what_runs(herdpy):
    herdpy.declare("one", 'command = ["sleep", "1000"]')
    herdpy.declare("two", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "one")
    herdpy.ok("start", "two")
    pids = [herdpy.status(name)["pid"] for name in ("one", "two")]
    herdpy.declare("one", "comand = 3")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert [herdpy.status(name)["pid"] for name in ("one", "two")] == pids
    herdpy.ok("stop", "one")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"(",
        b"garbage",
        b"(shepherd-command)",
        b"\0" * 1000,
        b"(" * 100_000,
        b'(shepherd-command (version 1) (action status) (service root) (arguments ()) (directory "/"))',
    ],
)
def test_a_client_that_sends_nonsense_gets_nothing_and_harms_nobody(herdpy, sent):
    herdpy.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(herdpy.socket))
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert "+ root" in herdpy.ok("status")


def test_progress_of_a_start_is_streamed_to_a_second_connection(herdpy):
    herdpy.declare("sleeper", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("start", "sleeper")
    reply = ask_raw(herdpy, "progress", "sleeper")
    assert reply == b"(reply (version 0) (result (#t)) (error #f) (messages ()))"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_gets_no_connection(herdpy, tmp_path):
    herdpy.start()
    herdpy.socket.parent.chmod(0o755)
    herdpy.socket.chmod(0o666)
    parents = [herdpy.socket.parent.parent, *herdpy.socket.parent.parent.parents]
    try:
        for parent in parents[:4]:
            parent.chmod(parent.stat().st_mode | 0o011)
        command = protocol.write_command(protocol.Command("status", "root"))
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(sys.argv[1]);"
            f"s.sendall({command!r}); print(s.recv(100))"
        )
        completed = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(herdpy.socket)],
            user="nobody",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        herdpy.socket.parent.chmod(0o700)
    # Closed without a byte: an empty read, or a broken pipe when that came first.
    assert "reply" not in completed.stdout
    assert completed.stdout == "b''\n" or "ConnectionResetError" in completed.stderr or "BrokenPipe" in completed.stderr


def test_two_never_own_one_state_directory(herdpy):
    herdpy.start()
    second = [*herdpy.command()]
    second[second.index("--socket") + 1] = str(herdpy.directory / "other" / "socket")
    completed = subprocess.run(second, capture_output=True, text=True, env=herdpy.environment, timeout=60, check=False)
    assert completed.returncode == 1
    assert str(herdpy.process.pid) in completed.stderr


def ask_raw(herdpy, action: str, service: str, *arguments: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(herdpy.socket))
        client.sendall(protocol.write_command(protocol.Command(action, service, arguments, "/")))
        reply = b""
        while chunk := client.recv(65536):
            reply += chunk
    return reply


def ask(herdpy, action: str, service: str, *arguments: str) -> protocol.Reply:
    return protocol.parse_reply(ask_raw(herdpy, action, service, *arguments).decode())


def test_a_declaration_that_is_mistaken_meanwhile_is_remembered(herdpy, eventually, trace):
    """The next supervisor still knows how the service is respawned and stopped."""
    file = herdpy.declare("base", service(trace, "base", "grace-period = 7.5"))
    herdpy.start()
    herdpy.ok("start", "base")
    eventually(trace.exists)
    os.kill(herdpy.supervisor(), signal.SIGSTOP)  # or it would reload by itself
    file.write_text("comand = 3")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    before = herdpy.status("base")
    assert before["status"] == "running"
    assert "grace-period: 7.5 s" in herdpy.ok("configuration", "base")
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("base")["pid"] not in (None, before["pid"]))
    eventually(lambda: trace.read_text().count("starts") == 2)
    herdpy.ok("stop", "base")
    assert trace.read_text().endswith("base stops\n")


def test_a_declaration_that_is_removed_meanwhile_is_taken_as_a_reload_has_it(herdpy, eventually, trace):
    file = herdpy.declare("base", service(trace, "base"))
    herdpy.start()
    herdpy.ok("start", "base")
    eventually(trace.exists)
    journal = herdpy.state / "journal"
    eventually(lambda: '"key":"plan"' in journal.read_text())
    os.kill(herdpy.supervisor(), signal.SIGSTOP)  # or it would reload by itself
    file.unlink()
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: herdpy.herd("status", "base").returncode != 0)
    assert trace.read_text() == "base starts\nbase stops\n"


@pytest.mark.parametrize(
    ("policy", "code", "respawned"),
    [
        ("respawn = true", 0, True),
        ('respawn = "on-failure"', 0, False),
        ('respawn = "on-failure"', 1, True),
        ('respawn = "on-failure"\nsuccess-exit-codes = [0, 42]', 42, False),
        ("no-respawn-exit-codes = [77]", 77, False),
        ("no-respawn-exit-codes = [77]", 78, True),
        ("respawn = false", 1, False),
    ],
)
def test_which_ends_are_respawned(herdpy, eventually, tmp_path, policy, code, respawned):
    mark = tmp_path / "mark"
    script = f"if [ -e {mark} ]; then exec sleep 1000; fi; : > {mark}; exit {code}"
    herdpy.declare("once", f"command = {json.dumps(['sh', '-c', script])}\n{policy}\n")
    herdpy.start()
    herdpy.ok("start", "once")
    eventually(mark.exists)
    if respawned:
        eventually(lambda: herdpy.status("once")["last-respawns"] and herdpy.status("once")["status"] == "running")
    else:
        eventually(lambda: herdpy.status("once")["status"] == "stopped")
        assert herdpy.status("once")["last-respawns"] == []
        assert herdpy.status("once")["enabled"]
    assert herdpy.status("once")["reason"].startswith(f"it exited with {code}")


def test_the_delay_of_respawns_doubles_up_to_its_limit(herdpy, eventually):
    herdpy.declare("failing", 'command = ["false"]\nrespawn-delay = 0.05\nrespawn-delay-limit = 0.4\nrespawn-limit = 7')
    herdpy.start()
    herdpy.ok("start", "failing")
    eventually(lambda: not herdpy.status("failing")["enabled"])
    delays = [float(line.rpartition("delay=")[2]) for line in herdpy.said().splitlines() if "respawning s" in line]
    expected = [0.05, 0.1, 0.2, 0.4, 0.4, 0.4]
    assert len(delays) >= len(expected)
    for delay, wanted in zip(delays, expected, strict=False):
        assert 0.89 * wanted < delay < 1.11 * wanted, delays  # a tenth more or less, and the log has four decimals


def test_a_start_after_a_stop_of_a_start_is_carried_out(herdpy, eventually, tmp_path):
    """The stop ends the first start only, although that is still under way when the second is asked for."""
    gate = tmp_path / "gate"
    herdpy.declare(
        "slow",
        f"command = {json.dumps(['sh', '-c', f'while [ ! -e {gate} ]; do sleep 0.02; done'])}\none-shot = true\n",
    )
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["slow"]')
    herdpy.start()
    first = herdpy.herd_in_background("start", "top")
    eventually(lambda: herdpy.status("slow")["status"] == "starting")
    with socket.socket(socket.AF_UNIX) as stop, socket.socket(socket.AF_UNIX) as start:
        for client in (stop, start):
            client.settimeout(60)
            client.connect(str(herdpy.socket))
        stop.sendall(protocol.write_command(protocol.Command("stop", "top")))
        # Two connections have no order of their own.
        eventually(lambda: "command action=stop service=top" in herdpy.said())
        start.sendall(protocol.write_command(protocol.Command("start", "top")))
        assert first.wait(60) == 1
        gate.touch()
        assert b"Service top has been started." in start.recv(65536)
    assert herdpy.status("top")["status"] == "running"
