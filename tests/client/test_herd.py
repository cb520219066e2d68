"""What herd sends, prints and returns: the words of GNU Shepherd's client, byte for byte."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import trio

from herdpy.protocol import write_overview, write_reach, write_reply

from .conftest import ENVIRONMENT, HERD, ROOT, Herd, Server, Terminal, reply

NOW = int(time.time())


def service(name: str, *, ours: str = "", **fields: str) -> str:
    values = {
        "provides": f"({name})",
        "requires": "()",
        "respawn?": "#f",
        "docstring": '"x"',
        "enabled?": "#t",
        "running": "#f",
        "conflicts": "()",
        "last-respawns": "()",
        "status-changes": "()",
        "startup-failures": "()",
        "status": "stopped",
        "one-shot?": "#f",
        "transient?": "#f",
        "respawn-limit": "(5 . 7)",
        "respawn-delay": "0.1",
        **{key.replace("_", "-"): value for key, value in fields.items()},
    }
    return f"(service (version 0) {' '.join(f'({key} {value})' for key, value in values.items())}{ours})"


ALL = (
    "(("
    + " ".join(
        [
            service("root", status="running", running="#t", status_changes=f"((running . {NOW}))"),
            service("foo"),
            service(
                "bar", status="running", running="12", status_changes=f"((running . {NOW}))", requires="(foo gone)"
            ),
            service("baz", status="stopping", status_changes=f"((stopping . {NOW}))"),
            service("slow", status="starting", status_changes=f"((starting . {NOW - 40}))"),
            service("oneshot", **{"one-shot?": "#t"}),
            service("thrower", startup_failures=f"({NOW})"),
        ]
    )
    + "))"
)


async def test_status_of_all(server: Server, herd: Herd) -> None:
    server.answers["status"] = reply(ALL)
    done = await herd("status")
    assert done.stdout.decode() == (
        "Started:\n + bar\n + root\nStarting:\n ^ slow\nStopped:\n - foo\nStopping:\n v baz\n"
        "One-shot:\n * oneshot\nFailed to start:\n ! thrower\n"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.commands == [
        f'(shepherd-command (version 0) (action {action}) (service root) (arguments ()) (directory "/"))'
        for action in ("overview", "status")
    ]


async def test_status_of_all_by_our_supervisors_overview(server: Server, herd: Herd) -> None:
    groups = {
        "running": [("root", 0), ("bar", 5)],
        "starting": [("slow", NOW)],
        "stopped": [("foo", 0), ("1", 0)],
        "stopping": [("baz", NOW - 100)],
        "one-shot": [("oneshot", 1)],
        "failing": [("thrower", 2)],
    }
    server.answers["overview"] = write_reply(write_overview(groups))
    done = await herd("status")
    assert done.stdout.decode() == (
        "Started:\n + bar\n + root\nStarting:\n ^ slow\nStopped:\n - 1\n - foo\nStopping:\n v baz\n"
        "One-shot:\n * oneshot\nFailed to start:\n ! thrower\n"
    )
    assert (done.returncode, done.stderr, len(server.commands)) == (0, b"", 1)
    server.answers["overview"] = write_reply(write_overview({"running": [("root", 0)]}))
    assert (await herd("status")).stdout == b"Started:\n + root\n"


async def test_status_of_one(server: Server, herd: Herd) -> None:
    now = int(time.time())  # not when the tests were collected, which may be minutes ago
    clock = time.strftime("%X", time.gmtime(now))
    server.answers["status foo"] = reply(
        "("
        + service(
            "foo",
            provides="(foo foo-alias)",
            status="running",
            running="25427",
            status_changes=f"((running . {now}))",
            last_respawns=f"({now})",
            **{"respawn?": "#t"},
        )
        + ")"
    )
    done = await herd("status", "foo")
    seconds = r"\d+ seconds? ago"
    assert re.fullmatch(
        rf"""Status of foo:
  It is running since {clock} \({seconds}\)\.
  Running value is 25427\.
  It is enabled\.
  Provides \(foo foo-alias\)\.
  Requires \(\)\.
  Will be respawned\.
  Last respawned on {clock} \({seconds}\)\.
