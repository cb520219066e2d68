"""Commands and replies as the specification of GNU Shepherd 0.10.3's protocol has them, against a live herdpy.

Each exchange is the bytes of a command and those of its reply. In the latter ``<PID>`` stands for the number of a
process, the same one within a story; ``<TIME>`` for a time since the test began, in UNIX seconds; ``<OURS>`` for the
keys that herdpy puts after Shepherd's in a service; ``<TEXT>`` for a string.

GNU's own ``herd`` takes no part: Debian 12 has no package of it (``apt-cache policy shepherd`` knows none). Its
patterns do, read by Guile, in ``test_guile.py``.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from .conftest import command, exchange

STRING = r'"(?:[^"\\]|\\.)*"'
VALUE = ATOM = rf'(?:{STRING}|[^\s()"]+)'
for _ in range(4):
    VALUE = rf"(?:{ATOM}|\((?:{VALUE}(?: {VALUE})*)?\))"
PLACEHOLDERS = {"PID": r"\d+", "TIME": r"\d{10}", "TEXT": STRING, "OURS": rf"(?: \([a-z-]+\?? {VALUE}\))*"}
NOTHING = b""
"""What is sent to whoever sends no command."""


def reply(result: str, error: str = "#f", *messages: str) -> str:
    lines = " ".join(f'"{line}"' for line in messages)
    return f"(reply (version 0) (result {result}) (error {error}) (messages ({lines})))"


def error(text: str, *messages: str) -> str:
    return reply("#f", f"(error (version 0) {text})", *messages)


class Story:
    """Exchanges in turn with one herdpy; what differs from the letter is gathered, and told at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin = int(time.time())
        self.pid: str | None = None

    def tell(self, exchanges: Iterable[tuple[bytes, str]]) -> None:
        differences = []
        for sent, expected in exchanges:
            got = exchange(self.path, sent).decode()
            if not self.matches(expected, got):
                differences.append(f"sent     {sent.decode()}\nexpected {expected}\ngot      {got}")
        assert not differences, "\n\n" + "\n\n".join(differences)

    def matches(self, expected: str, got: str) -> bool:
        kinds = re.findall("<(PID|TIME|OURS|TEXT)>", expected)
        pattern = re.escape(expected)
        for kind, spelling in PLACEHOLDERS.items():
            pattern = pattern.replace(f"<{kind}>", f"({spelling})")
        match = re.fullmatch(pattern, got)
        if match is None:
            return False
        found = list(zip(kinds, match.groups(), strict=True))
        pids = {text for kind, text in found if kind == "PID"} | ({self.pid} if self.pid else set())
        if len(pids) > 1:
            return False
        self.pid = next(iter(pids), None)
        return all(self.begin <= int(text) <= time.time() for kind, text in found if kind == "TIME")


FOO = """\
command = ["sleep", "1000"]
provision = ["foo-alias"]
documentation = "Foo! é \\"quoted\\" \\\\ back"
"""
FOO_STATIC = '(provides (foo foo-alias)) (requires ()) (respawn? #t) (docstring "Foo! é \\"quoted\\" \\\\ back")'
FOO_FRESH = (
    f"(service (version 0) {FOO_STATIC} (enabled? #t) (running #f) (conflicts ()) (last-respawns ())"
    " (status-changes ()) (startup-failures ()) (status stopped) (one-shot? #f) (transient? #f)"
    " (respawn-limit (5 . 7)) (respawn-delay 0.1)<OURS>)"
)
FOO_RUNNING = (
    f"(service (version 0) {FOO_STATIC} (enabled? #t) (running <PID>) (conflicts ()) (last-respawns ())"
    " (status-changes ((running . <TIME>) (starting . <TIME>))) (startup-failures ()) (status running)"
    " (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1)<OURS>)"
)
FOO_STOPPED = (
    f"(service (version 0) {FOO_STATIC} (enabled? #t) (running #f) (conflicts ()) (last-respawns ())"
    " (status-changes ((stopped . <TIME>) (stopping . <TIME>) (running . <TIME>) (starting . <TIME>)))"
    " (startup-failures ()) (status stopped) (one-shot? #f) (transient? #f)"
    " (respawn-limit (5 . 7)) (respawn-delay 0.1)<OURS>)"
)
FOO_DISABLED = FOO_STOPPED.replace("(enabled? #t)", "(enabled? #f)")
BAD = (
    '(service (version 0) (provides (bad)) (requires ()) (respawn? #f) (docstring "Run program.") (enabled? #t)'
    " (running #f) (conflicts ()) (last-respawns ()) (status-changes ((stopped . <TIME>) (starting . <TIME>)))"
    " (startup-failures (<TIME>)) (status stopped) (one-shot? #f) (transient? #f)"
    " (respawn-limit (3 . 60)) (respawn-delay 2.0)<OURS>)"
)
ROOT = (
    "(service (version 0) (provides (root shepherd)) (requires ()) (respawn? #f) (docstring <TEXT>) (enabled? #t)"
    " (running #t) (conflicts ()) (last-respawns ()) (status-changes ()) (startup-failures ()) (status running)"
    " (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1)<OURS>)"
)


