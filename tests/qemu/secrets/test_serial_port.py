"""The host's end against a guest's end written here after docs/explanation/architecture.md, over a real Unix socket."""

import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herdpy.qemu.secrets.message import payload
from herdpy.qemu.secrets.serial_port import SendSecrets
from herdpy.service import StartFailure


class Guest:
    """One who answers, line by line. It is connected to as QEMU is: it listens, and takes one client at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""
        self.lines: list[bytes] = []

    async def line(self) -> bytes:
        while b"\n" not in self.received:
            more = await self.stream.receive_some(65536)
            if not more:
                raise EOFError
            self.received += more
        line, self.received = self.received.split(b"\n", 1)
        self.lines.append(line)
        return line

    async def say(self, line: bytes) -> None:
        await self.stream.send_all(line + b"\n")

    async def hello(self) -> bytes:
        while not (match := re.fullmatch(rb"hello ([!-~]+)", await self.line())):
            pass
        return match[1]

    async def take(self, nonce: bytes) -> bytes:
        """What follows ``ready``: the message, checked."""
        while not (match := re.fullmatch(rb"begin %s ([0-9a-f]{64})" % nonce, await self.line())):
            pass
        message = b""
        while (line := await self.line()) != b"end " + nonce:
            word = re.fullmatch(rb"data ([A-Za-z0-9+/=]{1,76})", line)
            assert word, line
            message += base64.b64decode(word[1], validate=True)
        assert hashlib.sha256(message).hexdigest().encode() == match[1]
        return message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc/ssh").mkdir(parents=True)
    (tmp_path / "root/etc/ssh/key").write_bytes(os.urandom(10_000))
    return tmp_path / "root"


@asynccontextmanager
async def port(path: Path) -> AsyncIterator[Callable]:
    """A socket like QEMU's; call for the next client."""
    path.unlink(missing_ok=True)
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen(1)

        async def accept() -> Guest:
            connection, _ = await listener.accept()
            return Guest(trio.SocketStream(connection))

        yield accept


@asynccontextmanager
async def bounded_nursery(seconds: float = 20) -> AsyncIterator[trio.Nursery]:
    """A nursery whose lone failure is raised as it is."""
    with trio.fail_after(seconds):
        try:
            async with trio.open_nursery() as nursery:
                yield nursery
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise


async def test_it_waits_for_the_socket_then_delivers_and_returns_when_installed(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root))
    done = trio.Event()

    async def run() -> None:
        await step.run(context)
        done.set()

    async with bounded_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with port(tmp_path / "socket") as accept:
            guest = await accept()
            nonce = await guest.hello()
            assert context.stages[-1] == ("booting", None)
            await guest.say(b"ready " + nonce)
            assert await guest.take(nonce) == payload(str(root))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not done.is_set(), "it is started before the guest has installed anything"
            await guest.say(b"installed " + nonce + b" 1")
            await done.wait()
    fractions = [done for stage, done in context.stages if stage == "sending secrets"]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0.0, 1.0) and len(fractions) > 3


async def test_hello_is_repeated_until_answered(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root), interval=0.05)
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        nonces = {await guest.hello() for _ in range(4)}
        assert len(nonces) == 1
        nonce = nonces.pop()
        # A guest that has been late answers them all.
        for _ in range(3):
            await guest.say(b"ready " + nonce)
        await guest.take(nonce)
        await guest.say(b"installed " + nonce + b" 1")
    assert sum(line.startswith(b"begin") for line in guest.lines) == 1


async def test_noise_and_answers_to_others_are_skipped(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root))
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        nonce = await guest.hello()
        for line in (
            b"",
            b"\x00\xff\x1b[2J",
            b"ready",
            b"ready stale",
            b"installed stale 7",
            b"installed " + nonce + b" 7",
            b"failed stale no room",
            b"failed " + nonce + b" before it began",
            b"hello " + nonce,
            b"x" * 100_000,
            b"ready " + nonce + b" and more",
        ):
            await guest.say(line)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await guest.say(b"ready " + nonce + b"\r")
        await guest.take(nonce)
        await guest.say(b"installed " + nonce)
        await guest.say(b"installed " + nonce + b" many")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert context.stages[-1][0] == "waiting for the guest to install its secrets"
        await guest.say(b"installed " + nonce + b" 1")


async def test_a_refusal_is_the_reason_for_the_failure_fit_for_a_terminal(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root))
    with pytest.raises(StartFailure) as caught:
        async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
            nursery.start_soon(step.run, context)
            guest = await accept()
            nonce = await guest.hello()
            await guest.say(b"ready " + nonce)
            await guest.take(nonce)
            await guest.say(b"failed " + nonce + b" cannot write /etc/ssh/key: No space\x1b[2J left on device")
            await trio.sleep_forever()
    assert str(caught.value) == (
        "the guest refused its secrets: cannot write /etc/ssh/key: No space?[2J left on device"
    )


