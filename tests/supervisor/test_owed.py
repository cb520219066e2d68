"""What is down for want of another service, nobody being there to be told, is started when that runs."""

import json
import os
import signal
import socket

import pytest

SLEEP = 'command = ["sleep", "1000"]\n'
AUTO = "auto-start = true\n"
OFTEN = "respawn-limit = 1000\nrespawn-delay = 0.1\nrespawn-delay-limit = 0.1\n"


@pytest.fixture
def base(herdpy, eventually, tmp_path):
    """``base`` starts with herdpy, and fails until there is a gate, whatever else is declared when it is called."""
    gate = tmp_path / "gate"

    class Base:
        text = f'command = ["sh", "-c", "test -e {gate} || exit 7; echo up; exec sleep 1000"]\nready.log-line = "up"\n'

        def fail_at_boot(self, more: str = AUTO + OFTEN) -> None:
            herdpy.configure("automatic-reload = false\n")
            herdpy.declare("base", self.text + more)
            herdpy.start()
            eventually(lambda: herdpy.status("base")["startup-failures"])

        def fail_again(self) -> None:
            before = len(herdpy.status("base")["startup-failures"])
            eventually(lambda: len(herdpy.status("base")["startup-failures"]) > min(before, 8))

        def works(self) -> None:
            gate.touch()

        def fails(self) -> None:
            gate.unlink()

    return Base()


@pytest.fixture
def comes_to(herdpy, eventually):
    """Wait until a service is in a state."""

    def wait(state: str, *names: str) -> None:
        for name in names:
            eventually(lambda name=name: herdpy.status(name)["status"] == state)

    return wait


def test_a_one_shot_beside_what_fails_is_none_that_is_missing(herdpy, base, comes_to):
    herdpy.declare("once", 'command = ["true"]\none-shot = true\n')
    herdpy.declare("top", SLEEP + 'requirement = ["once", "base"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["once", "base"]\n' + AUTO)
    base.fail_at_boot()
    base.works()
    comes_to("running", "top", "all")


def test_a_one_shot_that_was_down_is_run_once_for_what_requires_it(herdpy, base, comes_to, tmp_path):
    runs = tmp_path / "runs"
    herdpy.declare("once", f'command = ["sh", "-c", "echo >>{runs}"]\none-shot = true\nrequirement = ["base"]\n')
    herdpy.declare("top", SLEEP + 'requirement = ["once"]\n' + AUTO)
    base.fail_at_boot()
    base.works()
    comes_to("running", "top")
    assert runs.read_text() == "\n"


def test_what_comes_after_it_need_not_wait(herdpy, base, comes_to):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("late", SLEEP + 'after = ["top"]\n' + AUTO)
    base.fail_at_boot()
    comes_to("running", "late")
    assert herdpy.status("top")["stage"] == "waits for base"


def test_a_restart_by_hand_of_what_fails_brings_back_what_waits_for_it(herdpy, base, comes_to):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["top"]\n' + AUTO)
    base.fail_at_boot()
    base.works()
    herdpy.ok("restart", "base")
    comes_to("running", "top", "all")


