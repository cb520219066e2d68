"""The control socket: bound and listening before there is a supervisor, so that no client is ever refused."""

from __future__ import annotations

import _socket
import errno
import os
import stat

from herdpy.keeper.place import Refusal, make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BACKLOG = 128
LONGEST = 107
"""Bytes of a path that fit into a sockaddr_un with its final zero (unix(7))."""


class ControlSocket:
    """The socket and the name it has on disk."""

    def __init__(self, path: str, inherited: int | None = None, *, is_ours: bool = True) -> None:
        """Make it: its directory 0700, itself 0600 from the moment it exists.

        Args:
            inherited: that of a keeper before us, or one that the init system made (:func:`given`); it has this name,
                unless somebody removed it.
            is_ours: whether an inherited one's name is ours to remove.

        Raises:
            Refusal: when the path is too long, the directory is open to others, or somebody already answers there.
        """
        self.path = path
        self.is_ours = is_ours
        if inherited is not None:
            try:
                self._identity = os.lstat(path)
                self.socket = _socket.socket(fileno=inherited)
                self.socket.listen(
                    BACKLOG
                )  # again: clients ask who listens (unix(7), SO_PEERCRED), and wait for its end
                return
            except OSError:
                os.close(inherited)
        self.is_ours = True
        length = len(os.fsencode(path))
        if length > LONGEST:
            raise Refusal(f"cannot listen on {path}: {length} bytes are too long for a socket's path, {LONGEST} fit")
        directory = os.path.dirname(path) or "."
        make_directory(directory, 0o700)
        _check(directory)
        _clear(path)
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            self.socket.bind(path)
        except OSError as error:
            raise Refusal(f"cannot listen on {path}: {error.strerror}") from None
        finally:
            os.umask(umask)
        self.socket.listen(BACKLOG)
        self._identity = os.lstat(path)

    def close(self) -> None:
        """Close it and remove its name, unless the name is another's by now."""
        self.socket.close()
        if not self.is_ours:
            return
        try:
            if os.path.samestat(self._identity, os.lstat(self.path)):
                os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError:
            return  # the next keeper finds it stale and replaces it


def given(path: str, descriptor: int, count: int) -> int:
    """See that what the init system has passed to us is the control socket, and return it.

    Raises:
        Refusal: it is another one, or not one alone.
    """
    if count != 1:
        raise Refusal(f"{count} sockets were passed to us (LISTEN_FDS), and we take one: the control socket, {path}")
    try:
        socket = _socket.socket(fileno=descriptor)  # it finds out the family and the type
    except OSError as error:
        raise Refusal(f"descriptor {descriptor}, which was passed to us, is no socket: {error.strerror}") from None
    try:
        name = socket.getsockname() if socket.family == _socket.AF_UNIX else None
        is_listening = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        if name != path or socket.type != _socket.SOCK_STREAM or not is_listening:
            what = f"the socket {name}" if name else "what was passed to us"
            raise Refusal(f"{what} is not the control socket, {path}; change ListenStream= of its unit, or --socket")
    finally:
        socket.detach()
    _check(os.path.dirname(path))
    return descriptor


def accept(listening: int) -> int:
    """Take a connection from a listening socket; returns its descriptor, which an exec closes.

    Raises:
        OSError: EAGAIN when there is none now and the socket does not block.
    """
    socket: Any = _socket.socket(fileno=listening)
    try:
        connection: int = socket._accept()[0]  # accept4(2); the public name is in Python's half of the module
    finally:
        socket.detach()
    return connection


def _check(directory: str) -> None:
    seen = os.stat(directory)
    if seen.st_uid != os.geteuid():
        raise Refusal(f"{directory}: socket directory belongs to UID {seen.st_uid}, not to UID {os.geteuid()}")
    # A group may pass through: the supervisor has let it in before, and will decide anew (supervisor/admission.py).
    if stat.S_IMODE(seen.st_mode) & 0o067:
        raise Refusal(f"{directory}: socket directory has insecure permissions; try: chmod 700 {directory}")


def _clear(path: str) -> None:
    """Remove a stale socket: one that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Refusal(f"cannot listen on {path}: there is a file of that name that is no socket")
    except FileNotFoundError:
        return
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        answer = probe.connect_ex(path)
    finally:
        probe.close()
    if answer == errno.ENOENT:
        return
    if answer != errno.ECONNREFUSED:
        raise Refusal(f"cannot listen on {path}: somebody already answers there; stop it first, or use another path")
    try:
        os.unlink(path)
    except OSError as error:
        raise Refusal(f"cannot replace the stale socket {path}: {error.strerror}") from None