async def test_a_guest_that_restarts_in_mid_transfer_gets_everything_anew(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root), interval=0.05, patience=0.2)
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        first = await guest.hello()
        await guest.say(b"ready " + first)
        while not (await guest.line()).startswith(b"data"):
            pass
        # It has forgotten the session, and skips what is left of it.
        second = await guest.hello()
        while second == first:
            second = await guest.hello()
        await guest.say(b"ready " + second)
        assert await guest.take(second) == payload(str(root))
        await guest.say(b"installed " + second + b" 1")


async def test_a_guest_that_is_only_slow_is_heard_out(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root), interval=0.05, patience=0.1)
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        first = await guest.hello()
        await guest.say(b"ready " + first)
        await guest.take(first)
        while await guest.hello() == first:
            pass
        await guest.say(b"installed " + first + b" 1")


async def test_a_new_supervisor_begins_anew_where_a_killed_one_left_half_a_line(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root), interval=3600)
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        with trio.CancelScope() as killed:
            async with trio.open_nursery() as first_life:
                first_life.start_soon(step.run, context)
                guest = await accept()
                await guest.say(b"ready " + await guest.hello())
                while not (await guest.line()).startswith(b"data"):
                    pass
                killed.cancel()
        assert killed.cancelled_caught
        # QEMU holds what the guest has not read; the next client's bytes follow it.
        left = guest.received[: len(guest.received) // 2].rstrip(b"\n")
        nursery.start_soon(step.run, context)
        following = await accept()
        following.received = left
        nonce = await following.hello()
        await following.say(b"ready " + nonce)
        assert await following.take(nonce) == payload(str(root))
        await following.say(b"installed " + nonce + b" 1")


async def test_a_qemu_that_goes_away_and_comes_back_is_connected_to_again(tmp_path, root, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(root))
    async with bounded_nursery() as nursery:
        nursery.start_soon(step.run, context)
        for _ in range(2):
            async with port(tmp_path / "socket") as accept:
                guest = await accept()
                await guest.say(b"ready " + await guest.hello())
                await guest.line()
                await guest.stream.aclose()
        async with port(tmp_path / "socket") as accept:
            guest = await accept()
            nonce = await guest.hello()
            await guest.say(b"ready " + nonce)
            assert await guest.take(nonce) == payload(str(root))
            await guest.say(b"installed " + nonce + b" 1")


async def test_an_empty_root_is_sent_and_acknowledged_too(tmp_path, context) -> None:
    step = SendSecrets(str(tmp_path / "socket"), str(tmp_path / "nothing"))
    async with bounded_nursery() as nursery, port(tmp_path / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        nonce = await guest.hello()
        await guest.say(b"ready " + nonce)
        assert await guest.take(nonce) == b"(secrets (version 0) (files ()))"
        await guest.say(b"installed " + nonce + b" 0")


async def test_a_path_that_can_never_be_connected_to_is_a_failure(tmp_path, root, context) -> None:
    (tmp_path / "file").touch()
    with (
        trio.fail_after(60),
        pytest.raises(StartFailure, match=r"cannot open .*/file/socket to send secrets: Not a dir"),
    ):
        await SendSecrets(str(tmp_path / "file/socket"), str(root)).run(context)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from([b"ready", b"installed", b"failed", b"begin"]).flatmap(
                lambda word: st.binary(max_size=20).map(lambda rest: word + b" " + rest)
            ),
        ),
        max_size=20,
    ),
    ends=st.booleans(),
)
async def test_no_guest_brings_it_down(tmp_path_factory, context, noise: list[bytes], ends: bool) -> None:
    directory = tmp_path_factory.mktemp("port")
    step = SendSecrets(str(directory / "socket"), str(directory / "nothing"))
    async with bounded_nursery() as nursery, port(directory / "socket") as accept:
        nursery.start_soon(step.run, context)
        guest = await accept()
        if ends:
            # Hostile to the end: it closes amid its noise, and an honest one follows.
            with suppress(trio.BrokenResourceError):
                await guest.stream.send_all(b"\n".join(noise))
                await guest.stream.aclose()
            guest = await accept()
        nonce = await guest.hello()
        for line in noise:
            await guest.say(line)
        await guest.say(b"\nready " + nonce)
        await guest.take(nonce)
        for line in noise:
            await guest.say(line)
        await guest.say(b"\ninstalled " + nonce + b" 0")
