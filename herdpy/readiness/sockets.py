"""Who listens where, as /proc/net tells it (proc(5)), and which process has the socket."""

import os
import sys
from collections.abc import Iterable, Iterator

import msgspec

TCP_LISTENING, UDP_BOUND = b"0A", b"07"
"""The state column of /proc/net/tcp and /proc/net/udp (include/net/tcp_states.h)."""
UNIX_ACCEPTING = 0x10000
"""In the flags column of /proc/net/unix: listen(2) was called (include/linux/net.h, __SO_ACCEPTCON)."""
UNIX_STREAM, UNIX_SEQPACKET = 1, 5
"""In its type column; datagram sockets need not listen."""


class Bound(msgspec.Struct, frozen=True):
    """A socket that takes what comes to an address."""

    inode: int
    address: bytes
    """4 or 16 bytes in network order."""
    port: int


class BoundUnix(msgspec.Struct, frozen=True):
    """A Unix socket that takes what comes to it."""

    inode: int
    path: bytes
    """As its owner gave it to bind(2), with ``@`` for the NUL before an abstract name."""


def parse_inet(lines: Iterable[bytes], state: bytes) -> Iterator[Bound]:
    """The sockets of /proc/net/{tcp,tcp6,udp,udp6} in a state; lines that say nothing of the kind are passed over."""
    for line in lines:
        columns = line.split()
        if len(columns) > 9 and columns[3] == state:
            address, _, port = columns[1].partition(b":")
            yield Bound(int(columns[9]), _address(address), int(port, 16))


def parse_unix(lines: Iterable[bytes]) -> Iterator[BoundUnix]:
    """The bound sockets of /proc/net/unix that take connections, or datagrams."""
    for line in lines:
        columns = line.rstrip(b"\n").split(None, 7)
        if len(columns) < 8 or columns[0] == b"Num":
            continue
        flags, kind = int(columns[3], 16), int(columns[4], 16)
        if flags & UNIX_ACCEPTING or kind not in (UNIX_STREAM, UNIX_SEQPACKET):
            yield BoundUnix(int(columns[6]), columns[7])


def _address(digits: bytes) -> bytes:
    """Each 32 bits are written as the number that the processor takes their bytes for."""
    words = (digits[at : at + 8] for at in range(0, len(digits), 8))
    return b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)


def read_table(pid: int, name: str) -> list[bytes]:
    """The lines of a table of /proc/net, in the network namespace of a process, or in ours when that has ended."""
    for path in (f"/proc/{pid}/net/{name}", f"/proc/net/{name}"):
        try:
            with open(path, "rb") as file:
                return file.readlines()
        except OSError:
            continue  # no such process, or a kernel without IPv6
    return []


def has_one_of(pid: int, inodes: Iterable[int]) -> bool | None:
    """Whether a process, or one that descends from it, has one of these sockets open.

    Returns:
        None when that cannot be told: some of them do not let us look (proc(5), /proc/pid/fd).
    """
    wanted = {f"socket:[{inode}]" for inode in inodes}
    cannot_tell = False
    for process in _family(pid):
        try:
            with os.scandir(f"/proc/{process}/fd") as entries:
                for entry in entries:
                    if _link(entry.path) in wanted:
                        return True
        except PermissionError:
            cannot_tell = True
        except OSError:
            continue  # it has ended meanwhile
    return None if cannot_tell else False


def holder(inodes: Iterable[int]) -> str | None:
    """Whose one of these sockets is, as ``PID 4312 (nginx)``; None when that cannot be told. Looks at every process."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with os.scandir(f"/proc/{name}/fd") as entries:
                if any(_link(entry.path) in wanted for entry in entries):
                    with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                        return f"PID {name} ({file.read().rstrip()})"
        except OSError:
            continue  # another user's, or it has ended
    return None


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants (proc(5), /proc/pid/task/tid/children)."""
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        yield process
        try:
            threads = os.listdir(f"/proc/{process}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{process}/task/{thread}/children", "rb") as file:
                    waiting += map(int, file.read().split())
            except OSError:
                continue


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
