"""What is declared changes while everything runs: what did not change notices nothing."""

import json
import os
import re
import signal

SLEEP = 'command = ["sleep", "1000"]\n'
STARTED = SLEEP + "auto-start = true\n"


def pid_of(herdpy, name):
    herdpy.ok("start", name)
    return herdpy.status(name)["pid"]


def names(herdpy):
    return {service["provides"][0] for service in json.loads(herdpy.ok("--json", "status"))} - {"root"}


def plan(herdpy):
    return json.loads(herdpy.ok("plan", "--json"))


def test_a_file_that_is_written_takes_effect_by_itself(herdpy, eventually):
    herdpy.declare("old", STARTED)
    herdpy.start()
    before = pid_of(herdpy, "old")
    herdpy.declare("new", STARTED)
    eventually(lambda: "new" in names(herdpy) and herdpy.status("new")["status"] == "running")
    assert pid_of(herdpy, "old") == before
    (herdpy.services / "new.toml").unlink()
    eventually(lambda: "new" not in names(herdpy))
    assert pid_of(herdpy, "old") == before


def test_who_asks_for_a_reload_that_came_by_itself_is_told_what_it_did(herdpy, eventually):
    herdpy.declare("same", SLEEP)
    herdpy.start()
    herdpy.declare("bad", 'command = ["/nonexistent"]\nauto-start = true\n')
    eventually(lambda: "bad" in names(herdpy))
    told = herdpy.herd("reload")
    assert told.returncode == 1
    first, *lines = told.stdout.splitlines()
    assert re.fullmatch(r"nothing has changed since a reload by itself, \d+ s ago:", first)
    added = f"+ bad: added and started ({herdpy.services}/bad.toml)"
    assert lines[:3] == [added, "1 unchanged", "what could not be done:"]
    assert "/nonexistent" in lines[3]


def test_nothing_that_is_written_takes_effect_by_itself_unless_wanted(herdpy, eventually):
    own = herdpy.configure("automatic-reload = false")
    path = herdpy.declare("one", STARTED)
    herdpy.start()
    before = pid_of(herdpy, "one")
    eventually((herdpy.state / "plan.json").exists)
    herdpy.declare("two", STARTED)
    path.write_text(STARTED.replace("1000", "2000"))
    os.kill(herdpy.supervisor(), signal.SIGKILL)  # what takes over goes on with what was asked for
    assert names(herdpy) == {"one"}
    status = herdpy.status("one")
    assert (status["pid"], "from its next start on" in status["details"]) == (before, False)
    herdpy.ok("reload")
    assert names(herdpy) == {"one", "two"}
    herdpy.ok("restart", "one")
    assert herdpy.status("one")["command"] == ["sleep", "2000"]
    own.write_text("")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    herdpy.declare("three", STARTED)
    eventually(lambda: "three" in names(herdpy))


def test_a_reload_on_request_whose_supervisor_is_killed_is_finished_by_the_next_one(herdpy, tmp_path, eventually):
    ready = f'environment = {{ READY = "{tmp_path}/ready" }}\n'
    stubborn = json.dumps(["sh", "-c", "trap '' TERM; : >$READY; while [ ! -e $READY.end ]; do sleep 0.1; done"])
    herdpy.configure("automatic-reload = false")
    path = herdpy.declare("stubborn", f"command = {stubborn}\n{ready}grace-period = 1000\nauto-start = true\n")
    herdpy.start()
    eventually((tmp_path / "ready").exists)
    path.unlink()
    herdpy.declare("new", STARTED)
    with herdpy.herd_in_background("reload") as client:
        eventually(lambda: herdpy.status("stubborn")["status"] == "stopping")
        client.kill()
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    (tmp_path / "ready.end").touch()
    eventually(lambda: names(herdpy) == {"new"})
    eventually(lambda: herdpy.status("new")["status"] == "running")


