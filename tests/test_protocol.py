"""The protocol, byte for byte as the specification gives it."""

import pytest

from herdpy import protocol
from herdpy.protocol import Command, ProtocolError, parse_command, parse_reply, parse_services
from herdpy.sexp import Pair, Symbol, read

STATUS = '(shepherd-command (version 0) (action status) (service root) (arguments ()) (directory "/root"))'
SERVICE = (
    "(service (version 0) (provides (foo foo-alias)) (requires ()) (respawn? #t)"
    r' (docstring "Foo! é \"quoted\" \\ back")'
    " (enabled? #t) (running 23381) (conflicts ()) (last-respawns ())"
    " (status-changes ((running . 1795326529) (starting . 1795326529))) (startup-failures ()) (status running)"
    " (one-shot? #f) (transient? #f) (respawn-limit (5 . 7)) (respawn-delay 0.1)"
)


def test_a_command_is_written_as_gnu_writes_it() -> None:
    assert protocol.write_command(Command("status", "root", (), "/root")).decode() == STATUS
    assert b'(service #{a b}#) (arguments ("x\\"y" ""))' in protocol.write_command(Command("start", "a b", ['x"y', ""]))


def test_a_command_is_parsed() -> None:
    command = parse_command(STATUS)
    assert (command.action, command.service, command.arguments, command.directory) == ("status", "root", (), "/root")
    assert command.names == ("status", "root")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(version 0)", "(version 0 1 9)"),
        ('(directory "/root")', "(directory #f)"),
        ("(arguments ())", '(arguments ("a" "b c"))'),
        ("(shepherd", "; hello\n (shepherd"),
    ],
)
def test_what_shepherd_accepts(old: str, new: str) -> None:
    assert parse_command(STATUS.replace(old, new)).names == ("status", "root")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(version 0)", "(version)"),
        ("(version 0)", "(version 1)"),
        ("(version 0)", "(version #f)"),
        ("(version 0)", "(version 0.0)"),
        ("(version 0)", '(version "0")'),
        ("(arguments ())", "(arguments foo)"),
        ("(arguments ())", "(arguments (foo))"),
        ("(arguments ())", "(arguments ((((())))))"),
        ("(arguments ())", '(arguments ("a" . "b"))'),
        ("(arguments ())", ""),
        ("(action status) (service root)", "(service root) (action status)"),
        ("(action status)", "(action)"),
        ("(action status)", "(action status now)"),
        ("(shepherd-command", '("shepherd-command"'),
        ("(shepherd-command", "(reply"),
        ('(directory "/root"))', '(directory "/root") (more 1))'),
        ('(directory "/root")', "(directory #t)"),
        ("status", "#<foo>"),
        ("root", "'root"),
        ("()", "(" * 100_000 + ")" * 100_000),
    ],
)
def test_what_is_no_command_is_refused(old: str, new: str) -> None:
    if (old, new) == ("root", "'root"):  # a quotation is a list, and so the name of nothing
        assert parse_command(STATUS.replace("(service root)", "(service 'root)")).names == ("status", None)
        return
    with pytest.raises(ProtocolError):
        parse_command(STATUS.replace(old, new))


def test_a_string_is_the_name_of_nothing() -> None:
    command = parse_command(STATUS.replace("root)", '"foo")', 1))
    assert command.names == ("status", None)
    assert protocol.service_not_found(command.service) == '(error (version 0) service-not-found "foo")'
    assert protocol.action_not_found("status", Symbol("foo")) == '(error (version 0) action-not-found "status" foo)'


def test_a_service_has_shepherds_fields_in_shepherds_order_and_ours_after_them() -> None:
    text = protocol.write_service(
        provides=("foo", "foo-alias"),
        respawn=True,
        docstring='Foo! é "quoted" \\ back',
        running=23381,
        status_changes=[("running", 1795326529), ("starting", 1795326529)],
        status="running",
        reason='it exited with "1"',
        details=[("accelerator", "TCG: slow"), ("console", "/x")],
        log_file="/var/log/herdpy/foo.log",
        source="/etc/herdpy/services/foo.toml",
        actions=("configuration", "a b"),
        command=("sleep", 'x"y'),
    )
    ours = (
        r' (reason "it exited with \"1\"") (details (("accelerator" . "TCG: slow") ("console" . "/x")))'
        ' (log-file "/var/log/herdpy/foo.log") (source "/etc/herdpy/services/foo.toml") (stage #f)'
        r' (actions (configuration #{a b}#)) (command ("sleep" "x\"y")))'
    )
    assert text == SERVICE + ours
    fields = parse_services([read(text)])[0]
    assert fields["provides"] == ["foo", "foo-alias"]
    assert fields["details"] == [Pair("accelerator", "TCG: slow"), Pair("console", "/x")]


