"""The control socket: one command and one reply a connection, in GNU Shepherd's protocol.

Most commands have come whole when their connection is accepted, and most of them are answered without waiting for
anything: these are dealt with at once, many in a turn of trio's loop. Everyone else gets a task, so that no client
waits for another.
"""

import errno
import os
import socket
from collections import Counter
from functools import lru_cache

import trio

from herdpy import protocol, sexp
from herdpy.supervisor.answers import Answers
from herdpy.supervisor.line import KeeperLine
from herdpy.supervisor.log import log
from herdpy.supervisor.peer import Peer, peer_of
from herdpy.supervisor.rights import Groups, Right, right_of

COMMAND_PATIENCE = 30.0
"""Seconds that a client may take to send its command."""
REPLY_PATIENCE = 60.0
"""Seconds that a client may take to read its reply."""
MOST_OF_ONE = 64
"""Connections at once of one user who has not all rights."""
LONGEST_OF_ONE = 64 * 1024
"""Bytes of a command of such a user."""
ALONE = 8
"""So many connections that came one by one, and it is tried whether the next has come already."""
TURN = 32
"""So many connections are accepted before others have their turn."""
USUAL = 4096
"""Bytes: what is read at first, which is more than any usual command."""
SOON = 0.3
"""Seconds that are given to whoever waits for an answer before another supervisor takes over."""
LATE = 10.0
"""Seconds that are given to what cannot be asked again."""
LONGEST_PASSED = 16 * 1024
"""Bytes that were read of a request that is left to the next supervisor: they have to go into a note."""
AGAIN = (
    *("status", "doc", "configuration", "reach", "usage", "doctor", "plan", "overview", "help", "progress"),
    *("start", "stop", "restart", "enable", "disable"),
)
"""Actions that the next supervisor may be asked for in the place of this one."""

SENDING = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""As a plain number: to join flags of an enum takes longer than some system calls."""
RECEIVING = int(socket.MSG_DONTWAIT)
UNUSUAL = b"[]{}|;'`,\\"
"""What makes it a question where an expression ends, and is left to the reader."""


class Client:
    """Who is at the other end of a connection, and what may be sent there."""

    __slots__ = ("_connection", "_elsewhere", "_line", "command", "is_sending", "peer", "received", "right")

    def __init__(self, connection: socket.socket, peer: Peer, right: Right, line: KeeperLine) -> None:
        self._connection = connection
        self._line = line
        self.peer = peer
        self.right = right
        self.received = b""
        """What it has sent, as far as we have read it."""
        self.command: protocol.Command | None = None
        """What that is, once it is whole."""
        self.is_sending = False
        """Whether a part of something is sent, and the rest is not."""
        self._elsewhere: trio.Event | None = None
        """While it is the next supervisor's to answer it; set when it is ours again after all."""

    def pass_on(self) -> int:
        """Leave it to the next supervisor; returns a copy of the connection's descriptor, the caller's to close."""
        self._elsewhere = trio.Event()
        return os.dup(self._connection.fileno())

    def take_back(self) -> None:
        """Answer it after all."""
        elsewhere, self._elsewhere = self._elsewhere, None
        if elsewhere is not None:
            elsewhere.set()

    async def ours(self) -> None:
        """Wait while it is the next supervisor's."""
        while self._elsewhere is not None:
            await self._elsewhere.wait()

    async def send(self, piece: bytes, patience: float = REPLY_PATIENCE) -> None:
        """Send, waiting for the client to read as it must.

        Raises:
            trio.BrokenResourceError: it is gone.
            trio.TooSlowError: it has not read it within ``patience`` (seconds).
        """
        rest = memoryview(piece)
        await self._line.settle()  # what is told here has happened, whatever becomes of us
        with trio.fail_after(patience):
            while rest:
                await self.ours()
                sent = _send(self._connection, rest)
                rest = rest[sent:]
                self.is_sending = bool(rest)
                if rest:
                    await trio.lowlevel.wait_writable(self._connection)

    async def gone(self) -> None:
        """Wait until it has hung up; more than its one command is passed over."""
        while await _receive(self._connection, USUAL):
            pass


