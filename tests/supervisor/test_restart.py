"""A restart ends with everything running again, whatever happens to the supervisor meanwhile."""

import contextlib
import json
import os
import signal

WAIT = "while [ -e $READY.held ]; do sleep 0.02; done"
HELD = json.dumps(["sh", "-c", f"trap '{WAIT}; exit 0' TERM; : > $READY; while :; do sleep 0.02; done"])


@contextlib.contextmanager
def held(tmp_path, name: str):
    """Let a service that is to stop not do so yet."""
    path = tmp_path / f"{name}-ready.held"
    path.touch()
    yield
    path.unlink()


def commands(herdpy, action: str, service: str) -> int:
    """How many commands herdpy has been given."""
    return (herdpy.log / "herdpy.log").read_text().count(f" command action={action} service={service}")


def declare(herdpy, tmp_path, name: str, more: str = "") -> None:
    herdpy.declare(name, f'command = {HELD}\nenvironment = {{ READY = "{tmp_path}/{name}-ready" }}\n{more}')


def start_both(herdpy, tmp_path, eventually) -> dict[str, int]:
    declare(herdpy, tmp_path, "base")
    declare(herdpy, tmp_path, "top", 'requirement = ["base"]')
    herdpy.start()
    herdpy.ok("start", "top")
    eventually(lambda: (tmp_path / "base-ready").exists() and (tmp_path / "top-ready").exists())
    return pids(herdpy)


def pids(herdpy) -> dict[str, int]:
    return {name: herdpy.status(name)["pid"] for name in ("base", "top")}


def test_one_that_the_supervisor_did_not_live_to_see_through_ends_with_all_running(herdpy, tmp_path, eventually):
    before = start_both(herdpy, tmp_path, eventually)
    with held(tmp_path, "base"):
        with held(tmp_path, "top"):
            client = herdpy.herd_in_background("restart", "base")
            eventually(lambda: herdpy.status("top")["status"] == "stopping")
            os.kill(herdpy.supervisor(), signal.SIGKILL)  # in the middle of each stop
        eventually(lambda: herdpy.status("base")["status"] == "stopping")
        os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: all(herdpy.status(name)["status"] == "running" for name in before))
    assert client.wait(60) == 0, "the next supervisors were not asked"
    after = pids(herdpy)
    assert after["base"] != before["base"]
    assert after["top"] != before["top"]
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert pids(herdpy) == after, "a restart that has ended is not remembered"


def test_one_of_what_had_no_process_stops_nothing_again(herdpy, tmp_path, eventually):
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    herdpy.start()
    client = herdpy.herd_in_background("restart", "base")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    log = herdpy.log / "herdpy.log"
    eventually(lambda: "command action=start service=base" in log.read_text())
    assert herdpy.status("base")["status"] == "starting"
    (tmp_path / "open").touch()
    assert client.wait(60) == 0, log.read_text()


def test_one_that_had_stopped_everything_is_finished_by_a_start(herdpy, tmp_path, eventually):
    """The supervisor dies while base, stopped, waits for a prepare step: here its new process's readiness."""
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    (tmp_path / "open").touch()
    herdpy.start()
    herdpy.ok("start", "base")
    (tmp_path / "open").unlink()
    before = herdpy.status("base")["pid"]
    client = herdpy.herd_in_background("restart", "base")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: herdpy.status("base")["status"] == "starting")
    (tmp_path / "open").touch()
    assert client.wait(60) == 0, "it asks the next supervisor"
    assert herdpy.status("base")["pid"] != before
    log = herdpy.log / "herdpy.log"
    eventually(lambda: log.read_text().count("service-started service=base") == 2)


def test_a_restart_of_what_was_stopped_starts_it(herdpy):
    herdpy.declare("lone", 'command = ["sleep", "1000"]')
    herdpy.start()
    herdpy.ok("restart", "lone")
    assert herdpy.status("lone")["status"] == "running"


