"""What the logger costs: lines a second and CPU a line, when one service or several write as fast as they can.

    python benchmarks/logger.py [--lines N] [--length BYTES] [--services N] [--rounds N] [--directory DIR]

A real logger reads the pipes, as under the keeper; cat(1) writes into them. Beside it, in the same round, a bare loop:
read(2), stamp, write(2), nothing recorded and nothing checked. The ratio says what losing and doubling no line costs.
Where s6-log is installed, it takes its turn with ``s6-log t DIR``.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from herdpy.keeper.message import ancillary, decode, encode  # noqa: E402
from herdpy.keeper.table import make_ledger, make_pipe  # noqa: E402

PROGRAM = ROOT / "herdpy" / "logger" / "__main__.py"

BARE = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while chunk := os.read(0, 65536):
    now = time.strftime("%Y-%m-%d %H:%M:%S ").encode()
    os.write(file, now + chunk.replace(b"\\n", b"\\n" + now))
"""

Result = tuple[float, float]
"""Seconds, and seconds of CPU."""


def spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def herdpy(source: Path, place: Path, services: int) -> Result:
    """Run our logger."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())]
        logger = psutil.Popen(command, pass_fds=[theirs.fileno()])
    ledger = make_ledger()
    ours.sendmsg([encode({"kind": "ledger"})], ancillary(ledger))
    for descriptor in ledger:
        os.close(descriptor)
    ours.send(encode({"kind": "begin"}))
    pipes = []
    for number in range(1, services + 1):
        reading, writing = make_pipe()
        opening = {"kind": "open", "id": number, "path": str(place / str(number))}
        ours.sendmsg([encode(opening)], ancillary([reading]))
        pipes.append(writing)
        os.close(reading)
    ours.send(encode({"kind": "drain", "id": 1}))
    assert decode(ours.recv(4096))["kind"] == "drained"
    before, begin = spent(logger), time.perf_counter()
    writers = [subprocess.Popen(["cat", source], stdout=writing) for writing in pipes]
    for writing in pipes:
        os.close(writing)
    for writer in writers:
        writer.wait()
    for _ in writers:
        assert decode(ours.recv(4096))["kind"] == "closed"
    took, used = time.perf_counter() - begin, spent(logger) - before
    ours.send(encode({"kind": "end"}))
    logger.wait()
    ours.close()
    return took, used


def filters(command: Callable[[Path], list[str]]) -> Callable[[Path, Path, int], Result]:
    """Run a program per service that reads its lines from stdin."""

    def run(source: Path, place: Path, services: int) -> Result:
        begin = time.perf_counter()
        pairs = []
        for number in range(1, services + 1):
            writer = subprocess.Popen(["cat", source], stdout=subprocess.PIPE)
            pairs.append((writer, psutil.Popen(command(place / str(number)), stdin=writer.stdout)))
            assert writer.stdout is not None
            writer.stdout.close()
        used = 0.0
        for _writer, reader in pairs:
            _, _, usage = os.wait4(reader.pid, 0)
            used += usage.ru_utime + usage.ru_stime
        for writer, _reader in pairs:
            writer.wait()
        took = time.perf_counter() - begin
        return took, used

    return run


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=1_000_000, help="of each service")
    parser.add_argument("--length", type=int, default=200, help="bytes of a line, its newline among them")
    parser.add_argument("--services", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where the logs go; in the directory for temporary files")
    wanted = parser.parse_args()
    contestants: dict[str, Callable[[Path, Path, int], Result]] = {
        "herdpy": herdpy,
        "bare loop": filters(lambda log: [sys.executable, "-I", "-S", "-c", BARE, str(log)]),
    }
    if shutil.which("s6-log"):
        contestants["s6-log t"] = filters(lambda log: ["s6-log", "t", f"{log}.d"])
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    lines = wanted.lines * wanted.services
    with tempfile.TemporaryDirectory(dir=wanted.directory) as directory:
        source = Path(directory) / "source"
        source.write_bytes((b"x" * (wanted.length - 1) + b"\n") * wanted.lines)
        for _ in range(wanted.rounds):
            for name, run in contestants.items():
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    results[name].append(run(source, Path(place), wanted.services))
                    if name == "herdpy":
                        size = sum(log.stat().st_size for log in Path(place).iterdir())
                        assert size == lines * (wanted.length + 20), "lines are missing"
    print(f"{wanted.services} x {wanted.lines} lines of {wanted.length} bytes, medians of {wanted.rounds} rounds")
    print(f"{'':12} {'M lines/s':>10} {'us CPU/line':>12} {'least':>8} {'most':>8}")
    for name, found in results.items():
        took = statistics.median(seconds for seconds, _ in found)
        each = sorted(used / lines * 1e6 for _, used in found)
        print(f"{name:12} {lines / took / 1e6:10.2f} {statistics.median(each):12.3f} {each[0]:8.3f} {each[-1]:8.3f}")


if __name__ == "__main__":
    main()
