"""Rotation: when a file is put aside, that no line is lost by it, and what becomes of what was put aside."""

from __future__ import annotations

import gzip
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from herdpy.keeper.message import encode
from herdpy.logger.file import LogFile
from herdpy.logger.rotation import Rotation, archive_name, archives, period_end
from tests.keeper.conftest import Running
from tests.keeper.conftest import keeper as keeper  # noqa: PLC0414 - a fixture
from tests.keeper.conftest import place as place  # noqa: PLC0414
from tests.logger.conftest import PATIENCE, PROGRAM, Logger
from tests.logger.test_file import feed, ledger_with_pipe, silent, unstamped
from tests.logger.test_killed import COUNTING, lost_doubled_and_cut, written
from tests.processes import lives
from tests.waiting import until

DAY = 86400


def content(path: Path) -> bytes:
    """What was ever written to a log, its rotated files first, compressed or not."""
    whole = b""
    for stamp in archives(str(path)):
        plain, packed = Path(f"{path}.{stamp}"), Path(f"{path}.{stamp}.gz")
        whole += plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    return whole + (path.read_bytes() if path.exists() else b"")


def test_by_size_every_line_is_in_one_file_and_no_file_is_much_larger(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log, rotation={"size": 1_000_000})
    subprocess.run(["seq", "200000"], stdout=writing, check=True, timeout=60)
    logger.drain()
    assert unstamped(content(log)) == [b"%d" % number for number in range(1, 200_001)]
    rotated = [Path(f"{log}.{stamp}") for stamp in archives(str(log))]
    assert len(rotated) >= 4
    for file in rotated:
        assert file.read_bytes().endswith(b"\n")
        assert file.stat().st_size <= 1_000_000
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    asked = {"kind": "archive", "path": str(log), "keep": 5, "keep_days": None, "compress": "gzip"}
    assert logger.rotated == [asked] * len(rotated)