def test_replies_are_those_of_the_specification() -> None:
    reply = protocol.write_reply
    assert reply(False, protocol.service_not_found(Symbol("nonesuch"))).decode() == (
        "(reply (version 0) (result #f) (error (error (version 0) service-not-found nonesuch)) (messages ()))"
    )
    assert reply(False, protocol.action_not_found(Symbol("nope"), Symbol("bar"))).decode() == (
        "(reply (version 0) (result #f) (error (error (version 0) action-not-found nope bar)) (messages ()))"
    )
    failure = protocol.action_exception(
        Symbol("sys"), Symbol("bar"), "No such file or directory", key="system-error", subroutine="mkdir", code=2
    )
    assert reply(False, failure).decode() == (
        "(reply (version 0) (result #f) (error (error (version 0) action-exception sys bar system-error"
        ' ("mkdir" "~A" ("No such file or directory") (2)))) (messages ()))'
    )
    assert reply([Symbol("foo")]) == b"(reply (version 0) (result (foo)) (error #f) (messages ()))"
    assert reply([]) == b"(reply (version 0) (result ()) (error #f) (messages ()))"
    assert reply([None], messages=["Disabled service bar."]) == (
        b'(reply (version 0) (result ("#<unspecified>")) (error #f) (messages ("Disabled service bar.")))'
    )
    assert reply([("a b", "c")], messages=["start", "", "end é"]).decode() == (
        '(reply (version 0) (result (("a b" "c"))) (error #f) (messages ("start" "" "end é")))'
    )
    assert reply([{"a": 1, "b": [2]}]) == b'(reply (version 0) (result ((("a" . 1) ("b" 2)))) (error #f) (messages ()))'


def test_a_message_of_several_lines_is_sent_as_lines() -> None:
    sent = protocol.write_reply([None], messages=["start\n\nend é", "more"])
    assert parse_reply(sent.decode()).messages == ["start", "", "end é", "more"]


def test_the_status_of_all_is_a_list_in_a_list() -> None:
    services = [protocol.write_service(provides=[name]) for name in ("a", "b")]
    reply = parse_reply(protocol.write_reply(protocol.write_services(services)).decode())
    assert [fields["provides"] for fields in parse_services(reply.result)] == [["a"], ["b"]]
    assert parse_services(parse_reply(protocol.write_reply(protocol.write_services([])).decode()).result) == []


def test_a_service_of_an_older_or_newer_shepherd_is_read() -> None:
    fields = parse_services(
        [read("(service (version 0 1) (provides (a)) (running #f) (new (a . b)) (odd) odd (1 2 3))")]
    )
    assert fields[0]["running"] is False
    assert "status" not in fields[0]


@pytest.mark.parametrize(
    "text",
    [
        "(reply (version 1) (result ()) (error #f) (messages ()))",
        "(reply (version 0) (result ()) (error #f))",
        "(reply (version 0) (result ()) (error #f) (messages foo))",
        "(replay (version 0) (result ()) (error #f) (messages ()))",
        "foo",
        "(((",
    ],
)
def test_what_is_no_reply_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_reply(text)


def test_progress_and_reach() -> None:
    assert protocol.write_progress("vm", "booting", 0.4) == (
        b'(progress (version 0) (service vm) (stage "booting") (done 0.4))\n'
    )
    assert protocol.write_progress("vm", "booting").endswith(b"(done #f))\n")
    assert protocol.write_reach(running=True, ssh=("ssh", "-p", "1"), console="/x") == (
        '((reach (version 0) (running? #t) (ssh ("ssh" "-p" "1")) (console "/x") (console-log #f)))'
    )
