"""Sockets as they are declared, made."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy.activation import binding
from herdpy.activation.binding import NotBound, adjust, bind, remove_stale
from herdpy.activation.holder import holder
from herdpy.service import InternetAddress, Socket, UnixAddress

ROOT = Path(__file__).parents[2]
NOBODY = 65534
ONE = InternetAddress("127.0.0.1", 0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="bind-") as directory:
        yield Path(directory)


def unix(path: Path, **fields: object) -> Socket:
    return Socket(address=UnixAddress(str(path)), **fields)  # type: ignore[arg-type]  # whichever the test wants


def options(made: socket.socket, *wanted: tuple[int, int]) -> list[bool]:
    return [bool(made.getsockopt(level, option)) for level, option in wanted]


def test_what_is_made_listens_blocks_and_is_not_inherited() -> None:
    with bind(Socket(address=ONE)) as made:
        assert made.getblocking()
        assert not os.get_inheritable(made.fileno())
        socket.create_connection(made.getsockname()).close()


def test_the_options_are_set() -> None:
    wanted = Socket(address=ONE, reuse_port=True, free_bind=True, keep_alive=True)
    keys = (
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        (0, binding.IP_FREEBIND),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    )
    with bind(wanted) as made, bind(Socket(address=ONE)) as plain:
        assert options(made, *keys) == [True, True, True]
        assert options(plain, *keys) == [False, False, False]


def test_an_address_may_be_one_that_is_not_there_yet() -> None:
    elsewhere = InternetAddress("192.0.2.1", 0)  # RFC 5737
    with pytest.raises(NotBound, match="does not have that address; set free-bind = true") as raised:
        bind(Socket(address=elsewhere))
    assert raised.value.may_pass
    bind(Socket(address=elsewhere, free_bind=True)).close()
    bind(Socket(address=InternetAddress("2001:db8::1", 0), free_bind=True)).close()


def test_ipv6_leaves_ipv4_alone_unless_it_is_told_otherwise() -> None:
    with bind(Socket(address=InternetAddress("::", 0))) as alone:
        port = alone.getsockname()[1]
        with bind(Socket(address=InternetAddress("0.0.0.0", port))):
            pass
    with bind(Socket(address=InternetAddress("::", 0), v6_only=False)) as both:
        socket.create_connection(("127.0.0.1", both.getsockname()[1])).close()


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(NotBound, match="there is no network interface nowhere0"):
        bind(Socket(address=ONE, interface="nowhere0"))
    with pytest.raises(NotBound, match="there is no network interface nowhere0"):
        bind(Socket(address=InternetAddress("fe80::1%nowhere0", 0)))
    with bind(Socket(address=ONE, interface="lo")) as made:
        socket.create_connection(made.getsockname()).close()


def test_an_address_in_use_has_a_holder() -> None:
    with bind(Socket(address=ONE)) as first:
        wanted = Socket(address=InternetAddress("127.0.0.1", first.getsockname()[1]))
        with pytest.raises(NotBound, match="it is in use") as raised:
            bind(wanted)
        assert raised.value.is_taken and raised.value.may_pass
        assert holder(wanted).startswith(f"by PID {os.getpid()} (")
    assert holder(wanted) == ""


def test_datagrams_have_a_holder_too() -> None:
    with bind(Socket(address=ONE, kind="datagram")) as first:
        wanted = Socket(address=InternetAddress("127.0.0.1", first.getsockname()[1]), kind="datagram")
        with pytest.raises(NotBound, match="it is in use"):
            bind(wanted)
        assert holder(wanted).startswith(f"by PID {os.getpid()} (")


@pytest.mark.parametrize("kind", ["stream", "datagram", "seqpacket"])
def test_a_stale_path_is_replaced_and_a_living_one_is_not(place: Path, kind: str) -> None:
    path = place / "socket"
    with bind(unix(path, kind=kind)):
        with pytest.raises(NotBound, match="it is in use") as raised:
            bind(unix(path, kind=kind))
        assert raised.value.is_taken
        assert holder(unix(path)).startswith(f"by PID {os.getpid()} (")
        assert not remove_stale(str(path))
    assert path.is_socket()
    with bind(unix(path, kind=kind)) as again:
        assert path.is_socket()
        assert again.getsockname() == str(path)
    assert remove_stale(str(path))
    assert not path.exists()
    assert remove_stale(str(path))


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_who_has_a_path_notices_nothing_and_need_not_listen_yet(place: Path, kind: str) -> None:
    path = place / "socket"
    with socket.socket(socket.AF_UNIX, binding.KINDS[kind]) as owner:
        owner.bind(str(path))
        assert not remove_stale(str(path))
        owner.listen()
        with pytest.raises(NotBound, match="it is in use"):
            bind(unix(path, kind=kind))
        owner.setblocking(False)
        with pytest.raises(BlockingIOError):
            owner.accept()


def test_a_living_socket_of_another_kind_or_with_a_full_backlog_is_alive(place: Path) -> None:
    path = place / "socket"
    with bind(unix(path, kind="datagram")), pytest.raises(NotBound, match="it is in use"):
        bind(unix(path))
    path.unlink()
    with bind(unix(path, backlog=1)):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        assert not remove_stale(str(path))
        for client in clients:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(place: Path) -> None:
    path = place / "socket"
    path.write_text("precious")
    with pytest.raises(NotBound, match="there is a file of that name that is no socket"):
        bind(unix(path))
    assert not remove_stale(str(path))
    link = place / "link"
    link.symlink_to(path)
    with pytest.raises(NotBound, match="no socket"):
        bind(unix(link))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o666, 0o600, 0o660])
def test_a_path_has_its_mode_whatever_the_umask(place: Path, mode: int, umask: int) -> None:
    path = place / "deep" / "er" / "socket"
    before = os.umask(umask)
    try:
        with bind(unix(path, mode=mode, directory_mode=0o751)):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o751
            assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o751
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_a_path_is_never_open_to_more_than_it_is_to_be(place: Path, kind: str) -> None:
    """What another thread sees of it while it is made anew, again and again."""
    path, seen, is_over = place / "socket", set(), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue
            seen.add((found.st_uid, stat.S_IMODE(found.st_mode)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(300):
            bind(unix(path, kind=kind, user="nobody", mode=0o600)).close()
            path.unlink()
    finally:
        is_over.set()
        watcher.join()
    assert seen <= {(0, 0), (NOBODY, 0), (NOBODY, 0o600)}


def test_what_can_be_changed_of_an_open_socket_is(place: Path) -> None:
    path = place / "socket"
    with bind(unix(path)) as made:
        assert adjust(made, unix(path, mode=0o600))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert adjust(made, unix(path, backlog=1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        assert [client.connect_ex(str(path)) for client in clients] == [0, 0, errno.EAGAIN]
        for client in clients:
            client.close()
        assert not adjust(made, unix(path, kind="datagram"))
    with bind(Socket(address=ONE)) as made:
        assert adjust(made, Socket(address=ONE, keep_alive=True, free_bind=True))
        assert options(made, (socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == [True]
        assert not adjust(made, Socket(address=ONE, reuse_port=True))
        assert not adjust(made, Socket(address=ONE, interface="lo"))
    with bind(Socket(address=ONE, interface="lo")) as made:
        assert adjust(made, Socket(address=ONE, interface="lo"))
        assert not adjust(made, Socket(address=ONE))
    for host in ("::1", "::", ""):
        with bind(Socket(address=InternetAddress(host, 0), v6_only=False)) as made:
            assert adjust(made, Socket(address=InternetAddress(host, 0), v6_only=False))
            assert adjust(made, Socket(address=InternetAddress(host, 0))) == (host != "::")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
def test_the_owner_of_an_open_socket_is_changed(place: Path) -> None:
    path = place / "socket"
    with bind(unix(path)) as made:
        for fields, ids in (({"user": "nobody", "group": "nogroup"}, (NOBODY, NOBODY)), ({}, (0, 0))):
            assert adjust(made, unix(path, **fields))
            seen = path.stat()
            assert (seen.st_uid, seen.st_gid) == ids


def test_a_user_or_group_that_is_not_there(place: Path) -> None:
    with pytest.raises(NotBound, match="there is no user nobody-at-all"):
        bind(unix(place / "socket", user="nobody-at-all"))
    with pytest.raises(NotBound, match="there is no group nobody-at-all"):
        bind(unix(place / "socket", group="nobody-at-all"))
    assert list(place.iterdir()) == []


def test_what_an_ordinary_user_may_not(place: Path) -> None:
    """In one line each. As root, by becoming nobody."""
    (place / "closed").mkdir(mode=0o500)
    place.chmod(0o755)
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from herdpy.activation.binding import NotBound, bind
from herdpy.service import InternetAddress, Socket, UnixAddress
for address, fields in (
    (InternetAddress("127.0.0.1", 1), {{}}),
    (UnixAddress({str(place / "closed" / "socket")!r}), {{}}),
    (UnixAddress({str(place / "open" / "socket")!r}), {{"user": "root"}}),
):
    try:
        bind(Socket(address=address, **fields))
    except NotBound as refusal:
        print(refusal)
"""
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    # Python and herdpy may lie in a home directory.
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"] if become else []
    completed = subprocess.run(
        [*become, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert completed.stdout.splitlines() == [
        f"only root can listen on ports below {Path(binding.PORT_START).read_text().strip()}; choose another one",
        "Permission denied",
        "only root can give it to another user or group",
    ], completed.stderr
    assert list((place / "open").iterdir()) == []
