"""A disk that is full or stuck: it costs its own lines at most, is told once, and nobody else notices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.conftest import Running
from tests.keeper.conftest import keeper as keeper  # noqa: PLC0414 - a fixture
from tests.keeper.conftest import place as place  # noqa: PLC0414
from tests.logger.conftest import PATIENCE, Logger
from tests.logger.test_file import unstamped
from tests.logger.test_rotation import command
from tests.waiting import until

QUICK = 20.0
"""Seconds within which the keeper answers, whatever the disk does; it takes a few milliseconds."""


def with_a_disk_at(place: Path, size: str) -> tuple[str, ...]:
    """A command's beginning: in mounts of its own, with a small file system there."""
    place.mkdir(parents=True)
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    prefix = ("unshare", *root, "--mount", "sh", "-c", mount, str(place))
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs root, or user namespaces")
    return prefix


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Logger, Path]]:
    """A logger with a disk of 512 KiB, and where that is."""
    logger = Logger(with_a_disk_at(tmp_path / "disk", "512k"))
    logger.open(tmp_path / "begun", 99)
    logger.drain(99)  # and so the disk is there
    yield logger, Path(f"/proc/{logger.process.pid}/root{tmp_path}/disk")
    logger.clean()


def test_a_disk_that_gets_full_in_a_flood_and_is_cleared(small: tuple[Logger, Path], tmp_path: Path) -> None:
    logger, disk = small
    (disk / "filler").write_bytes(bytes(256 << 10))
    writing = logger.open(tmp_path / "disk" / "log")
    other = logger.open(tmp_path / "log", 2)
    subprocess.run(["seq", "50000"], stdout=writing, check=True, timeout=PATIENCE)
    logger.drain()
    os.write(other, b"others are written\n")
    logger.drain(2)
    assert unstamped((tmp_path / "log").read_bytes()) == [b"others are written"]
    (disk / "filler").unlink()
    os.write(writing, b"on again\n")
    logger.drain()
    text = (disk / "log").read_bytes().splitlines(keepends=True)
    lines = unstamped(b"".join(line for line in text if len(line) > 20))  # one may be cut off within its stamp
    assert lines[-1] == b"on again"
    told = re.fullmatch(rb"(\d+) lines were lost here: No space left on device", lines[-2])
    assert told is not None, lines[-2]
    whole = next(at for at, line in enumerate(lines) if line != b"%d" % (at + 1))
    assert whole > 5000
    assert whole + int(told[1]) == 50_000
    assert len(lines) <= whole + 3  # besides, what there was room for of the first that is lost
    said = logger.end().splitlines()
    log = tmp_path / "disk" / "log"
    assert said == [
        f"logger: cannot write {log}: No space left on device; its lines are lost until that is mended",
        f"logger: can write {log} again; {told[0].decode()}",
    ]


def test_what_is_wrong_with_a_log_is_in_herdpys_own_once(logger: Logger, tmp_path: Path) -> None:
    own = logger.open(tmp_path / "herdpy.log", 1, echo=True)
    writing = logger.open(tmp_path / "log", 2)
    os.write(own, b"unfinished")
    logger.drain()
    (tmp_path / "log").mkdir()
    for _ in range(3):
        os.write(writing, b"lost\n")
        logger.drain(2)
    (tmp_path / "log").rmdir()
    os.write(writing, b"on again\n")
    logger.drain(2)
    said = [
        f"logger: cannot write {tmp_path}/log: Is a directory; its lines are lost until that is mended",
        f"logger: can write {tmp_path}/log again; 3 lines were lost here: Is a directory",
    ]
    assert logger.end().splitlines() == [f"unfinished{said[0]}", said[1]]
    written = unstamped((tmp_path / "herdpy.log").read_bytes())
    assert [line.decode() for line in written] == ["unfinished", *said]


def test_what_is_wrong_with_herdpys_own_log_is_on_stderr_alone(logger: Logger, tmp_path: Path) -> None:
    path = tmp_path / "herdpy.log"
    path.mkdir()
    own = logger.open(path, echo=True)
    os.write(own, b"lost\n")
    logger.drain()
    path.rmdir()
    os.write(own, b"on again\n")
    logger.drain()
    assert [line.split(":")[:2] for line in logger.end().splitlines()] == [
        *(["logger", f" cannot write {path}"], ["lost"]),
        *(["logger", f" can write {path} again; 1 lines were lost here"], ["on again"]),
    ]
    assert b"logger" not in path.read_bytes()


def test_a_rotated_file_that_finds_no_room_for_its_compressed_self_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    prefix = with_a_disk_at(disk, "512k")
    script = 'cd "$0" && head -c 300000 /dev/urandom > log.20260101T000000Z && "$@"; wc -c *'
    ran = subprocess.run(
        [*prefix, "sh", "-c", script, str(disk), *command(disk / "log")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.stdout == "300000 log.20260101T000000Z\n"
    assert ran.stderr == (
        f"logger: cannot compress {disk}/log.20260101T000000Z: No space left on device; it is left as it is\n"
    )


def test_a_stuck_logger_holds_up_neither_keeper_nor_supervisor(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    os.kill(keeper.logger(), signal.SIGSTOP)
    logs = [keeper.place / "log" / f"{number}.log" for number in range(40)]
    for number, log in enumerate(logs):
        begin = time.monotonic()
        told = supervisor.spawn(f"s{number}", "seq", "20000", output={"log": str(log)})  # more than a pipe holds
        assert told["kind"] == "spawned"
        assert supervisor.ask("signal", id=f"s{number}", signal=0, scope="process")["delivered"] is True
        assert time.monotonic() - begin < QUICK
    for _ in range(3000):  # what the supervisor itself has to say does not wait, either
        supervisor.tell("release", id="nobody")
        assert supervisor.receive()["kind"] == "error"
    assert not any(log.exists() for log in logs)
    os.kill(keeper.logger(), signal.SIGCONT)
    ended = set()
    while len(ended) < len(logs):
        told = supervisor.receive()
        if told["kind"] == "exited":
            assert told["status"] == {"exited": 0}
        elif told["kind"] == "drained":
            ended.add(told["id"])
    for log in logs:
        assert unstamped(log.read_bytes()) == [b"%d" % number for number in range(1, 20_001)]


def test_a_full_disk_under_all_logs_holds_up_nobody_and_is_told_on_stderr(keeper: Running) -> None:
    logs = keeper.place / "log"
    keeper.begin(prefix=with_a_disk_at(logs, "64k"))
    supervisor = keeper.supervisor()
    flood = "while :; do seq 1000; sleep 0.01; done"
    for number in range(3):
        supervisor.spawn(f"s{number}", "sh", "-c", flood, output={"log": str(logs / f"{number}.log")})
    disk = Path(f"/proc/{keeper.pid}/root{logs}")
    until(lambda: os.statvfs(disk).f_bfree == 0, "a full disk")
    for _ in range(100):
        begin = time.monotonic()
        assert supervisor.ask("signal", id="s0", signal=0, scope="process")["delivered"] is True
        assert time.monotonic() - begin < QUICK
    told = supervisor.spawn("last", "true", output={"log": str(logs / "last.log")})
    assert told["kind"] == "spawned"
    ended = {supervisor.receive()["kind"] for _ in range(2)}
    assert ended == {"exited", "drained"}
    supervisor.tell("exit", status=0, message=None)
    supervisor.end()
    status, _, errors = keeper.wait()
    assert status == 0
    told_of = [errors.count(f"cannot write {logs / str(number)}.log: No space left on device") for number in range(3)]
    assert max(told_of) == 1, errors
