"""``herd log SERVICE``: a service's output from its log file, the last of it, from a time on, and as it comes."""

import gzip
import json
import os
import posix
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from herdpy.client import archives
from herdpy.client.log import moment
from herdpy.client.log_file import BLOCK, offset_of_last, offset_since
from herdpy.client.words import Failure
from tests.processes import command_line, with_word

from .conftest import HERD, Herd, Server, Terminal, reply
from .test_herd import service


@pytest.fixture
def log(server: Server, tmp_path: Path) -> Path:
    """The log file of the service foo, which is not there yet."""
    path = tmp_path / "foo.log"
    ours = f' (log-file "{path}")'
    server.answers["status foo"] = reply(f"({service('foo', ours=ours)})")
    return path


def lines(count: int, begin: int = 0) -> str:
    return "".join(
        f"2026-11-22 {number // 3600:02}:{number // 60 % 60:02}:{number % 60:02} line {number}\n"
        for number in range(begin, begin + count)
    )


async def test_the_end_of_the_log(log: Path, herd: Herd) -> None:
    log.write_text(lines(5000))
    assert (await herd("log", "foo")).stdout.decode() == lines(100, 4900)
    for words in (["log", "foo", "-n", "3"], ["-n3", "log", "foo"], ["log", "--log-history=3", "foo"]):
        assert (await herd(*words)).stdout.decode() == lines(3, 4997)
    assert (await herd("log", "foo", "-n9000")).stdout.decode() == lines(5000)
    assert (await herd("log", "foo", "-n0")).stdout == b""
    since = await herd("log", "foo", "--since", "2026-11-22 01:23:10")
    assert since.stdout.decode() == lines(10, 4990)
    assert (await herd("log", "foo", "--since", "2026-11-22 01:23:10", "-n2")).stdout.decode() == lines(2, 4998)
    assert (await herd("log", "foo", "--since", "2026-11-23")).stdout == b""
    assert (await herd("log", "foo", "--since", "2026-11-21")).stdout.decode() == lines(5000)


async def test_bytes_are_passed_on_as_they_are(log: Path, herd: Herd) -> None:
    log.write_bytes(b"2026-11-22 00:00:00 \xff\x00\x1b[1m\r\n2026-11-22 00:00:00 unfinished")
    assert (await herd("log", "foo")).stdout == log.read_bytes()
    rows = [json.loads(line) for line in (await herd("log", "foo", "--json")).stdout.splitlines()]
    assert rows == [
        {"time": "2026-11-22 00:00:00", "line": "\ufffd\x00\x1b[1m\r"},
        {"time": "2026-11-22 00:00:00", "line": "unfinished"},
    ]


async def test_a_terminal_gets_a_screenful_and_no_control_characters(log: Path, herd: Herd, terminal: Terminal) -> None:
    log.write_text(lines(50) + "2026-11-22 00:00:50 \x1b]0;evil\x07 é\n")
    await terminal.run([*HERD, "log", "foo"], herd.environment)
    assert await terminal.end() == 0
    expected = lines(22, 28) + "2026-11-22 00:00:50 \ufffd]0;evil\ufffd é\n"
    assert terminal.seen.decode() == expected.replace("\n", "\r\n")


async def test_what_cannot_be_shown_is_told_in_one_line(server: Server, log: Path, herd: Herd) -> None:
    async def refused(*words: str) -> str:
        done = await herd("log", "foo", *words)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"\n") == 1
        return done.stderr.decode()

    assert await refused() == f"herd: error: {log} is not there yet: foo has written nothing so far\n"
    os.mkfifo(log)
    assert await refused("-f") == f"herd: error: {log} is no regular file, and cannot be shown\n"
    log.unlink()
    log.symlink_to(log)
    assert await refused() == f"herd: error: {log} cannot be read: Too many levels of symbolic links\n"
    assert "--since: cannot make a time of 'yesterday'" in await refused("--since", "yesterday")
    assert "-n takes a number of lines, and '-3' is none" in await refused("-n", "-3")
    server.answers["status foo"] = reply("#f", "(error (version 0) service-not-found foo)")
    assert await refused() == "herd: error: service 'foo' could not be found\n"


