"""Who listens where, with real sockets."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.readiness import sockets
from herdpy.readiness.endpoint import Endpoint, Listening, parse_endpoint, problem, takes

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text().strip() != ""


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp:127.0.0.1:80", Endpoint("tcp", "127.0.0.1", 80)),
        ("tcp:80", Endpoint("tcp", "", 80)),
        ("udp:[::1]:53", Endpoint("udp", "::1", 53)),
        ("udp:65535", Endpoint("udp", "", 65535)),
        ("unix:/run/x.sock", Endpoint("unix", "/run/x.sock")),
        ("unix:@name", Endpoint("unix", "@name")),
        ("unix:/run/a:b", Endpoint("unix", "/run/a:b")),
    ],
)
def test_an_endpoint(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected tcp:ADDRESS:PORT, udp:ADDRESS:PORT or unix:PATH"),
        ("80", "expected tcp:ADDRESS:PORT"),
        ("http:80", "expected tcp:ADDRESS:PORT"),
        ("tcp:", 'expected a port from 1 to 65535 at its end, got ""'),
        ("tcp:0", 'got "0"'),
        ("tcp:65536", 'got "65536"'),
        ("tcp:-1", 'got "-1"'),
        ("tcp:80a", 'got "80a"'),
        ("tcp:٣", "expected a port"),
        ("tcp:localhost:80", 'expected an IP address before the port, got "localhost"'),
        ("tcp::80", 'expected an IP address before the port, got ""'),
        ("tcp:::1:80", "write an IPv6 address in brackets, such as [::1]:80"),
        ("tcp:127.0.0.1", "expected a port"),
        ("tcp:127.1:80", "expected an IP address"),
        ("unix:", "an absolute path"),
        ("unix:run/x", "an absolute path"),
        ("unix:@", "an absolute path"),
        ("unix:/" + "x" * 107, "has 107 bytes at most"),
    ],
)
def test_what_is_no_endpoint(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_endpoint(text)


@given(st.text())
def test_every_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("bound", "wanted", "is_taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", False),
    ],
)
def test_what_a_bound_socket_takes(bound: str, wanted: str, is_taken: bool) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    assert takes(socket.inet_pton(family, bound), wanted) is is_taken


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_lines_that_say_nothing_are_passed_over(lines: list[bytes]) -> None:
    head = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    plain = [line.replace(b"0A", b"  ") for line in lines]
    assert list(sockets.parse_inet([head, *plain], sockets.TCP_LISTENING)) == []


def bound_socket(kind: str, address: object) -> socket.socket:
    """A socket that takes what comes."""
    family = {"tcp": socket.AF_INET, "udp": socket.AF_INET, "tcp6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    bound = socket.socket(family, socket.SOCK_DGRAM if kind in ("udp", "unixgram") else socket.SOCK_STREAM)
    bound.bind(address)
    return bound


@pytest.mark.parametrize(
    ("kind", "address"),
    [("tcp", "127.0.0.1"), ("tcp", "0.0.0.0"), ("udp", "127.0.0.1")]
    + ([("tcp6", "::"), ("tcp6", "::1")] if HAS_IPV6 else []),
)
async def test_a_port_of_the_service_s(beside: Any, begin: Callable[..., Any], kind: str, address: str) -> None:
    with bound_socket(kind, (address, 0)) as bound:
        port = bound.getsockname()[1]
        host = "[::1]" if address == "::1" else "127.0.0.1"
        step = Listening(endpoint=parse_endpoint(f"{kind[:3]}:{host}:{port}"))
        waiting = begin(lambda: step.run(beside))
        if kind != "udp":
            await beside.until_told("nobody does")
            bound.listen()
        await waiting.done()


OTHER = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


async def test_a_port_that_another_has(beside: Any, begin: Callable[..., Any]) -> None:
    """Another program listens there already: the service is not ready, and the reason names it."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        subprocess.Popen(["sleep", "1000"]) as service,
    ):
        try:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            endpoint = parse_endpoint(f"tcp:127.0.0.1:{port}")
            name = Path(f"/proc/{other.pid}/comm").read_text().strip()
            assert problem(endpoint, service.pid) == f"PID {other.pid} ({name}) does, which is not one of its processes"
            assert problem(endpoint, other.pid) is None
            assert problem(endpoint, os.getpid()) is None  # whose descendant it is
        finally:
            service.kill()
            other.communicate()


@contextmanager
def inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize("way", ["plain", "relative", "by a link", "abstract", "datagrams", "stale file"])
async def test_a_unix_socket(tmp_path: Path, beside: Any, begin: Callable[..., Any], way: str) -> None:
    real = tmp_path / "run" / "x"
    wanted = f"@{tmp_path}" if way == "abstract" else str(real)
    if way == "by a link":
        (tmp_path / "link").symlink_to("run")
        wanted = str(tmp_path / "link" / "x")
    if way == "stale file":
        real.parent.mkdir()
        bound_socket("unix", wanted).close()
    waiting = begin(lambda: Listening(endpoint=Endpoint("unix", wanted)).run(beside))
    await beside.until_told("nobody does" if way in ("abstract", "stale file") else "there is no such file")
    real.parent.mkdir(exist_ok=True)
    real.unlink(missing_ok=True)
    address = "\0" + wanted[1:] if way == "abstract" else str(real)
    with inside(real.parent):
        bound = bound_socket("unixgram" if way == "datagrams" else "unix", "x" if way == "relative" else address)
        with bound:
            if way != "datagrams":
                await beside.until_told("nobody does")
                bound.listen()
            await waiting.done()