def test_each_kind_of_change_is_told_beforehand_and_then_done(herdpy):
    for name in ("gone", "same", "told", "later", "soon"):
        herdpy.declare(name, STARTED)
    herdpy.configure("automatic-reload = false")
    herdpy.start()
    pids = {name: pid_of(herdpy, name) for name in ("same", "told", "later", "soon")}
    herdpy.ok("start", "gone")
    (herdpy.services / "gone.toml").unlink()
    herdpy.declare("told", STARTED + 'documentation = "other words"\n')
    herdpy.declare("later", STARTED.replace("1000", "2000"))
    herdpy.declare("soon", STARTED.replace("1000", "2000") + 'on-change = "restart"\n')
    herdpy.declare("fresh", SLEEP)
    text = herdpy.ok("plan")
    told = plan(herdpy)
    assert [service["name"] for service in told["added"]] == ["fresh"]
    assert told["removed"] == ["gone"]
    assert {one["name"]: one["effect"] for one in told["changed"]} == {
        "told": "now",
        "later": "next-start",
        "soon": "restart",
    }
    assert told["unchanged"] == ["same"]
    assert '    command: ["sleep","1000"] -> ["sleep","2000"]\n' in text
    assert herdpy.ok("reload", "root") == text
    assert names(herdpy) == {"same", "told", "later", "soon", "fresh"}
    assert {name: pid_of(herdpy, name) == pid for name, pid in pids.items()} == {
        "same": True,
        "told": True,
        "later": True,
        "soon": False,
    }
    assert "other words" in herdpy.ok("doc", "told")
    assert herdpy.status("fresh")["status"] == "stopped"
    assert herdpy.status("soon")["command"] == ["sleep", "2000"]
    pending = herdpy.status("later")
    assert pending["command"] == ["sleep", "1000"]
    assert pending["details"]["from its next start on"] == 'command: ["sleep","1000"] -> ["sleep","2000"]'
    herdpy.ok("restart", "later")
    assert herdpy.status("later")["command"] == ["sleep", "2000"]
    assert "from its next start on" not in herdpy.status("later")["details"]


def test_a_mistake_anywhere_and_nothing_changes(herdpy, eventually):
    herdpy.declare("one", STARTED)
    herdpy.start()
    before = pid_of(herdpy, "one")
    herdpy.declare("one", STARTED.replace("1000", "2000"))
    herdpy.declare("two", "comand = []\n")
    refused = herdpy.herd("reload", "root")
    assert refused.returncode == 1
    mistake = f"{herdpy.services}/two.toml:1: comand: unknown key; did you mean command?"
    assert "nothing is changed, for there are mistakes:\n" in refused.stdout
    assert mistake in refused.stdout
    assert mistake in herdpy.ok("status", "root")
    assert mistake in herdpy.ok("plan")
    assert mistake in (herdpy.log / "herdpy.log").read_text()
    assert pid_of(herdpy, "one") == before
    assert "from its next start on" not in herdpy.status("one")["details"]
    os.kill(herdpy.supervisor(), signal.SIGKILL)  # the next one, too, goes on with what was right
    assert names(herdpy) == {"one"}
    assert pid_of(herdpy, "one") == before
    assert mistake in herdpy.ok("status", "root")
    herdpy.declare("two", SLEEP)
    eventually(lambda: "two" in names(herdpy))
    assert mistake not in herdpy.ok("status", "root")


def test_a_service_with_a_mistake_is_still_there_for_the_next_supervisor_though_it_is_stopped(herdpy):
    herdpy.declare("idle", SLEEP)
    herdpy.declare("busy", STARTED)
    herdpy.start()
    herdpy.ok("reload", "root")
    herdpy.declare("idle", "comand = []\n")
    assert herdpy.herd("reload", "root").returncode == 1
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    herdpy.ok("start", "idle")
    assert herdpy.status("idle")["status"] == "running"


def test_sighup_reloads(herdpy, eventually):
    herdpy.declare("one", SLEEP)
    herdpy.start()
    os.kill(herdpy.supervisor(), signal.SIGSTOP)
    herdpy.declare("two", SLEEP)
    herdpy.process.send_signal(signal.SIGHUP)
    os.kill(herdpy.supervisor(), signal.SIGCONT)
    eventually(lambda: "two" in names(herdpy))