def test_start_status_stop(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.start()
    story = Story(herdpy.socket)
    story.tell(
        [
            (command("status", "foo"), reply(f"({FOO_FRESH})")),
            (command("stop", "foo"), reply("()")),
            (command("start", "foo"), reply(FOO_RUNNING, "#f", "Service foo has been started.")),
            (command("start", "foo"), reply(FOO_RUNNING, "#f", "Service foo is already running.")),
            (command("start", "foo-alias"), reply(FOO_RUNNING, "#f", "Service foo is already running.")),
            (command("status", "foo"), reply(f"({FOO_RUNNING})")),
            (command("status", "foo-alias"), reply(f"({FOO_RUNNING})")),
            (command("status", "root"), reply(f"(({ROOT} {FOO_RUNNING}))")),
            (command("status", "shepherd"), reply(f"(({ROOT} {FOO_RUNNING}))")),
        ]
    )
    assert Path(f"/proc/{story.pid}/cmdline").read_bytes() == b"sleep\0" + b"1000\0"
    story.tell(
        [
            (command("stop", "foo-alias"), reply("(foo)")),
            (command("status", "foo"), reply(f"({FOO_STOPPED})")),
            (command("stop", "foo"), reply("()")),
        ]
    )
    assert not Path(f"/proc/{story.pid}").exists()


def test_dependents_are_stopped_and_told_after_the_service_itself(herdpy):
    herdpy.declare("base", 'command = ["sleep", "1000"]')
    herdpy.declare("top", 'command = ["sleep", "1000"]\nrequirement = ["base"]\nrespawn = false\n')
    herdpy.start()
    top = (
        '(service (version 0) (provides (top)) (requires (base)) (respawn? #f) (docstring "Run sleep.") (enabled? #t)'
        " (running <PID>) (conflicts ()) (last-respawns ())"
        " (status-changes ((running . <TIME>) (starting . <TIME>))) (startup-failures ()) (status running)"
        " (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1)<OURS>)"
    )
    Story(herdpy.socket).tell(
        [
            (command("start", "top"), reply(top, "#f", "Service top has been started.")),
            (command("stop", "base"), reply("(base top)")),
            (command("stop", "base"), reply("()")),
            (command("restart", "base"), reply("(#t)", "#f", "Service base has been started.")),
            (command("stop", "top"), reply("()")),
            (command("restart", "top"), reply("(#t)", "#f", "Service top has been started.")),
            (command("restart", "base"), reply("(#t)", "#f", "Service base has been started.")),
            (command("stop", "top"), reply("(top)")),
            (command("stop", "base"), reply("(base)")),
        ]
    )


def test_what_cannot_be_started(herdpy):
    """A line of ours that says why stands before Shepherd's, see docs/explanation/architecture.md."""
    herdpy.declare(
        "bad",
        'command = ["/nonexistent/program"]\nrespawn = false\nrespawn-limit = 3\n'
        "respawn-interval = 60.0\nrespawn-delay = 2.0\n",
    )
    herdpy.declare("dead", 'command = ["sleep", "1000"]\nrequirement = ["bad"]')
    herdpy.start()
    why = "cannot start bad: /nonexistent/program cannot be executed: No such file or directory"
    Story(herdpy.socket).tell(
        [
            (command("start", "bad"), reply("#f", "#f", why, "Service bad could not be started.")),
            (command("status", "bad"), reply(f"({BAD})")),
            (
                command("start", "dead"),
                reply(
                    "#f",
                    "#f",
                    why,
                    "Service bad could not be started.",
                    "Service dead depends on bad.",
                    "Service dead could not be started.",
                ),
            ),
            (command("restart", "bad"), reply("(#f)", "#f", why, "Service bad could not be started.")),
            (command("stop", "bad"), reply("()")),
        ]
    )


def test_enable_and_disable(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.start()
    story = Story(herdpy.socket)
    refused = (
        "cannot start foo: it is disabled; enable it with: herd enable foo",
        "Service foo could not be started.",
    )
    unspecified = '("#<unspecified>")'
    story.tell(
        [
            (command("start", "foo"), reply(FOO_RUNNING, "#f", "Service foo has been started.")),
            (command("disable", "foo-alias"), reply(unspecified, "#f", "Disabled service foo.")),
            (
                command("status", "foo"),
                reply(f"({FOO_RUNNING.replace('(enabled? #t)', '(enabled? #f)')})"),
            ),
            (command("stop", "foo"), reply("(foo)")),
            (command("start", "foo"), reply("#f", "#f", *refused)),
            (command("status", "foo"), reply(f"({FOO_DISABLED})")),
            (command("enable", "foo"), reply(unspecified, "#f", "Enabled service foo.")),
            (command("status", "foo"), reply(f"({FOO_STOPPED})")),
            *(
                (
                    command(action, "foo-alias", '"x"'),
                    error(
                        f"action-exception {action} foo wrong-number-of-args"
                        f' (#f "Wrong number of arguments to ~A" ("{action}") #f)'
                    ),
                )
                for action in ("enable", "disable", "status")
            ),
        ]
    )


def test_a_respawn_is_told(herdpy, eventually):
    herdpy.declare("foo", FOO)
    herdpy.start()
    story = Story(herdpy.socket)
    story.tell([(command("start", "foo"), reply(FOO_RUNNING, "#f", "Service foo has been started."))])
    assert story.pid is not None
    os.kill(int(story.pid), signal.SIGKILL)
    eventually(lambda: herdpy.status("foo")["pid"] not in (int(story.pid or 0), None))
    story.pid = None
    changes = "(running . <TIME>) (starting . <TIME>) (stopped . <TIME>) (stopping . <TIME>)"
    respawned = FOO_RUNNING.replace("(last-respawns ())", "(last-respawns (<TIME>))").replace(
        "((running . <TIME>) (starting . <TIME>))", f"({changes} (running . <TIME>) (starting . <TIME>))"
    )
    story.tell([(command("status", "foo"), reply(f"({respawned})"))])


def test_doc(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.declare("lines", 'command = ["true"]\ndocumentation = "One.\\n\\nThree."')
    herdpy.declare("bare", 'command = ["true"]\ndocumentation = "[No description.]"')
    herdpy.start()
    unspecified = '("#<unspecified>")'
    foo = r"Foo! é \"quoted\" \\ back"
    configuration = "configuration: Show what the service runs with."
    Story(herdpy.socket).tell(
        [
            (command("doc", "foo"), reply(unspecified, "#f", foo)),
            (command("doc", "foo-alias", '"full"'), reply(unspecified, "#f", foo)),
            (command("doc", "foo", '"short"'), reply(unspecified, "#f", foo)),
            (command("doc", "lines"), reply(unspecified, "#f", "One.", "", "Three.")),
            (command("doc", "bare"), reply(unspecified, "#f", "[No description.]")),
            (command("doc", "foo-alias", '"list-actions"'), reply(unspecified, "#f", "foo (configuration usage)")),
            (command("doc", "foo", '"action"', '"configuration"'), reply(unspecified, "#f", configuration)),
            (command("doc", "foo", '"action"'), reply(unspecified)),
            (
                command("doc", "foo-alias", '"action"', '"configuration"', '"nope"'),
                error('action-not-found "nope" foo', configuration),
            ),
            (command("doc", "foo", '"whatever"'), reply(unspecified, "#f", "Unknown keyword.  Try 'herd help'.")),
        ]
    )


def test_what_there_is_not(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.start()
    Story(herdpy.socket).tell(
        [
            (command("status", "nonesuch"), error("service-not-found nonesuch")),
            (command("nope", "nonesuch"), error("service-not-found nonesuch")),
            (command("nope", "foo"), error("action-not-found nope foo")),
            (command("nope", "foo-alias"), error("action-not-found nope foo")),
            (command("nope", "shepherd"), error("action-not-found nope root")),
            (command("status", '"foo"'), error('service-not-found "foo"')),
            (command("status", '"root"'), error('service-not-found "root"')),
            (command('"status"', "foo-alias"), error('action-not-found "status" foo')),
            (command('"progress"', "foo"), error('action-not-found "progress" foo')),
            (command('"status"', "root"), error('action-not-found "status" root')),
            (command('"status"', '"foo"'), error('service-not-found "foo"')),
            (command("status", "Foo"), error("service-not-found Foo")),
            (command("status", "#{a b}#"), error("service-not-found #{a b}#")),
            (command("status", "#{1}#"), error("service-not-found #{1}#")),
            (command("status", "1"), error("service-not-found 1")),
            (
                command("plan", "root", '"x"'),
                error(
                    "action-exception plan root misc-error"
                    ' (#f "~A" ("takes no arguments but --json, and x was given") #f)'
                ),
            ),
            (
                command("overview", "root", '"x"'),
                error(
                    "action-exception overview root wrong-number-of-args"
                    ' (#f "Wrong number of arguments to ~A" ("overview") #f)'
                ),
            ),
            (command("unload", "foo", '"all"'), error("action-not-found unload foo")),
            (command("status", "'foo"), error("service-not-found (quote foo)")),
            (command("status", "#:foo"), error("service-not-found #:foo")),
            (command("(a . b)", "foo"), error("action-not-found (a . b) foo")),
            *((command(action, "foo"), error(f"action-not-found {action} foo")) for action in OF_ROOT_ALONE),
            *((command(action, "foo"), error(f"action-not-found {action} foo")) for action in OF_THE_CLIENT_ALONE),
            (
                command("configuration", "foo-alias", '"x"'),
                error(
                    "action-exception configuration foo misc-error"
                    ' (#f "~A" ("takes no arguments but --json, and x was given") #f)'
                ),
            ),
        ]
    )


OF_ROOT_ALONE = ("help", "halt", "power-off", "eval", "load", "unload", "reload", "upgrade", "daemonize")
OF_THE_CLIENT_ALONE = ("detailed-status", "log", "graph")


def test_load_and_unload(herdpy, tmp_path):
    path = tmp_path / "foo.toml"
    path.write_text(FOO)
    herdpy.start()
    Story(herdpy.socket).tell(
        [
            (command("load", "root", f'"{path}"'), reply("(#t)", "#f", f"Loading {path}.")),
            (command("status", "foo"), reply(f"({FOO_FRESH})")),
            (command("unload", "root", '"foo-alias"'), reply("(#t)", "#f", "Removing service 'foo'...", "Done.")),
            (command("status", "foo"), error("service-not-found foo")),
        ]
    )


def test_root(herdpy):
    herdpy.start()
    Story(herdpy.socket).tell(
        [
            (command("status", "root"), reply(f"(({ROOT}))")),
            (command("help", "root"), reply("(<TEXT>)")),
            (command("start", "root"), reply(ROOT, "#f", "Service root is already running.")),
            (command("restart", "shepherd"), reply("(#f)", "#f", "You must be kidding.")),
            (
                command("doc", "root", '"list-actions"'),
                reply(
                    '("#<unspecified>")',
                    "#f",
                    "root (help status plan doctor reload load unload upgrade halt power-off)",
                ),
            ),
            (
                command("load", "root", '"/does/not/exist"'),
                error(
                    'action-exception load root system-error ("open-file" "~A: ~S" ("No such file or directory"'
                    ' "/does/not/exist") (2))',
                    "Loading /does/not/exist.",
                ),
            ),
            (command("unload", "root", '"nonesuch"'), error("service-not-found nonesuch")),
            (command("disable", "root"), reply('("#<unspecified>")', "#f", "Disabled service root.")),
            (command("status", "root"), reply(f"(({ROOT.replace('(enabled? #t)', '(enabled? #f)')}))")),
            (command("enable", "root"), reply('("#<unspecified>")', "#f", "Enabled service root.")),
            (command("restart", "root"), reply("(#f)", "#f", "You must be kidding.")),
            (command("overview", "root"), reply("((overview (version 0) (running (root))))")),
            (
                command("eval", "root", '"(+ 2 2)"'),
                error(
                    "action-exception eval root misc-error"
                    ' (#f "~A" ("herdpy evaluates no Scheme; herd help tells what can be asked of it") #f)'
                ),
            ),
        ]
    )


def test_what_ends_it_is_answered_by_no_byte(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.start()
    assert exchange(herdpy.socket, command("start", "foo")) != NOTHING
    assert exchange(herdpy.socket, command("stop", "shepherd")) == NOTHING
    assert herdpy.process.wait(60) == 0


def test_what_is_no_command_is_answered_by_no_byte(herdpy):
    herdpy.start()
    right = command("status", "root").decode()
    wrong = [
        "",
        "\n\n ",
        "; nothing but a comment\n",
        "()",
        "foo",
        '"foo"',
        ")",
        "(reply)",
        "(shepherd-command)",
        right[:-1],
        right[: len(right) // 2],
        right.replace("(version 0)", "(version)"),
        right.replace("(version 0)", "(version 1)"),
        right.replace("(version 0)", '(version "0")'),
        right.replace("(version 0) ", ""),
        right.replace("(action status) (service root)", "(service root) (action status)"),
        right.replace(" (service root)", ""),
        right.replace("(service root)", "(service)"),
        right.replace("(service root)", "(service root root)"),
        right.replace("(arguments ())", "(arguments x)"),
        right.replace("(arguments ())", "(arguments () ())"),
        right.replace(' (directory "/root")', ""),
        right.replace("))", ") (more 1))"),
        right.replace("status", "#<foo>"),
        right.replace("shepherd-command", "Shepherd-Command"),
        right.replace("root)", "ro\0ot)").replace("(", "\0(", 1),
        "\0" * 1000,
        "(" * 100_000 + ")" * 100_000,
        right.replace("()", "(" * 100_000 + ")" * 100_000),
        "#<foo>" + right,
    ]
    answered = {sent: got for sent in wrong if (got := exchange(herdpy.socket, sent.encode(), end=True)) != NOTHING}
    assert not answered
    assert exchange(herdpy.socket, right.encode()) != NOTHING


def test_what_else_is_a_command(herdpy):
    herdpy.declare("foo", FOO)
    herdpy.start()
    right = command("doc", "foo", '"short"').decode()
    usual = exchange(herdpy.socket, right.encode())
    assert usual.startswith(b"(reply (version 0) (result (")
    others = [
        right.replace("(version 0)", "(version 0 1 9)"),
        right.replace('(directory "/root")', "(directory #f)"),
        right.replace('"/root"', '"/nonexistent/\\x1b;\\n"'),
        f"\n\t ; a comment (\n  {right}",
        right.replace(") (", ")\n\n;; )\n("),
        right.replace("doc", "#{doc}#"),
        right.replace('"short"', '"s\\x68ort"'),
        f"{right}{command('status', 'root').decode()}",
        f"{right} and what else there is",
        right.replace('"short"', f'"short" "{"x" * 200_000}"'),
    ]
    different = {sent: got for sent in others if (got := exchange(herdpy.socket, sent.encode())) != usual}
    assert not different


def test_a_stop_tells_what_else_became_of_it(herdpy, tmp_path, eventually):
    herdpy.declare("trans", 'command = ["sleep", "1000"]\ntransient = true\nauto-start = true\n')
    script = f"trap '' TERM; : >{tmp_path}/up; while :; do sleep 0.1; done"
    herdpy.declare("stubborn", f"command = {json.dumps(['sh', '-c', script])}\ngrace-period = 0.2\nauto-start = true\n")
    herdpy.start()
    eventually((tmp_path / "up").exists)
    eventually(lambda: herdpy.status("trans")["status"] == "running")
    story = Story(herdpy.socket)
    story.pid = str(herdpy.status("stubborn")["pid"])
    story.tell(
        [
            (command("stop", "trans"), reply("(trans)", "#f", "Transient service trans unregistered.")),
            (
                command("stop", "stubborn"),
                reply("(stubborn)", "#f", "Grace period of 0.2 seconds is over; sending -<PID> SIGKILL."),
            ),
            (command("stop", "stubborn"), reply("()")),
        ]
    )
