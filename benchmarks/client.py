"""What one run of the client costs: ``herd status`` of one service and of 1,000, against the bare interpreter.

    python benchmarks/client.py [--herd PATH] [--socket PATH --service NAME] [--rounds N]

Without --socket, a small server inside this process answers; without --herd, it is the herd installed beside the
interpreter that runs this, so that one must be what users install (make's is). The commands take turns within a round,
so that a busy machine slows all of them alike; compare the ratios rather than the milliseconds.
"""

import argparse
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from herdpy import protocol  # noqa: E402
from herdpy.sexp import Raw  # noqa: E402

LIMITS = {"herd status of one": 1.35, "herd status of all": 2.5}
"""What the project promises, as multiples of ``python -I -c pass``."""


def serve(path: str, count: int) -> None:
    """Answer the status of one service, and that of ``count``, until the process ends."""

    def service(name: str) -> Raw:
        return protocol.write_service(
            provides=(name,),
            requires=("libvirtd", "networking"),
            respawn=True,
            docstring="A virtual build machine.",
            running=4711,
            status="running",
            status_changes=[("running", 1795326529), ("starting", 1795326520)] * 5,
            details=[("accelerator", "KVM"), ("console", "/var/lib/herdpy/machines/build-vm/console")],
            log_file="/var/log/herdpy/build-vm.log",
            source="/etc/herdpy/services/build-vm.toml",
        )

    one = protocol.write_reply(Raw(f"({service('build-vm')})"))
    names = [(f"service-{number}", 1795326529) for number in range(count)]
    overview = protocol.write_reply(protocol.write_overview({"running": names[::2], "stopped": names[1::2]}))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(overview if b"(service root)" in connection.recv(65_536) else one)

    threading.Thread(target=answer, daemon=True).start()


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Run the commands in turn and return the median of each, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 2):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            if number >= 2:  # the first two warm the caches
                times[name].append((time.perf_counter() - begin) * 1000)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--herd", type=Path, default=Path(sys.executable).parent / "herd", help="an installed herd")
    parser.add_argument("--socket", help="the socket of a running supervisor")
    parser.add_argument("--service", default="build-vm")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as directory:
        herd = str(options.herd)
        path = options.socket
        if path is None:
            path = f"{directory}/socket"
            serve(path, 1000)
        beside = Path(herd).parent / "python3"
        python = str(beside) if beside.exists() else sys.executable
        commands = {
            "bare interpreter": [python, "-I", "-c", "pass"],
            "herd status of one": [herd, "-s", path, "status", options.service],
            "herd status of all": [herd, "-s", path, "status"],
            "bare interpreter, -S": [python, "-I", "-S", "-c", "pass"],
        }
        medians = measure(commands, options.rounds)
    base = medians["bare interpreter"]
    for name, command in commands.items():
        print(f"{name:22} {medians[name]:8.2f} ms  {medians[name] / base:5.2f}  {shlex.join(command)}")
    is_kept = True
    for name, limit in LIMITS.items():
        ratio = medians[name] / base
        is_kept = is_kept and ratio <= limit
        print(f"{name}: ratio {ratio:.2f}, promised {limit}: {'kept' if ratio <= limit else 'MISSED'}")
    sys.exit(not is_kept)


if __name__ == "__main__":
    main()