def test_what_is_stopped_by_hand_is_not_brought_back(herdpy, base, comes_to, eventually):
    for name in ("one", "two", "three"):
        herdpy.declare(name, SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["one", "beside"]\n' + AUTO)
    herdpy.declare("beside", SLEEP)
    base.fail_at_boot()
    for name in ("one", "two", "three", "all"):
        eventually(lambda name=name: herdpy.status(name)["stage"])
    herdpy.ok("stop", "one")
    herdpy.ok("disable", "two")
    for name in ("one", "two"):
        assert herdpy.status(name)["stage"] is None
    eventually(lambda: herdpy.status("all")["stage"] is None)
    base.works()
    comes_to("running", "three")
    assert {herdpy.status(name)["status"] for name in ("one", "two", "all")} == {"stopped"}


def test_a_stop_by_hand_of_what_fails_calls_off_what_waits_for_it(herdpy, base, comes_to, eventually):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    base.fail_at_boot()
    eventually(lambda: herdpy.status("top")["stage"])
    herdpy.ok("stop", "base")
    eventually(lambda: herdpy.status("top")["stage"] is None)
    base.works()
    herdpy.ok("start", "base")
    assert herdpy.status("top")["status"] == "stopped"


def test_a_reload_starts_what_is_declared_otherwise_by_now(herdpy, base, comes_to, eventually):
    """One that requires something else, and one that has another member."""
    herdpy.declare("ok", SLEEP)
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["base", "ok"]\n' + AUTO)
    base.fail_at_boot()
    for name in ("top", "all"):
        eventually(lambda name=name: herdpy.status(name)["stage"])
    herdpy.declare("top", SLEEP + 'requirement = ["ok"]\n' + AUTO)
    herdpy.declare("all", 'type = "target"\nmembers = ["ok"]\n' + AUTO)
    (herdpy.services / "base.toml").unlink()
    herdpy.ok("reload")
    comes_to("running", "top", "all")


def test_a_restart_by_a_reload_is_tried_again(herdpy, base, comes_to):
    base.works()
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.configure("automatic-reload = false\n")
    herdpy.declare("base", base.text + AUTO + OFTEN + 'on-change = "restart"\n')
    herdpy.start()
    comes_to("running", "top")
    base.fails()
    herdpy.declare("base", base.text + AUTO + OFTEN + 'on-change = "restart"\nnice = 1\n')
    assert herdpy.herd("reload").returncode == 1
    base.fail_again()
    base.works()
    comes_to("running", "base", "top")


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_a_failed_restart_has_stopped_comes_back_with_it(herdpy, base, comes_to, eventually, tmp_path, is_killed):
    base.works()
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    go = tmp_path / "go"
    waits = f'pre-start = [["sh", "-c", "while ! test -e {go}; do sleep 0.02; done"]]\n'
    herdpy.declare("base", base.text + waits + AUTO + OFTEN)
    go.touch()
    herdpy.start()
    comes_to("running", "top")
    base.fails()
    go.unlink()
    with herdpy.herd_in_background("restart", "base") as client:
        comes_to("starting", "base")
        if is_killed:
            os.kill(herdpy.supervisor(), signal.SIGKILL)
            comes_to("starting", "base")
        go.touch()
        assert client.wait(60) == 1
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    base.works()
    if not is_killed:  # who was told starts it
        assert herdpy.status("base")["status"] == "stopped", herdpy.said()
        herdpy.ok("start", "base")
    comes_to("running", "base", "top")


def test_a_start_by_hand_that_others_join_is_tried_again_for_them(herdpy, base, comes_to, eventually, tmp_path):
    go = tmp_path / "go"
    waits = f'pre-start = [["sh", "-c", "while ! test -e {go}; do sleep 0.02; done"]]\n'
    herdpy.configure("automatic-reload = false\n")
    herdpy.declare("base", base.text + waits + OFTEN)
    herdpy.start()
    with herdpy.herd_in_background("start", "base") as client:
        comes_to("starting", "base")
        herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
        with herdpy.herd_in_background("reload"):
            eventually(lambda: "top" in herdpy.ok("status"))
            eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
            go.touch()
            assert client.wait(60) == 1
    base.works()
    comes_to("running", "base", "top")


def test_a_lazy_one_that_cannot_bind_all_its_sockets_binds_none(herdpy, eventually):
    """It would be running with a part of them."""
    free, taken = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    first, second = (f"127.0.0.1:{one.getsockname()[1]}" for one in (free, taken))
    free.close()
    more = f'activation = "lazy"\nsockets = {json.dumps([first, second])}\n'
    herdpy.declare("lazy", SLEEP + AUTO + OFTEN + more)
    with taken:
        herdpy.start()
        eventually(lambda: len(herdpy.status("lazy")["startup-failures"]) > 1, 120)
        assert herdpy.status("lazy")["status"] == "starting"
    eventually(lambda: herdpy.status("lazy")["status"] == "running", 120)
    for address in (first, second):
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port))).close()


