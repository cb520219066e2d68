"""The file that a daemon reads, in its place; and whether the host has polkit."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy.libvirt.configuration_file import HEADER, render
from herdpy.libvirt.placing import ACTIONS, ACTIONS_OF_CALLS, POLICY_SERVICE, place, polkit_missing


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """A socket that somebody listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "bus"))
        listening.listen(0)
        yield str(tmp_path / "bus")


def shared(directory: Path, *, has_polkit: bool, knows_libvirt: bool = True) -> tuple[str, ...]:
    for name in (*((POLICY_SERVICE,) if has_polkit else ()), *((ACTIONS,) if knows_libvirt else ())):
        path = directory / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return (str(directory / "nothing"), str(directory / "share"))


def test_polkit_takes_a_bus_that_answers_and_a_service_of_its_name(tmp_path: Path, bus: str) -> None:
    assert polkit_missing(bus, shared(tmp_path, has_polkit=False)) == "there is no polkit here"
    assert polkit_missing(bus, shared(tmp_path, has_polkit=True)) is None


def test_a_polkit_that_knows_nothing_of_libvirt_refuses_everybody_and_is_none(tmp_path: Path, bus: str) -> None:
    directories = shared(tmp_path, has_polkit=True, knows_libvirt=False)
    untold = "polkit has not been told of libvirt, as the package libvirt-daemon-system does"
    assert polkit_missing(bus, directories) == untold
    assert polkit_missing(bus, shared(tmp_path, has_polkit=True)) is None
    assert polkit_missing(bus, directories, ACTIONS_OF_CALLS) == untold


def test_a_bus_with_too_many_callers_is_there(tmp_path: Path, bus: str) -> None:
    callers = []
    for _ in range(8):
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        caller.connect_ex(bus)
        callers.append(caller)
    assert polkit_missing(bus, shared(tmp_path, has_polkit=True)) is None
    for caller in callers:
        caller.close()


def test_a_socket_that_nobody_listens_at_is_no_bus(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(gone))
    assert polkit_missing(str(gone), shared(tmp_path, has_polkit=True)) == "there is no D-Bus system bus here"
    assert polkit_missing(str(tmp_path / "none"), ()) == "there is no D-Bus system bus here"


def test_a_file_is_its_users_alone_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "libvirt" / "libvirtd.conf"
    before = os.umask(0)
    try:
        place(str(path), "one\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open() as reader:
        place(str(path), "two\n")
        assert reader.read() == "one\n"  # it is another file by now
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["libvirtd.conf"]


def test_rendering() -> None:
    values = {"a": "x", "b": 7, "c": True, "d": ("p q", 'say "hi"'), "e": (), "f": -1}
    assert render(values) == HEADER + 'a = "x"\nb = 7\nc = 1\nd = [ "p q", \'say "hi"\' ]\ne = []\nf = -1\n'


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\"'"])
def test_what_no_file_can_hold_is_not_rendered(text: str) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        render({"a": text})
