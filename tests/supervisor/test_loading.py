"""``load``, ``unload`` and ``reload`` of herdpy itself, while services run and when the supervisor is replaced."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

SLEEP = 'command = ["sleep", "1000"]\n'


def kill(herdpy) -> None:
    os.kill(herdpy.supervisor(), signal.SIGKILL)


def names(herdpy) -> list[str]:
    lines = herdpy.ok("status").splitlines()
    return sorted(line[3:] for line in lines if line.startswith(" ") and line[3:] != "root")


@pytest.fixture
def sockets():
    """A directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        yield Path(directory)


@pytest.fixture
def elsewhere(tmp_path: Path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()

    def write(name: str, text: str) -> str:
        path = directory / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


def test_what_is_loaded_is_there_also_after_the_supervisor_was_replaced(herdpy, elsewhere):
    herdpy.declare("foo", SLEEP)
    herdpy.start()
    path = elsewhere("bar", f'{SLEEP}requirement = ["foo"]\n')
    assert herdpy.ok("load", "root", path) == f"Loading {path}.\n"
    herdpy.ok("start", "bar")
    Path(path).unlink()
    kill(herdpy)
    assert names(herdpy) == ["bar", "foo"]
    assert herdpy.status("bar")["status"] == "running"
    done = herdpy.herd("unload", "root", "foo")
    assert "bar requires foo" in done.stderr


def test_unload_stops_and_forgets_also_what_is_declared_on_disk(herdpy):
    herdpy.declare("foo", SLEEP)
    herdpy.declare("bar", SLEEP)
    herdpy.start()
    herdpy.ok("start", "foo")
    pid = herdpy.status("foo")["pid"]
    assert herdpy.ok("unload", "root", "foo") == "Removing service 'foo'...\nDone.\n"
    assert not os.path.exists(f"/proc/{pid}")
    assert names(herdpy) == ["bar"]
    kill(herdpy)
    assert names(herdpy) == ["bar"]
    assert "foo: added" in herdpy.ok("reload", "root")
    assert names(herdpy) == ["bar", "foo"]
    kill(herdpy)
    assert names(herdpy) == ["bar", "foo"]


def test_unload_all_stops_everything_that_requires_one_another(herdpy):
    herdpy.declare("a", SLEEP)
    herdpy.declare("b", f'{SLEEP}requirement = ["a"]\n')
    herdpy.declare("c", f'{SLEEP}requirement = ["b"]\n')
    herdpy.start()
    herdpy.ok("start", "c")
    told = herdpy.ok("unload", "root", "all").splitlines()
    assert told == ["Removing service 'c'...", "Removing service 'b'...", "Removing service 'a'...", "Done."]
    assert names(herdpy) == []


def test_what_others_require_is_not_unloaded(herdpy):
    herdpy.declare("a", SLEEP)
    herdpy.declare("b", f'{SLEEP}requirement = ["a"]\n')
    herdpy.start()
    herdpy.ok("start", "b")
    done = herdpy.herd("unload", "root", "a")
    assert done.returncode == 1
    assert "b requires a; unload that first" in done.stderr
    assert names(herdpy) == ["a", "b"]
    assert herdpy.status("a")["status"] == "running", "it was stopped, only to be refused"


def test_what_a_file_of_the_plan_declares_is_changed_there(herdpy, elsewhere):
    path = herdpy.declare("foo", SLEEP)
    herdpy.start()
    done = herdpy.herd("load", "root", elsewhere("foo", 'command = ["sleep", "2000"]\n'))
    assert done.returncode == 1
    assert f"foo is declared in {path}; change it there, or unload it first" in done.stderr
    herdpy.ok("unload", "root", "foo")
    herdpy.ok("load", "root", elsewhere("foo", 'command = ["sleep", "2000"]\n'))
    kill(herdpy)
    herdpy.ok("start", "foo")
    assert herdpy.status("foo")["command"] == ["sleep", "2000"]


def test_a_file_with_a_mistake_changes_nothing(herdpy, elsewhere):
    herdpy.declare("foo", SLEEP)
    herdpy.start()
    herdpy.ok("start", "foo")
    pid = herdpy.status("foo")["pid"]
    for path, complaint in (
        (elsewhere("bad", 'comand = ["x"]\n'), "bad.toml:1: comand: unknown key; did you mean command?"),
        (elsewhere("lonely", f'{SLEEP}requirement = ["nosuch"]\n'), "nosuch"),
        (elsewhere("root", SLEEP), "root is a name of herdpy itself"),
    ):
        done = herdpy.herd("load", "root", path)
        assert done.returncode == 1
        assert complaint in done.stdout, done
        assert "nothing was changed" in done.stderr
        assert done.stderr.count("\n") == 1
    assert names(herdpy) == ["foo"]
    assert herdpy.status("foo")["pid"] == pid


def test_reloading_a_file_replaces_what_it_declared(herdpy, elsewhere):
    herdpy.start()
    path = elsewhere("pair", f'{SLEEP}instances = ["1", "2"]\n')
    herdpy.ok("load", "root", path)
    assert names(herdpy) == ["pair", "pair@1", "pair@2"]
    herdpy.ok("start", "pair@1")
    elsewhere("pair", 'command = ["sleep", "2000"]\ninstances = ["1"]\n')
    assert herdpy.ok("reload", "root", path) == (
        f"Loading {path}.\nRecording replacement for pair@1.\nRemoving service 'pair@2'...\nDone.\n"
    )
    assert herdpy.status("pair@1")["command"] == ["sleep", "1000"]
    herdpy.ok("restart", "pair@1")
    assert herdpy.status("pair@1")["command"] == ["sleep", "2000"]
    assert names(herdpy) == ["pair", "pair@1"]


def test_wrong_use_is_one_line(herdpy):
    herdpy.start()
    for words, complaint in (
        (("load", "root"), "Wrong number of arguments to load"),
        (("unload", "root"), "Wrong number of arguments to unload"),
        (("unload", "root", "nosuch"), "service 'nosuch' could not be found"),
        (("load", "root", "/does/not/exist"), 'No such file or directory: "/does/not/exist"'),
        (("daemonize", "root"), "herdpy --background"),
    ):
        done = herdpy.herd(*words)
        assert done.returncode == 1
        assert complaint in done.stderr, done


def test_a_file_is_the_same_in_whatever_spelling(herdpy, elsewhere):
    herdpy.start()
    path = Path(elsewhere("bar", SLEEP + 'instances = ["1", "2"]\n'))
    herdpy.ok("load", "root", f"{path.parent}/./{path.name}")
    path.write_text(SLEEP + 'instances = ["1"]\n')
    herdpy.ok("reload", "root", str(path))
    assert names(herdpy) == ["bar", "bar@1"]


def test_what_is_no_file_of_declarations_is_refused(herdpy, elsewhere):
    herdpy.start()
    path = Path(elsewhere("bar", SLEEP))
    other = path.with_suffix(".txt")
    path.rename(other)
    refused = herdpy.herd("load", "root", str(other))
    assert refused.returncode == 1
    assert refused.stderr.endswith(f"{other} is no file of declarations: its name does not end in .toml\n")
    for what in (str(path.parent), ""):
        refused = herdpy.herd("load", "root", what)
        assert refused.returncode == 1
        assert refused.stderr.endswith("is a directory; name one file of it at a time\n")
    assert names(herdpy) == []


def test_what_should_have_started_and_did_not_is_a_failure(herdpy, elsewhere):
    herdpy.start()
    loaded = herdpy.herd("load", "root", elsewhere("bad", 'command = ["/nowhere"]\nauto-start = true\n'))
    assert loaded.returncode == 1
    assert "cannot start bad: /nowhere cannot be executed: No such file or directory\n" in loaded.stdout
    assert names(herdpy) == ["bad"]


def test_a_lazy_service_that_is_loaded_again_listens_where_it_is_to_now(herdpy, elsewhere, sockets):
    lazy = 'command = ["sleep", "1000"]\nsockets = ["unix:{}"]\nactivation = "lazy"\nauto-start = true\n'
    herdpy.start()
    path = elsewhere("web", lazy.format(sockets / "one"))
    herdpy.ok("load", "root", path)
    for place in ("two", "three"):
        elsewhere("web", lazy.format(sockets / place))
        herdpy.ok("reload", "root", path)
        assert [path.name for path in sockets.iterdir()] == [place]
    (sockets / "file").write_text("precious")
    elsewhere("web", lazy.format(sockets / "file"))
    refused = herdpy.herd("reload", "root", path)
    assert refused.returncode == 1
    assert f"cannot listen on unix:{sockets / 'file'}: there is a file" in refused.stdout