def test_a_pending_replacement_outlives_the_supervisor(herdpy):
    herdpy.declare("one", STARTED)
    herdpy.start()
    before = pid_of(herdpy, "one")
    herdpy.declare("one", STARTED.replace("1000", "2000"))
    herdpy.ok("reload", "root")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    status = herdpy.status("one")
    assert (status["pid"], status["command"]) == (before, ["sleep", "1000"])
    assert "from its next start on" in status["details"]
    herdpy.ok("restart", "one")
    assert herdpy.status("one")["command"] == ["sleep", "2000"]


def test_a_change_that_is_taken_back_is_no_longer_pending(herdpy):
    herdpy.declare("one", STARTED)
    herdpy.start()
    herdpy.declare("one", STARTED.replace("1000", "2000"))
    herdpy.ok("reload", "root")
    herdpy.declare("one", STARTED)
    herdpy.ok("reload", "root")
    assert "from its next start on" not in herdpy.status("one")["details"]
    herdpy.ok("restart", "one")
    assert herdpy.status("one")["command"] == ["sleep", "1000"]


def test_what_was_stopped_or_disabled_by_hand_stays_so(herdpy):
    for name in ("stopped", "disabled"):
        herdpy.declare(name, STARTED)
    herdpy.start()
    herdpy.ok("stop", "stopped")
    herdpy.ok("stop", "disabled")
    herdpy.ok("disable", "disabled")
    for name in ("stopped", "disabled"):
        herdpy.declare(name, STARTED.replace("1000", "2000"))
    herdpy.ok("reload", "root")
    assert [herdpy.status(name)["status"] for name in ("stopped", "disabled")] == ["stopped", "stopped"]
    assert herdpy.status("disabled")["enabled"] is False
    herdpy.ok("start", "stopped")
    assert herdpy.status("stopped")["command"] == ["sleep", "2000"]


def test_dependents_of_what_is_restarted_come_back(herdpy):
    herdpy.declare("base", STARTED + 'on-change = "restart"\n')
    herdpy.declare("above", STARTED + 'requirement = ["base"]\n')
    herdpy.start()
    before = pid_of(herdpy, "above")
    herdpy.declare("base", STARTED.replace("1000", "2000") + 'on-change = "restart"\n')
    herdpy.ok("reload", "root")
    assert herdpy.status("base")["command"] == ["sleep", "2000"]
    assert herdpy.status("above")["status"] == "running"
    assert pid_of(herdpy, "above") != before


def test_who_required_what_is_removed_runs_again_without_it(herdpy):
    herdpy.declare("base", STARTED)
    herdpy.declare("above", STARTED + 'requirement = ["base"]\n')
    herdpy.start()
    herdpy.ok("start", "above")
    (herdpy.services / "base.toml").unlink()
    herdpy.declare("above", STARTED)
    herdpy.ok("reload", "root")
    assert names(herdpy) == {"above"}
    assert herdpy.status("above")["status"] == "running"


def test_values_of_the_environment_are_not_told(herdpy):
    herdpy.declare("one", STARTED + "[environment]\nTOKEN = 'secret'\n")
    herdpy.start()
    herdpy.declare("one", STARTED + "[environment]\nTOKEN = 'hidden'\n")
    assert 'environment.TOKEN: "..." -> "..."' in herdpy.ok("plan")
    assert "hidden" not in herdpy.ok("plan", "--json")


