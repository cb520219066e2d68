"""The client's end of the control socket: connect, ask, wait."""

import posix
from _socket import AF_UNIX, MSG_NOSIGNAL, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket
from sys import byteorder

from herdpy.client.words import Failure
from herdpy.protocol import Command, ProtocolError, Reply, parse_reply, write_command
from herdpy.sexp import Reader, SexpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 0.25
"""Seconds without an answer after which whoever waits is told what is going on."""
QUEUE_PATIENCE = 10
"""Seconds that a connection may wait to be queued, or to be sent to: more than that only a supervisor that hangs
takes."""


def default_socket() -> str:
    """Return the path of the control socket: HERDPY_SOCKET, else the one of docs/explanation/architecture.md."""
    path = _environment(b"HERDPY_SOCKET")
    if path:
        return path
    if posix.geteuid() == 0:
        return "/run/herdpy/socket"
    directory = _environment(b"XDG_RUNTIME_DIR")
    if directory.startswith("/"):
        return f"{directory}/herdpy/socket"
    import os

    from herdpy.paths import default_paths, home_directory

    uid = posix.geteuid()
    return default_paths(uid, os.environ, home_directory(uid, os.environ)).socket


def _environment(name: bytes) -> str:
    return posix.environ.get(name, b"").decode("utf-8", "surrogateescape")


def connect(path: str) -> socket:
    """Return a connection to the supervisor.

    Raises:
        Failure: when nobody answers there, or we may not ask.
    """
    try:
        return reach(path)
    except FileNotFoundError:
        raise Failure(f"{path}: No such file or directory (is herdpy running? --socket names another place)") from None
    except ConnectionRefusedError:
        if not _is_socket(path):
            raise Failure(f"{path}: it is no socket, and --socket is to name herdpy's") from None
        raise Failure(f"{path}: Connection refused (herdpy is not running; it left its socket behind)") from None
    except PermissionError:
        from herdpy.client.refusal import explain

        raise Failure(explain(path)) from None
    except BlockingIOError:
        raise Failure(f"{path}: no connection is taken within {QUEUE_PATIENCE} s, so many wait already") from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None  # a path too long has no errno


def _is_socket(path: str) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o140000
    except OSError:
        return True  # it was one, and is gone by now


def reach(path: str) -> socket:
    """Do the same, for whoever knows better what it means that there is none.

    Raises:
        OSError: see connect(2), and unix(7).
    """
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    # A struct timeval. A backlog that is full holds up connect(2), for no longer than this (socket(7), SO_SNDTIMEO).
    connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, QUEUE_PATIENCE.to_bytes(8, byteorder) + bytes(8))
    connection.connect(path)
    return connection


def send(connection: socket, command: Command) -> None:
    """Send a command. A server that has hung up already is noticed when its reply is awaited."""
    try:
        connection.sendall(write_command(command), MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return
    except BlockingIOError:
        raise Failure(f"herdpy does not take the command within {QUEUE_PATIENCE} s") from None


def receive(connection: socket, wait: "Callable[[socket], None]", patience: float = PATIENCE) -> Reply | None:
    """Return the reply, or None when the server closed the connection without one.

    Args:
        wait: called when ``patience`` (seconds) has passed without a word, and expected to return as soon as the
            connection can be read.

    Raises:
        Failure: when what comes is no reply.
    """
    connection.settimeout(patience)
    reader = Reader()
    try:
        while True:
            try:
                data = connection.recv(262_144)
            except TimeoutError:
                wait(connection)
                continue
            except ConnectionResetError:
                return None
            if not data:
                return None
            for text in reader.feed(data):
                return parse_reply(text)
    except (SexpError, ProtocolError) as error:
        raise Failure(f"cannot make out the supervisor's answer: {error}") from None


def ask(path: str, command: Command, patience: float = 20.0) -> Reply | None:
    """Send a command on a connection of its own and return the reply, as :func:`receive` does.

    Args:
        patience: seconds after which it is a failure that nothing comes.
    """
    connection = connect(path)
    send(connection, command)

    def give_up(_: socket) -> None:
        raise Failure(f"no answer within {patience:g} s")

    reply = receive(connection, give_up, patience)
    connection.close()
    return reply
