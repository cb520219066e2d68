"""The minimal supervisor's end of the line to the keeper: what is held, and requests whose answers are called back."""

from __future__ import annotations

import os
import signal
import socket
import sys

from herdpy.keeper import message
from herdpy.keeper.succession import descriptors_told, succeed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Packet = dict[str, Any]


class KeeperLine:
    """What the keeper holds, by its word; kept up to date.

    Attributes:
        processes: by id, as the keeper tells them.
        notes: by key.
        listeners: copies of the descriptors that are held, by name.
        signal: SIGTERM or SIGINT if it has come in.
        on_event: called after each packet that is no answer.
    """

    def __init__(self, descriptor: int) -> None:
        self.processes: dict[str, Packet] = {}
        self.notes: dict[str, str] = {}
        self.listeners: dict[str, int] = {}
        self.signal: int | None = None
        self.on_event: Callable[[Packet], None] = lambda packet: None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)
        self._socket.set_inheritable(False)
        self._serial = 0
        self._answers: dict[int, Callable[[Packet], None]] = {}
        self._succession: Packet | None = None
        self._stderr = -1
        self._ledger: dict[str, int] = {}

    def fileno(self) -> int:
        """The line's descriptor."""
        return self._socket.fileno()

    def hello(self) -> None:
        """Learn what there is, and say that somebody answers."""
        state: list[Packet] = []
        self.ask({"kind": "hello", "version": message.VERSION}, state.append)
        while not state:
            self.take()
        if state[0]["kind"] == "error":
            sys.exit(f"the keeper refuses: {state[0]['message']}")
        if state[0]["signal"] in (signal.SIGTERM, signal.SIGINT):
            self.signal = state[0]["signal"]
        self.tell({"kind": "ready"})

    def tell(self, packet: Packet, descriptors: Sequence[int] = ()) -> None:
        """Send a packet that is not answered."""
        self._socket.sendmsg([message.encode(packet)], message.ancillary(descriptors))

    def ask(self, packet: Packet, then: Callable[[Packet], None], descriptors: Sequence[int] = ()) -> None:
        """Send a request; ``then`` is called with the answer, which may be an ``error``."""
        self._serial += 1
        self._answers[self._serial] = then
        self.tell({**packet, "serial": self._serial}, descriptors)

    def note(self, key: str, text: str | None) -> None:
        """Have the keeper remember a text under a key, or forget it."""
        self.tell({"kind": "note", "key": key, "text": text})
        if text is None:
            self.notes.pop(key, None)
        else:
            self.notes[key] = text

    def take(self) -> None:
        """Take one packet. When the keeper has been killed, this never returns: we become the next one."""
        try:
            packet, ancillary, _, _ = self._socket.recvmsg(
                message.LIMIT, message.ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return  # it ended without reading all; the next call tells
        if not packet:
            if self._succession is not None and "control" in self.listeners:
                succeed(self._succession, self._stderr, {**self.listeners, **self._ledger})
            sys.exit("the keeper is gone")
        descriptors = message.descriptors(ancillary)
        for encoded in message.apart(packet):
            self._obey(message.decode(encoded), descriptors)

    def _obey(self, told: Packet, descriptors: list[int]) -> None:
        self._keep(told, descriptors)
        answer = None if told["kind"] in ("process", "listener") else self._answers.pop(told.get("serial") or 0, None)
        if answer is not None:
            answer(told)
        else:
            self.on_event(told)

    def _keep(self, told: Packet, descriptors: list[int]) -> None:
        match told["kind"]:
            case "process":
                self.processes[told["id"]] = told
            case "exited" if told["id"] in self.processes:
                self.processes[told["id"]]["exited"] = told["status"]
            case "note":
                self.notes[told["key"]] = told["text"]
            case "signal" if told["signal"] in (signal.SIGTERM, signal.SIGINT):
                self.signal = told["signal"]
            case "listener":
                for descriptor in descriptors:
                    self.listeners[told["name"]] = descriptor
                return
            case "succession":
                for descriptor in (self._stderr, *self._ledger.values()):
                    if descriptor >= 0:
                        os.close(descriptor)
                self._succession = told["options"] if told["was_ready"] else None
                self._stderr, self._ledger = descriptors_told(descriptors)
                return
        for descriptor in descriptors:
            os.close(descriptor)