def test_a_reload_whose_supervisor_is_killed_is_finished_by_the_next_one(herdpy, eventually):
    for name in ("gone", "same", "base"):
        herdpy.declare(name, STARTED)
    herdpy.declare("later", STARTED)
    herdpy.declare("soon", STARTED + 'on-change = "restart"\n')
    herdpy.declare("above", STARTED + 'requirement = ["base"]\n')
    herdpy.declare("stopped", STARTED)
    herdpy.start()
    pids = {name: pid_of(herdpy, name) for name in ("same", "later", "soon", "above")}
    herdpy.ok("start", "gone")
    herdpy.ok("stop", "stopped")
    (herdpy.services / "same.toml").touch()
    herdpy.ok("reload", "root")
    supervisor = herdpy.supervisor()
    os.kill(supervisor, signal.SIGSTOP)  # so that it has not begun to do anything about it
    for name in ("gone", "base"):
        (herdpy.services / f"{name}.toml").unlink()
    herdpy.declare("later", STARTED.replace("1000", "2000"))
    herdpy.declare("soon", STARTED.replace("1000", "2000") + 'on-change = "restart"\n')
    herdpy.declare("above", STARTED.replace("1000", "2000"))
    herdpy.declare("fresh", STARTED)
    herdpy.declare("unwanted", SLEEP)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: names(herdpy) == {"same", "later", "soon", "above", "stopped", "fresh", "unwanted"})
    eventually(lambda: herdpy.status("fresh")["status"] == "running")
    assert [herdpy.status(name)["pid"] for name in ("same", "later")] == [pids["same"], pids["later"]]
    assert "2000" in herdpy.status("later")["details"]["from its next start on"]
    for name in ("soon", "above"):
        eventually(lambda name=name: herdpy.status(name)["command"] == ["sleep", "2000"])
        assert herdpy.status(name)["pid"] != pids[name]
        assert [change["status"] for change in herdpy.status(name)["status-changes"]].count("running") == 2
    assert [herdpy.status(name)["status"] for name in ("stopped", "unwanted")] == ["stopped", "stopped"]
    # What is there by now is what has been carried out: nothing is left for the one after the next.
    herdpy.ok("stop", "fresh")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert herdpy.status("fresh")["status"] == "stopped"
    assert "4 unchanged" not in herdpy.ok("reload", "root")
    assert herdpy.status("fresh")["status"] == "stopped"


def test_a_name_that_another_service_provides_from_now_on_hinders_nothing(herdpy):
    herdpy.declare("pg15", STARTED + 'provision = ["pg"]\n')
    herdpy.declare("app", STARTED + 'requirement = ["pg"]\n')
    herdpy.start()
    app = pid_of(herdpy, "app")
    os.kill(herdpy.supervisor(), signal.SIGSTOP)  # so that it sees both at once
    try:
        (herdpy.services / "pg15.toml").unlink()
        herdpy.declare("pg16", STARTED.replace("1000", "2000") + 'provision = ["pg"]\n')
    finally:
        os.kill(herdpy.supervisor(), signal.SIGCONT)
    herdpy.ok("reload", "root")
    assert names(herdpy) == {"app", "pg16"}
    assert herdpy.status("pg")["command"] == ["sleep", "2000"]
    pg = pid_of(herdpy, "pg")
    herdpy.ok("reload", "root")
    assert (pid_of(herdpy, "app"), pid_of(herdpy, "pg")) == (app, pg)


def test_what_waits_to_be_respawned_is_what_is_declared_by_then(herdpy, eventually):
    herdpy.declare("one", 'command = ["false"]\nrespawn-delay = 5\nauto-start = true\n')
    herdpy.start()
    eventually(lambda: herdpy.status("one")["stage"])
    herdpy.declare("one", SLEEP + "respawn-delay = 5\n")
    herdpy.ok("reload", "root")
    assert "from its next start on" not in herdpy.status("one")["details"]
    eventually(lambda: herdpy.status("one")["status"] == "running")
    assert herdpy.status("one")["command"] == ["sleep", "1000"]


def test_what_requires_something_no_longer_is_started_though_it_waited_for_that(herdpy, eventually):
    herdpy.declare("never", SLEEP + 'ready.log-line = "never"\nstart-timeout = 600\n')
    herdpy.declare("one", STARTED + 'requirement = ["never"]\n')
    herdpy.start()
    eventually(lambda: herdpy.status("never")["status"] == herdpy.status("one")["status"] == "starting")
    os.kill(herdpy.supervisor(), signal.SIGSTOP)
    try:
        (herdpy.services / "never.toml").unlink()
        herdpy.declare("one", STARTED)
    finally:
        os.kill(herdpy.supervisor(), signal.SIGCONT)
    herdpy.ok("reload", "root")
    eventually(lambda: herdpy.status("one")["status"] == "running")
    assert names(herdpy) == {"one"}


def test_a_burst_of_writes_is_one_reload(herdpy, eventually):
    herdpy.start()
    herdpy.declare("first", 'command = ["sleep", "1000"]')
    eventually(lambda: "first" in herdpy.ok("status"))
    before = herdpy.said().count(" reloaded ")
    names = [f"burst-{number}" for number in range(30)]
    for name in names:
        herdpy.declare(name, 'command = ["sleep", "1000"]')
    eventually(lambda: all(name in herdpy.ok("status") for name in names))
    assert herdpy.said().count(" reloaded ") - before <= 2  # two, if the machine had no time for us in between


