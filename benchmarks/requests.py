"""Requests a second on the control socket, a connection for each as the protocol has it, against a bare trio server.

    python benchmarks/requests.py [--herdpy PATH] [--services N] [--clients N] [--seconds S] [--rounds N]

The bare server is trio's own way (``trio.serve_listeners``) of reading a command and sending as many bytes as herdpy's
answer has: what trio costs without us. Both are asked by the same clients, processes of their own, in turns within a
round. The processor time of a request is the server's, from /proc/PID/stat: it says more than the rate when the machine
is busy.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from herdpy import protocol  # noqa: E402

PROMISED = 8000
"""Requests a second."""
BARE = """
import sys, trio
async def answer(stream):
    async with stream:
        await stream.receive_some(65536)
        await stream.send_all(reply)
async def main():
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(sys.argv[1])
    listener.listen(128)
    print("ready", flush=True)
    await trio.serve_listeners(answer, [trio.SocketListener(listener)])
reply = b"x" * int(sys.argv[2])
trio.run(main)
"""


def ask(path: str, command: bytes) -> bytes:
    """One request on a connection of its own."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(command)
    reply = b""
    while piece := client.recv(1 << 20):
        reply += piece
    client.close()
    return reply


def flood(path: str, command: bytes, until: float, counted: "multiprocessing.Queue[int]") -> None:
    """Ask again and again until a moment of the monotonic clock."""
    count = 0
    while time.monotonic() < until:
        for _ in range(20):
            ask(path, command)
        count += 20
    counted.put(count)


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used (proc(5), /proc/PID/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(path: str, command: bytes, pid: int, clients: int, seconds: float) -> tuple[float, float]:
    """(requests a second, microseconds of the server's processor time for each)."""
    counted: multiprocessing.Queue[int] = multiprocessing.Queue()
    before = processor_time(pid)
    begin = time.monotonic()
    processes = [
        multiprocessing.Process(target=flood, args=(path, command, begin + seconds, counted)) for _ in range(clients)
    ]
    for process in processes:
        process.start()
    count = sum(counted.get() for _ in processes)
    elapsed = time.monotonic() - begin
    for process in processes:
        process.join()
    return count / elapsed, (processor_time(pid) - before) / count * 1e6


def supervisor_of(keeper: int) -> int:
    """The PID of the supervisor below a keeper."""
    for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        if b"herdpy.supervisor" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise SystemExit("herdpy has no supervisor")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--herdpy", default=str(Path(sys.executable).parent / "herdpy"), help="an installed herdpy")
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    command = protocol.write_command(protocol.Command("status", "service-7", (), "/root"))
    with tempfile.TemporaryDirectory() as directory:
        services = Path(directory, "services")
        services.mkdir()
        for number in range(options.services):
            Path(services, f"service-{number}.toml").write_text(f"command = {json.dumps(['sleep', '1000'])}\n")
        path = f"{directory}/run/socket"
        places = (
            "--services",
            services,
            "--socket",
            path,
            "--state-dir",
            f"{directory}/s",
            "--log-dir",
            f"{directory}/l",
        )
        line = [options.herdpy, *map(str, places), "--pid"]
        herdpy = subprocess.Popen(line, stdout=subprocess.PIPE)
        bare = None
        try:
            assert herdpy.stdout is not None
            herdpy.stdout.readline()
            length = len(ask(path, command))
            bare_path = f"{directory}/bare"
            bare = subprocess.Popen([sys.executable, "-c", BARE, bare_path, str(length)], stdout=subprocess.PIPE)
            assert bare.stdout is not None
            bare.stdout.readline()
            servers = {"herdpy": (path, supervisor_of(herdpy.pid)), "bare trio": (bare_path, bare.pid)}
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
            for _ in range(options.rounds):
                for name, (where, pid) in servers.items():
                    results[name].append(measure(where, command, pid, options.clients, options.seconds))
        finally:
            for process in (bare, herdpy):
                if process is not None:
                    process.terminate()
                    process.wait()
                    if process.stdout is not None:
                        process.stdout.close()
    rates = {name: statistics.median(rate for rate, _ in found) for name, found in results.items()}
    for name, found in results.items():
        used = statistics.median(cost for _, cost in found)
        print(f"{name:10} {rates[name]:8.0f} requests/s  {used:6.1f} us of processor time each")
    print(f"{options.clients} clients, answers of {length} bytes; {' '.join(line)}")
    print(f"herdpy answers {rates['herdpy'] / rates['bare trio']:.2f} times as many as a bare trio server")
    print(f"promised {PROMISED}: {'kept' if rates['herdpy'] >= PROMISED else 'MISSED'}")
    sys.exit(rates["herdpy"] < PROMISED)


if __name__ == "__main__":
    main()
