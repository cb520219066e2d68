"""Who has an address that is taken: for the one line that says why something cannot listen."""

from herdpy.service import Socket, UnixAddress


def holder(wanted: Socket) -> str:
    """``by PID 4312 (sshd)``, as far as this user may know; an empty text otherwise.

    Walks /proc of every process: not for the supervisor's loop.
    """
    import psutil

    if isinstance(wanted.address, UnixAddress):
        path: object = wanted.address.path
        found = [connection.pid for connection in psutil.net_connections("unix") if connection.laddr == path]
    else:
        port = wanted.address.port
        found = [
            connection.pid
            for connection in psutil.net_connections("tcp" if wanted.kind == "stream" else "udp")
            if connection.laddr
            and connection.laddr.port == port
            and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
        ]
    # A supervisor and the process that it has given a socket to both have it: the younger one uses it.
    pids = sorted((pid for pid in found if pid), reverse=True)
    for pid in pids:
        try:
            return f"by PID {pid} ({psutil.Process(pid).name()})"
        except psutil.Error:
            continue
    return "by a process of another user" if found else ""
