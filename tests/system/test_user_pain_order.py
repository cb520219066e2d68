"""What people suffer from in other supervisors, as far as it concerns order, configuration and numbers.

The numbers are those of the project's list of complaints.
"""

import json
import os
import signal
import tempfile
import threading
from pathlib import Path

from tests.processes import lives
from tests.system.daemons import is_waiting, toml
from tests.system.test_activation import activated, ask, endpoints, listing
from tests.waiting import PATIENCE


def gated(gate: Path, trace: Path, name: str) -> list[str]:
    """A service that gets ready once there is a file, and says so by a line."""
    return ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.02; done; echo {name} >> {trace}; echo up; exec sleep 1000"]


def test_20_and_19_a_dependent_waits_for_the_readiness_of_what_was_respawned(herdpy, tmp_path, eventually):
    """finit forgot that a condition has to hold anew; process-compose left a dependent out."""
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    herdpy.declare("base", toml(gated(gate, trace, "base"), 'ready.log-line = "up"\nrespawn-delay = 0'))
    herdpy.declare(
        "top", toml(["sh", "-c", f"echo top >> {trace}; exec sleep 1000"], 'requirement = ["base"]\nrespawn-delay = 0')
    )
    gate.touch()
    herdpy.start()
    herdpy.ok("start", "base")
    gate.unlink()
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    eventually(lambda: is_waiting(herdpy, "", "base"))
    starting = herdpy.herd_in_background("start", "top")
    eventually(lambda: herdpy.status("top")["status"] == "starting")
    assert herdpy.status("top")["pid"] is None
    assert starting.poll() is None
    gate.touch()
    assert starting.wait(PATIENCE) == 0
    eventually(lambda: trace.read_text().split() == ["base", "base", "top"])
    assert herdpy.status("base")["status"] == "running"


def test_19_a_dependent_that_dies_while_its_requirement_respawns_comes_back_after_it(herdpy, tmp_path, eventually):
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    herdpy.declare("base", toml(gated(gate, trace, "base"), 'ready.log-line = "up"\nrespawn-delay = 0'))
    herdpy.declare(
        "top", toml(["sh", "-c", f"echo top >> {trace}; exec sleep 1000"], 'requirement = ["base"]\nrespawn-delay = 0')
    )
    gate.touch()
    herdpy.start()
    herdpy.ok("start", "top")
    eventually(lambda: trace.read_text().split() == ["base", "top"])
    gate.unlink()
    for name in ("base", "top"):
        os.kill(herdpy.status(name)["pid"], signal.SIGKILL)
        eventually(lambda name=name: herdpy.status(name)["status"] == "starting")
    gate.touch()
    eventually(lambda: herdpy.status("top")["status"] == "running")
    eventually(lambda: trace.read_text().split() == ["base", "top", "base", "top"])


def test_16_a_reload_touches_no_socket_of_what_has_not_changed(herdpy):
    """finit restarted all, circus broke on sockets: nobody who connects meanwhile is refused."""
    with tempfile.TemporaryDirectory(prefix="pain-") as short:
        same, changed = f"unix:{short}/same", f"unix:{short}/changed"
        herdpy.declare("same", listing([same], activated(60), 'activation = "eager"'))
        herdpy.declare("changed", listing([changed], activated(60), 'activation = "eager"'))
        herdpy.start()
        for name in ("same", "changed"):
            herdpy.ok("start", name)
        pid = herdpy.status("same")["pid"]
        over, refused, answers = threading.Event(), [], []

        def connect_again_and_again(place: str) -> None:
            while not over.is_set():
                try:
                    answers.append(ask(place))
                except OSError as error:
                    refused.append(f"{place}: {error}")

        clients = [threading.Thread(target=connect_again_and_again, args=(place,)) for place in (same, changed)]
        for client in clients:
            client.start()
        try:
            herdpy.ok("reload", "root")
            herdpy.declare("changed", listing([changed], activated(61), 'activation = "eager"'))
            herdpy.declare("new", toml(["sleep", "1000"]))
            herdpy.ok("reload", "root")
            herdpy.ok("restart", "changed")
        finally:
            over.set()
            for client in clients:
                client.join()
        assert refused == []
        assert ["same", str(pid)] in answers
        assert herdpy.status("same")["pid"] == pid
        assert herdpy.status("changed")["command"][-1] == "61"
        assert endpoints(herdpy, "same") == [same]


