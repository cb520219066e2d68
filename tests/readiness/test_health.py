"""Probes of real servers, and what comes of them."""

import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy.readiness.health import Ailing, CheckHealth, CommandProbe, HttpProbe, TcpProbe, read_status
from herdpy.readiness.succeeded import Succeeded
from herdpy.service import Process

CONTEXT: Any = None
"""Of what is on a port nothing is asked."""


@asynccontextmanager
async def server(answer: bytes, address: str = "127.0.0.1", *, hangs: bool = False) -> AsyncIterator[int]:
    """A server that answers everything alike; ``requests`` has what it was asked."""
    requests.clear()
    served = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            requests.append(await stream.receive_some())
            try:
                for at in range(0, len(answer), 10_000):
                    await stream.send_all(answer[at : at + 10_000])
                    await trio.sleep(0.001)
                if hangs:
                    await trio.sleep_forever()
            except trio.BrokenResourceError:
                cut_off.append(stream)
            served.set()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        for listener in listeners:
            if address in listener.socket.getsockname()[0] or listener.socket.getsockname()[0] in ("0.0.0.0", "::"):
                yield listener.socket.getsockname()[1]
                if not hangs and requests:
                    await served.wait()
                break
        nursery.cancel_scope.cancel()


requests: list[bytes] = []
cut_off: list[object] = []
"""Connections that the probe has closed while the server was writing."""


async def ailment(probe: Any, context: Any = CONTEXT) -> str:
    with pytest.raises(Ailing) as ailing, trio.fail_after(10):
        await probe.probe(context)
    return str(ailing.value)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 399\r\n", b"HTTP/1.1 204 x\n" + b"x" * 10**6]
)
async def test_http_that_is_well(answer: bytes) -> None:
    async with server(answer) as port:
        await HttpProbe("127.0.0.1", port, "/health?deep=1").probe(CONTEXT)
        assert requests == [
            f"GET /health?deep=1 HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: herdpy\r\n\r\n".encode()
        ]


async def test_a_server_is_not_cut_off_while_it_writes() -> None:
    cut_off.clear()
    async with server(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60_000) as port:
        await HttpProbe("127.0.0.1", port, "/").probe(CONTEXT)
    assert not cut_off


async def test_http_that_holds_the_connection_open_is_well() -> None:
    async with server(b"HTTP/1.1 200 OK\r\n\r\n", hangs=True) as port:
        with trio.fail_after(5):
            await HttpProbe("127.0.0.1", port, "/").probe(CONTEXT)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 500 x\r\n\r\n", "GET / was answered with status 500"),
        (b"HTTP/1.1 404 x\r\n\r\n", "GET / was answered with status 404"),
        (b"HTTP/1.1 199 x\r\n\r\n", "status 199"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "does not answer in HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer in HTTP"),
        (b"", "does not answer in HTTP"),
        (b"x" * 10**6, "does not answer in HTTP"),
    ],
)
async def test_http_that_is_not_well(answer: bytes, words: str) -> None:
    async with server(answer) as port:
        assert words in await ailment(HttpProbe("127.0.0.1", port, "/"))


async def test_http_with_the_statuses_that_were_given() -> None:
    async with server(b"HTTP/1.1 401 x\r\n\r\n") as port:
        await HttpProbe("127.0.0.1", port, "/", (401, 403)).probe(CONTEXT)
        assert "status 401" in await ailment(HttpProbe("127.0.0.1", port, "/", (200,)))


async def test_a_port_that_nobody_has() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for probe in (TcpProbe("127.0.0.1", port), HttpProbe("127.0.0.1", port, "/")):
            assert await ailment(probe) == f"cannot connect to 127.0.0.1:{port}: Connection refused"
        free.listen()
        await TcpProbe("127.0.0.1", port).probe(CONTEXT)


@given(st.binary(max_size=100) | st.from_regex(rb"HTTP/1\.[01] ?\d{0,4} ?.*"))
def test_whatever_is_answered_has_a_status_or_none(head: bytes) -> None:
    status = read_status(head)
    assert status is None or 0 <= status <= 999


COMMAND = Process(command=("check", "it"))


async def test_a_command_that_fails(beside: Any) -> None:
    beside.ends = [3, 0]
    assert await ailment(CommandProbe(COMMAND), beside) == "check exited with 3"
    await CommandProbe(COMMAND).probe(beside)
    assert beside.executed == [COMMAND, COMMAND]


def check(probe: Any, **more: Any) -> CheckHealth:
    return CheckHealth(**{"probe": probe, "interval": 10.0, "timeout": 5.0, "failures": 3, "delay": 1.0, **more})


async def test_failures_in_a_row_end_it(beside: Any, autojump_clock: Any) -> None:
    beside.ends = [1, 1, 0, 1, 1, 2]
    begin = trio.current_time()
    reason = await check(CommandProbe(COMMAND)).run(beside)
    assert reason == "failed its health check 3 times in a row: check exited with 2"
    assert trio.current_time() - begin == pytest.approx(1 + 5 * 10)
    assert beside.ends == []


async def test_a_single_failure_may_be_enough(beside: Any, autojump_clock: Any) -> None:
    beside.ends = [0, 1]
    reason = await check(CommandProbe(COMMAND), failures=1).run(beside)
    assert reason == "failed its health check: check exited with 1"


async def test_no_answer_in_time_is_a_failure(beside: Any, autojump_clock: Any) -> None:
    class Hangs:
        async def probe(self, context: Any) -> None:
            await trio.sleep(math.inf)

    begin = trio.current_time()
    reason = await check(Hangs(), failures=2).run(beside)
    assert reason == "failed its health check 2 times in a row: no answer within 5 s"
    assert trio.current_time() - begin == pytest.approx(1 + 5 + 10 + 5)


async def test_how_it_is_is_told(beside: Any, begin: Callable[..., Any], autojump_clock: Any) -> None:
    beside.ends = [0, 1, 1]
    told = []
    beside.detail = lambda key, value: told.append((key, value))
    await check(CommandProbe(COMMAND), failures=2).run(beside)
    assert told == [
        ("health", "well"),
        ("health", "failed 1 of 2 times: check exited with 1"),
        ("health", "failed 2 of 2 times: check exited with 1"),
        ("health", None),
    ]


async def test_ready_when_a_command_succeeds(beside: Any, autojump_clock: Any) -> None:
    beside.ends = [1, 2, 0]
    begin = trio.current_time()
    await Succeeded(process=COMMAND, pause=0.5).run(beside)
    assert trio.current_time() - begin == pytest.approx(1.0)
    assert beside.stages[-1] == "waiting until check succeeds, which exited with 2"