async def test_rotated_files_are_read_where_the_newest_does_not_reach(log: Path, herd: Herd) -> None:
    older = [log.with_name(f"foo.log.2026112{day}T000000Z") for day in range(3)]
    for number, path in enumerate(older):
        path.write_text(lines(10, 10 * number))
    log.with_name("foo.log.20261120T000000Z.gz.part").write_bytes(b"x")
    log.with_name("foo.log.1").write_bytes(b"x")
    older[0].with_name(older[0].name + ".gz").write_bytes(gzip.compress(older[0].read_bytes()))
    older[0].unlink()
    log.write_text(lines(5, 30))
    assert (await herd("log", "foo")).stdout.decode() == lines(35)
    assert (await herd("log", "foo", "-n", "5")).stdout.decode() == lines(5, 30)
    assert (await herd("log", "foo", "-n", "7")).stdout.decode() == lines(7, 28)
    assert (await herd("log", "foo", "-n", "27")).stdout.decode() == lines(27, 8)
    since = ("--since", "2026-11-22 00:00:08")
    assert (await herd("log", "foo", *since)).stdout.decode() == lines(27, 8)
    assert (await herd("log", "foo", *since, "-n", "9")).stdout.decode() == lines(9, 26)
    assert (await herd("log", "foo", "--since", "2026-11-22 00:00:20")).stdout.decode() == lines(15, 20)
    async with following(herd, "-n", "7") as process:
        await receive(process.stdout, lines(7, 28))
        with log.open("a") as file:
            file.write(lines(1, 35))
        await receive(process.stdout, lines(1, 35))
    log.write_text("")
    assert (await herd("log", "foo", "-n", "1")).stdout.decode() == lines(1, 29)
    older[0].with_name(older[0].name + ".gz").write_bytes(b"no gzip at all")
    older[2].unlink()
    older[2].with_name(older[2].name + ".zst").write_bytes(b"nor this by zstd")
    done = await herd("log", "foo")
    assert (done.returncode, done.stdout.decode()) == (0, lines(10, 10))
    first, second = done.stderr.decode().splitlines()
    assert "20261122T000000Z.zst are missing here: " in first
    assert "20261120T000000Z.gz are missing here: Not a gzipped file" in second


async def test_a_second_that_a_rotation_cut_in_two_is_shown_whole(log: Path, herd: Herd) -> None:
    log.with_name("foo.log.20261120T000000Z").write_text(lines(3))
    log.with_name("foo.log.20261121T000000Z").write_text("2026-11-22 00:00:02 more\n")
    log.write_text("2026-11-22 00:00:02 and more\n")
    shown = (await herd("log", "foo", "--since", "2026-11-22 00:00:02")).stdout.decode()
    assert shown == lines(1, 2) + "2026-11-22 00:00:02 more\n2026-11-22 00:00:02 and more\n"


async def test_rotated_files_are_shown_when_there_is_no_newer_one(log: Path, herd: Herd) -> None:
    log.with_name("foo.log.20261120T000000Z").write_text(lines(3))
    log.with_name("foo.log.20261121T000000Z").write_text(lines(3, 3))
    assert (await herd("log", "foo")).stdout.decode() == lines(6)
    assert (await herd("log", "foo", "-n", "4")).stdout.decode() == lines(4, 2)
    assert (await herd("log", "foo", "--since", "2026-11-22 00:00:05")).stdout.decode() == lines(1, 5)
    async with following(herd, "-n", "1") as process:
        await receive(process.stdout, lines(1, 5))
        log.write_text(lines(2, 6))
        await receive(process.stdout, lines(2, 6))


async def test_a_status_shows_lines_from_before_the_last_rotation(log: Path, herd: Herd) -> None:
    async def recent(*words: str) -> str:
        shown = (await herd("status", "foo", *words)).stdout.decode()
        return shown.partition("Recent messages (use '-n' to view more or less):\n")[2].replace("    ", "")

    aside = log.with_name("foo.log.20261121T000000Z")
    log.with_name("foo.log.20261120T000000Z").write_text(lines(9))
    aside.write_text(lines(9, 9))
    log.write_text(lines(3, 18))
    assert await recent() == lines(10, 11)
    assert await recent("-n", "3") == lines(3, 18)
    assert await recent("-n", "20") == lines(12, 9)
    document = json.loads((await herd("status", "foo", "-n", "4", "--json")).stdout)
    assert document["recent-messages"] == lines(4, 17).splitlines()
    log.unlink()
    aside.rename(log)
    os.link(log, aside)  # as if it was rotated since it was opened
    assert await recent() == lines(9, 9)


