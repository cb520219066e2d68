import itertools
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from herdpy.qemu.channel import Lines, connect_when_there


class Pieces(trio.abc.ReceiveStream):
    """A stream that comes in given pieces, then breaks off."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            return piece
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


_text = st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"ready\n", b"x" * 7, b"x" * 30]), max_size=30).map(
    b"".join
)


@given(text=_text, cuts=st.lists(st.integers(0, 200), max_size=10))
async def test_lines_do_not_depend_on_the_pieces_they_come_in(text: bytes, cuts: list[int]) -> None:
    limit = 10
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    expected = [line.rstrip(b"\r") for line in text.split(b"\n")[:-1] if len(line) <= limit]
    assert [line async for line in Lines(Pieces(pieces), limit)] == expected


async def test_a_line_of_any_length_is_dropped_without_being_held() -> None:
    lines = Lines(Pieces([b"x" * 65536] * 100 + [b"ready\nnext\n"]), 4096)
    assert await anext(lines) == b"next"


async def test_a_cancelled_wait_loses_nothing() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    lines = Lines(ours, 100)
    await theirs.send_all(b"half")
    with trio.move_on_after(0.02):
        await anext(lines)
    await theirs.send_all(b" a line\n")
    with trio.fail_after(60):
        assert await anext(lines) == b"half a line"


async def test_a_socket_that_comes_late_is_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "socket"
    connected = trio.Event()

    async def connect() -> None:
        async with await connect_when_there(str(path)):
            connected.set()

    with trio.socket.socket(trio.socket.AF_UNIX) as left_behind:
        await left_behind.bind(str(path))
    nursery.start_soon(connect)
    await trio.testing.wait_all_tasks_blocked(0.01)
    path.unlink()
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen(1)
        with trio.fail_after(60):
            await connected.wait()


async def test_what_waiting_does_not_mend_is_raised(tmp_path: Path) -> None:
    with trio.fail_after(60), pytest.raises(OSError, match="too long"):
        await connect_when_there(str(tmp_path / ("x" * 120)))
