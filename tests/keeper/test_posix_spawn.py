"""The C library's posix_spawn, called directly. From glibc 2.39 on it goes into a cgroup, and test_cgroup.py and others
spawn bare children by it; what it is besides is the same on every host."""

import errno
import os
from pathlib import Path

import pytest

from herdpy.keeper.cgroup import Cgroups
from herdpy.keeper.posix_spawn import can_spawn_into, spawn
from tests.keeper.conftest import Running, needs_cgroups, read_to_end
from tests.keeper.test_cgroup import cgroup_of, made
from tests.system.test_exhaustion import fails

SCRIPT = r"""
read -r _ _ _ _ _ session _ </proc/$$/stat
while read -r key value; do
    case $key in SigBlk:) blocked=$value ;; SigIgn:) ignored=$value ;; esac
done </proc/$$/status
echo "$0|$*|$A|$B|$PWD"; echo $session; echo $blocked; echo $ignored; readlink /proc/$$/fd/0
"""
"""Nothing is executed while it reads: a shell may block signals for that."""
GLIBC_OWN = 0b11 << 31
"""Its two signals, 32 and 33, which its programs know to be ignored."""


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_what_a_child_is() -> None:
    """The second one is made of what was kept of the first. Its parent ignores SIGPIPE, as Python does."""
    null = os.open(os.devnull, os.O_RDWR)
    for _ in range(2):
        reading, writing = os.pipe()
        try:
            command = ["zero", "-c", SCRIPT, "first", "a b", "", "ä"]
            descriptors = [(null, 0), (writing, 1), (writing, 2)]
            pid = spawn("/bin/sh", command, {"A": "1=2", "B": ""}, descriptors)
        finally:
            os.close(writing)
        words, session, blocked, ignored, stdin = read_to_end(reading).decode().splitlines()
        assert os.waitpid(pid, 0) == (pid, 0)
        assert words == f"first|a b  ä|1=2||{os.getcwd()}"
        assert int(session) == pid
        assert int(blocked, 16) == 0
        assert int(ignored, 16) & ~GLIBC_OWN == 0
        assert stdin == os.devnull
    os.close(null)


@pytest.mark.parametrize(
    ("path", "number"), [("/nowhere", errno.ENOENT), ("/etc/passwd", errno.EACCES), ("/etc/passwd/x", errno.ENOTDIR)]
)
def test_why_there_is_no_child(path: str, number: int) -> None:
    before = children()
    with pytest.raises(OSError) as raised:
        spawn(path, [path], {}, [])
    assert raised.value.errno == number
    assert children() == before


@pytest.mark.parametrize(("word", "key", "value"), [("b\0c", "A", "b"), ("b", "A\0", "b"), ("b", "A", "\0")])
def test_no_word_is_cut_short(word: str, key: str, value: str) -> None:
    with pytest.raises(ValueError, match="null byte"):
        spawn("/bin/true", ["true", word], {key: value}, [])


@needs_cgroups
def test_into_a_cgroup() -> None:
    """Where the C library cannot, it says so."""
    cgroup = Cgroups("posix-spawn").make("service")
    assert cgroup is not None
    directory = os.open(cgroup.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if can_spawn_into():
            pid = spawn("/bin/sleep", ["sleep", "1000"], {}, [], directory)
            assert cgroup_of(pid) == cgroup.path
            cgroup.kill()
            os.waitpid(pid, 0)
        else:
            with pytest.raises(OSError):
                spawn("/bin/sleep", ["sleep", "1000"], {}, [], directory)
    finally:
        os.close(directory)
        assert cgroup.remove()
        os.rmdir(os.path.dirname(cgroup.path))


@needs_cgroups
def test_without_clone3_a_child_is_born_there_by_other_ways(keeper: Running) -> None:
    """A filter of system calls that does not know clone3(2) refuses it so that the C library does without."""
    keeper.begin()
    supervisor = keeper.supervisor()
    with fails(keeper.pid, "clone3", "ENOSYS"):
        for number in range(3):
            told = supervisor.spawn(f"s{number}", "sleep", "1000")
            assert told["kind"] == "spawned", told
            assert os.path.basename(cgroup_of(told["pid"])) == f"{number + 1}.s{number}"
        told = supervisor.spawn("missing", "/nowhere")
        assert (told["kind"], told["stage"], told["errno"]) == ("failed", "exec", errno.ENOENT)
    assert len(made(keeper)) == 3
    assert cgroup_of(keeper.pid) == cgroup_of(os.getpid())