""",
        done.stdout.decode(),
    ), done.stdout.decode()


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, "It is stopped."),
        ({"one-shot?": "#t"}, "It is stopped (one-shot)."),
        ({"startup_failures": "(1)"}, "It is stopped (failing)."),
        ({"status": "starting"}, "It is starting."),
        ({"status": "stopping"}, "It is being stopped."),
        ({"status": "running", "transient?": "#t"}, "It is started and transient."),
        ({"status_changes": "((stopped . 86400))"}, "It is stopped since Fri Jan  2 00:00:00 1970 (NNN days ago)."),
        (
            {"status_changes": "((running . 0))", "status": "running", "transient?": "#t"},
            "It is transient, running since Thu Jan  1 00:00:00 1970 (NNN days ago).",
        ),
    ],
)
async def test_the_first_line_tells_the_state(server: Server, herd: Herd, fields: dict[str, str], first: str) -> None:
    server.answers["status"] = reply(f"({service('foo', **fields)})")
    done = await herd("status", "foo")
    assert re.sub(r"\d{4,} days", "NNN days", done.stdout.decode().splitlines()[1]) == f"  {first}"


async def test_what_herdpy_adds_follows_shepherds_lines(server: Server, herd: Herd) -> None:
    ours = (
        ' (reason "it exited with 1") (details (("accelerator" . "TCG: no /dev/kvm")))'
        ' (log-file "/nonexistent/vm.log") (source "/etc/herdpy/services/vm.toml") (stage #f) (given-up? #t)'
    )
    server.answers["status"] = reply(f"({service('vm', ours=ours, **{'enabled?': '#f'})})")
    assert (await herd("status", "vm")).stdout.decode() == (
        "Status of vm:\n  It is stopped.\n  It is disabled.\n    Why: it exited with 1. To lift it: herd enable vm\n"
        "  Provides (vm).\n  Requires ().\n  Will not be respawned.\n"
        "  Accelerator: TCG: no /dev/kvm\n  Log file: /nonexistent/vm.log, which is not there yet\n"
        "  Declared in /etc/herdpy/services/vm.toml\n"
    )


async def test_why_one_has_ended_is_not_why_somebody_has_disabled_it(server: Server, herd: Herd) -> None:
    ours = ' (reason "it exited with 1")'
    server.answers["status"] = reply(f"({service('vm', ours=ours, **{'enabled?': '#f'})})")
    said = (await herd("status", "vm")).stdout.decode()
    assert "  It is disabled.\n  Provides" in said
    assert "  Reason: it exited with 1\n" in said


OURS = (
    ' (reason #f) (details ()) (log-file "LOG") (source #f) (stage #f) (actions (configuration usage prune))'
    ' (command ("sleep" "1 h"))'
)


async def test_a_server_that_tells_actions_has_its_services_shown_as_by_shepherd_1(
    server: Server, herd: Herd, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"2026-11-22 06:01:{number:02} line {number}\n" for number in range(30)))
    fields = {"provides": "(foo foo-alias)", "requires": "(bar baz)", "status": "running", "running": "25427"}
    server.answers["status"] = reply(f"({service('foo', ours=OURS.replace('LOG', str(log)), **fields)})")
    head = (
        "Status of foo:\n  It is started.\n  Main PID: 25427\n  Command: sleep '1 h'\n  It is enabled.\n"
        "  Provides: foo foo-alias\n  Requires: bar baz\n  Custom actions: configuration usage prune\n"
        f"  Will not be respawned.\n  Log file: {log}\n"
    )
    messages = "  Recent messages (use '-n' to view more or less):\n"
    ten = "".join(f"    2026-11-22 06:01:{number} line {number}\n" for number in range(20, 30))
    assert (await herd("status", "foo")).stdout.decode() == head + messages + ten
    last = "    2026-11-22 06:01:29 line 29\n"
    for words in (["-n", "1", "status", "foo"], ["status", "foo", "--log-history=1"], ["status", "-n1", "foo"]):
        assert (await herd(*words)).stdout.decode() == head + messages + last
    assert (await herd("status", "foo", "-n0")).stdout.decode() == head
    unicode = await herd("status", "foo", "-n0", LC_ALL="C.UTF-8")
    assert unicode.stdout.decode() == "● " + head
    assert len(server.commands) == 6, "the usage was asked for, although nobody looks"
    server.answers["status"] = reply(f"({service('foo', ours=OURS, requires='(a)')})")
    stopped = (await herd("status", "foo")).stdout.decode()
    assert "PID" not in stopped
    assert "  Log file: LOG, which is not there yet\n" in stopped


@pytest.mark.parametrize(("count", "words"), [(2, "2 times"), (30, "30 times or more")])
async def test_how_often_it_was_respawned_is_told_as_far_as_is_known(
    server: Server, herd: Herd, count: int, words: str
) -> None:
    respawns = " ".join([str(NOW)] * count)
    server.answers["status"] = reply(f"({service('foo', ours=OURS, last_respawns=f'({respawns})')})")
    assert f"  Respawned {words} since it was started.\n" in (await herd("status", "foo")).stdout.decode()


USAGE = "((usage (version 0) (cpu-seconds 3723.5) (memory 12897485) (processes 2) (threads 5)))"


async def test_usage_is_asked_for_by_an_option_or_a_terminal(server: Server, herd: Herd, terminal: Terminal) -> None:
    server.answers["status"] = reply(f"({service('foo', ours=OURS, status='running', running='25427')})")
    server.answers["usage"] = reply(USAGE)
    lines = "CPU time: 1 h 2 min 3 s\nMemory: 12.3 MiB\nTasks: 5 in 2 processes\n"
    assert (await herd("usage", "foo")).stdout.decode() == lines
    told = (await herd("status", "foo", "-v")).stdout.decode()
    assert "".join(f"  {line}\n" for line in lines.splitlines()) in told
    await terminal.run([*HERD, "status", "foo"], herd.environment)
    assert await terminal.end() == 0
    assert b"\r\n  Memory: 12.3 MiB\r\n" in terminal.seen
    document = json.loads((await herd("--json", "-v", "status", "foo")).stdout)
    assert document["usage"] == {"cpu-seconds": 3723.5, "memory": 12897485, "processes": 2, "threads": 5}
    assert (document["pid"], document["command"]) == (25427, ["sleep", "1 h"])
    server.answers["usage"] = reply("#f", "(error (version 0) action-not-found usage foo)")
    assert (await herd("status", "-v", "foo")).returncode == 0


async def test_an_answer_of_usage_that_does_not_come_is_not_waited_for(server: Server, herd: Herd) -> None:
    async def be_silent(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    server.answers["status"] = reply(f"({service('foo', ours=OURS, status='running', running='25427')})")
    server.answers["usage"] = be_silent
    done = await herd("status", "-v", "foo")
    assert (done.returncode, b"Memory" in done.stdout, b"Main PID: 25427" in done.stdout) == (0, False, True)


async def test_a_process_of_shepherd_1(server: Server, herd: Herd) -> None:
    running = '(process (version 0) (id 257) (command ("tor" "-f" "x y")) (new 1))'
    server.answers["status"] = reply(f"({service('tor', status='running', running=running)})")
    assert b"  Main PID: 257\n  Command: tor -f 'x y'\n" in (await herd("status", "tor")).stdout


async def test_a_service_without_most_fields(server: Server, herd: Herd) -> None:
    server.answers["status"] = reply("((service (version 0) (provides (old)) (requires ()) (running 5)))")
    done = await herd("status", "old")
    assert b"  It is started.\n  Running value is 5.\n  It is enabled.\n" in done.stdout


async def test_detailed_status(server: Server, herd: Herd) -> None:
    server.answers["status root"] = reply(ALL)
    output = (await herd("detailed-status")).stdout.decode()
    assert [line for line in output.splitlines() if not line.startswith(" ")] == [
        f"Status of {name}:" for name in ("root", "foo", "bar", "baz", "slow", "oneshot", "thrower")
    ]


async def test_log(server: Server, herd: Herd) -> None:
    slow = "((stopped . 1795327281) (stopping . 1795327278) (running . 1795327277) (starting . 1795327273))"
    bad = "((stopped . 1795327274) (starting . 1795327274))"
    server.answers["status root"] = reply(
        f"(({service('slow', status_changes=slow)} {service('bad', status_changes=bad)}))"
    )
    assert (await herd("log")).stdout.decode() == (
        "22 Nov 2026 06:01:13\tservice slow is being started\n"
        "22 Nov 2026 06:01:14\tservice bad is being started\n"
        "22 Nov 2026 06:01:14\tservice bad failed to start\n"
        "22 Nov 2026 06:01:17\tservice slow is running\n"
        "22 Nov 2026 06:01:18\tservice slow is being stopped\n"
        "22 Nov 2026 06:01:21\tservice slow is stopped\n"
    )


async def test_log_from_a_time_on_and_the_last_of_it(server: Server, herd: Herd) -> None:
    changes = f"((running . {NOW}) (starting . {NOW - 36000}) (stopped . 1795327281))"
    server.answers["status root"] = reply(f"(({service('slow', status_changes=changes)}))")
    for words, count in ((["-n", "2"], 2), (["--since", "5h"], 1), (["--since", "5m", "-n0"], 0), (["-n", "9"], 3)):
        assert (await herd("log", *words)).stdout.count(b"\n") == count
        done = await herd("--json", "log", *words)
        assert [json.loads(line)["service"] for line in done.stdout.splitlines()] == ["slow"] * count
    assert json.loads((await herd("--json", "log", "-n1")).stdout) == {
        "time": NOW,
        "iso": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW)),
        "service": "slow",
        "status": "running",
    }
    assert b"herd events -f" in (await herd("log", "-f")).stderr


async def test_graph_draws_what_is_missing(server: Server, herd: Herd) -> None:
    server.answers["status root"] = reply(ALL)
    done = await herd("graph")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == 'digraph "Service Graph" {'
    assert '  "root" [shape = box, color = green, fontcolor = black, style = solid];' in lines
    assert '  "oneshot" [shape = circle, color = purple, fontcolor = purple, style = solid];' in lines
    assert '  "thrower" [shape = box, color = red, fontcolor = red, style = solid];' in lines
    assert '  "bar" -> "foo";' in lines
    assert '  "bar" -> "gone";' in lines
    assert '  "gone" [shape = box, color = red, fontcolor = red, style = dotted];' in lines
    assert lines[-1] == "}"


ERRORS = [
    ("status", "nope", "service-not-found nope", "service 'nope' could not be found\n"),
    ("nope", "bar", "action-not-found nope bar", "service 'bar' does not have an action 'nope'\n"),
    (
        "sys",
        "bar",
        'action-exception sys bar system-error ("mkdir" "~A" ("No such file or directory") (2))',
        "'sys' of service 'bar' failed: mkdir: No such file or directory\n",
    ),
    (
        "boom",
        "bar",
        'action-exception boom bar misc-error (#f "~A ~S ~S ~S" ("kaboom:" 1 two "three") #f)',
        "'boom' of service 'bar' failed: kaboom: 1 two \"three\"\n",
    ),
    (
        "boom",
        "bar",
        "action-exception boom bar odd (1 2)",
        "'boom' of service 'bar' failed: Throw to key `odd' with args `(1 2)'.\n",
    ),
    (
        "foo",
        "start",
        "service-not-found start",
        "service 'start' could not be found\nherd: error: Did you mean 'herd start foo'?\n",
    ),
    (
        "root",
        "help",
        "service-not-found help",
        "service 'help' could not be found\nherd: error: Did you mean 'herd help root'?\n",
    ),
    (
        "load",
        "root",
        "action-not-found load root",
        "service 'root' does not have an action 'load'\n",
    ),
]


@pytest.mark.parametrize(("action", "name", "error", "words"), ERRORS)
async def test_errors(server: Server, herd: Herd, action: str, name: str, error: str, words: str) -> None:
    server.answers[action] = reply("#f", f"(error (version 0) {error})", "a message")
    done = await herd(action, name)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"a message\n", f"herd: error: {words}")


@pytest.mark.parametrize(
    ("arguments", "result", "status", "output", "error"),
    [
        (["start", "foo"], service("foo"), 0, "m\n", ""),
        (["start", "foo"], "#f", 1, "m\n", "herd: error: failed to start service foo\n"),
        (["stop", "foo"], "(foo)", 0, "m\n", ""),
        (["stop", "foo"], "()", 0, "m\n", ""),
        (["restart", "foo"], "(#t)", 0, "m\n", ""),
        (["restart", "foo"], "(#f)", 1, "m\n", ""),
        (["hi", "foo", "a b", "--json", "-s"], '("#<unspecified>")', 0, "m\n", ""),
        (["eval", "root", "(+ 2 2)"], "(4)", 0, "m\n4\n", ""),
        (["help"], '("text\\nmore")', 0, "m\ntext\nmore\n", ""),
        (["configuration", "foo"], '("Memory: 1\\n")', 0, "m\nMemory: 1\n", ""),
        (["configuration", "foo"], '("#<unspecified>")', 0, "m\n", ""),
    ],
)
async def test_results_and_exit_codes(
    server: Server, herd: Herd, arguments: list[str], result: str, status: int, output: str, error: str
) -> None:
    server.answers[arguments[0]] = reply(result, "#f", "m")
    done = await herd(*arguments)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (status, output, error)
    if len(arguments) > 3:
        assert '(arguments ("a b" "--json" "-s"))' in server.commands[0]


LINGERING = """
import socket, sys, time
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("listening", flush=True)
    connection = listener.accept()[0]
    connection.recv(65536)
    connection.sendall(sys.argv[2].encode())
    connection.close()
    sys.stdin.read()
