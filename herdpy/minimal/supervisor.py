"""The minimal supervisor: it tells how services are, stops them, and can be followed by the real one. No more.

It reads no declarations: what it knows of a service is what the keeper holds and what the real supervisor had noted.
Nothing is started or respawned; of a service that it stops it notes that somebody wants it stopped, so that the real
one does what is left to do (sockets, mounts, what comes after the end).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time

from herdpy import protocol
from herdpy.minimal.keeper_line import KeeperLine
from herdpy.protocol import Command, write_reply
from herdpy.sexp import Reader, SexpError, Symbol
from herdpy.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

ROOT = ("root", "shepherd")
PATIENCE = 30
"""Seconds that the real supervisor has to get ready, when it is tried again; and a client to send its command."""
GRACE = 5.0
"""Seconds from a service's stop signal to SIGKILL, when its note does not say."""
LONGEST = 90.0
"""Seconds until the end of everything, however long services may take."""
MOST = 64 * 1024
"""Bytes of a command."""
CLIENTS = 256
"""At once; more wait in the socket's backlog."""

HELP = """\
herdpy's supervisor crashes, and a minimal one answers meanwhile:

  herd status [SERVICE]     how things are
  herd stop SERVICE         end a service's processes
  herd stop root            end everything, and herdpy
  herd upgrade root         after the repair: let the real supervisor go on"""


