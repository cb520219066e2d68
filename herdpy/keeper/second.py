"""A second supervisor, of the code that is installed by now, that gets ready beside the one in charge.

It is told what a new supervisor is told, and may change nothing. When it has got ready, and the one in charge hands
over, it is told only what has changed since, and is the supervisor from then on.
"""

from __future__ import annotations

import os

from herdpy.keeper import request
from herdpy.keeper.companion import Companion, in_words
from herdpy.keeper.message import MessageError, decode, encode
from herdpy.keeper.request import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from herdpy.keeper.loop import Loop
    from herdpy.keeper.spawn import Spawner

DEADLINE = "second supervisor"


class Second:
    """A supervisor that is not in charge yet.

    Attributes:
        companion: its process and its line.
        prepared: the serial of its word that it is ready, or None; in charge, it is answered by what has changed.
        version: of its code, as it says itself.
        notes, processes, held: keys of what has changed since it was told.
    """

    def __init__(
        self,
        loop: Loop,
        command: list[str],
        environment: dict[str, str],
        spawner: Spawner,
        output: int,
        say: Callable[[str], None],
        *,
        patience: float,
        greet: Callable[[Companion, Mapping[str, Any]], None],
        on_prepared: Callable[[], None],
        on_failure: Callable[[str], None],
        on_begin: Callable[[], None],
    ) -> None:
        """Nothing is started yet.

        Args:
            patience: seconds until it must be ready.
            greet: answers its ``hello``.
            on_prepared: called when it is ready, once.
            on_failure: called with the reason, in words, when it will never be; it is dead or dying then.
            on_begin: called when it has been spawned.
        """
        self.prepared: int | None = None
        self.version = ""
        self.notes: dict[str, None] = {}
        self.processes: dict[str, None] = {}
        self.held: dict[str, None] = {}
        self._loop = loop
        self._patience = patience
        self._greet = greet
        self._is_over = False
        self._is_greeted = False
        self._on_prepared = on_prepared
        self._on_failure = on_failure
        self.companion = Companion(loop, "second supervisor", command, environment, spawner, output, say)
        self.companion.is_wanted = False
        self.companion.on_message = self._hear
        self.companion.on_end = self._ended
        self.companion.on_begin = on_begin

    def begin(self) -> None:
        """Start it."""
        self._loop.after(self._patience, DEADLINE, self._too_late)
        self.companion.begin()

    def note_change(self, where: dict[str, None], key: str) -> None:
        """Remember that something has changed, if it was told how that was before."""
        if self._is_greeted:
            where[key] = None

    def end(self) -> None:
        """It is not wanted any more: kill it."""
        self._is_over = True
        self._loop.cancel(DEADLINE)
        self.companion.kill()

    def promote(self) -> Companion:
        """Let it go: it is the supervisor from now on; return its companion, whose callbacks are the caller's."""
        self._is_over = True
        return self.companion

    def _fail(self, reason: str) -> None:
        if not self._is_over:
            self.end()
            self._on_failure(reason)

    def _too_late(self) -> None:
        if self.prepared is None:
            self._fail(f"the second supervisor was not ready within {self._patience:g} s")

    def _ended(self) -> None:
        status = self.companion.status
        how = "could not be started" if status is None else f"{in_words(status)} before it was in charge"
        self._fail(f"the second supervisor {how}; herdpy's log says why")

    def _hear(self, packet: bytes) -> None:
        asked: dict[str, Any] = {}
        try:
            asked = decode(packet)
            match asked["kind"]:
                case "hello":
                    self._is_greeted = True
                    self._greet(self.companion, asked)
                case "prepared":
                    self.prepared = request.number(asked, "serial")
                    self.version = request.text(asked, "version")
                    self._loop.cancel(DEADLINE)
                    self._on_prepared()
                case "unprepared":
                    self._fail(request.text(asked, "reason"))
                case kind:
                    raise BadRequest(f"{kind}: a second supervisor may change nothing")
        except (BadRequest, MessageError) as error:
            serial = asked.get("serial")
            refusal = {
                "kind": "error",
                "serial": serial if type(serial) is int else None,
                "message": str(error),
            }
            self.companion.send(encode(refusal))


class Retired:
    """Supervisors that have handed over, until they have ended by themselves; not for long."""

    def __init__(self, loop: Loop, patience: float) -> None:
        self._loop = loop
        self._patience = patience
        self._there: list[Companion] = []

    def add(self, companion: Companion) -> None:
        """Let one end."""
        companion.is_wanted = False
        companion.on_message = lambda packet: None
        companion.on_end = lambda: self._there.remove(companion)
        if companion.pid is not None:
            self._there.append(companion)
            self._loop.after(self._patience, f"kill retired {companion.pid}", companion.kill)

    def pids(self) -> list[int]:
        """Return those that have not ended yet."""
        return [companion.pid for companion in self._there if companion.pid is not None]

    def kill(self) -> None:
        """End them now."""
        for companion in self._there:
            companion.kill()


def answer_changes(
    second: Second,
    serial: int,
    notes: Mapping[str, bytes],
    processes: Mapping[str, Any],
    held: Mapping[str, int],
) -> None:
    """Tell a second supervisor what has changed since its ``hello``, as it is now."""
    send = second.companion.send
    for key in second.notes:
        send(notes.get(key) or encode({"kind": "note", "key": key, "text": None}))
    for name in second.processes:
        process = processes.get(name)
        send(encode({"kind": "gone", "id": name} if process is None else process.told(serial)))
    for name in second.held:
        send(encode({"kind": "lost", "name": name}))
        if name in held:
            # A copy: it may have us let go of it before it has read this.
            send(encode({"kind": "listener", "serial": serial, "name": name}), (os.dup(held[name]),), give=True)