GATED = 'ready = {{ command = ["test", "-e", "{}/open"], interval = 0.02 }}\n'


def test_a_name_that_moves_while_its_requirer_starts_is_waited_for_again(herdpy, tmp_path, eventually):
    herdpy.declare("old", STARTED + 'provision = ["web"]\n' + GATED.format(tmp_path))
    herdpy.declare("user", STARTED + 'requirement = ["web"]\n')
    herdpy.start()
    eventually(lambda: herdpy.status("user")["status"] == "starting")
    (herdpy.services / "old.toml").rename(herdpy.services / "new.toml")
    reloading = herdpy.herd_in_background("reload")
    eventually(lambda: "new" in names(herdpy) and herdpy.status("new")["status"] == "starting")
    (tmp_path / "open").touch()
    assert reloading.wait(60) == 0
    eventually(lambda: herdpy.status("user")["status"] == "running")


def test_a_name_counts_from_the_reload_on(herdpy):
    """Though what has it runs on as it is; so the names of two may cross."""
    for name, provided in (("one", "p"), ("two", "q")):
        herdpy.declare(name, STARTED + f'provision = ["{provided}"]\n')
    herdpy.declare("user", SLEEP + 'requirement = ["p"]\n')
    herdpy.start()
    pids = {name: pid_of(herdpy, name) for name in ("one", "two")}
    for name, provided in (("one", "q"), ("two", "p")):
        herdpy.declare(name, STARTED.replace("1000", "2000") + f'provision = ["{provided}", "{name}-too"]\n')
    herdpy.ok("reload")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert {name: pid_of(herdpy, name) for name in ("one", "two")} == pids
    for name in ("q", "one-too"):
        assert herdpy.status(name)["provides"][0] == "one"
    herdpy.ok("restart", "one")
    herdpy.ok("start", "user")
    assert {name: herdpy.status(name)["provides"][0] for name in "pq"} == {"p": "two", "q": "one"}
    herdpy.ok("stop", "two")
    assert herdpy.status("user")["status"] == "stopped"


def test_one_that_does_not_stop_holds_up_only_what_may_be_its_successor(herdpy, tmp_path, eventually):
    ready = f'environment = {{ READY = "{tmp_path}/ready" }}\n'
    stubborn = json.dumps(["sh", "-c", "trap '' TERM; : >$READY; while [ ! -e $READY.end ]; do sleep 0.1; done"])
    herdpy.declare("stubborn", f"command = {stubborn}\n{ready}grace-period = 1000\nauto-start = true\n")
    herdpy.declare("soon", STARTED + 'on-change = "restart"\n')
    herdpy.configure("automatic-reload = false")
    herdpy.start()
    eventually((tmp_path / "ready").exists)
    (herdpy.services / "stubborn.toml").unlink()
    herdpy.declare("soon", STARTED.replace("1000", "2000") + 'on-change = "restart"\n')
    herdpy.declare("successor", STARTED)
    reloading = herdpy.herd_in_background("reload")
    eventually(lambda: herdpy.status("soon")["command"] == ["sleep", "2000"])
    herdpy.declare("later", STARTED)
    herdpy.ok("reload")
    assert herdpy.status("later")["status"] == "running"
    assert herdpy.status("stubborn")["status"] == "stopping"
    assert herdpy.status("successor")["status"] == "stopped"
    (tmp_path / "ready.end").touch()
    assert reloading.wait(60) == 0
    assert herdpy.status("successor")["status"] == "running"
    assert "stubborn" not in names(herdpy)


def test_one_that_is_put_back_while_it_stops_runs_again(herdpy, tmp_path, eventually):
    ready = f'environment = {{ READY = "{tmp_path}/ready" }}\n'
    slow = json.dumps(["sh", "-c", "trap 'rm $READY; exit' TERM; while :; do : >$READY; sleep 0.1; done"])
    path = herdpy.declare("slow", f"command = {slow}\n{ready}auto-start = true\n")
    herdpy.start()
    eventually((tmp_path / "ready").exists)
    text = path.read_text()
    os.kill(herdpy.status("slow")["pid"], signal.SIGSTOP)
    path.unlink()
    removing = herdpy.herd_in_background("reload")
    eventually(lambda: herdpy.status("slow")["status"] == "stopping")
    path.write_text(text)
    again = herdpy.herd_in_background("reload")
    assert removing.wait(60) == 0
    assert again.wait(60) == 0
    assert herdpy.status("slow")["status"] == "running"