def test_by_time_a_clock_that_was_years_ahead_does_not_put_it_off_for_years(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    ahead, right = (time.mktime((year, 3, 1, 12, 0, 0, 0, 0, -1)) for year in (2096, 2026))
    now = ahead
    monkeypatch.setattr("time.time", lambda: now)
    with ledger_with_pipe() as (ledger, *pipe):
        file = LogFile(str(log), ledger, silent)
        file.rotation = Rotation(every="day")
        feed(file, ledger, pipe, 1, b"one\n")
        now = right
        feed(file, ledger, pipe, 1, b"two\n")
        assert not archives(str(log))
        now = right + DAY
        feed(file, ledger, pipe, 1, b"three\n")
        file.close()
    (stamp,) = archives(str(log))
    assert unstamped(Path(f"{log}.{stamp}").read_bytes()) == [b"one", b"two"]


def test_a_line_longer_than_the_size_stays_whole(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log, rotation={"size": 5000})
    subprocess.run(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo next"], stdout=writing, check=True)
    logger.drain()
    assert [len(line) for line in unstamped(content(log))] == [300_000, 4]
    assert [len(line) for line in unstamped(log.read_bytes())] == [4]


def test_two_writers_lose_nothing_by_rotation(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, second = (logger.open(log, number, rotation={"size": 4096}) for number in (1, 2))
    for number in range(300):
        os.write(first, b"first %d, unfinished" % number)
        logger.drain(1)
        os.write(second, b"second %d\n" % number)
        logger.drain(2)
    lines = unstamped(content(log))
    assert [line for line in lines if b"first" in line] == [b"first %d, unfinished" % number for number in range(300)]
    assert [line for line in lines if b"second" in line] == [b"second %d" % number for number in range(300)]


def test_thirty_kills_while_it_rotates_lose_and_double_nothing(logger: Logger, tmp_path: Path) -> None:
    go_on, log = tmp_path / "go-on", tmp_path / "one.log"
    go_on.touch()
    writing = logger.open(log, rotation={"size": 300_000})
    flood = subprocess.Popen([sys.executable, "-c", COUNTING, "one", str(go_on)], stdout=writing)
    try:
        chance = random.Random(12)
        for kill in range(30):
            enough = written(tmp_path.iterdir()) + chance.randrange(100_000, 1_000_000)
            until(lambda: written(tmp_path.iterdir()) > enough, f"output after kill {kill}")  # noqa: B023
            logger.kill()
        go_on.unlink()
        assert flood.wait(60) == 0
        logger.drain()
    finally:
        flood.kill()
        flood.wait()
    assert lost_doubled_and_cut(content(log), b"one")[:3] == (0, 0, 0)
    assert len(archives(str(log))) > 30


@pytest.mark.parametrize("every", ["day", "week"])
def test_by_time_what_was_written_before_is_put_aside(logger: Logger, tmp_path: Path, every: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"2026-01-01 00:00:00 old\n")
    os.utime(log, (time.time() - 8 * DAY,) * 2)
    os.write(logger.open(log, rotation={"every": every}), b"new\n")
    logger.drain()
    (stamp,) = archives(str(log))
    assert unstamped(Path(f"{log}.{stamp}").read_bytes()) == [b"old"]
    assert unstamped(log.read_bytes()) == [b"new"]


def test_by_time_a_file_that_is_open_is_put_aside_at_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    now = time.mktime((2026, 3, 1, 23, 59, 58, 0, 0, -1))
    monkeypatch.setattr("time.time", lambda: now)
    with ledger_with_pipe() as (ledger, *pipe):
        file = LogFile(str(log), ledger, silent)
        file.rotation = Rotation(every="day")
        feed(file, ledger, pipe, 1, b"one\n")
        os.utime(log, (now, now))
        feed(file, ledger, pipe, 1, b"two\nthr")
        now += 2
        feed(file, ledger, pipe, 1, b"ee\nfour\n")
        feed(file, ledger, pipe, 1, b"five\n")
        file.close()
    assert unstamped(log.read_bytes()) == [b"four", b"five"]
    assert unstamped(content(log)) == [b"one", b"two", b"three", b"four", b"five"]


def test_what_others_write_into_the_file_counts(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log, rotation={"size": 5000})
    os.write(writing, b"one\n")
    logger.drain()
    with log.open("ab") as other:
        other.write(b"2026-01-01 00:00:00 " + b"x" * 5000 + b"\n")
    os.write(writing, b"two\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"two"]


def test_settings_that_change_hold_for_a_file_that_is_open(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = logger.open(log, 1)
    os.write(first, b"x" * 6000 + b"\n")
    logger.drain(1)
    second = logger.open(log, 2, rotation={"size": 5000, "every": "day"})
    os.write(second, b"two\n")
    logger.drain(2)
    assert unstamped(log.read_bytes()) == [b"two"]
    third = logger.open(log, 3)
    os.write(third, b"x" * 6000 + b"\nthree\n")
    logger.drain(3)
    os.write(third, b"four\n")
    logger.drain(3)
    assert len(archives(str(log))) == 1


def test_settings_that_make_no_sense_are_told_and_the_lines_are_written(logger: Logger, tmp_path: Path) -> None:
    for number, bad in enumerate(({"size": -1}, {"nonsense": 1}, {"compress": "rar"}, {"keep": "5"}), 1):
        os.write(logger.open(tmp_path / str(number), number, rotation=bad), b"line\n")
        logger.drain(number)
        assert unstamped((tmp_path / str(number)).read_bytes()) == [b"line"]
    assert logger.end().count("cannot rotate") == 4


def test_a_file_that_cannot_be_renamed_grows_on_and_that_is_told_once(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / ("x" * 250)  # so long that there is no room for a stamp
    writing = logger.open(log, rotation={"size": 4096})
    subprocess.run(["seq", "20000"], stdout=writing, check=True)
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"%d" % number for number in range(1, 20_001)]
    said = logger.end()
    assert said.count("\n") == 1
    assert "for its rotation: File name too long" in said


@pytest.mark.parametrize(
    ("every", "when", "end"),
    [
        ("day", "2026-03-28 12:00:00", "2026-03-29 00:00:00"),
        ("day", "2026-03-29 00:00:00", "2026-03-30 00:00:00"),  # 23 hours long
        ("day", "2026-10-25 12:00:00", "2026-10-26 00:00:00"),  # 25 hours long
        ("day", "2026-12-31 23:59:59", "2027-01-01 00:00:00"),
        ("week", "2026-11-22 23:00:00", "2026-11-23 00:00:00"),  # from Sunday to Monday
        ("week", "2026-11-23 00:00:00", "2026-11-30 00:00:00"),
    ],
)
def test_a_day_and_a_week_end_at_midnight(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, every: str, when: str, end: str
) -> None:
    request.addfinalizer(time.tzset)  # after the environment is restored
    request.addfinalizer(monkeypatch.undo)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    began = time.mktime(time.strptime(when, "%Y-%m-%d %H:%M:%S"))
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(period_end(every, began))) == end


def test_names_stand_in_their_order_whatever_the_clock_does(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    leap_day = 1_709_251_199  # 2024-02-29 23:59:59 UTC
    names = []
    for now in (leap_day, leap_day, leap_day + 5, leap_day - 9999, 951_782_400, 4_107_542_400):
        names.append(archive_name(log, now))
        Path(names[-1]).touch()
    assert names[:3] == [f"{log}.20240229T235959Z", f"{log}.20240301T000000Z", f"{log}.20240301T000004Z"]
    assert names == sorted(names)
    assert len(archives(log)) == len(names)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    others = (
        "log.1",
        "log.20240230T000000Z",
        "log.20240101T000000Z.xz",
        "log.2024010xT000000Z",
        "xlog.20240101T000000Z",
    )
    for name in (*others, "log.20240101T000000Z.gz", "log.20240101T000000Z", "log.20240102T000000Z.zst"):
        (tmp_path / name).touch()
    assert archives(str(tmp_path / "log")) == ["20240101T000000Z", "20240102T000000Z"]


# What becomes of what was put aside.


def archive(log: Path, *, keep: int = 5, keep_days: int | None = None, compress: str = "gzip") -> str:
    """Run the archiving process; return what it said."""
    ran = subprocess.run(command(log, keep, keep_days, compress), capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stdout) == (0, "")
    return ran.stderr


def command(log: Path, keep: int = 5, keep_days: int | None = None, compress: str = "gzip") -> list[str]:
    wanted = {"kind": "archive", "path": str(log), "keep": keep, "keep_days": keep_days, "compress": compress}
    return [sys.executable, "-I", "-S", str(PROGRAM), "archive", encode(wanted).decode()]


def put_aside(log: Path, count: int = 1, text: bytes = b"line\n" * 1000) -> list[Path]:
    files = [Path(f"{log}.2026010{number}T000000Z") for number in range(1, count + 1)]
    for file in files:
        file.write_bytes(text)
    return files


@pytest.mark.parametrize(("compress", "end", "unpack"), [("gzip", ".gz", "gzip"), ("zstd", ".zst", "zstd")])
def test_what_was_put_aside_is_compressed(tmp_path: Path, compress: str, end: str, unpack: str) -> None:
    text = random.Random(1).randbytes(3_000_001) + b"x" * 3_000_000
    (file,) = put_aside(tmp_path / "log", text=text)
    file.chmod(0o604)
    os.utime(file, (1_000_000_000,) * 2)
    assert archive(tmp_path / "log", compress=compress) == ""
    (packed,) = tmp_path.iterdir()
    assert packed.name == file.name + end
    assert subprocess.run([unpack, "-dc"], stdin=packed.open("rb"), stdout=subprocess.PIPE, check=True).stdout == text
    assert (stat.S_IMODE(packed.stat().st_mode), packed.stat().st_mtime) == (0o604, 1_000_000_000)
    assert packed.stat().st_size < 3_100_000


def test_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    assert archive(tmp_path / "log") == ""
    (file,) = put_aside(tmp_path / "log", text=b"")
    assert archive(tmp_path / "log", compress="zstd") == ""
    assert subprocess.run(["zstd", "-dc", f"{file}.zst"], capture_output=True, check=True).stdout == b""


def test_not_compressed_when_not_wanted(tmp_path: Path) -> None:
    (file,) = put_aside(tmp_path / "log")
    assert archive(tmp_path / "log", compress="none") == ""
    assert [*tmp_path.iterdir()] == [file]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    files = put_aside(tmp_path / "log", 5)
    (tmp_path / "log").write_text("now\n")
    (tmp_path / "log.1").write_text("someone else's\n")
    files[0].rename(f"{files[0]}.gz")
    assert archive(tmp_path / "log", keep=2) == ""
    assert {file.name for file in tmp_path.iterdir()} == {"log", "log.1", f"{files[3].name}.gz", f"{files[4].name}.gz"}


def test_what_is_too_old_is_removed(tmp_path: Path) -> None:
    files = put_aside(tmp_path / "log", 3)
    for file, days in zip(files, (3.5, 2.5, 0), strict=True):
        os.utime(file, (time.time() - days * DAY,) * 2)
    assert archive(tmp_path / "log", keep_days=3, compress="none") == ""
    assert sorted(tmp_path.iterdir()) == files[1:]


def test_one_that_was_killed_is_made_up_for(tmp_path: Path) -> None:
    text = random.Random(2).randbytes(1_000_000) * 40
    (file,) = put_aside(tmp_path / "log", text=text)
    process = subprocess.Popen(command(tmp_path / "log"))
    until(lambda: any(path.name.endswith(".part") for path in tmp_path.iterdir()), "that it has begun")
    process.kill()
    process.wait()
    assert file.read_bytes() == text
    assert archive(tmp_path / "log") == ""
    (packed,) = tmp_path.iterdir()
    assert gzip.decompress(packed.read_bytes()) == text


def test_what_others_have_half_done_is_left_alone(tmp_path: Path) -> None:
    (file,) = put_aside(tmp_path / "log")
    others = {"log.tar.part", "log.20260101.gz.part", f"{file.name}.part", f"{file.name}.xz.part", "log.part"}
    for name in (*others, f"{file.name}.zst.part", "log.20250101T000000Z.gz.part"):
        (tmp_path / name).touch()
    assert archive(tmp_path / "log") == ""
    assert {path.name for path in tmp_path.iterdir()} == {*others, f"{file.name}.gz"}


def test_one_that_was_killed_before_it_removed_the_original(tmp_path: Path) -> None:
    (file,) = put_aside(tmp_path / "log")
    Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
    before = Path(f"{file}.gz").stat()
    assert archive(tmp_path / "log", compress="zstd") == ""
    (packed,) = tmp_path.iterdir()
    assert (packed.name, packed.stat().st_ino) == (f"{file.name}.gz", before.st_ino)


def test_links_are_not_followed(tmp_path: Path) -> None:
    precious, directory = tmp_path / "precious", tmp_path / "logs"
    directory.mkdir()
    precious.write_text("secret")
    Path(f"{directory}/log.20260101T000000Z").symlink_to(precious)
    os.link(precious, f"{directory}/log.20260102T000000Z")
    said = archive(directory / "log")
    assert said.count("cannot compress") == 2
    assert precious.read_text() == "secret"
    assert len([*directory.iterdir()]) == 2


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    ran = subprocess.run(command(tmp_path / "missing" / "log"), capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "No such file or directory" in ran.stderr


# The whole way, under a keeper.


def test_a_service_s_log_is_rotated_and_compressed_and_the_oldest_go(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    rotation = {"size": 200_000, "keep": 1000, "compress": "gzip"}
    supervisor.spawn("service", "seq", "100000", output={"log": str(log), "name": "service", "rotation": rotation})
    assert supervisor.ended("service") == {"exited": 0}

    def all_is_done() -> bool:
        names = [path.name for path in log.parent.iterdir() if path.name.startswith("service.log.")]
        return len(names) > 5 and all(name.endswith(".gz") for name in names)

    until(all_is_done, "compression")
    assert unstamped(content(log)) == [b"%d" % number for number in range(1, 100_001)]
    supervisor.ask("release", id="service")
    until(lambda: len(keeper.children()) == 2, "the end of what compresses")
    supervisor.spawn("service", "seq", "30000", output={"log": str(log), "rotation": {**rotation, "keep": 2}})
    assert supervisor.ended("service") == {"exited": 0}
    until(lambda: len(archives(str(log))) == 2, "that the oldest are removed")
    assert "compress" not in keeper.log.read_text()


def test_what_compresses_is_no_service_and_ends_with_the_keeper(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    log = keeper.place / "log" / "service.log"
    Path(f"{log}.20260101T000000Z").write_bytes(random.Random(3).randbytes(1_000_000) * 200)
    rotation = {"size": 10_000, "compress": "gzip"}
    supervisor.spawn("service", "seq", "50000", output={"log": str(log), "rotation": rotation})
    supervisor.ended("service")

    def at_work() -> list[psutil.Process]:
        living = (child for child in keeper.children() if child.status() != psutil.STATUS_ZOMBIE)
        return [child for child in living if "archive" in child.cmdline()]

    found: list[psutil.Process] = []
    until(lambda: found.extend(at_work()) or found, "compression")
    compressing = found[0]
    until(lambda: compressing.nice() == 10, "that it is nice")
    told = supervisor.hello()
    assert [message["id"] for message in told if message["kind"] == "process"] == ["service"]
    compressing.send_signal(signal.SIGSTOP)  # however slow it is
    supervisor.ask("release", id="service")
    supervisor.tell("exit", status=0, message=None)
    supervisor.end()
    assert keeper.wait()[0] == 0
    # It is an orphan by now, to be reaped by the machine's init, whenever that comes to it.
    until(lambda: not lives(compressing.pid), "its end")


def test_a_rotation_that_is_no_table_is_refused(keeper: Running) -> None:
    keeper.begin()
    answer = keeper.supervisor().spawn("service", "true", output={"log": "/dev/null", "rotation": 5})
    assert (answer["kind"], answer["message"]) == ("error", "spawn: output: rotation must be an object or null")


def test_what_a_declaration_says_is_done(herdpy: Any) -> None:
    herdpy.declare(
        "talker",
        'command = ["sh", "-c", "seq 60000; exec sleep 1000"]\nauto-start = true\n'
        '[log-rotation]\nsize = "200K"\nkeep = 3\ncompress = "zstd"\n',
    )
    herdpy.start()
    log = herdpy.log / "talker.log"

    def is_done() -> bool:
        # The last file may have more than its size by one read (64 KiB): it is put aside when the next line comes.
        names = sorted(path.name for path in herdpy.log.iterdir() if path.name.startswith("talker.log."))
        return len(names) == 3 and all(name.endswith("Z.zst") for name in names) and log.stat().st_size < 270 << 10

    until(is_done, "rotation")
    packed = sorted(str(path) for path in herdpy.log.iterdir() if path.name.endswith(".zst"))
    text = subprocess.run(["zstd", "-dc", *packed], capture_output=True, check=True).stdout
    lines = [int(line) for line in unstamped(text + log.read_bytes())]
    assert lines == list(range(lines[0], 60_001))
    assert herdpy.status("talker")["status"] == "running"
