"""The logger, from outside: what services write is in their files, whatever happens to the files."""

import os
import resource
import select
import signal
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.logger.conftest import Logger
from tests.logger.test_file import unstamped
from tests.waiting import until


def test_each_line_is_stamped_with_local_time(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "new" / "directory" / "service.log"
    writing = logger.open(log)
    before = int(time.time())
    os.write(writing, b"one\ntwo\n\nfour\n")
    logger.drain()
    after = int(time.time())
    assert unstamped(log.read_bytes()) == [b"one", b"two", b"", b"four"]
    for line in log.read_text().splitlines():
        assert before <= time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S")) <= after
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o750


def test_no_file_before_the_first_line(logger: Logger, tmp_path: Path) -> None:
    logger.open(tmp_path / "log")
    logger.drain()
    assert not (tmp_path / "log").exists()


def test_a_last_line_without_newline_is_kept(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log)
    os.write(writing, b"first\nlast")
    logger.close()
    assert unstamped(log.read_bytes()) == [b"first", b"last"]


def test_drain_ends_a_line_and_what_follows_begins_another(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log)
    os.write(writing, b"half")
    logger.drain()
    os.write(writing, b"more\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"half", b"more"]


def test_a_line_of_ten_megabytes_stays_whole(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log)
    subprocess.run(["sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo next"], stdout=writing, check=True)
    logger.drain()
    lines = unstamped(log.read_bytes())
    assert [len(line) for line in lines] == [10_000_000, 4]


def test_bytes_of_any_kind(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    everything = bytes(range(256))
    os.write(logger.open(log), everything + b"\n\r\n\xff\xfe\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == (everything + b"\n\r\n\xff\xfe").split(b"\n")


@pytest.mark.parametrize("how", ["delete", "move", "replace"])
def test_a_file_that_someone_took_away_is_made_anew(logger: Logger, tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    writing = logger.open(log)
    os.write(writing, b"before, unfinished")
    until(lambda: log.exists() and b"unfinished" in log.read_bytes(), "the first line")
    if how == "delete":
        log.unlink()
    else:
        log.rename(tmp_path / "moved")
    if how == "replace":
        log.write_bytes(b"")
    os.write(writing, b"after\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"after"]


def test_a_directory_that_someone_took_away_is_made_anew(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "directory" / "log"
    writing = logger.open(log)
    os.write(writing, b"before\n")
    logger.drain()
    log.parent.rename(tmp_path / "moved")
    os.write(writing, b"after\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"after"]


def test_a_full_disk_stops_no_service_and_is_told_once(logger: Logger, tmp_path: Path) -> None:
    writing = logger.open(Path("/dev/full"))
    lines = "while [ $((i += 1)) -le 50000 ]; do echo line; done"
    subprocess.run(["sh", "-c", lines], stdout=writing, check=True, timeout=60)  # more than a pipe holds
    logger.drain()
    other = logger.open(tmp_path / "log", 2)
    os.write(other, b"others are written\n")
    logger.drain(2)
    assert unstamped((tmp_path / "log").read_bytes()) == [b"others are written"]
    assert logger.end() == (
        "logger: cannot write /dev/full: No space left on device; its lines are lost until that is mended\n"
    )


def test_lost_lines_are_counted_and_told_when_it_goes_on(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "directory" / "log"
    log.parent.write_text("a file where the directory is to be")
    writing = logger.open(log)
    for _ in range(3):
        os.write(writing, b"lost\nlost\n")
        logger.drain()
    log.parent.unlink()
    os.write(writing, b"kept\n")
    logger.drain()
    assert unstamped(log.read_bytes()) == [b"6 lines were lost here: Not a directory", b"kept"]
    said = logger.end().splitlines()
    assert said == [
        f"logger: cannot write {log}: Not a directory; its lines are lost until that is mended",
        f"logger: can write {log} again; 6 lines were lost here: Not a directory",
    ]


def test_a_disk_that_gets_full_in_the_middle_of_a_line(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writing = logger.open(log)
    process = psutil.Process(logger.process.pid)
    os.write(writing, b"whole\n")
    logger.drain()
    process.rlimit(psutil.RLIMIT_FSIZE, (log.stat().st_size + 25, resource.RLIM_INFINITY))
    os.write(writing, b"cut off in the middle\nlost\n")
    logger.drain()
    process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.write(writing, b"after\n")
    logger.drain()
    lines = unstamped(log.read_bytes())
    assert (lines[0], lines[1], lines[3]) == (b"whole", b"cut o", b"after")
    assert lines[2].startswith(b"2 lines were lost here: File too large")


def test_a_symbolic_link_is_not_followed(logger: Logger, tmp_path: Path) -> None:
    precious, log = tmp_path / "precious", tmp_path / "log"
    precious.write_text("")
    log.symlink_to(precious)
    os.write(logger.open(log), b"line\n")
    logger.drain()
    assert precious.read_text() == ""
    assert "it is a symbolic link" in logger.end()


def test_a_fifo_without_a_reader_holds_nobody_up(logger: Logger, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writing = logger.open(tmp_path / "fifo")
    subprocess.run(["seq", "100000"], stdout=writing, check=True, timeout=60)
    logger.drain()


def test_echo_repeats_lines_on_stderr_without_stamps(logger: Logger, tmp_path: Path) -> None:
    writing = logger.open(tmp_path / "log", echo=True)
    os.write(writing, b"one\ntwo\n")
    logger.drain()
    assert unstamped((tmp_path / "log").read_bytes()) == [b"one", b"two"]
    assert logger.end() == "one\ntwo\n"


def test_nobody_reading_stderr_holds_nobody_up(logger: Logger, tmp_path: Path) -> None:
    writing = logger.open(tmp_path / "log", echo=True)
    subprocess.run(["seq", "100000"], stdout=writing, check=True, timeout=60)
    logger.drain()
    assert unstamped((tmp_path / "log").read_bytes())[-1] == b"100000"


def test_a_flood_from_one_service_does_not_keep_another_s_lines(logger: Logger, tmp_path: Path) -> None:
    flood = subprocess.Popen(["yes"], stdout=logger.open(Path("/dev/null"), 1))
    try:
        os.write(logger.open(tmp_path / "log", 2), b"line\n")
        logger.drain(2)
        assert unstamped((tmp_path / "log").read_bytes()) == [b"line"]
        logger.drain(1)  # what was in the pipe at that moment, not what comes ever after
    finally:
        flood.kill()
        flood.wait()


def test_two_pipes_into_one_file_do_not_mix_lines(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, second = logger.open(log, 1), logger.open(log, 2)
    os.write(first, b"first, ")
    logger_wrote = len(b"2026-01-01 00:00:00 first, ")
    until(lambda: log.exists() and log.stat().st_size == logger_wrote, "the beginning of a line")
    os.write(second, b"second\n")
    logger.drain(2)
    os.write(first, b"goes on\n")
    logger.drain(1)
    assert unstamped(log.read_bytes()) == [b"first, ", b"second", b"goes on"]
    logger.close(1)
    os.write(second, b"still here\n")
    logger.drain(2)
    assert unstamped(log.read_bytes())[-1] == b"still here"


def test_without_a_keeper_it_goes_on_until_nobody_writes(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sleeper = subprocess.Popen(["sh", "-c", "read line; echo $line"], stdin=subprocess.PIPE, stdout=logger.open(log))
    logger.drain()
    logger.line.close()
    for end in logger._pipes.pop(1):
        os.close(end)
    logger.process.send_signal(signal.SIGTERM)  # as whoever ends a whole control group does
    sleeper.communicate(b"late words\n")
    assert logger.process.wait(60) == 0
    assert unstamped(log.read_bytes()) == [b"late words"]


def test_a_keeper_that_is_killed_with_packets_unread_is_only_gone(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    logger.open(log)
    logger.drain()
    logger.tell("drain", id=1)
    assert select.select([logger.line], [], [], 20)[0], "the answer, which nobody reads"
    sleeper = subprocess.Popen(["sh", "-c", "read line; echo $line"], stdin=subprocess.PIPE, stdout=logger._pipes[1][1])
    logger.line.close()  # ECONNRESET at the other end, and what is sent meets EPIPE
    for end in logger._pipes.pop(1):
        os.close(end)
    sleeper.communicate(b"late words\n")
    assert logger.process.wait(60) == 0
    assert unstamped(log.read_bytes()) == [b"late words"]


def test_what_is_in_the_pipes_at_the_end_is_written(logger: Logger, tmp_path: Path) -> None:
    writings = [logger.open(tmp_path / f"{number}", number) for number in range(1, 51)]
    logger.process.send_signal(signal.SIGSTOP)
    for writing in writings:
        os.write(writing, b"words")
    logger.tell("end")
    logger.process.send_signal(signal.SIGCONT)
    assert logger.process.wait(60) == 0
    assert {(tmp_path / f"{number}").read_bytes()[20:] for number in range(1, 51)} == {b"words\n"}


def test_a_bad_packet_does_not_end_it(logger: Logger, tmp_path: Path) -> None:
    for packet in (b"{", b'{"kind": "open"}', b'{"kind": "drain"}', b'{"kind": "nonsense"}'):
        logger.line.send(packet)
    os.write(logger.open(tmp_path / "log"), b"line\n")
    logger.drain()
    assert unstamped((tmp_path / "log").read_bytes()) == [b"line"]


def test_throughput(logger: Logger, tmp_path: Path) -> None:
    """1.3 M lines of 200 bytes a second on a quiet machine; a third of that here, where others work beside it."""
    lines = 1_000_000
    source = tmp_path / "source"
    source.write_bytes((b"x" * 199 + b"\n") * (lines // 5))
    writing = logger.open(tmp_path / "log")
    logger.drain()
    process = psutil.Process(logger.process.pid)
    for attempt in range(1, 4):  # what runs beside it costs CPU here, too: in caches, above all
        before = process.cpu_times()
        begin = time.monotonic()
        subprocess.run(["cat", *[str(source)] * 5], stdout=writing, check=True)
        logger.drain()
        took = time.monotonic() - begin
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        print(f"{lines / took / 1e6:.2f} M lines/s, {spent / lines * 1e6:.2f} us of CPU a line")
        assert (tmp_path / "log").stat().st_size == attempt * lines * 220
        if spent / lines < 2.1e-6:
            return
    raise AssertionError(f"{spent / lines * 1e6:.2f} us of CPU a line, and more before")
