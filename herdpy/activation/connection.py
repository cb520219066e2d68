"""A connection that was accepted: whom it connects, and how its process is told."""

import socket
import struct

from herdpy.service import Connection, InternetAddress, UnixAddress


def describe(key: str, accepted: socket.socket) -> Connection:
    """Whom a connection connects, as far as it still knows: the other end may be gone by now."""
    try:
        remote = _address(accepted.getpeername())
    except OSError:
        remote = UnixAddress("") if accepted.family == socket.AF_UNIX else InternetAddress("", 0)
    peer = None
    if accepted.family == socket.AF_UNIX:
        pid, uid, gid = struct.unpack("3i", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer = (pid, uid, gid)
    return Connection(key=key, local=_address(accepted.getsockname()), remote=remote, peer=peer)


def _address(name: object) -> InternetAddress | UnixAddress:
    match name:
        case (str(host), int(port), *_):
            # An IPv4 address that came in by a socket of both families.
            return InternetAddress(host.removeprefix("::ffff:") if "." in host else host, port)
        case bytes():
            return UnixAddress(f"@{name[1:].decode(errors='surrogateescape')}" if name else "")
        case _:
            return UnixAddress(str(name))


def variables(connection: Connection) -> dict[str, str]:
    """The variables that tell a process of its connection.

    Those of UCSPI (``tcp-environ``: PROTO, TCPREMOTEIP...), which GNU Shepherd sets, too, and systemd.exec(5)'s
    REMOTE_ADDR and REMOTE_PORT.
    """
    local, remote = connection.local, connection.remote
    if isinstance(local, InternetAddress) and isinstance(remote, InternetAddress):
        return {
            "PROTO": "TCP",
            "TCPLOCALIP": local.host,
            "TCPLOCALPORT": str(local.port),
            "TCPREMOTEIP": remote.host,
            "TCPREMOTEPORT": str(remote.port),
            "REMOTE_ADDR": remote.host,
            "REMOTE_PORT": str(remote.port),
        }
    told = {"PROTO": "UNIX", "UNIXLOCALPATH": getattr(local, "path", "")}
    if connection.peer is not None:
        pid, uid, gid = connection.peer
        told |= {"UNIXREMOTEPID": str(pid), "UNIXREMOTEEUID": str(uid), "UNIXREMOTEEGID": str(gid)}
    if path := getattr(remote, "path", ""):
        told |= {"UNIXREMOTEPATH": path, "REMOTE_ADDR": path}
    return told


def peer_words(connection: Connection) -> str:
    """Who is at the other end: ``127.0.0.1:40000``, or ``PID 4711`` of a Unix socket."""
    if connection.peer is not None:
        return f"PID {connection.peer[0]} (UID {connection.peer[1]})"
    return str(connection.remote)
