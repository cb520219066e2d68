"""The host's end against servers written here after Guix's protocol, over real TCP connections."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herdpy.qemu.secrets import tcp
from herdpy.qemu.secrets.message import payload
from herdpy.qemu.secrets.tcp import AwaitSSH, SendSecretsOverTCP
from herdpy.service import StartFailure
from tests.qemu.secrets.conftest import Remembering

HELLO = b"(secret-service-server (version 0))"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/key").write_bytes(bytes(range(256)) * 100)
    return tmp_path / "root"


@pytest.fixture
async def listener() -> AsyncIterator[trio.SocketListener]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


def port_of(listener: trio.SocketListener) -> int:
    return listener.socket.getsockname()[1]


async def heard_out(listener: trio.SocketListener, most: int) -> tuple[trio.SocketStream, bytes]:
    """The first connection on which something comes after the hello, and that."""
    while True:
        stream = await listener.accept()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(HELLO)
            if came := await stream.receive_some(most):
                return stream, came
        await stream.aclose()


async def everything(stream: trio.SocketStream) -> bytes:
    return b"".join([piece async for piece in stream])


@asynccontextmanager
async def running(step: Callable[[], Awaitable[None]], seconds: float = 20) -> AsyncIterator[trio.Event]:
    """The step beside the block, which it must outlive; the event is set when it has returned."""
    over = trio.Event()

    async def run() -> None:
        await step()
        over.set()

    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield over


async def test_guix_gets_the_message_byte_for_byte(listener, root, context) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    async with running(lambda: step.run(context)) as over:
        stream = await listener.accept()
        await stream.send_all(HELLO)
        assert await everything(stream) == payload(str(root))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not over.is_set(), "it is started before the guest has closed"
        await stream.aclose()
        await over.wait()
    assert [stage for stage, _ in context.stages][:2] == ["booting", "sending secrets"]


async def test_a_connection_alone_is_no_guest(listener, root, context) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            over = trio.Event()

            async def run() -> None:
                await step.run(context)
                over.set()

            nursery.start_soon(run)
            streams = [await listener.accept(), await listener.accept()]
            assert not over.is_set()
            nursery.cancel_scope.cancel()
    assert {stage for stage, _ in context.stages} == {"booting"}
    assert tcp.SENT not in context.details
    for stream in streams:
        await stream.aclose()


async def test_an_earlier_connection_that_answers_late_is_used(listener, root, context) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    async with running(lambda: step.run(context)):
        first = await listener.accept()
        second = await listener.accept()
        await first.send_all(HELLO)
        assert await everything(second) == b""
        assert await everything(first) == payload(str(root))
        await first.aclose()
        await second.aclose()


async def test_refusals_and_half_hellos_are_survived(listener, root, context) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    async with running(lambda: step.run(context)) as over:
        for words in (b"", b"(secret-service-server (ver", b" "):
            stream = await listener.accept()
            await stream.send_all(words)
            await stream.aclose()
        stream = await listener.accept()
        for place in range(len(HELLO)):
            await stream.send_all(HELLO[place : place + 1])
            await trio.lowlevel.checkpoint()
        assert await everything(stream) == payload(str(root))
        await stream.aclose()
        await over.wait()


async def test_a_guest_that_breaks_off_gets_everything_anew(listener, root, context) -> None:
    (root / "etc/much").write_bytes(bytes(20_000_000))
    step = SendSecretsOverTCP(port_of(listener), str(root))
    async with running(lambda: step.run(context)) as over:
        # On a busy host there is a second connection before the first has said hello; it comes to nothing.
        stream, _ = await heard_out(listener, 100)
        # With bytes unread, close(2) makes a reset of it.
        await stream.aclose()
        stream, begun = await heard_out(listener, 100)
        assert begun + await everything(stream) == payload(str(root))
        await stream.aclose()
        await over.wait()
    assert context.details[tcp.SENT]


async def test_before_qemu_listens_it_tries_again(root, context) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = port_of(listener)
    await listener.aclose()
    step = SendSecretsOverTCP(port, str(root))
    async with running(lambda: step.run(context)) as over:
        await trio.testing.wait_all_tasks_blocked(0.02)
        [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with listener:
            stream = await listener.accept()
            await stream.send_all(HELLO)
            await everything(stream)
            await stream.aclose()
            await over.wait()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2??"),
        (b"(secret-service-server (version 1))", "(secret-service-server (version 1))"),
        (b"(hello (world))\x1b[2J", "(hello (world))?[2J"),
        (b"(" * 600, "(" * 59 + "…"),
    ],
)
async def test_what_is_no_secret_service_is_a_clear_failure(listener, root, context, said: bytes, shown: str) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                stream = await listener.accept()
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(said)
                    await everything(stream)

            nursery.start_soon(answer)
            with pytest.raises(StartFailure) as caught:
                await step.run(context)
    assert str(caught.value) == (
        f'what answers at 127.0.0.1:{step.port} is no secret service: it said "{shown}"; check that the port leads to'
        " the guest's port 1004"
    )


async def test_cancelling_closes_what_is_open(listener, root, context) -> None:
    step = SendSecretsOverTCP(port_of(listener), str(root))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step.run, context)
            streams = [await listener.accept(), await listener.accept()]
            nursery.cancel_scope.cancel()
        for stream in streams:
            with suppress(trio.BrokenResourceError):
                assert await everything(stream) == b""


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.binary(max_size=700), closes=st.booleans())
async def test_no_peer_brings_it_down(context, said: bytes, closes: bool) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    step = SendSecretsOverTCP(port_of(listener), "missing")
    async with listener, trio.open_nursery() as nursery:

        async def answer() -> None:
            while True:
                stream = await listener.accept()
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(said)
                    if closes:
                        await stream.aclose()

        nursery.start_soon(answer)
        with trio.move_on_after(0.1), suppress(StartFailure):
            await step.run(context)
        nursery.cancel_scope.cancel()


async def test_ssh_is_there_once_its_banner_is(listener, context) -> None:
    async with running(lambda: AwaitSSH(port_of(listener)).run(context)) as over:
        for words in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-half"):
            stream = await listener.accept()
            await stream.send_all(words)
            await stream.aclose()
        stream = await listener.accept()
        await stream.send_all(b"Welcome.\r\nNot yet SSH-2.0-\r\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not over.is_set()
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await over.wait()
    assert context.stages[0][0] == "waiting for the guest's SSH server"


async def test_the_ssh_server_that_starts_upon_the_secrets_is_waited_for(listener, root, context) -> None:
    [server] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        server,
        running(lambda: SendSecretsOverTCP(port_of(listener), str(root), port_of(server)).run(context)) as over,
    ):
        stream = await listener.accept()
        await stream.send_all(HELLO)
        await everything(stream)
        await stream.aclose()
        stream = await server.accept()
        assert not over.is_set()
        await stream.send_all(b"SSH-2.0-dropbear\r\n")
        await over.wait()
    assert "ssh" not in context.details


async def test_a_guest_without_an_ssh_server_is_ready_all_the_same(listener, root, context, monkeypatch) -> None:
    monkeypatch.setattr(tcp, "SSH_PATIENCE", 0.2)
    [server] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        server,
        running(lambda: SendSecretsOverTCP(port_of(listener), str(root), port_of(server)).run(context)) as over,
    ):
        stream = await listener.accept()
        await stream.send_all(HELLO)
        await everything(stream)
        await stream.aclose()
        await over.wait()
    assert "has not answered" in context.details["ssh"]


async def test_a_guest_that_was_sent_its_secrets_is_not_asked_for_a_second_hello(listener, root, context) -> None:
    """A guest serves them once: the next supervisor waits for SSH alone. Another spawn of QEMU is another guest."""
    [server] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    step = SendSecretsOverTCP(port_of(listener), str(root), port_of(server))
    async with server:
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(step.run, context)
                stream, begun = await heard_out(listener, 100)
                assert begun + await everything(stream) == payload(str(root))
                # Killed from now on, be it before the guest has closed, it leaves to the next one that it was sent.
                known = context.kept[-1]
                await stream.aclose()
                nursery.cancel_scope.cancel()
        await listener.aclose()
        successor = Remembering()
        successor.details = dict(known)
        heard = trio.Event()
        async with running(lambda: step.run(successor, heard.set)) as over:
            with trio.fail_after(20):
                await heard.wait()
            stream = await server.accept()
            await stream.send_all(b"SSH-2.0-dropbear\r\n")
            await over.wait()
        assert "booting" not in {stage for stage, _ in successor.stages}
    another = Remembering()
    another.details, another.spawn = dict(known), "2"
    with trio.move_on_after(0.1) as limit:
        await step.run(another)
    assert limit.cancelled_caught
    assert {stage for stage, _ in another.stages} == {"booting"}
    assert tcp.SENT not in another.details