class Client:
    """A connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = Reader(size=MOST, depth=protocol.COMMAND_DEPTH)
        self.received = b""
        self.rest = b""
        self.since = time.monotonic()
        self.is_asking = False
        """Whether its command is whole."""


class Minimal:
    """Answers on the control socket until it is told to end, or another supervisor takes over."""

    def __init__(self, descriptor: int, reason: str) -> None:
        """Learn what there is.

        Args:
            descriptor: of the line to the keeper.
            reason: why the real supervisor is not there, in words.
        """
        self._reason = reason
        self._line = KeeperLine(descriptor)
        self._line.on_event = self._hear
        self._line.hello()
        self._listener = socket.socket(fileno=os.dup(self._line.listeners["control"]))
        self._listener.setblocking(False)
        self._clients: dict[int, Client] = {}
        self._waiting: dict[str, list[Client]] = {}
        """Who waits for the end of a process, by its id."""
        self._kills: dict[str, float] = {}
        """When a process that was sent its stop signal is killed, by its id: CLOCK_MONOTONIC seconds."""
        self._deadline: float | None = None
        """When herdpy ends in any case, once it is to end."""
        self._is_upgrading = False

    def run(self) -> None:
        """Answer until the end."""
        if self._line.signal is not None:
            self._stop_all()
        while not self._is_over():
            poll = select.poll()
            poll.register(self._line, select.POLLIN)
            if len(self._clients) < CLIENTS:
                poll.register(self._listener, select.POLLIN)
            for descriptor, client in self._clients.items():
                poll.register(descriptor, select.POLLOUT if client.rest else 0 if client.is_asking else select.POLLIN)
            for descriptor, _ in poll.poll(self._patience()):
                if descriptor == self._line.fileno():
                    self._line.take()
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._clients:
                    self._attend(self._clients[descriptor])
            self._look_at_the_clock()
        self._line.tell({"kind": "exit", "status": 0, "message": None})

    def _is_over(self) -> bool:
        if self._deadline is None:
            return False
        return time.monotonic() >= self._deadline or not any(map(self._runs, self._line.processes))

    def _patience(self) -> float | None:
        """Milliseconds until something is due."""
        due = [*self._kills.values()]
        due += [client.since + PATIENCE for client in self._clients.values() if not client.is_asking]
        if self._deadline is not None:
            due.append(self._deadline)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for name in [name for name, when in self._kills.items() if when <= now]:
            del self._kills[name]
            if self._runs(name):
                self._signal(name, signal.SIGKILL)
        for client in [*self._clients.values()]:
            if not client.is_asking and client.since + PATIENCE <= now:
                self._hang_up(client)

    # The keeper's word.

    def _hear(self, told: Mapping[str, Any]) -> None:
        if told["kind"] == "exited":
            self._kills.pop(told["id"], None)
            name = told["id"].partition(":")[0]
            for client in self._waiting.pop(told["id"], ()):
                self._reply(client, write_reply([Symbol(name)], messages=[self._stopped(name)]))
        elif told["kind"] == "signal" and self._line.signal is not None:
            self._stop_all()

    def _runs(self, process_id: str) -> bool:
        return self._line.processes[process_id]["exited"] is None

    def _signal(self, process_id: str, number: int) -> None:
        scope = "process" if self._line.processes[process_id]["scope"] == "process" else "all"
        request = {"kind": "signal", "id": process_id, "signal": number, "scope": scope}
        self._line.ask(request, lambda answer: None)  # to one that has gone, nothing happens

    def _note(self, name: str) -> dict[str, Any]:
        """What the real supervisor had noted of a service."""
        try:
            noted = json.loads(self._line.notes.get(f"service:{name}", "{}"))
        except ValueError:
            return {}
        return noted if isinstance(noted, dict) else {}

    def _main(self, name: str) -> str | None:
        """The id of a service's main process, if that runs."""
        begin = f"{name}:main:"
        return next((found for found in self._line.processes if found.startswith(begin) and self._runs(found)), None)

    # Stopping.

    def _end(self, process_id: str) -> None:
        """Send a process its stop signal; after its grace period it is killed."""
        noted = self._note(process_id.partition(":")[0])
        number, grace = noted.get("stop_signal"), noted.get("grace_period")
        self._signal(process_id, number if isinstance(number, int) else signal.SIGTERM)
        patience = min(float(grace), LONGEST) if isinstance(grace, (int, float)) else GRACE
        self._kills.setdefault(process_id, time.monotonic() + patience)

    def _want_stopped(self, name: str) -> None:
        """Have the next supervisor know that somebody asked for it."""
        noted = self._note(name)
        if noted.get("status") in ("starting", "running"):
            noted["changes"] = [["stopping", time.time()], *noted.get("changes", [])]
            noted["status"] = "stopping"
        noted["stop_asked"] = True
        if f"service:{name}" in self._line.notes:
            self._line.note(f"service:{name}", json.dumps(noted))

    def _stop_all(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + LONGEST
            for process_id in filter(self._runs, self._line.processes):
                self._end(process_id)

    def _stop(self, client: Client, name: str, command: Command) -> None:
        main = self._main(name)
        noted = self._note(name)
        if main is None and noted.get("status") in ("starting", "running"):
            self._refuse(client, command, f"{name} has no process of its own; {self._advice()}")
            return
        if main is None:
            self._reply(client, write_reply([], messages=[]))
            return
        self._want_stopped(name)
        self._end(main)
        self._waiting.setdefault(main, []).append(client)

    def _stopped(self, name: str) -> str:
        return f"The processes of {name} have ended; what requires it goes on. The rest waits for herdpy to be mended."

    # Clients.

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it is gone again, or there are no descriptors: it waits in the backlog
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            connection.close()  # who else may ask is in the declarations, which nobody reads now
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = Client(connection)

    def _attend(self, client: Client) -> None:
        try:
            if client.rest:
                client.rest = client.rest[client.connection.send(client.rest, socket.MSG_NOSIGNAL) :]
                if not client.rest:
                    self._hang_up(client)
                return
            sent = client.connection.recv(65536)
            client.received += sent
            if client.is_asking or not sent:
                self._hang_up(client)
                return
            for text in client.reader.feed(sent):
                client.is_asking = True
                self._answer(client, protocol.parse_command(text))
                return
        except BlockingIOError:
            return
        except (OSError, SexpError, protocol.ProtocolError):
            self._hang_up(client)

    def _hang_up(self, client: Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        for waiting in self._waiting.values():
            if client in waiting:
                waiting.remove(client)
        client.connection.close()

    def _reply(self, client: Client, reply: bytes) -> None:
        client.rest = reply
        self._attend(client)

    def _refuse(self, client: Client, command: Command, text: str) -> None:
        self._reply(client, write_reply(error=protocol.action_exception(command.action, command.service, text)))

    def _advice(self) -> str:
        return "mend what makes herdpy's supervisor crash, then: herd upgrade root"

    def _answer(self, client: Client, command: Command) -> None:
        action, name = command.names
        services = self._services()
        match action, name:
            case "help", "root" | "shepherd":
                self._reply(client, write_reply([HELP]))
            case "overview" | "events" | "progress", "root" | "shepherd":
                self._reply(client, write_reply(error=protocol.action_not_found(command.action, Symbol("root"))))
            case "status", "root" | "shepherd":
                described = [self._described_root(), *(self._described(service) for service in services)]
                self._reply(client, write_reply(protocol.write_services(described), messages=self._lament()))
            case "stop" | "halt" | "power-off", "root" | "shepherd":
                self._stop_all()  # and herdpy's end is the answer
            case "upgrade", "root" | "shepherd" if not command.arguments:
                self._upgrade(client, command)
            case _, "root" | "shepherd":
                self._refuse(client, command, f"only status, stop and upgrade are answered now; {self._advice()}")
            case "status" | "stop", str() if name not in services:
                unknown = "no service of this name has run yet, and declarations are not read now"
                self._refuse(client, command, f"{unknown}; {self._advice()}")
            case "status", str():
                self._reply(client, write_reply([self._described(name)], messages=self._lament()))
            case "stop", str():
                self._stop(client, name, command)
            case _:
                self._refuse(client, command, f"only status and stop are answered now; {self._advice()}")

    def _lament(self) -> list[str]:
        return [f"Only status and stop are answered: {self._reason}", f"What to do: {self._advice()}."]

    # How things are.

    def _services(self) -> list[str]:
        """The names of all that is known."""
        noted = [key.removeprefix("service:") for key in self._line.notes if key.startswith("service:")]
        held = [found.partition(":")[0] for found in self._line.processes if found.split(":")[1:2] == ["main"]]
        return list(dict.fromkeys([*noted, *held]))

    def _described_root(self) -> Any:
        return protocol.write_service(
            provides=ROOT, docstring="herdpy itself, of which only a part works.", running=True, status="running"
        )

    def _described(self, name: str) -> Any:
        noted = self._note(name)
        main = self._main(name)
        status = str(noted.get("status", "stopped"))
        reason = noted.get("reason")
        if main is None and any(found.startswith(f"{name}:main:") for found in self._line.processes):
            reason = "it ended while herdpy's supervisor was not there" if status == "running" else reason
            status = "stopped"
        changes = [(str(state), int(at)) for state, at in noted.get("changes", [])]
        running: object = False
        if status in ("running", "stopping"):
            running = True if main is None else self._line.processes[main]["pid"]
        return protocol.write_service(
            provides=(name,),
            docstring="",
            enabled=bool(noted.get("enabled", True)),
            running=running,
            status_changes=changes,
            status=status,
            reason=None if reason is None else str(reason),
        )

    # The real one again.

    def _upgrade(self, client: Client, command: Command) -> None:
        if self._is_upgrading or self._deadline is not None:
            self._refuse(client, command, "another upgrade, or the end of herdpy, is under way")
            return
        self._is_upgrading = True

        def prepared(answer: Mapping[str, Any]) -> None:
            self._is_upgrading = False
            if answer["kind"] == "error":
                self._refuse(client, command, f"{answer['message']}; {self._advice()}")
            elif self._deadline is None:
                self._hand_over(client)

        self._line.ask({"kind": "upgrade", "patience": PATIENCE}, prepared)

    def _hand_over(self, asker: Client) -> None:
        """Let the other supervisor answer whoever waits, and be the one in charge."""
        closed = time.monotonic()
        ignore: Callable[[Mapping[str, Any]], None] = lambda answer: None  # noqa: E731 - it has a type
        for number, client in enumerate(self._clients.values()):
            name = f"request:{number}"
            if client.rest:
                continue
            self._line.note(name, client.received.decode("latin-1"))
            self._line.ask({"kind": "hold", "name": name}, ignore, (client.connection.fileno(),))
            if client is asker:
                handed = {"asker": name, "version": f"{VERSION} (minimal)", "pid": os.getpid(), "closed": closed}
                self._line.note("upgrade", json.dumps(handed))

        def handed_over(answer: Mapping[str, Any]) -> None:
            if answer["kind"] == "error":  # it has crashed meanwhile, and the keeper goes on trying
                os._exit(1)
            os._exit(0)

        self._line.ask({"kind": "hand_over"}, handed_over)