def test_the_members_of_a_target_that_is_declared_no_longer_run_on(herdpy):
    for name in ("one", "two"):
        herdpy.declare(name, SLEEP)
    path = herdpy.declare("both", 'type = "target"\nmembers = ["one", "two"]\n')
    herdpy.start()
    herdpy.ok("start", "both")
    pids = {name: herdpy.status(name)["pid"] for name in ("one", "two")}
    path.unlink()
    herdpy.ok("reload")
    assert names(herdpy) == {"one", "two"}
    assert {name: herdpy.status(name)["pid"] for name in ("one", "two")} == pids


def test_what_is_killed_with_a_process_is_what_it_was_started_with(herdpy, tmp_path, eventually):
    """The keeper holds it so. A child that was to live, and one that was not."""
    wait = f"while [ ! -e {tmp_path}/over ]; do sleep 0.1; done"
    script = f"(trap 'echo TERM >>{tmp_path}/$NAME' TERM; echo up >{tmp_path}/$NAME; {wait}) & wait"
    for name, kill in (("all", "all"), ("main", "main-process")):
        herdpy.declare(
            name,
            f'command = {json.dumps(["sh", "-c", script])}\nenvironment = {{ NAME = "{name}" }}\nkill = "{kill}"\n',
        )
    herdpy.start()
    for name in ("all", "main"):
        herdpy.ok("start", name)
        eventually(lambda name=name: (tmp_path / name).exists())
    for path, kill in ((herdpy.services / "all.toml", "main-process"), (herdpy.services / "main.toml", "all")):
        path.write_text(path.read_text().rpartition("kill =")[0] + f'kill = "{kill}"\n')
    assert "takes effect now" not in herdpy.ok("reload")
    for name in ("all", "main"):
        herdpy.ok("stop", name)
    eventually(lambda: (tmp_path / "all").read_text() == "up\nTERM\n")
    assert (tmp_path / "main").read_text() == "up\n"
    (tmp_path / "over").touch()


def test_a_transient_service_that_has_stopped_is_brought_back_by_its_own_change_or_by_hand(herdpy, eventually):
    path = herdpy.declare("brief", STARTED + "transient = true\n")
    herdpy.start()
    herdpy.ok("start", "brief")
    herdpy.ok("stop", "brief")
    herdpy.declare("other", SLEEP)
    eventually(lambda: "other" in names(herdpy))
    assert names(herdpy) == {"other"}
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert names(herdpy) == {"other"}
    path.write_text(path.read_text().replace("1000", "2000"))
    eventually(lambda: "brief" in names(herdpy) and herdpy.status("brief")["status"] == "running")
    herdpy.ok("stop", "brief")
    assert "+ brief: added and started" in herdpy.ok("reload")
    herdpy.ok("stop", "brief")
    path.unlink()
    herdpy.declare("third", SLEEP)
    eventually(lambda: "third" in names(herdpy))
    path.write_text(STARTED.replace("1000", "2000") + "transient = true\n")  # as it was
    eventually(lambda: "brief" in names(herdpy))
    path.unlink()
    eventually(lambda: "brief" not in names(herdpy))
    path.write_text(STARTED.replace("1000", "2000") + "transient = true\n")
    eventually(lambda: "brief" in names(herdpy))


def test_a_transient_service_that_is_declared_no_longer_is_gone(herdpy):
    path = herdpy.declare("brief", STARTED + "transient = true\n")
    herdpy.declare("other", STARTED)
    herdpy.start()
    before = pid_of(herdpy, "other")
    pid_of(herdpy, "brief")
    supervisor = herdpy.supervisor()
    path.unlink()
    herdpy.ok("reload")
    assert names(herdpy) == {"other"}
    assert (pid_of(herdpy, "other"), herdpy.supervisor()) == (before, supervisor)
