"""A logger that is killed, wherever it is: no line is lost, none is written twice, none is cut in two."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from herdpy.logger.rotation import archives
from tests.keeper.conftest import Running
from tests.keeper.conftest import keeper as keeper  # noqa: PLC0414 - a fixture
from tests.keeper.conftest import place as place  # noqa: PLC0414
from tests.logger.conftest import PROGRAM, Logger
from tests.logger.test_file import unstamped
from tests.waiting import until

KILLS = 30
STRIDE = 17
"""Bytecodes from one kill to the next; 1 was tried, too."""

# Lines of many lengths, so that every chunk begins and ends somewhere else in a line; some longer than a pipe.
COUNTING = """
import os, sys
name, go_on = sys.argv[1], sys.argv[2]
number = 0
while number < 20_000 or os.path.exists(go_on):
    lines = []
    for number in range(number, number + 500):
        length = 100_000 if number % 5000 == 77 else number * 7919 % 300
        lines.append(f"{name} {number} {'x' * length} {length}\\n")
    number += 1
    sys.stdout.write("".join(lines))
sys.stdout.write(f"{name} {number} {'x' * 5} 5")
"""


def lost_doubled_and_cut(content: bytes, name: bytes) -> tuple[int, int, int, int]:
    """Count the lines of one writer that are not there, there more than once, and not whole; and all there are."""
    seen: Counter[int] = Counter()
    cut = 0
    for line in unstamped(content):
        words = line.split(b" ")
        if words[0] != name:
            continue
        if len(words) == 4 and words[2] == b"x" * int(words[3]):
            seen[int(words[1])] += 1
        else:
            cut += 1
    last = max(seen)
    return last + 1 - len(seen), sum(seen.values()) - len(seen), cut, last + 1


def test_thirty_kills_in_full_flood_lose_and_double_nothing(logger: Logger, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    go_on.touch()
    logs = {name: tmp_path / f"{name}.log" for name in ("one", "two", "three", "four")}
    floods = [
        subprocess.Popen([sys.executable, "-c", COUNTING, name, str(go_on)], stdout=logger.open(log, number))
        for number, (name, log) in enumerate(logs.items(), 1)
    ]
    try:
        chance = random.Random(11)
        for kill in range(KILLS):
            enough = written(logs.values()) + chance.randrange(200_000, 3_000_000)
            until(lambda: written(logs.values()) > enough, f"output after kill {kill}")  # noqa: B023
            logger.kill()
        go_on.unlink()
        for number, flood in enumerate(floods, 1):
            assert flood.wait(60) == 0
            logger.drain(number)
    finally:
        for flood in floods:
            flood.kill()
            flood.wait()
    counts = {name: lost_doubled_and_cut(log.read_bytes(), name.encode()) for name, log in logs.items()}
    print(counts)
    assert {name: count[:3] for name, count in counts.items()} == dict.fromkeys(logs, (0, 0, 0))


def test_a_logger_killed_under_its_keeper_goes_on_where_it_was(keeper: Running) -> None:
    keeper.begin()
    supervisor = keeper.supervisor()
    go_on = keeper.place / "go-on"
    go_on.touch()
    log = keeper.place / "log" / "one.log"
    supervisor.spawn("one", sys.executable, "-c", COUNTING, "one", str(go_on), output={"log": str(log)})
    for kill in range(3):
        logger = psutil.Process(keeper.logger())
        enough = written([log]) + 200_000
        until(lambda: written([log]) > enough, f"output after kill {kill}")  # noqa: B023
        logger.kill()
        until(lambda: not logger.is_running(), "the logger's end")  # noqa: B023 - called before it changes
    go_on.unlink()
    while supervisor.receive()["kind"] != "drained":
        pass
    assert lost_doubled_and_cut(log.read_bytes(), b"one")[:3] == (0, 0, 0)
    assert keeper.logged("the logger").count("was killed by signal 9") == 3


def test_whose_line_is_unfinished_is_known_to_the_next_logger(logger: Logger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    writers = {number: logger.open(log, number) for number in (1, 2)}
    size = 0
    for number, said in ((1, b"one, "), (2, b"two, "), (1, b"one again, ")):
        os.write(writers[number], said)
        size += (size > 0) + len("2026-01-01 00:00:00 ") + len(said)
        until(lambda: log.exists() and log.stat().st_size == size, f"{said!r} in the log")  # noqa: B023
    logger.kill()
    os.write(writers[1], b"to its end\n")
    logger.drain(1)
    assert unstamped(log.read_bytes()) == [b"one, ", b"two, ", b"one again, to its end"]
    os.write(writers[1], b"one, ")
    until(lambda: log.read_bytes().endswith(b"one, "), "a line begun")
    os.write(writers[2], b"two, ")
    until(lambda: log.read_bytes().endswith(b"two, "), "a line broken off")
    logger.kill()
    os.write(writers[1], b"one\n")
    logger.drain(1)
    assert unstamped(log.read_bytes())[3:] == [b"one, ", b"two, ", b"one"]


def written(logs: Iterable[Path]) -> int:
    size = 0
    for log in logs:
        with contextlib.suppress(FileNotFoundError):  # rotated away meanwhile
            size += log.stat().st_size
    return size


# A logger is killed before its Nth bytecode, for one N after the other, and another one goes on.
EVERY_STEP = """
import os, sys
sys.path.insert(0, sys.argv[1])
directory = sys.argv[2]
from herdpy.keeper.table import make_ledger
from herdpy.logger.file import LogFile
from herdpy.logger.ledger import Ledger
from herdpy.logger.rotation import Rotation


