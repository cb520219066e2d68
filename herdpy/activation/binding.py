"""Making a listening socket: bound, with its options, and a Unix socket's path with its owner and mode."""

import errno
import grp
import os
import pwd
import socket
import stat

from herdpy.service import InternetAddress, Socket, UnixAddress

KINDS = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}

PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class NotBound(Exception):  # noqa: N818 - it says what the socket is not
    """A socket that cannot be made; ``str()`` says why, in words that follow its address and a colon."""

    def __init__(self, reason: str, *, may_pass: bool = False, is_taken: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
        """Whether it may succeed in a moment: an old process has yet to end, an address is yet to come."""
        self.is_taken = is_taken
        """Whether somebody else has the address."""


def bind(wanted: Socket) -> socket.socket:
    """Make a socket that listens; it is blocking, and closed at an exec.

    Looks at files and user names, which may be slow: not for the supervisor's loop.

    Raises:
        NotBound: it cannot be.
    """
    try:
        if isinstance(wanted.address, UnixAddress):
            return _bind_unix(wanted, wanted.address.path)
        return _bind_internet(wanted, wanted.address)
    except OSError as error:
        raise _in_words(wanted, error) from None


def _bind_internet(wanted: Socket, address: InternetAddress) -> socket.socket:
    if address.host:
        try:
            found = socket.getaddrinfo(address.host, address.port, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
        except socket.gaierror:  # the address is one, so it is the zone
            zone = address.host.partition("%")[2]
            raise NotBound(f"there is no network interface {zone}", may_pass=True) from None
        family, target = found[0][0], found[0][4]
        return _bound(wanted, family, target, v6_only=wanted.v6_only)
    try:
        return _bound(wanted, socket.AF_INET6, ("::", address.port), v6_only=False)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
    # This host has no IPv6.
    return _bound(wanted, socket.AF_INET, ("0.0.0.0", address.port), v6_only=False)  # noqa: S104 - that was asked for


def _bound(wanted: Socket, family: int, target: tuple[object, ...], *, v6_only: bool) -> socket.socket:
    made = socket.socket(family, KINDS[wanted.kind])
    try:
        if wanted.kind == "stream":  # connections that have ended are no hindrance (ip(7)); UDP would be shared by it
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        if wanted.reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if wanted.free_bind:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if wanted.keep_alive:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if wanted.interface is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(wanted.interface) + b"\0")
        made.bind(target)
        _listen(made, wanted)
    except BaseException:
        made.close()
        raise
    return made


IP_FREEBIND = 15
"""ip(7); the module socket does not name it. It holds for IPv6, too."""


def _listen(made: socket.socket, wanted: Socket) -> None:
    if wanted.kind != "datagram":
        made.listen(wanted.backlog)


def _bind_unix(wanted: Socket, path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, KINDS[wanted.kind])
    try:
        if path.startswith("@"):
            made.bind(f"\0{path[1:]}")
        else:
            uid, gid = _owner(wanted.user), _group(wanted.group)
            _make_directories(os.path.dirname(path), wanted.directory_mode)
            # bind(2) gives the path the mode of the descriptor, less the umask. Until it has its owner, nobody but us
            # can use it; nobody is ever let in who is not to be.
            os.fchmod(made.fileno(), wanted.mode if uid == gid == -1 else 0)
            _bind_path(made, path)
            try:
                _give(path, uid, gid, wanted.mode, is_new=True)
            except OSError:  # it is ours still
                os.unlink(path)
                raise
        _listen(made, wanted)
    except BaseException:
        made.close()
        raise
    return made


def _bind_path(made: socket.socket, path: str) -> None:
    try:
        made.bind(path)
        return
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise NotBound("there is a file of that name that is no socket; remove it, or use another path")
    if not remove_stale(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    made.bind(path)


def remove_stale(path: str) -> bool:
    """Remove a Unix socket's path unless a socket is bound there, or it is none; tell whether there is none now.

    Nobody notices it. To connect(2) a socket for datagrams fails with EPROTOTYPE where one of another kind is bound,
    whether that listens yet or not, and with ECONNREFUSED where none is, in whichever network namespace; where one for
    datagrams is bound, nothing is sent to it.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        answer = probe.connect_ex(path)
    if answer == errno.ECONNREFUSED:
        os.unlink(path)
    return answer in {errno.ECONNREFUSED, errno.ENOENT}


def adjust(bound: socket.socket, wanted: Socket) -> bool:
    """Let a socket that is bound at the address of ``wanted`` be as that says, without closing it.

    Looks at files and user names, which may be slow: not for the supervisor's loop.

    Returns:
        False when it has to be bound anew for that.

    Raises:
        NotBound: it cannot be so.
    """
    try:
        if bound.type != KINDS[wanted.kind]:
            return False
        if isinstance(wanted.address, InternetAddress):
            if not _is_bound_alike(bound, wanted, wanted.address):
                return False
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, wanted.keep_alive)
        elif not wanted.address.path.startswith("@"):
            _give_anew(wanted, wanted.address.path)
        _listen(bound, wanted)
    except OSError as error:
        raise _in_words(wanted, error) from None
    return True


def _is_bound_alike(bound: socket.socket, wanted: Socket, address: InternetAddress) -> bool:
    """Whether it has the options that only a socket that is bound anew can be given."""
    if address.host == "::" and bool(bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) != wanted.v6_only:
        return False
    interface = bound.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, IFNAMSIZ).rstrip(b"\0")
    shares = bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    return interface == os.fsencode(wanted.interface or "") and shares == wanted.reuse_port


IFNAMSIZ = 16
"""Bytes of a network interface's name, with the NUL (netdevice(7))."""


def _give_anew(wanted: Socket, path: str) -> None:
    """Let a path have its owner and mode, which may be no longer those that it was bound with."""
    uid, gid = _owner(wanted.user), _group(wanted.group)
    if gid == -1:  # as a new file has it (inode(7))
        above = os.stat(os.path.dirname(path))
        gid = above.st_gid if above.st_mode & stat.S_ISGID else os.getegid()
    _give(path, os.geteuid() if uid == -1 else uid, gid, wanted.mode, is_new=False)


def _give(path: str, uid: int, gid: int, mode: int, *, is_new: bool) -> None:
    """Let a path have its owner and mode, whoever else may write into the directory.

    Args:
        is_new: whether it was bound just now, and is ours.

    Raises:
        NotBound: somebody has put another file there meanwhile.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(descriptor)
        is_ours = not is_new or seen.st_uid == os.geteuid()
        if not stat.S_ISSOCK(seen.st_mode) or not is_ours or seen.st_nlink != 1:
            raise NotBound("somebody else has put another file there at the same moment")
        itself = f"/proc/self/fd/{descriptor}"
        if (uid, gid) not in {(-1, -1), (seen.st_uid, seen.st_gid)}:
            os.chown(itself, uid, gid)
        if stat.S_IMODE(seen.st_mode) != mode:
            os.chmod(itself, mode)
    finally:
        os.close(descriptor)


def _make_directories(path: str, mode: int) -> None:
    if os.path.isdir(path):
        return
    _make_directories(os.path.dirname(path), mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return  # made by somebody else meanwhile
    if stat.S_IMODE(os.stat(path).st_mode) != mode:  # the umask took something away
        os.chmod(path, mode)


def _owner(name: str | None) -> int:
    try:
        return -1 if name is None else int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise NotBound(f"there is no user {name}") from None


def _group(name: str | None) -> int:
    try:
        return -1 if name is None else int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise NotBound(f"there is no group {name}") from None


def _in_words(wanted: Socket, error: OSError) -> NotBound:
    address = wanted.address
    match error.errno:
        case errno.EADDRINUSE:
            return NotBound("it is in use", may_pass=True, is_taken=True)
        case errno.EADDRNOTAVAIL:
            return NotBound(
                "this host does not have that address; set free-bind = true to listen before it has", may_pass=True
            )
        case errno.EACCES if isinstance(address, InternetAddress):
            return NotBound(f"only root can listen on ports below {_port_start()}; choose another one")
        case errno.ENODEV if wanted.interface is not None:
            return NotBound(f"there is no network interface {wanted.interface}", may_pass=True)
        case errno.EAFNOSUPPORT:
            return NotBound("this host has no such addresses; is IPv6 switched off?")
        case errno.EPERM if wanted.user is not None or wanted.group is not None:
            return NotBound("only root can give it to another user or group")
    where = f"{error.filename}: " if error.filename and error.filename != getattr(address, "path", None) else ""
    return NotBound(f"{where}{error.strerror or error}")


def _port_start() -> str:
    try:
        with open(PORT_START, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "1024"


def endpoint(wanted: Socket, bound: socket.socket) -> str:
    """Where a socket listens, as declared; a port that the kernel has chosen is told."""
    if isinstance(wanted.address, InternetAddress) and wanted.address.port == 0:
        chosen = InternetAddress(wanted.address.host, bound.getsockname()[1])
        return str(Socket(address=chosen, kind=wanted.kind))
    return str(wanted)
