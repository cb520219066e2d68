"""Libvirt's RPC, against a daemon that may say anything."""

import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy.libvirt.asking import Domain, Socket
from herdpy.libvirt.rpc import HEADER, LARGEST, NoAnswer, Reader, connect, optional_string, string

PROGRAM = 0x20008086
Answer = Callable[[int, int], bytes]


def packet(procedure: int, serial: int, content: bytes = b"", *, status: int = 0, kind: int = 1) -> bytes:
    body = HEADER.pack(PROGRAM, 1, procedure, kind, serial, status) + content
    return struct.pack(">I", len(body) + 4) + body


def number(value: int) -> bytes:
    return struct.pack(">I", value)


async def serve(path: Path, answer: Answer, ask: Callable[[], Awaitable[object]]) -> None:
    """Answer each call, at a socket, while somebody asks."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen(1)

    async def talk() -> None:
        peer, _ = await listener.accept()
        with peer:
            stream = trio.SocketStream(peer)
            while head := await stream.receive_some(4):
                (length,) = struct.unpack(">I", head)
                body = b""
                while len(body) < length - 4:
                    body += await stream.receive_some(length - 4 - len(body))
                _, _, procedure, _, serial, _ = HEADER.unpack_from(body)
                said = answer(procedure, serial)
                if not said:
                    return
                await stream.send_all(said)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            try:
                await ask()
            finally:
                nursery.cancel_scope.cancel()
                listener.close()


def libvirtd(*, ways: tuple[int, ...] = (0,), running: tuple[tuple[str, int], ...] = ()) -> Answer:
    listed = b"".join(string(name) + bytes(16) + number(of) for name, of in running)
    asked_for_state = iter(range(3))

    def answer(procedure: int, serial: int) -> bytes:
        match procedure:
            case 66:
                return packet(66, serial, number(len(ways)) + b"".join(map(number, ways)))
            case 273 if next(asked_for_state) == 0:
                event = packet(107, 0, b"something happened", kind=2)
                return event + packet(273, serial, number(len(running)) + listed + number(len(running)))
            case 273:
                return packet(273, serial, number(0) + number(0))
            case _:
                return packet(procedure, serial)

    return answer


def asked(directory: Path) -> Socket:
    return Socket(directory=str(directory), is_root=True)


async def test_domains_are_listed_whatever_else_comes_in_between(tmp_path: Path) -> None:
    found: list[Domain] = []

    async def ask() -> None:
        found.extend(await asked(tmp_path).domains())

    await serve(tmp_path / "libvirt-sock", libvirtd(running=(("a", 1), ("ünïcode", 7))), ask)
    assert found == [Domain("a", 1, "running"), Domain("ünïcode", 7, "running")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (libvirtd(ways=(1,)), "it demands a name and a password (SASL)"),
        (lambda procedure, serial: b"", "it closed the connection"),
        (lambda procedure, serial: number(8), "its length would be 8"),
        (lambda procedure, serial: number(LARGEST + 1) + b"x", f"its length would be {LARGEST + 1}"),
        (lambda procedure, serial: packet(procedure, serial, number(9)), "shorter than it says"),
        (
            lambda procedure, serial: packet(
                procedure, serial, number(1) + number(7) + optional_string("no such driver"), status=1
            ),
            "no such driver",
        ),
        (
            lambda procedure, serial: packet(procedure, serial, number(1) + number(7) + number(0), status=1),
            "it refused without a reason",
        ),
    ],
)
async def test_what_goes_wrong_is_told_in_words(tmp_path: Path, answer: Answer, words: str) -> None:
    async def ask() -> None:
        with pytest.raises(NoAnswer) as problem:
            await asked(tmp_path).answer()
        assert words in str(problem.value)

    await serve(tmp_path / "libvirt-sock", answer, ask)


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="libvirt-sock: No such file or directory"):
        await connect(str(tmp_path / "libvirt-sock"), PROGRAM)


@given(st.binary(max_size=64))
def test_a_reader_of_any_bytes_reads_or_says_that_there_is_too_little(content: bytes) -> None:
    for read in (Reader.number, Reader.count, Reader.string, Reader.error):
        try:
            read(Reader(content))
        except NoAnswer:
            continue


@given(st.text(max_size=40))
def test_strings_come_back(text: str) -> None:
    reader = Reader(string(text) + number(5))
    assert (reader.string(), reader.number()) == (text, 5)