def test_what_it_took_to_get_there_does_not_count_against_it(herdpy, base, comes_to, eventually):
    base.fail_at_boot(AUTO + "respawn-limit = 3\nrespawn-interval = 1000\nrespawn-delay = 1\n")
    base.works()
    comes_to("running", "base")
    for _ in range(2):
        before = herdpy.status("base")["pid"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda before=before: herdpy.status("base")["pid"] not in (None, before))
    assert herdpy.status("base")["enabled"]


def test_the_next_supervisor_knows_that_it_has_not_run_yet(herdpy, base, comes_to, eventually):
    base.fail_at_boot(AUTO + "respawn-limit = 3\nrespawn-interval = 1000\nrespawn-delay = 0.3\n")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    eventually(lambda: (herdpy.status("base")["reason"] or "").endswith("(tried 3 times)"))
    assert herdpy.status("base")["enabled"]


def test_what_is_respawned_waits_for_what_it_requires(herdpy, comes_to, eventually):
    """Whatever is to end herdpy, to be forgotten, or to be listened at, when it is stopped."""
    more = 'requirement = ["base"]\n' + AUTO
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    herdpy.declare("base", SLEEP + AUTO + "respawn-delay = 2\n")
    herdpy.declare("main", SLEEP + more + "essential = true\n")
    herdpy.declare("once", SLEEP + more + "transient = true\n")
    herdpy.declare("web", SLEEP + more + f'activation = "eager"\nsockets = ["127.0.0.1:{port}"]\n')
    herdpy.start()
    names = ("main", "once", "web", "base")
    comes_to("running", *names)
    before = {name: herdpy.status(name)["pid"] for name in names}
    for name in reversed(names):
        os.kill(before[name], signal.SIGKILL)
    eventually(lambda: herdpy.status("web")["stage"] == "waits for base")
    socket.create_connection(("127.0.0.1", port)).close()
    for name in names:
        eventually(lambda name=name: herdpy.status(name)["pid"] not in (None, before[name]))


def test_a_one_shot_that_many_run_again_and_again_brings_up_none_of_them(herdpy, eventually, tmp_path):
    runs = tmp_path / "runs"
    herdpy.declare("net", f'command = ["sh", "-c", "echo >>{runs}"]\none-shot = true\n')
    names = [f"typo-{number}" for number in range(3)]
    for name in names:
        more = 'requirement = ["net"]\nrespawn-limit = 3\nrespawn-interval = 1000\n'
        herdpy.declare(name, 'command = ["/nowhere/at/all"]\n' + more + AUTO)
    herdpy.start()
    for name in names:
        eventually(lambda name=name: (herdpy.status(name)["reason"] or "").endswith("(tried 3 times)"))
    done = len(runs.read_text())
    assert done <= 9
    herdpy.ok("start", "net")
    assert {herdpy.status(name)["status"] for name in names} == {"stopped"}
    assert len(runs.read_text()) == done + 1


def test_what_requires_a_one_shot_that_is_disabled_is_not_tried_again_and_again(herdpy, comes_to, eventually):
    herdpy.declare("net", 'command = ["true"]\none-shot = true\n')
    herdpy.declare("top", SLEEP + 'requirement = ["net"]\n' + AUTO)
    herdpy.start()
    comes_to("running", "top")
    herdpy.ok("disable", "net")
    os.kill(herdpy.status("top")["pid"], signal.SIGKILL)
    eventually(lambda: herdpy.status("top")["stage"] == "waits for net")
    assert len(herdpy.status("top")["startup-failures"]) == 1
    herdpy.ok("enable", "net")
    herdpy.ok("start", "net")
    comes_to("running", "top")