def test_31_more_than_1023_services_run(herdpy, eventually):
    """One declaration, and as many processes and pipes as select(2) could never wait for."""
    numbers = json.dumps([str(number) for number in range(1100)])
    herdpy.declare(
        "many", f'command = ["sleep", "1000"]\ninstances = {numbers}\nauto-start = true\nrespawn-delay = 0\n'
    )
    herdpy.prefix = ("sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh")
    herdpy.start()

    def pids() -> set[int]:
        return {one["pid"] for one in json.loads(herdpy.ok("--json", "status")) if one["status"] == "running"} - {None}

    log = herdpy.log / "herdpy.log"
    eventually(lambda: log.read_text().count("service-started service=many@") >= 1100)
    assert len(pids()) >= 1100
    victim = herdpy.status("many@1099")["pid"]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: herdpy.status("many@1099")["pid"] not in (victim, None))
    limits = Path(f"/proc/{herdpy.status('many@1099')['pid']}/limits").read_text()
    assert "Max open files            256 " in limits, "their own limit is not herdpy's"
    running = pids()
    assert herdpy.stop() == 0
    assert not any(lives(pid) for pid in running)


WAYS = {
    "process": toml(["sleep", "1000"]),
    "forking": toml(["sh", "-c", "setsid sleep 1000 & echo $! > {0}/a.pid"], 'ready.pid-file = "{0}/a.pid"'),
    "activated": toml(["sleep", "1000"], 'sockets = ["127.0.0.1:0"]'),
    "inetd": toml(["cat"], 'type = "inetd"\nsockets = ["127.0.0.1:0"]'),
    "timer": toml(["true"], 'type = "timer"\nevery = "1h"'),
    "target": 'type = "target"\nmembers = []\n',
}


def test_26_every_kind_of_service_is_commanded_alike(herdpy, tmp_path):
    for name, declaration in WAYS.items():
        herdpy.declare(name, declaration.replace("{0}", str(tmp_path)))
    herdpy.start()
    for name in WAYS:
        assert herdpy.ok("start", name) == f"Service {name} has been started.\n"
        assert herdpy.status(name)["status"] == "running"
        assert herdpy.ok("start", name) == f"Service {name} is already running.\n"
        assert herdpy.ok("stop", name) == ""
        assert herdpy.status(name)["status"] == "stopped"
        assert herdpy.ok("restart", name) == f"Service {name} has been started.\n"
        herdpy.ok("stop", name)
        herdpy.ok("disable", name)
        refused = herdpy.herd("start", name)
        assert refused.returncode == 1
        assert f"cannot start {name}: it is disabled; enable it with: herd enable {name}" in refused.stdout


def test_34_what_herdpy_needs_is_little():
    """Its keeper, its logger and its client need nothing at all: tests/test_imports.py sees to that."""
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    needed = {line.split()[0] for line in tomllib.loads(text)["project"]["dependencies"]}
    assert needed <= {"trio", "msgspec", "structlog", "psutil", "cronsim", "google-re2", "inotify-simple"}


def test_22_what_requires_user_processes_never_starts_before_it(herdpy, eventually, tmp_path):
    """Shepherd started guix-daemon before user-processes, now and then."""
    herdpy.declare("user-processes", 'type = "host"\nstate = "user-processes"\n')
    herdpy.declare("daemon", toml(["sleep", "1000"], 'requirement = ["user-processes"]\nauto-start = true'))
    herdpy.start()
    eventually(lambda: herdpy.status("daemon")["status"] == "running")
    said = (herdpy.log / "herdpy.log").read_text()
    assert herdpy.status("user-processes")["status"] == "running"
    assert said.index("service-started service=user-processes") < said.index("service-started service=daemon")


def test_17_that_a_file_was_changed_is_told_in_the_status(herdpy, eventually):
    """It is reloaded by itself, and what takes effect only at the next start is shown until then."""
    herdpy.declare("one", toml(["sleep", "1000"]))
    herdpy.start()
    herdpy.ok("start", "one")
    herdpy.declare("one", toml(["sleep", "2000"]))
    eventually(lambda: "From its next start on" in herdpy.ok("status", "one"))
    herdpy.ok("restart", "one")
    assert "From its next start on" not in herdpy.ok("status", "one")
    assert herdpy.status("one")["command"] == ["sleep", "2000"]
