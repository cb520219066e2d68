"""What the services of the fleet run: it writes numbered lines all the time, and records what it has written.

    generator.py TRUTH NAME [--pid-file PATH | --notify | --sockets | --run | --connection]
                 [--life SECONDS] [--codes CODE,...] [--lines COUNT] [--idle SECONDS] [--most LINES] [--single]

Each process of the fleet is an *incarnation*, known by its PID and start time. What it wrote is recorded in a file that
it maps, TRUTH/NAME/PID.STARTTIME, before and after each write(2): so that the record is right whenever it is killed.
SIGUSR1 ends it with 7, SIGTERM with 0. With ``--single`` it holds a lock while it lives: one that finds it taken has
been doubled, and says so by a file in TRUTH.
"""

import fcntl
import mmap
import os
import select
import signal
import socket
import sys
import time

FIELDS = ("begun", "done", "end", "asked", "ready", "at")
"""Numbers of 8 bytes: lines begun and done; the exit code plus 1, once it is decided; the number of the signal that
asked for it; whether it is ready; when it ended (CLOCK_MONOTONIC, nanoseconds)."""
SIZE = 8 * len(FIELDS)
PERIOD = 0.1
"""Seconds between two bursts of lines."""


def start_time(pid: int) -> int:
    """In clock ticks since boot (proc_pid_stat(5), field 22)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def padding(number: int) -> str:
    """What a line ends with: its length tells whether the line is whole."""
    return "." * (number * 37 % 211)


class Writer:
    """An incarnation's lines and its record."""

    def __init__(self, truth: str, name: str, descriptor: int) -> None:
        pid = os.getpid()
        self.label = f"{pid}.{start_time(pid)}"
        self._name = name
        self._descriptor = descriptor
        os.makedirs(f"{truth}/{name}", exist_ok=True)
        hidden = f"{truth}/{name}/.{self.label}"
        with open(hidden, "w+b") as file:
            file.truncate(SIZE)
            self._map = mmap.mmap(file.fileno(), SIZE)
        os.rename(hidden, f"{truth}/{name}/{self.label}")

    def record(self, field: str, value: int) -> None:
        at = 8 * FIELDS.index(field)
        self._map[at : at + 8] = value.to_bytes(8, sys.byteorder)

    def line(self) -> None:
        at = int.from_bytes(self._map[8:16], sys.byteorder) + 1
        self.record("begun", at)
        os.write(self._descriptor, f"{self._name} {self.label} {at} {padding(at)}\n".encode())
        self.record("done", at)

    def end(self, code: int, asked: int = 0) -> None:
        self.record("at", time.monotonic_ns())
        self.record("asked", asked)
        self.record("end", code + 1)
        os._exit(code)


def chance(below: int) -> int:
    """A number from 0; the module random would take longer to import than the rest."""
    return int.from_bytes(os.urandom(4), "big") % below


def be_only_one(truth: str, name: str, label: str) -> None:
    lock = os.open(f"{truth}/{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(os.open(f"{truth}/doubled.{name}.{label}", os.O_WRONLY | os.O_CREAT, 0o666))


def become_daemon(pid_file: str) -> tuple[int, str]:
    """Fork; the parent ends with 0 once the child, which returns what is left to be done, has written its PID file."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os._exit(0 if os.read(reading, 1) else 1)
    os.setsid()
    os.close(reading)
    return writing, pid_file


def write_pid_file(writing: int, pid_file: str) -> None:
    with open(f"{pid_file}.new", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(f"{pid_file}.new", pid_file)
    os.write(writing, b".")
    os.close(writing)


def notify(words: str) -> None:
    """Tell whoever started us (sd_notify(3)); that nobody listens for a moment is no reason to end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(words.encode(), os.environ["NOTIFY_SOCKET"])
        except OSError:
            return


def main(arguments: list[str]) -> None:
    truth, name, *words = arguments
    mode, options = "", {"life": "0", "codes": "7", "lines": "0", "idle": "0", "pid-file": "", "most": "4"}
    is_single = False
    while words:
        word = words.pop(0).removeprefix("--")
        if word == "single":
            is_single = True
        elif word in options:
            options[word] = words.pop(0)
            mode = word if word == "pid-file" else mode
        else:
            mode = word
    codes = [int(code) for code in options["codes"].split(",")]
    handing_over = become_daemon(options["pid-file"]) if mode == "pid-file" else None
    writer = Writer(truth, name, 2 if mode == "connection" else 1)
    signal.signal(signal.SIGTERM, lambda number, frame: writer.end(0, number))
    signal.signal(signal.SIGUSR1, lambda number, frame: writer.end(7, number))
    if is_single:
        be_only_one(truth, name, writer.label)
    poll = select.poll()
    listening = {}
    if mode == "sockets":
        for number in range(3, 3 + int(os.environ["LISTEN_FDS"])):
            listening[number] = socket.socket(fileno=number)
            listening[number].setblocking(False)
            poll.register(number, select.POLLIN)
    if mode == "notify":
        poll.poll(chance(150))  # until it is ready, some daemons take their time
        notify("READY=1")
    if handing_over is not None:
        write_pid_file(*handing_over)
    writer.record("ready", 1)
    if mode == "connection":
        asked = sys.stdin.buffer.readline()
        os.write(1, f"{name} {writer.label} ".encode() + asked)
    bursts = int(float(options["life"]) * (0.25 + chance(100) / 66) / PERIOD)
    idle = int(float(options["idle"]) / PERIOD)
    count = quiet = 0
    while True:
        for _ in range(1 + chance(int(options["most"]))):
            writer.line()
        count += 1
        quiet += 1
        if int(options["lines"]) and count >= int(options["lines"]):
            writer.end(codes[chance(len(codes))])
        if bursts and count >= bursts:
            writer.end(codes[chance(len(codes))])
        if idle and quiet > idle:
            writer.end(0)
        if mode == "notify" and not count % 10:
            notify(f"WATCHDOG=1\nSTATUS=line {count}")
        for number, _ in poll.poll(PERIOD * 1000):
            quiet = 0
            try:
                connection, _ = listening[number].accept()
            except OSError:
                continue  # gone again
            with connection:
                connection.setblocking(True)
                connection.settimeout(5)
                try:
                    asked = connection.recv(100)
                    connection.sendall(f"{name} {writer.label} ".encode() + asked)
                except OSError:
                    continue  # who connected was killed, or hangs


if __name__ == "__main__":
    main(sys.argv[1:])
