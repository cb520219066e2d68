"""``herd console``: a guest's console, which QEMU offers on a Unix socket, on our terminal."""

import os
import select
import signal
import termios
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket

from herdpy.client.inside import Reach
from herdpy.client.words import Failure, aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Attributes = list[Any]  # as tcgetattr gives them: six numbers and the list of control characters

ESCAPE = b"\x1d"
"""Ctrl-], which leaves, as in telnet(1) and virsh(1)."""
QUIET = 2.0
"""Seconds of silence after the end of the input, when that is no terminal, until we leave."""
PENDING = 65_536
"""Bytes of input kept for a guest that does not read; more is not read until it does."""


def converse(reach: Reach) -> int:
    """Pass what is typed to the guest and what it says to stdout, until Ctrl-], the guest's end or that of the input.

    Raises:
        Failure: when the console cannot be had, or is in use.
    """
    connection = connect(reach)
    keyboard = 0
    saved = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if saved is not None:
        aside(f"Connected to the console of {reach.service}; Ctrl-] leaves.\n")
    try:
        if saved is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, raw(saved))
        is_ended = _pass(connection, keyboard, is_terminal=saved is not None)
    finally:
        if saved is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, saved)
    if saved is not None:
        aside(f"\n{reach.service} closed its console.\n" if is_ended else f"\nLeft the console of {reach.service}.\n")
    return 0


def connect(reach: Reach) -> socket:
    """Return a connection to the console.

    Raises:
        Failure: when nobody listens, we may not connect, or somebody else has it: QEMU serves one at a time, and lets
            the others wait without a word.
    """
    path = reach.console or ""
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        if _is_in_use(path):
            raise BlockingIOError
        connection.setblocking(False)
        connection.connect(path)
    except BlockingIOError:
        raise Failure(f"the console of {reach.service} is in use; only one herd console can have it") from None
    except PermissionError:
        raise Failure(
            f"{path}: Permission denied (the console belongs to root and the guest's own user;"
            f" try: sudo herd console {reach.service})"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Failure(
            f"the console of {reach.service} ({path}) is gone; has it just stopped? See: herd status {reach.service}"
        ) from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None
    return connection


def _is_in_use(path: str) -> bool:
    """Whether the listening socket at ``path`` has a connection: those bear its name (proc_pid_net(5), "unix")."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                fields = line.rstrip("\n").split(None, 7)
                if len(fields) == 8 and fields[5] == "03" and fields[7] == path:
                    return True
    except OSError:
        return False  # no /proc: then the other one's patience decides
    return False


def raw(attributes: "Attributes") -> "Attributes":
    """Return terminal attributes that pass every key on and leave every byte alone (termios(3), "Raw mode")."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = attributes
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    oflag &= ~termios.OPOST
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    characters = characters.copy()
    characters[termios.VMIN] = 1
    characters[termios.VTIME] = 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _pass(connection: socket, keyboard: int, *, is_terminal: bool) -> bool:
    """Pass bytes both ways; return whether it was the guest that ended it."""
    pending = b""
    is_open = True
    while True:
        readers: list[socket | int] = [connection]
        if is_open and len(pending) < PENDING:
            readers.append(keyboard)
        ready, writable, _ = select.select(
            readers, [connection] if pending else [], [], None if is_open or pending else QUIET
        )
        if not ready and not writable:
            return False
        if connection in ready:
            try:
                data = connection.recv(65_536)
            except BlockingIOError:
                continue
            except OSError:
                return True
            if not data:
                return True
            _write_all(data)
        if keyboard in ready:
            typed = os.read(keyboard, 4096)
            if not typed:
                is_open = False
            elif is_terminal and ESCAPE in typed:
                return False
            pending += typed
        if pending:
            try:
                pending = pending[connection.send(pending, MSG_DONTWAIT | MSG_NOSIGNAL) :]
            except BlockingIOError:
                continue
            except OSError:
                return True


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