class Door:
    """Where connections come in, and what becomes of them.

    Args:
        groups: whose members may ask, besides root and our own user.
        line: to the keeper, which remembers what is told here.
    """

    def __init__(self, answers: Answers, groups: Groups, line: KeeperLine) -> None:
        self._answers = answers
        self._line = line
        self._groups = groups
        self._open: Counter[int] = Counter()
        """Connections at the moment of each user who has not all rights, by UID."""
        self._clients: dict[Client, None] = {}
        """Those who wait for an answer, or have not asked yet."""
        self._left = trio.Event()
        """Set, and replaced by a new one, when one of them is done with."""
        self._nursery: trio.Nursery
        self._accepting = trio.CancelScope()
        self._may_accept = trio.Event()

    async def serve(self, descriptor: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections for ever, but while it is closed.

        Args:
            descriptor: the listening socket, which the keeper holds too.
            task_status: told when :meth:`resume` may be called.
        """
        with socket.socket(fileno=descriptor) as listener:
            listener.setblocking(False)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.open()
                task_status.started()
                while True:
                    await self._may_accept.wait()
                    with trio.CancelScope() as self._accepting:
                        await self._accept(listener)

    async def _accept(self, listener: socket.socket) -> None:
        is_told = False
        # To find that there is none costs a twentieth of an answer: when they come one by one, that is tried seldom.
        expected, alone = 1, 0
        while True:
            await trio.lowlevel.wait_readable(listener)
            count = 0
            try:
                while count < expected:
                    count += 1
                    if not self.receive(listener.accept()[0], self._nursery):
                        break  # its task begins before the next one's: commands are begun in the order they came
                else:
                    alone = (alone + 1) % ALONE
                    if expected > 1 or alone == 0:
                        expected = min(2 * expected, TURN)
            except BlockingIOError:
                is_told, expected = False, 1
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED):
                    raise
                if not is_told:
                    log("connections-wait", reason=error.strerror)  # in the backlog
                is_told = True
                await trio.sleep(0.1)  # nothing tells when there are descriptors again

    def open(self) -> None:
        """Accept connections."""
        self._may_accept.set()

    def close(self) -> None:
        """Accept no more: who comes waits in the socket's backlog."""
        self._may_accept = trio.Event()
        self._accepting.cancel()

    async def settle(self, but: Client) -> None:
        """Wait a while for whoever is answered soon, and longer for what cannot be asked again; others come meanwhile.

        Args:
            but: who is not waited for.
        """
        with trio.move_on_after(SOON):
            while any(client is not but and not _is_stream(client) for client in self._clients):
                await self._left.wait()
        with trio.move_on_after(LATE):
            while any(client is not but and not (_is_stream(client) or can_pass(client)) for client in self._clients):
                await self._left.wait()

    @property
    def clients(self) -> tuple[Client, ...]:
        """Those who wait for an answer, or have not asked yet."""
        return tuple(self._clients)

    def resume(self, connection: socket.socket, received: bytes) -> None:
        """Answer whom the last supervisor has left to us.

        Args:
            received: what it has read already.
        """
        self._take_in(connection, self._nursery, received)

    def receive(self, connection: socket.socket, nursery: trio.Nursery) -> bool:
        """Answer at once if that can be done, else in a task; returns whether that is all."""
        return self._take_in(connection, nursery, None)

    def _take_in(self, connection: socket.socket, nursery: trio.Nursery, received: bytes | None) -> bool:
        try:
            peer = peer_of(connection)
            right = right_of(peer, connection, self._groups)
            if right is Right.NONE or (right is not Right.FULL and self._open[peer.uid] >= MOST_OF_ONE):
                reason = "another user" if right is Right.NONE else f"{MOST_OF_ONE} connections are open"
                log("connection-refused", reason=reason, uid=peer.uid)
                connection.close()
                return True
            client = Client(connection, peer, right, self._line)
            begin = received or _receive_now(connection)
            client.received = begin or b""
            command = None if begin is None else _usual_command(begin)
            reply = None if command is None else self._answers.at_once(command, client)
            if reply is not None:
                self._line.flush()
                sent = _send(connection, reply)
                if sent == len(reply):
                    connection.close()
                    return True
                self._open[peer.uid] += 1
                client.is_sending = True
                self._clients[client] = None
                nursery.start_soon(self._attend, connection, client, None, None, reply[sent:])
            else:
                self._open[peer.uid] += 1  # here: who comes next is judged before the task begins
                client.command = command
                self._clients[client] = None
                nursery.start_soon(self._attend, connection, client, command, begin, b"")
                return False
        except (OSError, trio.BrokenResourceError):
            connection.close()  # the client is gone
        except Exception as error:
            connection.close()
            log("connection-crashed", exc_info=error)
        return True

    async def _attend(
        self,
        connection: socket.socket,
        client: Client,
        command: protocol.Command | None,
        begin: bytes | None,
        rest: bytes,
    ) -> None:
        """Do what could not be done at once: read the rest of a command, answer it, or send the rest of an answer."""
        uid = client.peer.uid
        try:
            with connection:
                if rest:
                    await client.send(rest)
                    return
                if command is None:
                    command = client.command = await _read_command(connection, begin, client)
                if command is not None:
                    await self._answers.give(command, client)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone, or as good as gone: what it asked for goes on
        except Exception as error:
            log("connection-crashed", exc_info=error)
        finally:
            del self._clients[client]
            self._left.set()
            self._left = trio.Event()
            self._open[uid] -= 1
            if not self._open[uid]:
                del self._open[uid]


def _is_stream(client: Client) -> bool:
    """Whether it is told what happens, for as long as that may be."""
    return client.command is not None and client.command.names[0] in ("events", "progress")


def can_pass(client: Client) -> bool:
    """Whether the next supervisor can answer a client, if need be by doing once more what does no harm twice."""
    if client.is_sending or len(client.received) > LONGEST_PASSED:
        return False
    return client.command is None or client.command.names[0] in AGAIN


def _send(connection: socket.socket, piece: bytes | memoryview) -> int:
    """Send what goes now; returns how many bytes that was.

    Raises:
        trio.BrokenResourceError: the client is gone.
    """
    try:
        return connection.send(piece, SENDING)
    except BlockingIOError:
        return 0
    except OSError:
        raise trio.BrokenResourceError from None


def _receive_now(connection: socket.socket) -> bytes | None:
    """What has come already; None when nothing has."""
    try:
        return connection.recv(USUAL, RECEIVING)
    except BlockingIOError:
        return None


async def _receive(connection: socket.socket, size: int, client: Client | None = None) -> bytes:
    """What comes next; nothing when the client has hung up."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        if client is not None:
            await client.ours()
        try:
            return connection.recv(size, RECEIVING)
        except BlockingIOError:
            continue
        except OSError:
            return b""


@lru_cache(maxsize=256)
def _usual_command(sent: bytes) -> protocol.Command | None:
    """The command, when all that has been sent is one: clients ask the same again and again."""
    if len(sent) == USUAL or sent.translate(None, UNUSUAL) != sent:
        return None
    try:
        return protocol.parse_command(sent.decode())
    except ValueError:
        return None  # more is to come, or it is none: the reader will tell


async def _read_command(connection: socket.socket, begin: bytes | None, client: Client) -> protocol.Command | None:
    """The command a client sends; None, and hence no reply, when it sends none.

    Args:
        begin: what it has sent already.
    """
    size = protocol.COMMAND_SIZE if client.right is Right.FULL else LONGEST_OF_ONE
    reader = sexp.Reader(size=size, depth=protocol.COMMAND_DEPTH)
    with trio.move_on_after(COMMAND_PATIENCE):
        chunk = begin
        while chunk != b"":
            try:
                for text in reader.feed(chunk or b""):
                    return protocol.parse_command(text)
            except (protocol.ProtocolError, sexp.SexpError):
                return None
            chunk = await _receive(connection, 64 * 1024, client)
            client.received += chunk
    return None