@pytest.mark.parametrize("content", [b"", b"no stamp\n", gzip.compress(b"x" * 20)[:-9]], ids=["empty", "none", "cut"])
async def test_an_archive_without_a_stamp_hides_none_before_it(log: Path, herd: Herd, content: bytes) -> None:
    log.with_name("foo.log.20261120T000000Z").write_text(lines(3))
    log.with_name("foo.log.20261121T000000Z").write_text(lines(3, 3))
    is_packed = content.startswith(b"\x1f")
    log.with_name(f"foo.log.20261122T000000Z{'.gz' if is_packed else ''}").write_bytes(content)
    log.write_text(lines(3, 6))
    done = await herd("log", "foo", "--since", "2026-11-22 00:00:01")
    expected = lines(5, 1) + ("" if is_packed else content.decode()) + lines(3, 6)
    assert (done.stdout.decode(), done.stderr.count(b"\n")) == (expected, 1 if is_packed else 0)


async def test_of_a_damaged_archive_what_can_be_read_is_shown(log: Path, herd: Herd) -> None:
    packed = bytearray(gzip.compress(lines(50_000).encode()))
    packed[len(packed) // 2 :] = packed[: len(packed) // 2]
    log.with_name("foo.log.20261120T000000Z.gz").write_bytes(packed)
    log.write_text(lines(3, 50_000))
    for words in (["-n", "100000"], ["--since", "2026-11-22"]):
        done = await herd("log", "foo", *words)
        assert done.returncode == 0
        shown = done.stdout.decode().splitlines(keepends=True)
        assert "".join(shown[:10_000]) == lines(10_000)
        assert "".join(shown[-3:]) == lines(3, 50_000)
        assert b"Z.gz are missing here: Error -3 while decompressing data" in done.stderr
        assert done.stderr.count(b"\n") == 1


async def test_what_is_compressed_while_it_is_read_is_shown_whole(log: Path, herd: Herd) -> None:
    older = [log.with_name(f"foo.log.2026112{day}T000000Z") for day in range(3)]
    for number, path in enumerate(older):
        path.write_text(lines(10_000, 10_000 * number))  # more than a pipe holds
    log.write_text(lines(1, 30_000))
    async with herding(herd, "--since", "2026-11-22") as process:
        await first_byte(process)
        for path, pack in zip(older[1:], (gzip.compress, zstd), strict=True):
            ending = ".gz" if pack is gzip.compress else ".zst"
            path.with_name(path.name + ending).write_bytes(pack(path.read_bytes()))
            path.unlink()
        await receive(process.stdout, lines(30_001)[1:])
        assert await process.wait() == 0


async def test_what_is_removed_while_it_is_read_is_told(log: Path, herd: Herd) -> None:
    older = [log.with_name(f"foo.log.2026112{day}T000000Z") for day in range(2)]
    for number, path in enumerate(older):
        path.write_text(lines(10_000, 10_000 * number))
    log.write_text(lines(1, 20_000))
    async with herding(herd, "--since", "2026-11-22") as process:
        await first_byte(process)
        older[1].unlink()
        await receive(process.stdout, (lines(10_000) + lines(1, 20_000))[1:])
        await receive(process.stderr, f"herd: the lines of {older[1]} are missing here: it was removed meanwhile\n")


def test_a_rotation_between_two_looks_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, aside = tmp_path / "foo.log", tmp_path / "foo.log.20261120T000000Z"
    log.write_text("old\n")
    look = posix.listdir

    def rotate_and_look(directory: str) -> list[str]:
        if not aside.exists():
            log.rename(aside)
            log.write_text("new\n")
        return look(directory)

    monkeypatch.setattr("posix.listdir", rotate_and_look)
    file, rotated = archives.opened(str(log))
    assert file is not None
    assert (os.read(file, 100), rotated) == (b"new\n", [str(aside)])
    os.close(file)


async def test_a_log_action_of_a_server_without_log_files_is_asked_for(server: Server, herd: Herd) -> None:
    server.answers["status monitoring"] = reply(f"({service('monitoring')})")
    server.answers["log monitoring"] = reply('("#<unspecified>")', "#f", "service names: 3")
    assert (await herd("log", "monitoring")).stdout == b"service names: 3\n"


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=content, capture_output=True, check=True).stdout