"""
"""A supervisor that hangs up after its answer (argv[2]), and ends only when its stdin does."""


@pytest.mark.parametrize("answer", ["", reply().decode()])
async def test_stop_root_returns_when_the_supervisor_has_ended(tmp_path: Path, answer: str) -> None:
    path = str(tmp_path / "socket")
    supervisor = await trio.lowlevel.open_process(
        [sys.executable, "-c", LINGERING, path, answer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    await supervisor.stdout.receive_some()
    client = await trio.lowlevel.open_process([*HERD, "-s", path, "stop", "root"], env=ENVIRONMENT)
    with trio.move_on_after(1):
        await client.wait()
    is_early = client.returncode is not None
    await supervisor.stdin.aclose()
    with trio.fail_after(60):
        assert await client.wait() == 0
        await supervisor.wait()
    await supervisor.stdout.aclose()
    assert not is_early, "herd stop root came back while the supervisor was still there"


async def test_the_end_of_the_supervisor_is_no_answer_to_anything_else(herd: Herd) -> None:
    done = await herd("start", "foo")
    assert done.returncode == 1
    assert done.stderr.startswith(b"herd: error: premature end-of-file while talking to herdpy: ")
    assert done.stderr.count(b"\n") == 1


async def test_an_answer_of_another_kind(server: Server, herd: Herd) -> None:
    server.answers["status"] = b"HTTP/1.1 400 Bad Request\r\n"
    done = await herd("status")
    assert done.returncode == 1
    assert done.stderr.startswith(b"herd: error: cannot make out the supervisor's answer: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "output", "error"),
    [
        (["--bogus", "status"], 1, "Unknown option: `--bogus'.\nTry `--help'.\n", ""),
        (["-x"], 1, "Unknown option: `-x'.\nTry `--help'.\n", ""),
        (["--", "--bogus"], 1, "", "Usage: herd ACTION [SERVICE [OPTIONS...]]\n"),
        ([], 1, "", "Usage: herd ACTION [SERVICE [OPTIONS...]]\n"),
        (["start"], 1, "", "Usage: herd ACTION [SERVICE [OPTIONS...]]\n"),
    ],
)
async def test_options_that_are_none(herd: Herd, arguments: list[str], status: int, output: str, error: str) -> None:
    done = await herd(*arguments)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (status, output, error)


async def test_ambiguous_options(herd: Herd) -> None:
    done = await herd("--ver")
    assert (done.returncode, done.stdout) == (1, b"Option `--ver' is ambiguous.\nTry `--help'.\n")
    assert (await herd("--hel")).stdout.startswith(b"Usage: herd [OPTIONS] ACTION")
    assert (await herd("--version")).stdout.startswith(b"herd (herdpy) ")
    assert (await herd("--usage")).stdout.startswith(b"Usage: herd [-fv] [-n N]")


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["log", "foo", "more", "-n", "1"], "more"),
        (["events", "foo", "bar", "-n", "1"], "bar"),
        (["tree", "foo", "bar", "baz"], "bar baz"),
        (["graph", "root", "x"], "x"),
        (["plan", "root", "x"], "x"),
    ],
)
async def test_a_word_too_many_is_not_passed_over(server: Server, herd: Herd, words: list[str], given: str) -> None:
    done = await herd(*words)
    complaint = f"herd: error: herd {words[0]} takes no arguments but one service, and {given} was given besides\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", complaint.encode())
    assert server.commands == []


@pytest.mark.parametrize("form", [["-s", "P"], ["-sP"], ["--socket=P"], ["--socket", "P"], ["--so=P"]])
async def test_the_socket_is_named(server: Server, herd: Herd, form: list[str]) -> None:
    server.answers["enable"] = reply("(#t)", "#f", "Enabled service bar.")
    arguments = [word.replace("P", server.path) for word in form]
    done = await herd(*arguments, "enable", "bar", HERDPY_SOCKET="/nonexistent")
    assert done.stdout == b"Enabled service bar.\n"


async def test_nobody_there(herd: Herd, tmp_path: Path) -> None:
    done = await herd("-s", "/nonexistent", "status")
    assert done.returncode == 1
    assert done.stderr.startswith(b"herd: error: /nonexistent: No such file or directory (is herdpy running?")
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    assert b"Connection refused" in (await herd("-s", str(left), "status")).stderr
    for path in (tmp_path, ROOT / "bin/herd"):
        done = await herd("-s", str(path), "status")
        assert done.stderr == f"herd: error: {path}: it is no socket, and --socket is to name herdpy's\n".encode()
    assert b"path too long" in (await herd("-s", "x" * 200, "status")).stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_who_may_connect_is_told() -> None:
    become_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # Python and herdpy may lie in a home directory. Connecting takes the right to write, which this does not give.
    become_nobody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(directory, 0o711)
        path = f"{directory}/socket"
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen()
        done = await trio.run_process(
            [*become_nobody, *HERD, "-s", path, "status"], capture_stderr=True, check=False, env=ENVIRONMENT
        )
        assert (done.returncode, done.stderr.decode()) == (
            1,
            f"herd: error: {path}: Permission denied"
            f" ({path} belongs to root, and only root may connect; try: sudo herd ...)\n",
        )
        os.chmod(directory, 0o700)
        os.chown(directory, 65534, 65534)
        be_powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        done = await trio.run_process(
            [*be_powerless, *HERD, "-s", path, "status"], capture_stderr=True, check=False, env=ENVIRONMENT
        )
        assert f"({directory} belongs to nobody, and only nobody may connect)" in done.stderr.decode()


async def test_json_status(server: Server, herd: Herd) -> None:
    ours = ' (reason #f) (details (("a" . "b"))) (log-file "/l") (source "/s") (stage "booting")'
    server.answers["status foo"] = reply(f"({service('foo', ours=ours, status_changes='((stopped . 0))')})")
    document = json.loads((await herd("--json", "status", "foo")).stdout)
    assert document["name"] == "foo"
    assert document["status-changes"] == [{"status": "stopped", "time": 0, "iso": "1970-01-01T00:00:00Z"}]
    assert (document["stage"], document["details"], document["reason"]) == ("booting", {"a": "b"}, None)
    assert document["respawn-limit"] == {"times": 5, "seconds": 7}
    server.answers["status root"] = reply(ALL)
    names = [each["name"] for each in json.loads((await herd("status", "root", "--json")).stdout)]
    assert names == ["root", "foo", "bar", "baz", "slow", "oneshot", "thrower"]


async def test_json_of_other_actions(server: Server, herd: Herd) -> None:
    server.answers["configuration"] = reply(r'("{\"memory\": 1}")')
    assert json.loads((await herd("--json", "configuration", "vm")).stdout) == {"memory": 1}
    assert '(arguments ("--json"))' in server.commands[0]
    server.answers["stop"] = reply("(foo (a . 1))", "#f", "gone")
    assert json.loads((await herd("--json", "stop", "foo")).stdout) == {
        "result": ["foo", "(a . 1)"],
        "messages": ["gone"],
        "error": None,
    }
    server.answers["start"] = reply("#f", "(error (version 0) service-not-found nope)")
    done = await herd("--json", "start", "nope")
    assert json.loads(done.stdout)["error"] == "service 'nope' could not be found"
    assert done.returncode == 1


@pytest.mark.parametrize("words", ["log nope", "events nope", "tree nope", "exec nope", "-n x log foo", "status -f"])
async def test_errors_are_json_too(server: Server, herd: Herd, words: str) -> None:
    unknown = reply("#f", "(error (version 0) service-not-found nope)")
    server.answers |= {"status nope": unknown, "events root": unknown, "reach nope": unknown}
    server.answers["status root"] = reply(ALL)
    done = await herd("--json", *words.split())
    document = json.loads(done.stdout)
    assert (document["result"], document["messages"], done.returncode) == (False, [], 1)
    assert done.stderr.decode() == f"herd: error: {document['error']}\n"
    silent = await herd("--json", *words.split(), HERDPY_SOCKET="/nonexistent")
    assert json.loads(silent.stdout)["error"] == silent.stderr.decode().removeprefix("herd: error: ").rstrip()


async def test_a_reader_that_leaves_ends_it_quietly(server: Server) -> None:
    many = " ".join(service(f"service-{number}") for number in range(20_000))
    server.answers["status"] = reply(f"(({many}))")
    command = f"{' '.join(HERD)} -s {server.path} status | head -1; echo ${{PIPESTATUS[0]}}"
    with trio.fail_after(60):
        done = await trio.run_process(
            ["bash", "-c", command], capture_stdout=True, capture_stderr=True, env=ENVIRONMENT
        )
    assert (done.stdout, done.stderr) == (b"Stopped:\n141\n", b"")


async def test_closed_and_full_outputs(server: Server) -> None:
    server.answers["enable"] = reply("(#t)", "#f", "Enabled.")
    herd = f"{' '.join(HERD)} -s {server.path} enable x"
    done = await trio.run_process(
        ["sh", "-c", f"{herd} >/dev/full; echo $?; {herd} >&-; echo $?"],
        capture_stdout=True,
        capture_stderr=True,
        env=ENVIRONMENT,
    )
    assert done.stdout == b"1\n0\n"
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--help", "--usage", "--version", "--no-such-option"])
async def test_a_full_output_of_what_asks_nobody_is_told_in_a_line(herd: Herd, option: str) -> None:
    done = await trio.run_process(
        ["sh", "-c", '"$0" "$@" >/dev/full', *HERD, option], capture_stderr=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 1
    assert done.stderr == b"herd: error: cannot write to descriptor 1: No space left on device\n"


async def test_the_script_finds_python_and_the_package_through_a_link(server: Server, tmp_path: Path) -> None:
    server.answers["enable"] = reply("(#t)", "#f", "Enabled.")
    link = tmp_path / "a link"
    link.symlink_to(ROOT / "bin/herd")
    done = await trio.run_process(
        [str(link), "-s", server.path, "enable", "x y"],
        capture_stdout=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": "/nonexistent", "PYTHONSTARTUP": "x"},
    )
    assert done.stdout == b"Enabled.\n"
    assert "(service #{x y}#)" in server.commands[0]


async def test_on_a_terminal_there_is_colour_and_no_control_character(
    server: Server, herd: Herd, terminal: Terminal
) -> None:
    # Written when the tests were collected, which may be long ago: colours tell what takes its time.
    server.answers["status"] = reply(re.sub(r"\d{10}", lambda at: str(int(at[0]) + int(time.time()) - NOW), ALL))
    await terminal.run([*HERD, "status"], herd.environment)
    assert await terminal.end() == 0
    assert terminal.seen.decode() == (
        "\x1b[1mStarted:\x1b[0m\r\n + bar\r\n + root\r\n\x1b[1mStarting:\x1b[0m\r\n ^ \x1b[1;35mslow\x1b[0m\r\n"
        "\x1b[1mStopped:\x1b[0m\r\n - foo\r\n\x1b[1mStopping:\x1b[0m\r\n v baz\r\n"
        "\x1b[1mOne-shot:\x1b[0m\r\n * oneshot\r\n\x1b[1;31mFailed to start:\x1b[0m\r\n ! thrower\r\n"
    )
    terminal.seen = b""
    server.answers["nope"] = reply("#f", "(error (version 0) service-not-found nope)", r"evil \x1b]0;x\a")
    await terminal.run([*HERD, "nope", "nope"], herd.environment)
    assert await terminal.end() == 1
    assert terminal.seen.decode() == (
        "evil \ufffd]0;x\ufffd\r\nherd: \x1b[1;31merror\x1b[0m: service 'nope' could not be found\r\n"
    )


SERVICES = (
    "(" + " ".join(f"(service (version 0) (provides ({n})) (requires ()))" for n in ("build-vm machine", "db")) + ")"
)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("start", "buildvm"), "herd start build-vm"),
        (("stop", "machin"), "herd stop machine"),
        (("start", "buildvm", "with", "arguments"), "herd start build-vm"),
        (("log", "buildvm"), "herd log build-vm"),
        (("exec", "build-mv", "--", "date"), "herd exec build-vm"),
        (("tree", "biuld-vm"), "herd tree build-vm"),
        (("strat", "db"), "herd start db"),
        (("vacum", "db"), "herd vacuum db"),
        (("realod", "root"), "herd reload root"),
        (("exce", "build-vm"), "herd exec build-vm"),
        (("exce", "db"), None),
        (("unload", "db"), "herd unload root db"),
        (("load", "db"), "herd load root db"),
        (("reload", "db"), "herd reload root"),
        (("unload", "root", "buildvm"), "herd unload root build-vm"),
        (("unload", "root", "roto"), None),
        (("start", "nothing-like-it"), None),
        (("frobnicate", "db"), None),
    ],
)
async def test_a_name_that_is_almost_right_is_answered_with_the_right_one(
    server: Server, herd: Herd, words: tuple[str, ...], meant: str | None
) -> None:
    action, service = words[:2]
    if words[:2] == ("unload", "root"):
        refusal = reply("#f", f"(error (version 0) service-not-found {words[2]})")
    else:
        what = "action-not-found " + action if service in ("db", "root", "build-vm") else "service-not-found"
        refusal = reply("#f", f"(error (version 0) {what} {service})")
    server.answers |= {f"{asked} {service}": refusal for asked in (action, "status", "reach")}
    server.answers["status root"] = reply(f"({SERVICES})")
    server.answers["doc db"] = reply("(#t)", "#f", "db (vacuum)")
    server.answers["doc root"] = reply("(#t)", "#f", "root (help reload)")
    server.answers["doc build-vm"] = reply("(#t)", "#f", "build-vm (configuration usage)")
    server.answers["reach build-vm"] = write_reply(write_reach(running=False, ssh=["ssh"]))
    ran = await herd(*words)
    assert ran.returncode == 1
    lines = ran.stderr.decode().splitlines()
    assert lines[1:] == ([] if meant is None else [f"herd: error: Did you mean '{meant}'?"]), lines
    assert ran.stdout == b""


async def test_no_guess_is_made_when_the_supervisor_is_gone_by_then(server: Server, herd: Herd) -> None:
    server.answers["start"] = reply("#f", "(error (version 0) service-not-found foo)")
    server.answers["status root"] = b""
    ran = await herd("start", "foo")
    assert ran.returncode == 1
    assert ran.stderr.decode() == "herd: error: service 'foo' could not be found\n"
