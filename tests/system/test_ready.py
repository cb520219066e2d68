"""When a service counts as started, whether it goes on being of use, and what is run beside it: real daemons."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BIN
from tests.ports import free_port
from tests.processes import lives
from tests.system.daemons import failed_start, is_waiting, program, replace_supervisor, toml

LISTENER = """
import os, signal, socket, sys, time

# It listens after a while; SIGUSR1 makes it stop answering.
kind, address, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
where = address if family == socket.AF_UNIX else ("127.0.0.1", int(address))
print("booting", flush=True)
time.sleep(delay)
if family == socket.AF_UNIX and os.path.exists(address):
    os.unlink(address)
listening = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(where)
if kind == "udp":
    signal.pause()
listening.listen()
print("Ready to serve", flush=True)
ill = []
signal.signal(signal.SIGUSR1, lambda number, frame: ill.append(1))
while True:
    connection, _ = listening.accept()
    with connection:
        if connection.recv(4096):
            connection.sendall(b"HTTP/1.0 500 ill\\r\\n\\r\\n" if ill else b"HTTP/1.0 200 well\\r\\n\\r\\nwell\\n")
"""


def listener(directory, *arguments):
    """The command line of one that listens."""
    return [*program(directory, LISTENER), *arguments]


@pytest.fixture
def port():
    return str(free_port())


# Endpoints


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_it_listens_at_late(herdpy, tmp_path, port, kind, eventually):
    herdpy.declare("a", toml(listener(tmp_path, kind, port, "0.5"), f'ready.listens = "{kind}:127.0.0.1:{port}"'))
    herdpy.start()
    begin = time.monotonic()
    herdpy.ok("start", "a")
    assert time.monotonic() - begin >= 0.5
    assert herdpy.status("a")["status"] == "running"


def test_a_unix_socket_that_it_listens_at_late(herdpy, tmp_path, eventually):
    path = tmp_path / "daemon" / "socket"
    herdpy.declare("a", toml(listener(tmp_path, "unix", str(path), "0.5"), f'ready.listens = ["unix:{path}"]'))
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: is_waiting(herdpy, f"waiting until it listens at unix:{path}: there is no such file"))
    path.parent.mkdir()
    assert starting.wait(60) == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_port_that_another_program_has(herdpy, tmp_path, port):
    with socket.create_server(("127.0.0.1", int(port))):
        herdpy.declare("a", toml(["sleep", "1000"], f'ready.listens = "tcp:{port}"\nstart-timeout = 1'))
        herdpy.start()
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        said = f"waiting until it listens at tcp:{port}: PID {os.getpid()} ({name}) does"
        expected = f"cannot start a: it was not ready after 1 s: {said}, which is not one of its processes"
        assert failed_start(herdpy)[0] == expected


def test_the_supervisor_is_killed_while_it_waits_for_a_port(herdpy, tmp_path, port, eventually):
    herdpy.declare("a", toml(listener(tmp_path, "tcp", port, "1"), f'ready.listens = "tcp:127.0.0.1:{port}"'))
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: is_waiting(herdpy, "nobody does"))
    pid = herdpy.children("program-")
    replace_supervisor(herdpy, eventually)
    eventually(lambda: herdpy.status("a")["status"] == "running")
    assert [herdpy.status("a")["pid"]] == pid
    starting.wait(60)


# Log lines, commands, READY=1


def test_a_line_that_it_writes(herdpy, tmp_path, port, eventually):
    herdpy.declare(
        "a",
        toml(
            listener(tmp_path, "tcp", port, "0.3"),
            'ready.log-line = "^Ready to [a-z]+$"\nrespawn-delay = 0',
        ),
    )
    herdpy.start()
    herdpy.ok("start", "a")
    with socket.create_connection(("127.0.0.1", int(port))):
        pass
    first = herdpy.status("a")["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: herdpy.status("a")["status"] == "starting")  # the first process's line is not the second's
    eventually(lambda: herdpy.status("a")["status"] == "running")
    assert herdpy.status("a")["pid"] != first


def test_a_line_that_comes_between_rotations_while_the_supervisor_is_killed(herdpy, tmp_path, eventually):
    go = tmp_path / "go"
    script = f"until test -e {go}; do sleep 0.01; done; seq 3000; echo Ready; seq 3000; exec sleep 1000"
    herdpy.declare(
        "a", toml(["sh", "-c", script], 'ready.log-line = "^Ready"\nlog-rotation = { size = "4K", keep = 100 }')
    )
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: is_waiting(herdpy, "matches ^Ready"))
    replace_supervisor(herdpy, eventually)
    os.kill(supervisor := herdpy.supervisor(), signal.SIGSTOP)  # all of it is written before it looks
    go.touch()
    log = herdpy.log / "a.log"
    eventually(lambda: log.exists() and log.read_text().endswith(" 3000\n"))
    os.kill(supervisor, signal.SIGCONT)
    eventually(lambda: herdpy.status("a")["status"] == "running")
    starting.wait(60)


def test_a_line_that_never_comes(herdpy):
    herdpy.declare("a", toml(["sh", "-c", "echo not; exec sleep 9"], 'ready.log-line = "^ready"\nstart-timeout = 1'))
    herdpy.start()
    lines = failed_start(herdpy)
    expected = "it was not ready after 1 s: waiting until it writes a line that matches ^ready"
    assert lines[0] == f"cannot start a: {expected}"


def test_an_expression_that_could_be_tried_for_ever_holds_up_nobody(herdpy):
    line = "a" * 40 + "!"
    herdpy.declare(
        "a", toml(["sh", "-c", f"echo '{line}'; exec sleep 1000"], 'ready.log-line = "(a+)+$"\nstart-timeout = 1')
    )
    herdpy.start()
    assert failed_start(herdpy)[0].startswith("cannot start a: it was not ready after 1 s")
    assert herdpy.status("a")["status"] == "stopped"


def test_a_command_that_succeeds_in_the_end(herdpy, tmp_path):
    asked = tmp_path / "asked"
    script = f"echo asked >> {asked}; test $(wc -l < {asked}) -ge 3"
    herdpy.declare(
        "a", toml(["sleep", "1000"], f"ready = {{ command = {json.dumps(['sh', '-c', script])}, interval = 0.02 }}")
    )
    herdpy.declare("b", toml(["sleep", "9"], 'ready.command = ["false"]\nready.interval = 0.05\nstart-timeout = 2'))
    herdpy.declare("c", toml(["sleep", "9"], 'ready.command = ["/nowhere"]\nstart-timeout = 9'))
    herdpy.start()
    herdpy.ok("start", "a")
    assert asked.read_text() == "asked\n" * 3
    expected = "it was not ready after 2 s: waiting until false succeeds, which exited with 1"
    assert failed_start(herdpy, "b")[0] == f"cannot start b: {expected}"
    assert failed_start(herdpy, "c")[0] == "cannot start c: /nowhere cannot be executed: No such file or directory"


NOTIFY = """
import os, signal, socket, sys, time