SAID = [(number, said.encode()) for number, said in eval(sys.argv[5])]

def take(path, ends, pipes, kill):
    ledger = Ledger(*map(os.dup, ends))
    file = LogFile(path, ledger, lambda words: os._exit(3))
    file.rotation = Rotation(size=85)
    count = 0
    def step(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode" and "herdpy/logger" in frame.f_code.co_filename:
            count += 1
            if count == kill:
                os.kill(os.getpid(), 9)
        return step
    sys.settrace(step)
    for number in ledger.open_lines():
        file.inherit(number)
    if ledger.source:
        file.resume(ledger.source, *ledger.resume())
    ledger.settle()
    for number, chunk in SAID if kill else SAID[::-1]:  # who was broken off reads on first
        got = ledger.take(number, pipes[number - 1][0], len(chunk))
        if got:
            file.write(number, got)
    sys.settrace(None)
    os._exit(0)

kill = int(sys.argv[3])
stride = int(sys.argv[4])
done = False
while not done:
    path = f"{directory}/{kill}/log"
    os.mkdir(f"{directory}/{kill}")
    ends, pipes = make_ledger(), [os.pipe() for _ in range(2)]
    for reading, writing in pipes:
        os.set_blocking(reading, False)
    for number, chunk in SAID:
        os.write(pipes[number - 1][1], chunk)
    for attempt in (kill, 0):
        child = os.fork()
        if child == 0:
            take(path, ends, pipes, attempt)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if attempt and status == 0:
            done = True
        elif status != (-9 if attempt else 0):
            sys.exit(f"kill {kill}, attempt {attempt}: {status}")
    for end in (*ends, *sum(pipes, ())):
        os.close(end)
    kill += stride
print(kill - stride)
"""


def killed_at_every_step(directory: Path, said: list[tuple[int, str]], stride: int) -> Iterator[list[bytes]]:
    """The lines that each try has left."""
    arguments = [str(PROGRAM.parent.parent.parent), str(directory), "1", str(stride), repr(said)]
    ran = subprocess.run([sys.executable, "-c", EVERY_STEP, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 1000, "it was not killed often enough"
    for tried in sorted(directory.iterdir(), key=lambda path: int(path.name)):
        files = [*(f"log.{stamp}" for stamp in archives(str(tried / "log"))), "log"]
        assert len(files) > 2, files
        yield unstamped(b"".join((tried / file).read_bytes() for file in files if (tried / file).exists()))


def test_killed_at_any_step_with_rotations_in_the_way(tmp_path: Path) -> None:
    said = [(1, "one\ntwo\nthr"), (1, "ee\nfour\n"), (1, "fi"), (1, "ve"), (1, "\nsix\nseven\neight\n")]
    expected = "".join(chunk for _, chunk in said).encode().splitlines()
    for number, lines in enumerate(killed_at_every_step(tmp_path, said, STRIDE)):
        assert lines == expected, f"killed before bytecode {1 + number * STRIDE}"


def test_killed_at_any_step_while_two_write_into_one_file(tmp_path: Path) -> None:
    said = [(1, "abc\nde"), (2, "QRS\nTU"), (1, "fg\nhi\njk"), (2, "VW"), (1, "l\nmn\n"), (2, "\nXYZ\n")]
    for number, lines in enumerate(killed_at_every_step(tmp_path, said, STRIDE)):
        where = f"killed before bytecode {1 + number * STRIDE}: {lines}"
        assert all(line.islower() or line.isupper() or not line for line in lines), where
        for letters, writer in ((bytes.islower, 1), (bytes.isupper, 2)):
            whole = "".join(chunk for number, chunk in said if number == writer).encode().replace(b"\n", b"")
            assert b"".join(line for line in lines if letters(line)) == whole, where
