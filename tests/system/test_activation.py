"""Services that listen: spawned at the first connection, or at the start, or once for each connection."""

import json
import os
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ACTIVATED = str(Path(__file__).parent / "activated.py")
PATIENCE = 60
"""Seconds until a connection is given up."""
ECHO = ["cat"]
NOBODY = 65534


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="act-") as directory:
        yield Path(directory)


def listing(sockets: list[Any], command: list[str], *lines: str) -> str:
    """A declaration; the sockets of dicts are TOML tables."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items()) + " }"
        return json.dumps(value)

    listed = ", ".join(map(written, sockets))
    return "\n".join([f"command = {json.dumps(command)}", f"sockets = [{listed}]", *lines])


def activated(*arguments: object) -> list[str]:
    return [sys.executable, ACTIVATED, *map(str, arguments)]


def endpoints(herdpy: Any, service: str) -> list[str]:
    return [endpoint["address"] for endpoint in herdpy.status(service)["endpoints"]]


def connect(endpoint: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    if endpoint.startswith("unix:"):
        name = endpoint.removeprefix("unix:")
        client = socket.socket(socket.AF_UNIX, kind)
        target: Any = f"\0{name[1:]}" if name.startswith("@") else name
    else:
        host, _, port = endpoint.removeprefix("udp:").rpartition(":")
        client = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, kind)
        target = (host.strip("[]"), int(port))
    client.settimeout(PATIENCE)
    try:
        client.connect(target)
    except OSError:
        client.close()
        raise
    return client


def ask(endpoint: str, kind: int = socket.SOCK_STREAM) -> list[str]:
    """What the service answers: the socket's name and its PID."""
    with connect(endpoint, kind) as client:
        if kind == socket.SOCK_DGRAM:
            client.send(b"hello")
        return client.recv(4096).decode().split()