def test_a_stop_of_a_target_calls_off_what_its_members_wait_for(herdpy, base, comes_to, eventually):
    herdpy.declare("member", SLEEP + 'requirement = ["base"]\n')
    herdpy.declare("other", SLEEP)
    herdpy.declare("all", 'type = "target"\nmembers = ["member", "other"]\n' + AUTO)
    herdpy.declare("above", SLEEP + 'requirement = ["all"]\n' + AUTO)
    base.fail_at_boot()
    for name in ("member", "all", "above"):
        eventually(lambda name=name: herdpy.status(name)["stage"])
    herdpy.ok("stop", "all")
    for name in ("member", "all", "above"):
        eventually(lambda name=name: herdpy.status(name)["stage"] is None)
    base.works()
    comes_to("running", "base")
    assert {herdpy.status(name)["status"] for name in ("member", "all", "above")} == {"stopped"}


def test_a_stop_of_a_member_calls_off_what_would_start_it(herdpy, base, comes_to, eventually):
    herdpy.declare("member", SLEEP)
    herdpy.declare("all", 'type = "target"\nmembers = ["member", "base"]\n' + AUTO)
    herdpy.declare("above", SLEEP + 'requirement = ["all"]\n' + AUTO)
    base.fail_at_boot()
    for name in ("all", "above"):
        eventually(lambda name=name: herdpy.status(name)["stage"])
    herdpy.ok("stop", "member")
    for name in ("all", "above"):
        eventually(lambda name=name: herdpy.status(name)["stage"] is None)
    base.works()
    comes_to("running", "base")
    assert {herdpy.status(name)["status"] for name in ("member", "all", "above")} == {"stopped"}


def test_a_start_by_hand_that_fails_calls_nothing_off(herdpy, base, comes_to, eventually):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    base.fail_at_boot()
    eventually(lambda: herdpy.status("top")["stage"])
    assert herdpy.herd("start", "top").returncode == 1
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    base.works()
    comes_to("running", "top")


def test_a_restart_in_the_middle_of_the_boot_loses_no_target(herdpy, comes_to, eventually, tmp_path):
    go = tmp_path / "go"
    script = f"while ! test -e {go}; do sleep 0.02; done"
    herdpy.declare("base", f'{SLEEP}{AUTO}pre-start = [["sh", "-c", "{script}"]]\n')
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    herdpy.declare("one", 'type = "target"\nmembers = ["base"]\n' + AUTO)
    herdpy.declare("two", 'type = "target"\nmembers = ["top"]\n' + AUTO)
    herdpy.start()
    comes_to("starting", "base", "top", "one", "two")
    with herdpy.herd_in_background("restart", "base") as client:
        eventually(lambda: len(herdpy.status("base")["status-changes"]) > 2)
        go.touch()
        assert client.wait(60) == 0
    comes_to("running", "base", "top", "one", "two")


def test_a_restart_of_a_target_whose_member_fails_tries_that_once(herdpy, base, tmp_path):
    tries = tmp_path / "tries"
    herdpy.declare("bad", f'command = ["sh", "-c", "echo >>{tries}; exit 1"]\nready.log-line = "up"\n')
    herdpy.declare("all", 'type = "target"\nmembers = ["bad"]\n')
    herdpy.start()
    failed = herdpy.herd("restart", "all")
    assert failed.returncode == 1
    assert failed.stdout.count("cannot start bad:") == 1
    assert len(tries.read_text()) == 1


def test_an_essential_one_is_not_given_up_for_what_is_to_be_respawned(herdpy, comes_to, eventually):
    """Neither when something else that it requires is restarted, nor as one to which a start is owed."""
    herdpy.declare("base", SLEEP + AUTO + "respawn-delay = 2\n")
    herdpy.declare("other", SLEEP + AUTO)
    herdpy.declare("main", SLEEP + 'requirement = ["base", "other"]\nessential = true\n' + AUTO)
    herdpy.start()
    comes_to("running", "base", "other", "main")
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    comes_to("starting", "base")
    herdpy.ok("restart", "other")
    comes_to("running", "base", "other", "main")