def following(herd: Herd, *words: str) -> AbstractAsyncContextManager[trio.Process]:
    """A herd that follows, killed at the end if it still does."""
    return herding(herd, "-f", *words)


@asynccontextmanager
async def herding(herd: Herd, *words: str) -> AsyncIterator[trio.Process]:
    """A herd that shows the log as fast as it is read, killed at the end if it still does."""
    process = await trio.lowlevel.open_process(
        [*HERD, "log", "foo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=herd.environment,
    )
    try:
        yield process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def receive(stream: trio.abc.ReceiveStream | None, expected: str) -> None:
    """Read until so much has come, and see that it is this."""
    assert stream is not None
    seen = b""
    with trio.move_on_after(20):
        while len(seen) < len(expected.encode()) and (piece := await stream.receive_some()):
            seen += piece
    assert seen.decode() == expected


async def first_byte(process: trio.Process) -> None:
    """Read it: the herd is at work by then, and cannot go on by more than a pipe holds."""
    assert process.stdout is not None
    with trio.fail_after(20):
        assert await process.stdout.receive_some(1) == b"2"


async def test_following_goes_on_across_rotation_and_re_creation(log: Path, herd: Herd) -> None:
    log.write_text(lines(10))
    async with following(herd, "-n", "2") as process:
        await receive(process.stdout, lines(2, 8))
        with log.open("a") as file:
            file.write(lines(1, 10))
            file.flush()
            await receive(process.stdout, lines(1, 10))
            log.rename(log.with_suffix(".1"))
            log.write_text(lines(3, 11))
            await receive(process.stdout, lines(3, 11))
        log.unlink()
        log.write_text(lines(1, 14))
        await receive(process.stdout, lines(1, 14))


@pytest.mark.parametrize("pack", [None, gzip.compress])
async def test_following_loses_nothing_that_is_rotated_before_it_is_read(
    log: Path, herd: Herd, pack: Callable[[bytes], bytes] | None
) -> None:
    def rotate(number: int) -> None:
        aside = log.with_name(f"foo.log.2026112{number}T000000Z")
        log.rename(aside)
        log.write_text(lines(1_000, 20_000 + 1_000 * number))
        if pack is not None:
            aside.with_name(aside.name + ".tmp").write_bytes(pack(aside.read_bytes()))
            os.utime(aside.with_name(aside.name + ".tmp"), ns=(0, aside.stat().st_mtime_ns))
            aside.with_name(aside.name + ".tmp").rename(aside.with_name(aside.name + ".gz"))
            aside.unlink()

    log.with_name("foo.log.20261110T000000Z").write_text(lines(10_000))  # more than a pipe holds
    log.write_text(lines(9_000, 10_000))
    async with following(herd, "-n", "100000") as process:
        await first_byte(process)
        with log.open("a") as file:
            file.write(lines(2_000, 19_000))
        for number in range(1, 5):
            rotate(number)
        await receive(process.stdout, lines(25_000)[1:])
        with log.open("a") as file:
            file.write(lines(1, 25_000))
        await receive(process.stdout, lines(1, 25_000))


async def test_following_loses_nothing_however_fast_it_is_rotated(log: Path, herd: Herd) -> None:
    log.write_text(lines(1))
    async with following(herd) as process:
        await receive(process.stdout, lines(1))
        for number in range(1, 300):
            log.rename(log.with_name(f"foo.log.20261120T{number:06}Z"))
            log.write_text(lines(1, number))
        await receive(process.stdout, lines(299, 1))


async def test_following_waits_for_the_first_line_and_since_is_kept(log: Path, herd: Herd) -> None:
    async with following(herd) as process:
        await receive(process.stderr, f"herd: {log} is not there yet; waiting for what foo will write\n")
        log.write_text(lines(2))
        await receive(process.stdout, lines(2))
    async with following(herd, "--since", "2026-11-22 00:00:01", "--json") as process:
        await receive(process.stdout, '{"time": "2026-11-22 00:00:01", "line": "line 1"}\n')
        with log.open("a") as file:
            file.write("2026-11-22 00:00:02 no end yet")
            file.flush()
            file.write("; here\n")
        await receive(process.stdout, '{"time": "2026-11-22 00:00:02", "line": "no end yet; here"}\n')


async def test_following_ends_with_its_reader_and_by_ctrl_c_and_leaves_no_tail(
    log: Path, herd: Herd, terminal: Terminal, eventually: "object"
) -> None:
    log.write_text(lines(3))

    def tails() -> list[int]:
        return [pid for pid in with_word(str(log)) if command_line(pid)[:1] == ["tail"]]

    async with following(herd) as process:
        await receive(process.stdout, lines(3))
        assert callable(eventually)
        eventually(tails)
        assert process.stdout is not None
        await process.stdout.aclose()
        with trio.fail_after(60):
            assert await process.wait() == 141
    assert tails() == []
    await terminal.run([*HERD, "log", "-f", "foo"], herd.environment)
    await terminal.until(b"line 2\r\n")
    await terminal.type(b"\x03")
    assert await terminal.end() == 130
    assert b"Traceback" not in terminal.seen
    assert tails() == []
    async with following(herd) as process:
        await receive(process.stdout, lines(3))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    eventually(lambda: not tails())


NOW = datetime(2026, 11, 22, 9, 30, 15, 999)


@pytest.mark.parametrize(
    ("words", "stamp"),
    [
        ("09:30", "2026-11-22 09:30:00"),
        ("09:30:16", "2026-11-21 09:30:16"),
        ("2026-01-31", "2026-01-31 00:00:00"),
        ("2026-01-31 23:59", "2026-01-31 23:59:00"),
        ("2026-01-31T23:59:58", "2026-01-31 23:59:58"),
        ("10m", "2026-11-22 09:20:15"),
        ("2h", "2026-11-22 07:30:15"),
        ("1d", "2026-11-21 09:30:15"),
        ("90s", "2026-11-22 09:28:45"),
        ("0930-01-02", "0930-01-02 00:00:00"),
    ],
)
def test_times(words: str, stamp: str) -> None:
    assert moment(words, NOW) == stamp


@pytest.mark.parametrize(
    "words", ["", "x", "m", "10", "10y", "25:00", "2026-02-30", "2026-13", "٣m٣", "9999999d", "-1m"]
)
def test_what_is_no_time(words: str) -> None:
    with pytest.raises(Failure, match="--since: cannot make a time of"):
        moment(words, NOW)


def opened(content: bytes) -> int:
    file = os.memfd_create("log")
    os.write(file, content)
    return file


BITS = st.lists(
    st.tuples(st.integers(0, 59), st.sampled_from([b"", b"x", b"y" * 70, b"z" * (BLOCK - 20), b"\xff"]), st.booleans()),
    max_size=8,
)


@given(bits=BITS, count=st.integers(0, 10), asked=st.integers(0, 60), ends=st.booleans())
def test_offsets_agree_with_reading_the_whole(
    bits: list[tuple[int, bytes, bool]], count: int, asked: int, ends: bool
) -> None:
    bits.sort(key=lambda bit: bit[0])
    rows = [(b"2026-11-22 00:00:%02d " % second if stamped else b"") + text for second, text, stamped in bits]
    content = b"\n".join(rows) + (b"\n" if rows and ends else b"")
    file = opened(content)
    try:
        whole = content.splitlines(keepends=True)
        assert content[offset_of_last(file, count) :] == b"".join(whole[max(len(whole) - count, 0) :])
        stamp = b"2026-11-22 00:00:%02d" % asked
        later = [line for line in whole if line[:17] == b"2026-11-22 00:00:" and line[:19] >= stamp]
        expected = content.index(later[0]) if later else len(content)
        assert offset_since(file, stamp) == expected
    finally:
        os.close(file)
