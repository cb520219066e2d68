"""What GNU's client and Guix's would read, read by Guile itself: their patterns, their look-ups, their words.

GNU's own ``herd`` cannot be had here (see ``test_literal.py``); the patterns in ``client.scm`` are what the
specification says of it. They take a reply with exactly its fields, in their order; a service's are looked up by key.
"""

import pytest

from herdpy.sexp import Pair

from .conftest import command, exchange

FOO = """\
command = ["sleep", "1000"]
provision = ["foo-alias"]
documentation = "é \\"quoted\\" \\\\ (back) ; \\u0007\\u001b\\u200b\\n \U0001f411 #f #{x}#"
respawn-delay = 0.25
"""
DOCUMENTATION = 'é "quoted" \\ (back) ; \a\x1b\u200b\n \U0001f411 #f #{x}#'


@pytest.fixture
def ask(herdpy, guile):
    """Ask a live herdpy as Guile's client; returns the reply's text as Guile writes it again."""
    herdpy.declare("foo", FOO)
    herdpy.declare("bad", 'command = ["/nonexistent/program"]')
    herdpy.start()

    def ask(action, service, *arguments):
        text = guile("ask", str(herdpy.socket), action, service, *arguments)
        assert isinstance(text, str)
        return text

    return ask


EXCHANGES = [
    ("status", "root"),
    ("status", "foo"),
    ("start", "foo"),
    ("start", "foo"),
    ("start", "root"),
    ("start", "bad"),
    ("restart", "foo"),
    ("restart", "root"),
    ("disable", "foo"),
    ("enable", "foo"),
    ("enable", "foo", "x"),
    ("doc", "foo"),
    ("doc", "foo", "list-actions"),
    ("doc", "foo", "action", "nope"),
    ("configuration", "foo"),
    ("configuration", "foo", "--json"),
    ("configuration", "foo", "x"),
    ("reach", "foo"),
    ("usage", "foo"),
    ("progress", "foo"),
    ("help", "root"),
    ("eval", "root", "(+ 2 2)"),
    ("nope", "root"),
    ("nope", "foo"),
    ("nope", "nonesuch"),
    ("status", "a (very) odd; name"),
    ("stop", "foo"),
    ("stop", "foo"),
]


def test_every_reply_is_one_to_gnus_client(ask, guile):
    for words in EXCHANGES:
        text = ask(*words)
        assert isinstance(guile("reply", text), list), f"herd {' '.join(words)}: {text}"
        assert guile("problem", text) != "something else", f"herd {' '.join(words)}: {text}"


def test_a_reply_with_another_shape_is_none(herdpy, guile):
    """Or else the patterns would prove nothing."""
    herdpy.start()
    text = exchange(herdpy.socket, command("status", "root")).decode()
    assert isinstance(guile("reply", text), list)
    spoilt = [
        text[:-1] + " (more 1))",
        text.replace("(reply (version 0)", "(reply (version 0) (more 1)"),
        text.replace("(reply (version 0)", "(reply (version 1)"),
        text.replace("(error #f)", ""),
        text.replace("(error #f) (messages ())", "(messages ()) (error #f)"),
        text.replace("(messages ())", '(messages () "more")'),
        text[:-1],
        text.replace("(running #t)", "(running #<process 1>)"),
        "",
    ]
    assert [sent for sent in spoilt if guile("reply", sent) is not False] == []


def test_services_are_looked_up_by_key(ask, guile):
    started = ask("start", "foo")
    [foo] = guile("services", started)
    provides, requires, running, status, enabled, respawn, one_shot, transient, documentation, changes, *rest = foo
    assert (provides, requires, status) == (["foo", "foo-alias"], [], "running")
    assert (enabled, respawn, one_shot, transient) == (True, True, False, False)
    assert isinstance(running, int)
    assert documentation == DOCUMENTATION
    assert [change.head for change in changes] == ["running", "starting"]
    assert all(isinstance(change.tail, int) for change in changes)
    assert rest == [[], [], Pair(5, 7), 0.25]
    assert guile("services", ask("status", "foo")) == [foo]
    root, bad, also_foo = guile("services", ask("status", "root"))
    assert root[:4] == [["root", "shepherd"], [], True, "running"]
    assert bad[:4] == [["bad"], [], False, "stopped"]
    assert also_foo == foo
    assert guile("services", started.replace("(reason #f)", "(reason #f) (of-tomorrow (a . b)) (or (never))")) == [foo]


def test_errors_are_told_in_words(ask, guile):
    words = {
        ("status", "nonesuch"): "service 'nonesuch' could not be found",
        ("nope", "foo-alias"): "service 'foo' does not have an action 'nope'",
        ("doc", "foo", "action", "hi"): "service 'foo' does not have an action 'hi'",
        ("eval", "shepherd", "(+ 2 2)"): "exception caught while executing 'eval' on service 'root':\n"
        "herdpy evaluates no Scheme; herd help tells what can be asked of it\n",
        ("enable", "foo", "x"): "exception caught while executing 'enable' on service 'foo':\n"
        "Wrong number of arguments to enable\n",
        ("configuration", "foo", "~A ~S"): "exception caught while executing 'configuration' on service 'foo':\n"
        "takes no arguments but --json, and ~A ~S was given\n",
        ("start", "bad"): "none",
    }
    assert {asked: guile("problem", ask(*asked)) for asked in words} == words


def test_results_have_gnus_shapes(ask, guile):
    def result(*words: str) -> object:
        [value, error, _] = guile("reply", ask(*words))
        assert error is False
        return value

    assert result("start", "bad") is False
    assert result("stop", "foo") == []
    result("start", "foo")
    assert result("restart", "foo") == [True]
    assert result("stop", "foo") == ["foo"]
    assert result("disable", "foo") == ["#<unspecified>"]
    assert result("start", "foo") is False
    [text] = result("help", "root")
    assert "status" in text


def test_the_end_is_no_reply(ask, herdpy):
    assert ask("stop", "root") == ""
    assert herdpy.process.wait(60) == 0
