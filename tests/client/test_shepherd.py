"""Our herd in front of GNU Shepherd: 0.10.3, which has none of herdpy's keys, and 1.0, which has others."""

import json
import time

import pytest

from .conftest import Herd, Server

NOW = int(time.time())
FOO = (
    "(service (version 0) (provides (foo foo-alias)) (requires ()) (respawn? #t)"
    ' (docstring "Foo! é \\"quoted\\" \\\\ back") (enabled? #t) (running 23381) (conflicts ()) (last-respawns ())'
    f" (status-changes ((running . {NOW}) (starting . {NOW}))) (startup-failures ()) (status running)"
    " (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1))"
)
ROOT = FOO.replace("(foo foo-alias)", "(root shepherd)").replace("(running 23381)", "(running #t)")
STOPPED = (
    FOO.replace("(foo foo-alias)", "(bar)")
    .replace("(running 23381)", "(running #f)")
    .replace("(requires ())", "(requires (foo))")
    .replace("(status running)", "(status stopped)")
)
NEW = " ".join(
    [
        FOO[:-1],
        "(actions (hi trigger)) (exit-statuses ((0 . 5) (256 . 6)))",
        f'(recent-messages (({NOW} . "Hello.") ({NOW} . "World.")))',
        '(log-files ("/var/log/foo.log")) (pending-replacement? #f) (of-1.9 (a . b)))',
    ]
)

STARTED = "Service foo has been started.\n"
REPLIES = [
    ("status nonesuch", "(result #f) (error (error (version 0) service-not-found nonesuch)) (messages ())", "", 1),
    ("nope bar", "(result #f) (error (error (version 0) action-not-found nope bar)) (messages ())", "", 1),
    (
        "sys bar",
        '(result #f) (error (error (version 0) action-exception sys bar system-error ("mkdir" "~A" ("No such file or'
        ' directory") (2)))) (messages ())',
        "",
        1,
    ),
    (
        "enable bar",
        "(result #f) (error (error (version 0) action-exception enable bar wrong-number-of-args (#f "
        '"Wrong number of arguments to ~A" ("#<procedure 7f00>") #f))) (messages ())',
        "",
        1,
    ),
    (
        "load root",
        '(result #f) (error (error (version 0) action-exception load root system-error ("open-file" "~A: ~S" ("No such'
        ' file or directory" "/does/not/exist") (2)))) (messages ("Loading /does/not/exist."))',
        "Loading /does/not/exist.\n",
        1,
    ),
    (
        "start bad",
        '(result #f) (error #f) (messages ("Starting service bad..." "Service bad failed to start."'
        ' "Service bad could not be started."))',
        "Starting service bad...\nService bad failed to start.\nService bad could not be started.\n",
        1,
    ),
    ("stop bar", "(result #f) (error (error (version 0) service-error)) (messages ())", "", 1),
    ("start foo", f'(result {FOO}) (error #f) (messages ("Service foo has been started."))', STARTED, 0),
    ("stop foo", "(result (foo)) (error #f) (messages ())", "", 0),
    ("stop foo", "(result ()) (error #f) (messages ())", "", 0),
    ("restart foo", '(result (#t)) (error #f) (messages ("Service foo has been started."))', STARTED, 0),
    ("hi bar", '(result (("a b" "c"))) (error #f) (messages ("start" "" "end é"))', "start\n\nend é\n", 0),
    ("no bar", "(result (#f)) (error #f) (messages ())", "", 1),
    (
        "disable bar",
        '(result ("#<unspecified>")) (error #f) (messages ("Disabled service bar."))',
        "Disabled service bar.\n",
        0,
    ),
    (
        "stop trans",
        '(result (trans)) (error #f) (messages ("Transient service trans unregistered."))',
        "Transient service trans unregistered.\n",
        0,
    ),
]
"""The literal replies of the specification (2.5), what herd prints of them on standard output, and its status."""


@pytest.mark.parametrize(("words", "answer", "printed", "status"), REPLIES)
async def test_replies(server: Server, herd: Herd, words: str, answer: str, printed: str, status: int) -> None:
    server.answers[words] = f"(reply (version 0) {answer})".encode()
    done = await herd(*words.split())
    assert (done.returncode, done.stdout.decode()) == (status, printed)
    assert (done.stderr != b"") == (status == 1 and words != "no bar")


@pytest.mark.parametrize("foo", [FOO, NEW], ids=["0.10", "1.0"])
async def test_status_in_all_its_forms(server: Server, herd: Herd, foo: str) -> None:
    server.answers["status foo"] = f"(reply (version 0) (result ({foo})) (error #f) (messages ()))".encode()
    server.answers["status root"] = (
        f"(reply (version 0) (result (({ROOT} {foo} {STOPPED}))) (error #f) (messages ()))".encode()
    )
    printed = {}
    for words in ("status foo", "status", "detailed-status", "log", "graph", "--json status", "--json status foo"):
        done = await herd(*words.split())
        assert (done.returncode, done.stderr) == (0, b""), words
        printed[words] = done.stdout.decode()
    assert printed["status"] == "Started:\n + foo\n + root\nStopped:\n - bar\n"
    assert "23381" in printed["status foo"]
    assert '"bar" -> "foo"' in printed["graph"]
    assert "service foo is running" in printed["log"]
    document = json.loads(printed["--json status foo"])
    assert (document["name"], document["status"], document["requires"]) == ("foo", "running", [])
    assert [each["name"] for each in json.loads(printed["--json status"])] == ["root", "foo", "bar"]


async def test_what_shepherd_1_tells_of_files_and_a_replacement_is_shown(server: Server, herd: Herd) -> None:
    several = NEW.replace('("/var/log/foo.log")', '("/var/log/foo.log" "/var/log/bar.log")')
    several = several.replace("(pending-replacement? #f)", "(pending-replacement? #t)")
    for foo, count in ((NEW, 1), (several, 2)):
        server.answers["status foo"] = f"(reply (version 0) (result ({foo})) (error #f) (messages ()))".encode()
        lines = (await herd("status", "foo")).stdout.decode().splitlines()
        files = ["/var/log/foo.log", "/var/log/bar.log"][:count]
        assert [line for line in lines if "Log file" in line] == [f"  Log file: {file}" for file in files]
        assert ("  From its next start on: as it is declared now" in lines) == (foo is several)
        document = json.loads((await herd("--json", "status", "foo")).stdout)
        assert (document["log-files"], document["pending-replacement"]) == (files, foo is several)


async def test_what_shepherd_cannot_do_is_said_in_a_line(server: Server, herd: Herd) -> None:
    for action in ("reach", "configuration"):
        server.answers[action] = (
            f"(reply (version 0) (result #f) (error (error (version 0) action-not-found {action} foo)) (messages ()))"
        ).encode()
    for words in ("exec foo -- true", "console foo", "offload foo -- true", "configuration foo"):
        done = await herd(*words.split())
        assert (done.returncode, done.stdout) == (1, b""), words
        assert done.stderr.startswith(b"herd: error: "), words
        assert done.stderr.count(b"\n") == 1, words