def is_refused(endpoint: str) -> bool:
    try:
        connect(endpoint).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def is_cut_off(client: socket.socket) -> bool:
    """Whether nobody is there any more; a connection that was never accepted is reset."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def kill_supervisor(herdpy: Any) -> None:
    os.kill(herdpy.supervisor(), signal.SIGKILL)


def test_a_lazy_service_runs_without_a_process_until_someone_connects(
    herdpy: Any, eventually: Callable[..., None], sockets: Path
) -> None:
    path = sockets / "deep" / "er" / "socket"
    table = {"address": "udp:127.0.0.1:0", "name": "datagrams"}
    packets = {"address": f"unix:@{sockets.name}", "kind": "seqpacket"}
    places = ["127.0.0.1:0", "[::1]:0", f"unix:{path}", table, packets]
    herdpy.declare("web", listing(places, activated(0.3)))
    herdpy.start()
    assert herdpy.ok("start", "web") == "Service web has been started.\n"
    status = herdpy.status("web")
    assert (status["status"], status["pid"], status["activation"]) == ("running", None, "lazy")
    assert [endpoint["name"] for endpoint in status["endpoints"]] == ["web", "web", "web", "datagrams", "web"]
    v4, v6, unix, udp, abstract = endpoints(herdpy, "web")
    assert not v4.endswith(":0") and not v6.endswith(":0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    text = herdpy.ok("status", "web")
    assert f"  Systemd-style service listening on 5 endpoints:\n    - {v4}\n    - {v6}\n    - {unix}\n" in text
    pids = set()
    for endpoint, kind in ((v4, socket.SOCK_STREAM), (v6, socket.SOCK_STREAM), (unix, socket.SOCK_STREAM)):
        name, pid = ask(endpoint, kind)
        assert name == "web"
        pids.add(pid)
    assert ask(udp, socket.SOCK_DGRAM)[:3] == ["hello", "to", "datagrams"]
    assert ask(abstract, socket.SOCK_SEQPACKET)[0] == "web"
    eventually(lambda: herdpy.status("web")["pid"] is None)  # it ended, having had nothing to do
    status = herdpy.status("web")
    assert (status["status"], status["reason"], status["endpoints"][0]["address"]) == (
        "running",
        "it exited with 0",
        v4,
    )
    assert [change["status"] for change in status["status-changes"]] == ["running", "starting"]
    assert ask(v6)[1] not in pids
    herdpy.ok("stop", "web")
    assert herdpy.status("web")["endpoints"] == []
    assert all(map(is_refused, (v4, v6, unix)))
    assert not path.exists()


def test_one_address_of_both_families(herdpy: Any) -> None:
    herdpy.declare("web", listing(["*:0"], activated(5)))
    herdpy.start()
    herdpy.ok("start", "web")
    [everywhere] = endpoints(herdpy, "web")
    port = everywhere.removeprefix("*:")
    assert ask(f"127.0.0.1:{port}")[1] == ask(f"[::1]:{port}")[1]


def test_an_eager_service_is_there_at_once_and_its_socket_outlives_its_process(
    herdpy: Any, eventually: Callable[..., None]
) -> None:
    herdpy.declare("web", listing(["127.0.0.1:0"], activated(60), 'activation = "eager"', "respawn-delay = 0.5"))
    herdpy.start()
    herdpy.ok("start", "web")
    pid = herdpy.status("web")["pid"]
    [endpoint] = endpoints(herdpy, "web")
    assert ask(endpoint) == ["web", str(pid)]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: herdpy.status("web")["pid"] != pid)
    _, another = ask(endpoint)  # while it is not respawned yet, the connection waits
    assert another != str(pid)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "it exited with 1"),
        (["true"], "it exited with 0 and left a connection waiting"),
        (["/nowhere/at-all"], "/nowhere/at-all cannot be executed: No such file or directory"),
    ],
)
def test_a_process_that_takes_nothing_is_not_spawned_for_ever(
    herdpy: Any, eventually: Callable[..., None], sockets: Path, command: list[str], why: str
) -> None:
    path = sockets / "socket"
    herdpy.declare("web", listing([f"unix:{path}"], command, "respawn-delay = 0.01", "respawn-limit = 3"))
    herdpy.start()
    herdpy.ok("start", "web")
    with connect(f"unix:{path}") as client:
        assert is_cut_off(client)
    eventually(lambda: herdpy.status("web")["status"] == "stopped")
    status = herdpy.status("web")
    assert not status["enabled"]
    assert status["reason"] == f"respawning too fast: it ended 3 times in 7 s, the last time because {why}"
    eventually(lambda: (herdpy.log / "herdpy.log").read_text().count("service-activated") == 3)
    assert not path.exists()
    herdpy.ok("enable", "web")
    herdpy.ok("start", "web")
    assert path.is_socket()


def test_a_failure_now_and_then_is_survived(herdpy: Any, eventually: Callable[..., None], tmp_path: Path) -> None:
    once = tmp_path / "once"
    script = f'[ -e {once} ] || {{ touch {once}; exit 3; }}; exec "$@"'
    herdpy.declare("web", listing(["127.0.0.1:0"], ["sh", "-c", script, "sh", *activated(60)]))
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    assert ask(endpoint)[0] == "web"
    assert herdpy.status("web")["reason"] == "it exited with 3"


def test_without_respawn_it_ends_with_its_process(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("web", listing(["127.0.0.1:0"], activated(60, 1), "respawn = false"))
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    ask(endpoint)
    eventually(lambda: herdpy.status("web")["status"] == "stopped")
    assert is_refused(endpoint)


def test_a_stop_while_the_process_gets_ready(herdpy: Any, eventually: Callable[..., None], sockets: Path) -> None:
    path = sockets / "socket"
    never = ["sleep", "1000"]
    herdpy.declare("web", listing([f"unix:{path}"], never, "[ready]", 'log-line = "never said"'))
    herdpy.start()
    herdpy.ok("start", "web")
    with connect(f"unix:{path}") as client:
        eventually(lambda: herdpy.status("web")["pid"] is not None)
        pid = herdpy.status("web")["pid"]
        herdpy.ok("stop", "web")
        assert is_cut_off(client)
    assert herdpy.status("web")["status"] == "stopped"
    assert not os.path.exists(f"/proc/{pid}")
    assert not path.exists()


LINGERING = "trap 'while [ -e {held} ]; do sleep 0.02; done; exit' TERM; echo is up; while :; do sleep 0.02; done"


@pytest.mark.parametrize("killed", [False, True])
def test_nobody_who_connects_is_refused_while_it_is_restarted(
    herdpy: Any, eventually: Callable[..., None], sockets: Path, killed: bool
) -> None:
    """Also of what is restarted with it; and a supervisor that is killed meanwhile changes nothing."""
    path, held = sockets / "socket", sockets / "held"
    held.touch()
    command = ["sh", "-c", LINGERING.format(held=held)]
    herdpy.declare("web", listing([f"unix:{path}"], command, 'activation = "eager"', '[ready]\nlog-line = "is up"'))
    herdpy.declare("top", listing(["127.0.0.1:0"], ["sleep", "1000"], 'activation = "eager"\nrequirement = ["web"]'))
    herdpy.start()
    herdpy.ok("start", "top")
    places = [*endpoints(herdpy, "web"), *endpoints(herdpy, "top")]
    before = herdpy.status("web")["pid"]
    restarting = herdpy.herd_in_background("restart", "web")
    eventually(lambda: herdpy.status("web")["status"] == "stopping")
    if killed:
        kill_supervisor(herdpy)
    while restarting.poll() is None:
        for place in places:
            connect(place).close()
        held.unlink(missing_ok=True)
        threading.Event().wait(0.02)  # the backlog has room for thousands
    assert restarting.wait(PATIENCE) == 0
    assert herdpy.status("web")["pid"] != before
    eventually(lambda: herdpy.status("top")["status"] == "running")
    assert [*endpoints(herdpy, "web"), *endpoints(herdpy, "top")] == places
    herdpy.ok("stop", "web")
    assert all(map(is_refused, places))


def test_a_restart_that_comes_to_nothing_listens_no_longer(herdpy: Any, tmp_path: Path, sockets: Path) -> None:
    program = tmp_path / "program"
    program.symlink_to("/bin/sleep")
    path = sockets / "socket"
    herdpy.declare("web", listing([f"unix:{path}"], [str(program), "1000"], 'activation = "eager"'))
    herdpy.start()
    herdpy.ok("start", "web")
    program.unlink()
    assert herdpy.herd("restart", "web").returncode == 1
    assert herdpy.status("web")["endpoints"] == []
    assert is_refused(f"unix:{path}") and not path.exists()


SHUTS_DOWN = """
import socket, time
with socket.socket(fileno=3) as listening:
    listening.shutdown(socket.SHUT_RDWR)
    print("is up", flush=True)
    time.sleep(1000)