def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

time.sleep(0.3)
say("READY=1\\nSTATUS=at your service")
silent = []
signal.signal(signal.SIGUSR1, lambda number, frame: silent.append(1))
while True:
    time.sleep(0.05)
    if "WATCHDOG_USEC" in os.environ and not silent:
        say("WATCHDOG=1")
"""


def test_it_says_that_it_is_ready_and_its_watchdog_bites(herdpy, tmp_path, eventually):
    herdpy.declare("a", toml(program(tmp_path, NOTIFY), "ready.notify = true\nwatchdog = 0.5\nrespawn-delay = 0"))
    herdpy.start()
    begin = time.monotonic()
    herdpy.ok("start", "a")
    assert time.monotonic() - begin >= 0.3
    status = herdpy.status("a")
    assert status["details"]["status"] == "at your service"
    os.kill(status["pid"], signal.SIGUSR1)
    eventually(lambda: herdpy.status("a")["pid"] not in (None, status["pid"]))
    assert "watchdog" in herdpy.status("a")["reason"].lower()


def test_it_never_says_that_it_is_ready(herdpy):
    herdpy.declare("a", toml(["sleep", "9"], "ready.notify = true\nstart-timeout = 1"))
    herdpy.start()
    expected = "it was not ready after 1 s: waiting until it says READY=1"
    assert failed_start(herdpy)[0] == f"cannot start a: {expected}"


# Health


@pytest.mark.parametrize("way", ["http", "command"])
def test_a_service_that_falls_ill_is_started_again(herdpy, port, tmp_path, eventually, way):
    ill = tmp_path / "ill"
    probe = {"http": f'http = "http://localhost:{port}/"', "command": f'command = ["test", "!", "-e", "{ill}"]'}[way]
    herdpy.declare(
        "a",
        toml(
            listener(tmp_path, "tcp", port, "0"),
            f'respawn-delay = 0\nready.listens = "tcp:{port}"\n[health]\n{probe}\ninterval = 0.05\nfailures = 2',
        ),
    )
    herdpy.start()
    herdpy.ok("start", "a")
    eventually(lambda: herdpy.status("a")["details"].get("health") == "well")
    pid = herdpy.status("a")["pid"]
    ill.touch() if way == "command" else os.kill(pid, signal.SIGUSR1)
    eventually(lambda: herdpy.status("a")["last-respawns"])
    ill.unlink(missing_ok=True)
    problem = {"http": "GET / was answered with status 500", "command": "test exited with 1"}[way]
    assert herdpy.status("a")["reason"] == f"it failed its health check 2 times in a row: {problem}"
    eventually(lambda: herdpy.status("a")["details"].get("health") == "well")
    assert herdpy.status("a")["pid"] != pid


def test_health_is_looked_after_by_the_next_supervisor_too(herdpy, tmp_path, port, eventually):
    herdpy.declare(
        "a",
        toml(
            listener(tmp_path, "tcp", port, "0"),
            f'respawn = false\nready.listens = "tcp:{port}"\n'
            f'[[health]]\nhttp = "http://127.0.0.1:{port}/x"\ninterval = 0.05\nfailures = 1',
        ),
    )
    herdpy.start()
    herdpy.ok("start", "a")
    replace_supervisor(herdpy, eventually)
    os.kill(herdpy.status("a")["pid"], signal.SIGUSR1)
    eventually(lambda: herdpy.status("a")["status"] == "stopped")
    assert herdpy.status("a")["reason"] == "it failed its health check: GET /x was answered with status 500"


# Commands before, after and beside it


def test_commands_before_the_start_and_after_the_end(herdpy, tmp_path):
    trace = tmp_path / "trace"
    herdpy.declare(
        "a",
        toml(
            ["sh", "-c", f"echo runs $WORD >> {trace}; exec sleep 1000"],
            f'environment = {{ WORD = "words" }}\n'
            f'pre-start = [["sh", "-c", "echo before $WORD | tee -a {trace}"], ["-false"]]\n'
            f'post-stop = [["false"], ["sh", "-c", "echo after $WORD >> {trace}"]]\n',
        ),
    )
    herdpy.start()
    herdpy.ok("start", "a")
    herdpy.ok("stop", "a")
    assert trace.read_text() == "before words\nruns words\nafter words\n"
    assert "before words" in (herdpy.log / "a.log").read_text()
    assert 'reason="its post-stop command false exited with 1; see: herd log a"' in herdpy.said()


def test_a_command_before_the_start_that_fails(herdpy, tmp_path):
    herdpy.declare("a", toml(["touch", f"{tmp_path}/ran"], 'pre-start = [["sh", "-c", "exit 4"]]'))
    herdpy.declare("b", toml(["touch", f"{tmp_path}/ran"], 'pre-start = [["/nowhere", "x"]]'))
    herdpy.declare("c", toml(["touch", f"{tmp_path}/ran"], 'pre-start = [["sleep", "1000"]]\nstart-timeout = 1'))
    herdpy.start()
    said = "its pre-start command sh -c 'exit 4' exited with 4; see: herd log a"
    assert failed_start(herdpy)[0] == f"cannot start a: {said}"
    assert failed_start(herdpy, "b")[0] == "cannot start b: /nowhere cannot be executed: No such file or directory"
    said = "its pre-start command sleep 1000 was not done after 1 s"
    assert failed_start(herdpy, "c")[0] == f"cannot start c: {said}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a service as another user")
def test_these_commands_are_run_as_the_service_is(herdpy):
    herdpy.declare(
        "a",
        toml(["sleep", "1000"], 'user = "nobody"\nno-new-privileges = true\npre-start = [["id", "-un"]]\n')
        + '[actions.who]\ncommand = ["id", "-un"]\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    assert "nobody" in (herdpy.log / "a.log").read_text()
    assert herdpy.ok("who", "a") == "nobody\n"


def test_a_command_that_asks_it_to_end(herdpy, tmp_path, eventually):
    trace, asked = tmp_path / "trace", tmp_path / "asked"
    trap = f"trap 'echo TERM >> {trace}; exit' TERM"
    script = f"{trap}; echo up; until test -e {asked}; do sleep 0.01; done; echo asked >> {trace}"
    herdpy.declare("a", toml(["sh", "-c", script], f'ready.log-line = "up"\nstop-command = ["touch", "{asked}"]'))
    herdpy.start()
    herdpy.ok("start", "a")
    herdpy.ok("stop", "a")
    assert trace.read_text() == "asked\n"
    asked.unlink()
    herdpy.declare(
        "b", toml(["sh", "-c", script], 'ready.log-line = "up"\nstop-command = ["true"]\nstop-timeout = 0.2')
    )
    herdpy.ok("stop", "root")
    assert herdpy.process.wait(60) == 0
    herdpy.start()
    herdpy.ok("start", "b")
    herdpy.ok("stop", "b")
    assert trace.read_text() == "asked\nTERM\n"


def test_actions_of_a_declaration_s_own(herdpy, tmp_path):
    herdpy.declare(
        "a",
        toml(["sleep", "1000"], 'environment = { WORD = "words" }')
        + '[actions.dump]\ncommand = ["sh", "-c", "echo $WORD of $MAINPID: $*; echo more >&2", "sh"]\n'
        'documentation = "Dump it."\narguments = true\n'
        '[actions.fail]\ncommand = ["sh", "-c", "echo the last words; exit 7"]\n'
        '[actions.hang]\ncommand = ["sleep", "1000"]\ntimeout = 0.2\n',
    )
    herdpy.start()
    herdpy.ok("start", "a")
    pid = herdpy.status("a")["pid"]
    assert herdpy.ok("dump", "a", "it", "all") == f"words of {pid}: it all\nmore\n"
    assert herdpy.ok("doc", "a", "action", "dump") == "dump: Dump it.\n"
    failed = herdpy.herd("fail", "a")
    assert (failed.returncode, failed.stdout) == (1, "the last words\n")
    assert "sh -c 'echo the last words; exit 7' exited with 7" in failed.stderr
    failed = herdpy.herd("fail", "a", "x")
    assert "it takes no arguments, and x was given" in failed.stderr
    failed = herdpy.herd("hang", "a")
    assert "sleep 1000 was not done after 0.2 s" in failed.stderr
    assert not (herdpy.log / "a.log").exists()  # nothing of it is the service's own output
    herdpy.ok("stop", "a")
    assert herdpy.ok("dump", "a").startswith("words of :")


@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("asked", [("stop", "a"), ("stop", "root"), ("unload", "root", "a")])
def test_a_stop_ends_what_actions_execute(herdpy, tmp_path, eventually, state, asked):
    acting = tmp_path / "acting"
    herdpy.declare(
        "a",
        toml(["sleep", "1000"])
        + f"[actions.act]\ncommand = {json.dumps(['sh', '-c', f'echo $$ >{acting}; sleep 1000'])}\n",
    )
    herdpy.start()
    if state == "running":
        herdpy.ok("start", "a")
    act = [str(BIN / "herd"), "act", "a"]
    acts = subprocess.Popen(act, env=herdpy.environment, stderr=subprocess.PIPE, text=True)
    eventually(lambda: acting.exists() and acting.read_text())
    pid = int(acting.read_text())
    if state == "running" and asked[0] == "unload":
        herdpy.ok("stop", "a")
    else:
        herdpy.ok(*asked)
    if asked[0] == "unload":
        eventually(lambda: not lives(pid))
    assert not lives(pid)
    _, said = acts.communicate(timeout=60)
    assert acts.returncode == 1
    if asked != ("stop", "root"):
        assert "a was stopped meanwhile" in said


def test_an_action_goes_on_when_the_service_ends_by_itself(herdpy, tmp_path, eventually):
    gate = tmp_path / "gate"
    command = ["sh", "-c", f"kill $MAINPID; until test -e {gate}; do sleep 0.01; done"]
    herdpy.declare(
        "a",
        toml(["sleep", "1000"], "respawn = false") + f"[actions.end]\ncommand = {json.dumps(command)}\n",
    )
    herdpy.start()
    herdpy.ok("start", "a")
    ends = herdpy.herd_in_background("end", "a")
    eventually(lambda: herdpy.status("a")["status"] == "stopped")
    assert ends.poll() is None
    gate.touch()
    assert ends.wait(60) == 0


def test_reload(herdpy, tmp_path, eventually):
    script = "trap 'echo reloaded' USR1; echo up; while :; do sleep 0.01; done"
    herdpy.declare("a", toml(["sh", "-c", script], 'ready.log-line = "^up$"\nreload-signal = "USR1"'))
    herdpy.start()
    failed = herdpy.herd("reload", "a")
    assert failed.returncode == 1
    assert "it does not run; start it with: herd start a" in failed.stderr
    herdpy.ok("start", "a")
    pid = herdpy.status("a")["pid"]
    assert herdpy.ok("reload", "a") == f"Sent SIGUSR1 to PID {pid} of service a.\n"
    eventually(lambda: "reloaded" in (herdpy.log / "a.log").read_text())
    assert herdpy.status("a")["pid"] == pid


def test_the_configuration_shows_all_of_it(herdpy):
    herdpy.declare(
        "a",
        toml(
            ["sleep", "1000"],
            'pre-start = [["-mkdir", "/x y"]]\npost-stop = [["true"]]\nstop-command = ["true"]\nwatchdog = 30\n'
            'notify-access = "all"\nkill = "main-process"\nreload-signal = "HUP"\nstart-timeout = 20\n'
            'log-rotation = { size = "10M" }\n'
            '[ready]\nnotify = true\nlistens = "tcp:80"\n'
            '[[health]]\ntcp = "127.0.0.1:80"\n[[health]]\ncommand = ["true"]\nfailures = 1\n'
            '[actions.dump]\ncommand = ["kill", "-3"]\n',
        ),
    )
    herdpy.start()
    lines = herdpy.ok("configuration", "a").splitlines()
    for line in (
        "ready: READY=1; listens at tcp:80",
        "start-timeout: 20 s",
        "health: a connection to 127.0.0.1:80 every 10 s, within 5 s; 3 failures in a row end it; "
        "true every 10 s, within 5 s; 1 failure ends it",
        "watchdog: 30 s",
        "notify-access: all",
        "pre-start: -mkdir '/x y'",
        "post-stop: true",
        "stop-command: true",
        "stop-timeout: 30 s",
        "kill: main-process",
        "reload-signal: HUP",
        "actions: dump: kill -3",
        "log-rotation: at 10M; 5 kept, compressed by gzip",
    ):
        assert line in lines
    values = json.loads(herdpy.ok("--json", "configuration", "a"))
    assert values["ready"]["listens"] == "tcp:80"
    assert values["health"][1]["command"] == ["true"]


def test_only_the_main_process_is_stopped_when_that_is_what_is_said(herdpy, tmp_path, eventually):
    child = tmp_path / "child"
    script = f"sleep 1000 & echo $! > {child}; echo up; exec sleep 1000"
    herdpy.declare("a", toml(["sh", "-c", script], 'kill = "main-process"\nready.log-line = "^up$"'))
    herdpy.start()
    herdpy.ok("start", "a")
    pid = int(child.read_text())
    main = herdpy.status("a")["pid"]
    try:
        herdpy.ok("stop", "a")
        assert not Path(f"/proc/{main}").exists()
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_supervisor_is_killed_while_a_command_before_the_start_runs(herdpy, tmp_path, eventually):
    """The command is ended, and run again by the next supervisor."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    script = f"echo $$ >> {trace}; until test -e {go}; do sleep 0.01; done; echo done >> {trace}"
    herdpy.declare("a", toml(["sleep", "1000"], f"pre-start = [{json.dumps(['sh', '-c', script])}]"))
    herdpy.start()
    starting = herdpy.herd_in_background("start", "a")
    eventually(lambda: trace.exists() and trace.read_text())
    first = int(trace.read_text())
    replace_supervisor(herdpy, eventually)
    eventually(lambda: len(trace.read_text().split()) == 2)
    assert not Path(f"/proc/{first}").exists()
    go.touch()
    eventually(lambda: herdpy.status("a")["status"] == "running")
    assert trace.read_text().count("done") == 1
    starting.wait(60)