def test_one_that_cuts_a_start_short_starts_what_had_waited_for_that(herdpy, tmp_path, eventually):
    herdpy.declare(
        "gate", f'command = ["sh", "-c", "while [ ! -e {tmp_path}/open ]; do sleep 0.02; done"]\none-shot=true'
    )
    herdpy.declare("base", 'command = ["sleep", "1000"]\nrequirement = ["gate"]')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["base"]')
    herdpy.start()
    starting = herdpy.herd_in_background("start", "top")
    eventually(lambda: herdpy.status("gate")["status"] == "starting")
    restarting = herdpy.herd_in_background("restart", "base")
    assert starting.wait(60) == 1
    (tmp_path / "open").touch()
    assert restarting.wait(60) == 0
    assert herdpy.status("top")["status"] == "running"


def gated(herdpy, tmp_path, name: str, more: str = "") -> None:
    """Declare a service that is ready once the gate is open."""
    ready = f'ready = {{ command = ["test", "-e", "{tmp_path}/open"], interval = 0.02 }}\n'
    herdpy.declare(name, f'command = ["sleep", "1000"]\n{ready}{more}')


def test_one_that_overtakes_another_starts_what_that_would_have(herdpy, tmp_path, eventually):
    (tmp_path / "open").touch()
    gated(herdpy, tmp_path, "base")
    gated(herdpy, tmp_path, "middle", 'requirement = ["base"]\n')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["middle"]')
    herdpy.start()
    herdpy.ok("start", "top")
    for second in ("middle", "base"):
        (tmp_path / "open").unlink()
        first = herdpy.herd_in_background("restart", "middle")
        eventually(lambda: herdpy.status("middle")["status"] == "starting")
        assert herdpy.status("top")["status"] == "stopped"
        overtaking = herdpy.herd_in_background("restart", second)
        assert first.wait(60) == 1
        (tmp_path / "open").touch()
        assert overtaking.wait(60) == 0
        assert herdpy.status("top")["status"] == "running"


def test_what_is_stopped_by_hand_meanwhile_stays_so(herdpy, tmp_path, eventually):
    """With what requires it; whether it was down by then or is about to be."""
    (tmp_path / "open").touch()
    gated(herdpy, tmp_path, "base")
    declare(herdpy, tmp_path, "middle", 'requirement = ["base"]\n')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["middle"]')
    herdpy.declare("other", 'command = ["sleep", "1000"]\nrequirement = ["base"]')
    herdpy.start()
    herdpy.ok("start", "other")
    for is_down in (True, False):
        (tmp_path / "middle-ready").unlink(missing_ok=True)
        herdpy.ok("start", "top")
        eventually((tmp_path / "middle-ready").exists)
        if is_down:
            (tmp_path / "open").unlink()
            restarting = herdpy.herd_in_background("restart", "base")
            eventually(lambda: herdpy.status("base")["status"] == "starting")
            herdpy.ok("stop", "middle")
            os.kill(herdpy.supervisor(), signal.SIGKILL)  # the next one knows that, too
            (tmp_path / "open").touch()
        else:
            with held(tmp_path, "middle"):
                stopping = herdpy.herd_in_background("stop", "middle")
                eventually(lambda: herdpy.status("middle")["status"] == "stopping")
                before = commands(herdpy, "restart", "base")
                restarting = herdpy.herd_in_background("restart", "base")
                eventually(lambda: commands(herdpy, "restart", "base") > before)  # noqa: B023 - called at once
            assert stopping.wait(60) == 0
        assert restarting.wait(60) == 0
        found = {name: herdpy.status(name)["status"] for name in ("base", "other", "middle", "top")}
        assert found == {"base": "running", "other": "running", "middle": "stopped", "top": "stopped"}, is_down


def test_a_stop_of_the_service_itself_ends_it(herdpy, tmp_path, eventually):
    start_both(herdpy, tmp_path, eventually)
    with held(tmp_path, "top"):
        restarting = herdpy.herd_in_background("restart", "base")
        eventually(lambda: herdpy.status("top")["status"] == "stopping")
        stopping = herdpy.herd_in_background("stop", "base")
        eventually(lambda: commands(herdpy, "stop", "base"))
    assert stopping.wait(60) == 0
    assert restarting.wait(60) == 1
    assert {herdpy.status(name)["status"] for name in ("base", "top")} == {"stopped"}