"""


def test_a_restart_listens_anew_where_nobody_can_connect_any_more(herdpy: Any, sockets: Path) -> None:
    path = sockets / "socket"
    herdpy.declare("web", listing([f"unix:{path}"], activated(60)))
    dead = listing(["127.0.0.1:0"], [sys.executable, "-c", SHUTS_DOWN], 'activation = "eager"')
    herdpy.declare("dead", f'{dead}\n[ready]\nlog-line = "is up"')
    herdpy.start()
    herdpy.ok("start", "web")
    path.unlink()
    herdpy.ok("restart", "web")
    assert ask(f"unix:{path}")[0] == "web"
    herdpy.ok("start", "dead")
    [endpoint] = endpoints(herdpy, "dead")
    assert is_refused(endpoint)
    herdpy.declare("dead", listing(["127.0.0.1:0"], activated(60), 'activation = "eager"'))
    herdpy.ok("reload", "root")
    herdpy.ok("restart", "dead")
    [endpoint] = endpoints(herdpy, "dead")
    assert ask(endpoint)[0] == "dead"


def test_a_process_that_gets_ready_is_waited_for_by_the_next_supervisor_too(
    herdpy: Any, eventually: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gets_ready = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo is up; sleep 1000"
    ready = '[ready]\nlog-line = "is up"'
    herdpy.declare("web", listing(["127.0.0.1:0"], ["sh", "-c", gets_ready], "start-timeout = 60", ready))
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    with connect(endpoint):
        eventually(lambda: herdpy.status("web")["stage"])
        pid = herdpy.status("web")["pid"]
        stage = herdpy.status("web")["stage"]
        kill_supervisor(herdpy)
        eventually(lambda: herdpy.status("web")["stage"] == stage)
        gate.touch()
        eventually(lambda: not herdpy.status("web")["stage"])
        assert herdpy.status("web")["pid"] == pid
        kill_supervisor(herdpy)
        assert (herdpy.status("web")["pid"], herdpy.status("web")["stage"]) == (pid, None)


def test_what_it_requires_is_started_again_for_a_connection(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrespawn = false')
    herdpy.declare("web", listing(["127.0.0.1:0"], activated(60), 'requirement = ["base"]'))
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("base")["status"] == "stopped")
    ask(endpoint)
    assert herdpy.status("base")["status"] == "running"


def test_a_supervisor_that_is_killed_changes_nothing(
    herdpy: Any, eventually: Callable[..., None], sockets: Path
) -> None:
    path = sockets / "socket"
    herdpy.declare("web", listing(["127.0.0.1:0", f"unix:{path}"], activated(60, 3)))
    herdpy.start()
    herdpy.ok("start", "web")
    places = endpoints(herdpy, "web")
    kill_supervisor(herdpy)
    assert herdpy.status("web")["status"] == "running"
    assert endpoints(herdpy, "web") == places
    _, pid = ask(places[0])
    kill_supervisor(herdpy)
    assert herdpy.status("web")["pid"] == int(pid)
    assert ask(places[1]) == ["web", pid]
    kill_supervisor(herdpy)
    assert ask(places[0])[1] == pid  # its last one
    eventually(lambda: herdpy.status("web")["pid"] is None)
    assert ask(places[1])[1] != pid
    kill_supervisor(herdpy)
    herdpy.ok("stop", "web")
    assert is_refused(places[0])
    assert not path.exists()


def test_it_goes_on_listening_when_its_declaration_is_mistaken_by_then(
    herdpy: Any, eventually: Callable[..., None]
) -> None:
    declaration = herdpy.declare("web", listing(["127.0.0.1:0"], activated(60)))
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    declaration.write_text("comand = 3\n")
    kill_supervisor(herdpy)
    assert ask(endpoint)[0] == "web"
    herdpy.ok("stop", "web")
    assert is_refused(endpoint)


@pytest.mark.parametrize("style", ["inetd", "lazy"])
def test_two_hundred_connections_while_the_supervisor_is_killed_twice(
    herdpy: Any, eventually: Callable[..., None], style: str
) -> None:
    if style == "inetd":
        text = 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["sh", "-c", "echo served $$"])
    else:
        # Each process takes a few, so that supervisors die while one is spawned, runs, ends and is buried.
        text = listing(["127.0.0.1:0"], activated(60, 7), "respawn-limit = 1000", "respawn-delay = 0")
    herdpy.declare("web", text)
    herdpy.start()
    herdpy.ok("start", "web")
    [endpoint] = endpoints(herdpy, "web")
    answers: list[str] = []
    failures: list[OSError] = []
    answered = threading.Semaphore(0)

    def connect_fifty_times() -> None:
        for _ in range(50):
            try:
                answers.append(ask(endpoint)[0])
            except (OSError, IndexError) as error:  # refused, reset, or closed without an answer
                failures.append(error)
            answered.release()

    clients = [threading.Thread(target=connect_fifty_times) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(140):
        assert answered.acquire(timeout=PATIENCE)
        if number in (40, 100):
            kill_supervisor(herdpy)
    for client in clients:
        client.join()
    assert failures == []
    assert len(answers) == 200
    assert herdpy.status("web")["status"] == "running"


def test_inetd_gives_each_connection_a_process(herdpy: Any, eventually: Callable[..., None], sockets: Path) -> None:
    path = sockets / "socket"
    names = "PROTO TCPLOCALIP TCPLOCALPORT TCPREMOTEIP TCPREMOTEPORT REMOTE_ADDR REMOTE_PORT UNIXREMOTEPID"
    script = f'for name in {names}; do eval "echo $name=\\$$name"; done; echo logged >&2; exec cat'
    herdpy.declare("echo", 'type = "inetd"\n' + listing(["127.0.0.1:0", f"unix:{path}"], ["sh", "-c", script]))
    herdpy.start()
    herdpy.ok("start", "echo")
    place = endpoints(herdpy, "echo")[0]
    assert f"Inetd-style service listening on 2 endpoints:\n    - {place}\n" in herdpy.ok("status", "echo")
    with connect(place) as first, connect(f"unix:{path}") as second:
        stream = first.makefile("rw")
        told = dict(stream.readline().strip().split("=") for _ in range(8))
        host, port = first.getsockname()
        assert (told["TCPREMOTEIP"], told["TCPREMOTEPORT"], told["PROTO"]) == (host, str(port), "TCP")
        assert (told["REMOTE_ADDR"], told["REMOTE_PORT"]) == (host, str(port))
        assert f"{told['TCPLOCALIP']}:{told['TCPLOCALPORT']}" == place
        stream.write("hello\n")
        stream.flush()
        assert stream.readline() == "hello\n"
        lines = second.makefile()
        assert [lines.readline() for _ in range(8)][-1] == f"UNIXREMOTEPID={os.getpid()}\n"
        eventually(lambda: herdpy.status("echo")["details"]["connections"] == "2 of at most 100")
        stream.close()
        lines.close()
    eventually(lambda: herdpy.status("echo")["details"]["connections"] == "0 of at most 100")
    log = (herdpy.log / "herdpy.log").read_text()
    assert f'connection-ended service=echo peer={host}:{port} reason="it exited with 0"' in log
    assert f'connection-ended service=echo peer="PID {os.getpid()} (UID {os.geteuid()})"' in log
    assert (herdpy.log / "echo.log").read_text().count("logged") == 2


def test_inetd_takes_no_more_connections_than_it_may(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("echo", 'type = "inetd"\nmax-connections = 2\n' + listing(["127.0.0.1:0", "[::1]:0"], ECHO))
    herdpy.start()
    herdpy.ok("start", "echo")
    v4, v6 = endpoints(herdpy, "echo")
    with connect(v4) as first, connect(v6) as second:
        for client in (first, second):
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        third = connect(v4)
        third.sendall(b"hello\n")
        third.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.recv(100)
        third.settimeout(PATIENCE)
        assert herdpy.status("echo")["details"]["connections"] == "2 of at most 2"
        second.close()
        with third:
            assert third.recv(100) == b"hello\n"


def test_inetd_closes_what_one_address_has_too_many_of(herdpy: Any, eventually: Callable[..., None]) -> None:
    text = 'type = "inetd"\nmax-connections-per-address = 1\n' + listing(["127.0.0.1:0", "[::1]:0"], ECHO)
    herdpy.declare("echo", text)
    herdpy.start()
    herdpy.ok("start", "echo")
    v4, v6 = endpoints(herdpy, "echo")
    with connect(v4) as first, connect(v6) as other:
        for client in (first, other):
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        kill_supervisor(herdpy)
        with connect(v4) as second:
            assert second.recv(100) == b""
        first.sendall(b"still\n")
        assert first.recv(100) == b"still\n"
        first.close()
        eventually(lambda: herdpy.status("echo")["details"]["connections"] == "1 of at most 100")
        with connect(v4) as third:
            third.sendall(b"hello\n")
            assert third.recv(100) == b"hello\n"
    eventually(lambda: "connection-refused service=echo" in (herdpy.log / "herdpy.log").read_text())


def test_inetd_spawns_nothing_for_a_connection_that_is_reset_already(
    herdpy: Any, eventually: Callable[..., None], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    herdpy.declare("echo", 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["sh", "-c", f"echo ran >> {ran}; cat"]))
    herdpy.start()
    herdpy.ok("start", "echo")
    [place] = endpoints(herdpy, "echo")
    supervisor = herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    for _ in range(3):
        with connect(place) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.kill(supervisor, signal.SIGCONT)
    with connect(place) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
    eventually(lambda: "connection-ended service=echo peer=127.0.0.1:" in (herdpy.log / "herdpy.log").read_text())
    assert ran.read_text() == "ran\n"


def test_connections_outlive_the_supervisor_and_a_stop_ends_them(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("echo", 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["sh", "-c", "echo $$; exec cat"]))
    herdpy.start()
    herdpy.ok("start", "echo")
    [place] = endpoints(herdpy, "echo")
    with connect(place) as client, connect(place) as other:
        pids = [client.recv(100).decode().strip(), other.recv(100).decode().strip()]
        kill_supervisor(herdpy)
        eventually(lambda: herdpy.status("echo")["details"].get("connections") == "2 of at most 100")
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        other.close()
        eventually(lambda: herdpy.status("echo")["details"]["connections"] == "1 of at most 100")
        herdpy.ok("stop", "echo")
        assert client.recv(100) == b""
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert is_refused(place)


def test_a_connection_ends_with_its_process(herdpy: Any) -> None:
    herdpy.declare("hello", 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["echo", "hello"]))
    herdpy.start()
    herdpy.ok("start", "hello")
    [place] = endpoints(herdpy, "hello")
    with connect(place) as client, client.makefile() as lines:
        assert lines.read() == "hello\n"  # to its end: nobody else has the connection


def test_a_connection_whose_program_cannot_be_executed_is_closed(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("echo", 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["/nowhere/at-all"]))
    herdpy.start()
    herdpy.ok("start", "echo")
    [place] = endpoints(herdpy, "echo")
    with connect(place) as client:
        assert client.recv(1) == b""
    why = "/nowhere/at-all cannot be executed: No such file or directory"
    eventually(lambda: why in (herdpy.log / "herdpy.log").read_text())
    assert herdpy.status("echo")["status"] == "running"


def test_an_address_that_is_taken_is_waited_for_and_its_holder_named(
    herdpy: Any, eventually: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = herdpy.declare("web", listing([f"127.0.0.1:{port}"], activated(60)))
        herdpy.start()
        completed = herdpy.herd("start", "web")
        assert completed.returncode == 1
        name = Path("/proc/self/comm").read_text().strip()
        reason = (
            f"cannot listen on 127.0.0.1:{port}: it is in use by PID {os.getpid()} ({name}); change sockets in {path}"
        )
        assert f"cannot start web: {reason}" in completed.stdout + completed.stderr
        assert herdpy.status("web")["reason"] == reason
        start = herdpy.herd_in_background("start", "web")
        eventually(lambda: (herdpy.status("web")["stage"] or "").startswith("waiting to listen"))
    assert start.wait(PATIENCE) == 0
    assert ask(f"127.0.0.1:{port}")[0] == "web"


def test_a_start_that_waits_for_an_address_can_be_stopped(herdpy: Any, eventually: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        herdpy.declare("web", listing([f"127.0.0.1:{taken.getsockname()[1]}"], activated(60)))
        herdpy.start()
        start = herdpy.herd_in_background("start", "web")
        eventually(lambda: (herdpy.status("web")["stage"] or "").startswith("waiting to listen"))
        herdpy.ok("stop", "web")
        assert start.wait(PATIENCE) == 1
        assert herdpy.status("web")["status"] == "stopped"


def test_a_dead_path_is_replaced_and_a_living_one_is_not(herdpy: Any, sockets: Path) -> None:
    dead, living, file = sockets / "dead", sockets / "living", sockets / "file"
    for path in (dead, living):
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(path))
            old.listen()
            kept = old.dup()
        if path == dead:
            kept.close()
    file.write_text("precious")
    for path in (dead, living, file):
        herdpy.declare(path.name, listing([f"unix:{path}"], activated(60)))
    herdpy.start()
    herdpy.ok("start", "dead")
    assert ask(f"unix:{dead}")[0] == "dead"
    completed = herdpy.herd("start", "living")
    assert f"cannot listen on unix:{living}: it is in use by PID {os.getpid()} (" in completed.stdout
    completed = herdpy.herd("start", "file")
    assert f"cannot listen on unix:{file}: there is a file of that name that is no socket" in completed.stdout
    assert file.read_text() == "precious"
    kept.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
def test_a_path_has_its_owner_and_mode(herdpy: Any, sockets: Path) -> None:
    path = sockets / "private" / "socket"
    table = {"address": f"unix:{path}", "user": "nobody", "group": "nogroup", "mode": "620", "directory-mode": "711"}
    herdpy.declare("web", listing([table], activated(60)))
    herdpy.start()
    herdpy.ok("start", "web")
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (NOBODY, NOBODY, 0o620)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711


def test_no_descriptor_is_left_after_many_activations(herdpy: Any, eventually: Callable[..., None]) -> None:
    herdpy.declare("web", listing(["127.0.0.1:0"], activated(60, 1), "respawn-limit = 1000"))
    herdpy.declare("echo", 'type = "inetd"\n' + listing(["127.0.0.1:0"], ["echo", "hello"]))
    herdpy.start()
    counts = []
    for _ in range(3):
        for service in ("web", "echo"):
            herdpy.ok("start", service)
            [place] = endpoints(herdpy, service)
            for _ in range(5):
                ask(place)
        eventually(lambda: herdpy.status("echo")["details"]["connections"].startswith("0 "))
        for service in ("web", "echo"):
            herdpy.ok("stop", service)
        pids = (herdpy.process.pid, herdpy.supervisor())
        counts.append([len(os.listdir(f"/proc/{pid}/fd")) for pid in pids])
    assert counts[1] == counts[2]


def test_its_next_process_is_the_one_that_is_declared_by_then(herdpy: Any, eventually: Callable[..., None]) -> None:
    places = ["127.0.0.1:0"]
    herdpy.declare("web", listing(places, ["false"]))
    herdpy.start()
    herdpy.ok("start", "web")
    herdpy.declare("web", listing(places, activated(60)))
    herdpy.ok("reload", "root")
    [endpoint] = endpoints(herdpy, "web")
    assert ask(endpoint)[0] == "web"
    assert endpoints(herdpy, "web") == [endpoint]


def test_an_open_socket_gets_its_new_mode_and_who_waits_is_kept(
    herdpy: Any, eventually: Callable[..., None], sockets: Path
) -> None:
    path = sockets / "socket"
    herdpy.declare("web", listing([f"unix:{path}"], activated(0.1)))
    herdpy.start()
    herdpy.ok("start", "web")
    for mode in ("600", "640"):
        herdpy.declare("web", listing([{"address": f"unix:{path}", "mode": mode, "name": "adm"}], activated(0.1)))
        herdpy.ok("reload", "root")
        assert ask(f"unix:{path}")[0] == "adm"
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        eventually(lambda: herdpy.status("web")["pid"] is None)


def test_sockets_are_kept_whatever_their_order_and_whoever_of_them_goes(herdpy: Any, sockets: Path) -> None:
    first, second, third = (
        {"address": f"unix:{sockets / name}", "name": name} for name in ("first", "second", "third")
    )
    herdpy.declare("web", listing([first, second, third], ["sleep", "1000"], 'activation = "eager"'))
    herdpy.start()
    herdpy.ok("start", "web")
    with connect(f"unix:{sockets / 'third'}") as waiting:
        herdpy.declare("web", listing([third, first], activated(60), 'activation = "eager"'))
        herdpy.ok("reload", "root")
        herdpy.ok("restart", "web")
        assert waiting.recv(4096).split()[0] == b"third"
    assert [endpoint["name"] for endpoint in herdpy.status("web")["endpoints"]] == ["third", "first"]
    assert is_refused(f"unix:{sockets / 'second'}")
    kill_supervisor(herdpy)
    assert ask(f"unix:{sockets / 'first'}")[0] == "first"
    with connect(f"unix:{sockets / 'first'}"):
        herdpy.ok("restart", "web")
    assert [endpoint["name"] for endpoint in herdpy.status("web")["endpoints"]] == ["third", "first"]
    assert ask(f"unix:{sockets / 'third'}")[0] == "third"


def test_a_lazy_service_without_a_process_listens_where_it_is_declared_to_at_the_reload(
    herdpy: Any, eventually: Callable[..., None], sockets: Path
) -> None:
    first, second, third = (f"unix:{sockets / name}" for name in ("first", "second", "third"))
    herdpy.declare("web", listing([first], activated(60, 1)))
    herdpy.start()
    herdpy.ok("start", "web")
    herdpy.declare("web", listing([second], activated(60, 1)))
    assert "~ web: takes effect now if it has no process" in herdpy.ok("reload", "root")
    assert is_refused(first)
    assert endpoints(herdpy, "web") == [second]
    with connect(second) as waiting:
        assert waiting.recv(4096).split()[0] == b"web"
    eventually(lambda: herdpy.status("web")["pid"] is None)
    herdpy.declare("web", listing([second], activated(60, 2)))  # the next process has it until somebody connects twice
    herdpy.ok("reload", "root")
    assert ask(second)[0] == "web"
    herdpy.declare("web", listing([third], activated(60, 1)))
    herdpy.ok("reload", "root")
    assert endpoints(herdpy, "web") == [second]
    assert ask(second)[0] == "web"
    eventually(lambda: endpoints(herdpy, "web") == [third])
    assert is_refused(second)
    assert ask(third)[0] == "web"


def test_a_reload_tells_where_a_lazy_service_cannot_listen(herdpy: Any, sockets: Path) -> None:
    herdpy.declare("web", listing([f"unix:{sockets / 'first'}"], activated(60)))
    herdpy.start()
    herdpy.ok("start", "web")
    (sockets / "file").write_text("precious")
    herdpy.declare("web", listing([f"unix:{sockets / 'file'}"], activated(60)))
    completed = herdpy.herd("reload", "root")
    assert f"cannot start web: cannot listen on unix:{sockets / 'file'}: there is a file" in completed.stdout
    assert herdpy.status("web")["status"] == "stopped"
