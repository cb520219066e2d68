"""Targets, and declarations that stand for several instances."""

import json


def writes(path):
    return f'command = ["sh", "-c", "echo %i $0 >> {path}; exec sleep 1000", "%i"]\n'


def test_a_target_starts_and_stops_its_members(herdpy):
    for name in ("one", "two"):
        herdpy.declare(name, 'command = ["sleep", "1000"]\n')
    herdpy.declare("both", 'type = "target"\nmembers = ["one", "two"]\n')
    herdpy.declare("needs", 'type = "target"\nrequirement = ["both"]\n')
    herdpy.start()
    herdpy.ok("start", "needs")
    assert {herdpy.status(name)["status"] for name in ("one", "two", "both")} == {"running"}
    herdpy.ok("stop", "one")
    assert herdpy.status("both")["status"] == "running"
    herdpy.ok("stop", "both")
    assert {herdpy.status(name)["status"] for name in ("one", "two", "both", "needs")} == {"stopped"}


def test_a_member_that_does_not_start_fails_its_target_which_says_so(herdpy):
    herdpy.declare("good", 'command = ["sleep", "1000"]\n')
    herdpy.declare("bad", 'command = ["/nowhere/at/all"]\n')
    herdpy.declare("both", 'type = "target"\nmembers = ["good", "bad"]\n')
    herdpy.start()
    failed = herdpy.herd("start", "both")
    assert failed.returncode == 1
    assert "cannot start bad: /nowhere/at/all cannot be executed: No such file or directory\n" in failed.stdout
    assert "Service both has the member bad.\n" in failed.stdout
    assert herdpy.status("both")["status"] == "stopped"


def test_a_member_that_is_not_there_and_a_target_in_itself_are_mistakes(herdpy):
    herdpy.declare("a", 'type = "target"\nmembers = ["b"]\n')
    herdpy.declare("b", 'type = "target"\nmembers = ["a", "c"]\n')
    check = herdpy.run(*herdpy.command()[:1], "check", "--services", str(herdpy.services))
    assert check.returncode == 2
    assert "b.toml:2: members[1]: b has the member c, which nothing provides" in check.stdout + check.stderr
    assert "services that wait for one another can never start: a -> b -> a" in check.stdout + check.stderr


def test_instances_of_one_declaration(herdpy, tmp_path, eventually):
    trace = tmp_path / "trace"
    more = 'instances = [1, "blue"]\nrespawn-limit = 3\nprovision = ["alias-%i", "all-of-them"]\n'
    herdpy.declare("web", writes(trace) + more)
    herdpy.start()
    herdpy.ok("start", "web")
    eventually(lambda: trace.exists() and sorted(trace.read_text().split()) == ["1", "1", "blue", "blue"])
    assert herdpy.status("web@1")["status"] == "running"
    assert herdpy.status("alias-blue")["status"] == "running"
    herdpy.ok("stop", "web@1")
    assert herdpy.status("web@blue")["status"] == "running"
    herdpy.ok("stop", "all-of-them")
    assert herdpy.status("web@blue")["status"] == "stopped"


def test_a_wrong_list_of_instances_is_one_clear_line(herdpy):
    herdpy.declare("web", 'command = ["sleep", "1"]\ninstances = ["a b"]\n')
    herdpy.declare("two", 'command = ["sleep", "1"]\ninstances = []\n')
    herdpy.declare("all", 'type = "target"\nmembers = ["web"]\n')
    check = herdpy.run(*herdpy.command()[:1], "check", "--services", str(herdpy.services))
    assert check.returncode == 2
    lines = (check.stdout + check.stderr).splitlines()
    assert [line.rpartition("/")[2] for line in lines if ".toml" in line] == [
        "two.toml:2: instances: expected a list of names or numbers, such as [1, 2], got an empty list",
        "web.toml:2: instances: 'a b': a service's name is made of ASCII letters, digits, '.', '_', '-' and '@'",
    ]


def test_an_instance_can_be_a_number():
    from herdpy.configuration.instances import instances

    made, problem = instances("vm", {"id": "%d", "note": "100%% of %i", "deep": [{"x": "%i"}], "instances": [7]})
    assert problem is None
    assert made[0] == ("vm@7", {"id": 7, "note": "100% of 7", "deep": [{"x": "7"}]})
    assert made[1][0] == "vm"
    assert json.dumps(made[1][1]["members"]) == '["vm@7"]'
