"""What the keeper's journal costs: microseconds for each spawn, and its size after 100,000 of them.

Usage: python benchmarks/journal.py [DIRECTORY]
"""

import sys
import tempfile
import time
from pathlib import Path

from herdpy.keeper import legacy
from herdpy.keeper.journal import Journal, read
from herdpy.keeper.message import encode
from herdpy.keeper.table import intention

SPAWNS = 100_000
LIVE = 1000
"""Of these are held at any time."""


def records(at: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """What is written before a spawn, and after it."""
    name = f"service-{at % LIVE}:main:0@0:{at}"
    pipe = {"kind": "pipe", "number": at, "identity": (15, at), "path": f"/var/log/herdpy/{name}.log", "rotation": None}
    before = intention(name, "group", at, None, f"/sys/fs/cgroup/herdpy-1-2/{at}.{name}", (15, at), at)
    return [pipe, before], [
        {"kind": "process", "id": name, "pid": 4242, "start_time": at, "inode": at, "session": 4242}
    ]


def main(directory: str) -> None:
    """Print the figures."""
    path = Path(directory) / "journal"
    live: dict[int, list[bytes]] = {}

    def content() -> list[bytes]:
        return [encode(legacy.head()), *(packet for packets in live.values() for packet in packets)]

    journal = Journal(str(path), f"{path}.elsewhere", content, print, lambda seconds, then: None, lambda then: None)
    journal.begin()
    largest, spent = 0, 0.0
    for at in range(SPAWNS):
        before, after = records(at)
        begin = time.perf_counter()
        journal.append(*before)
        journal.sync()  # before each spawn
        journal.append(*after)
        if at >= LIVE:
            journal.append(
                {"kind": "gone", "id": f"service-{at % LIVE}:main:0@0:{at - LIVE}"},
                {"kind": "closed", "number": at - LIVE},
            )
        journal.sync()
        spent += time.perf_counter() - begin
        live[at] = list(map(encode, [*before, *after]))
        live.pop(at - LIVE, None)
        if not at % 500:
            largest = max(largest, path.stat().st_size)
    content_size = sum(len(packet) for packet in content())
    print(f"a spawn and its release: {spent / SPAWNS * 1e6:.1f} us, rewriting included")
    print(
        f"after {SPAWNS} spawns, {LIVE} held: {path.stat().st_size / 1024:.0f} KiB, {largest / 1024:.0f} KiB at most, "
        f"for {content_size / 1024:.0f} KiB of content"
    )
    begin = time.perf_counter()
    found, damaged = read(str(path))
    print(f"read {len(found)} records ({damaged} damaged) in {(time.perf_counter() - begin) * 1e3:.0f} ms")
    journal.end()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(place)