def test_no_start_is_owed_to_an_essential_one(herdpy, base, comes_to, eventually):
    base.works()
    herdpy.declare("main", SLEEP + 'requirement = ["base"]\nessential = true\n')
    herdpy.declare("base", base.text + OFTEN)
    herdpy.start()
    herdpy.ok("start", "main")
    base.fails()
    assert herdpy.herd("restart", "base").returncode == 1
    assert {herdpy.status(name)["status"] for name in ("base", "main")} == {"stopped"}
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert herdpy.status("main")["status"] == "stopped"
    base.works()
    herdpy.ok("start", "base")
    herdpy.ok("start", "main")


def test_what_it_only_wants_stays_stopped(herdpy, base, comes_to, eventually):
    herdpy.declare("wanted", SLEEP)
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\nwants = ["wanted"]\n' + AUTO)
    base.fail_at_boot()
    comes_to("running", "wanted")
    eventually(lambda: herdpy.status("top")["stage"] == "waits for base")
    herdpy.ok("stop", "wanted")
    base.works()
    comes_to("running", "top")
    assert herdpy.status("wanted")["status"] == "stopped"


def test_a_member_that_was_stopped_while_its_target_starts_stays_so(herdpy, base, comes_to, eventually, tmp_path):
    go = tmp_path / "go"
    waits = f'pre-start = [["sh", "-c", "while ! test -e {go}; do sleep 0.02; done"]]\n'
    herdpy.declare("member", SLEEP)
    herdpy.declare("all", 'type = "target"\nmembers = ["member", "base"]\n' + AUTO)
    herdpy.declare("base", base.text + waits + OFTEN)
    herdpy.start()
    comes_to("running", "member")
    comes_to("starting", "all")
    herdpy.ok("stop", "member")
    go.touch()
    eventually(lambda: herdpy.status("base")["startup-failures"])
    base.works()
    comes_to("running", "base")
    assert {herdpy.status(name)["status"] for name in ("member", "all")} == {"stopped"}


def test_what_is_not_to_start_by_itself_any_more_does_not(herdpy, base, comes_to, eventually):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    base.fail_at_boot()
    eventually(lambda: herdpy.status("top")["stage"])
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n')
    herdpy.ok("reload")
    eventually(lambda: herdpy.status("top")["stage"] is None)
    base.works()
    comes_to("running", "base")
    assert herdpy.status("top")["status"] == "stopped"


def test_a_restart_by_hand_that_fails_calls_nothing_off(herdpy, base, comes_to, eventually):
    herdpy.declare("top", SLEEP + 'requirement = ["base"]\n' + AUTO)
    base.fail_at_boot()
    eventually(lambda: herdpy.status("top")["stage"])
    assert herdpy.herd("restart", "top").returncode == 1
    base.works()
    comes_to("running", "top")


def test_a_lazy_one_waits_for_what_is_to_be_respawned(herdpy, comes_to, eventually):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    herdpy.declare("base", SLEEP + AUTO + "respawn-delay = 2\n")
    more = f'activation = "lazy"\nsockets = ["127.0.0.1:{port}"]\nrequirement = ["base"]\n'
    herdpy.declare("lazy", SLEEP + AUTO + more)
    herdpy.start()
    comes_to("running", "base", "lazy")
    os.kill(herdpy.status("base")["pid"], signal.SIGKILL)
    comes_to("starting", "base")
    with socket.create_connection(("127.0.0.1", port)):
        eventually(lambda: herdpy.status("lazy")["pid"])
    assert herdpy.status("base")["status"] == "running"
