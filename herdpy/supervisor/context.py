"""What a step of a service's life may ask of the supervisor (the engine's side of ``herdpy.service.Context``)."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from herdpy.service import Completed, Connection, Context, End, Process, StartFailure
from herdpy.supervisor import accounts, processes
from herdpy.supervisor.line import Held, Refused, SpawnError
from herdpy.supervisor.log import log
from herdpy.supervisor.race import first

if TYPE_CHECKING:
    from herdpy.supervisor.life import Life
    from herdpy.supervisor.registry import Registry

OUTPUT_KEPT = 64 * 1024
"""Bytes of a command's output that are kept."""
KILLED_PATIENCE = 5.0
"""Seconds that a cancelled command is waited for after SIGKILL."""


class StepContext:
    """The context of one service's steps."""

    def __init__(self, life: "Life", registry: "Registry") -> None:
        self.name = life.name
        self._life = life
        self._registry = registry

    @property
    def details(self) -> Mapping[str, str]:
        return self._life.details

    @property
    def memory(self) -> str:
        return self._life.memory

    def progress(self, stage: str, done: float | None = None) -> None:
        self._life.tell_stage(stage, done)

    def wait_on(self, line: str) -> None:
        self._life.wait_on(line)

    def detail(self, key: str, value: str | None) -> None:
        self._life.tell_detail(key, value)

    async def keep_details(self) -> None:
        await self._life.keep_details()

    async def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        account = await accounts.resolve(Process(command=tuple(command), user=user))
        line = self._registry.line
        try:
            held, descriptor = await line.spawn(
                processes.new_id(self.name, "step"),
                command,
                account.environment if environment is None else environment,
                directory or account.directory,
                "supervisor",
                ids=account.ids,
            )
        except SpawnError as error:
            raise StartFailure(error.in_words(command[0])) from None
        except Refused as refusal:
            raise StartFailure(f"{command[0]} cannot be executed: {refusal}") from None
        assert descriptor is not None

        async def run_out() -> None:
            try:
                await held.exited.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await _be_rid_of(held, line.signal)
                    if held.has_ended:
                        await line.release(held)
                    else:
                        log("step-does-not-end", service=self.name, command=command[0], pid=held.pid)

        written = _Written(on_line)
        await _hear(descriptor, written, run_out)
        status = held.status or {}
        ended = status["exited"] if "exited" in status else -status.get("killed", 9)
        return Completed(status=ended, output=written.text)

    async def execute(
        self,
        process: Process,
        *,
        key: str | None = None,
        on_line: Callable[[str], None] | None = None,
        on_end: Callable[[End], Awaitable[None]] | None = None,
        connection: Connection | None = None,
    ) -> End:
        life, line = self._life, self._registry.line
        process_id = processes.new_id(self.name, "step") if key is None else processes.new_id(self.name, "run", key)
        to_log = processes.to_log(life.log_file, life.service.log_rotation)
        output = to_log if on_line is None else "supervisor"
        if connection is None:
            held, descriptor = await processes.spawn(line, process_id, process, output)
        else:
            try:
                stdin = life.sockets.descriptor_of(connection)
                held, descriptor = await processes.spawn(line, process_id, process, output, stdin=stdin)
            finally:
                with trio.CancelScope(shield=True):  # the keeper answers at once
                    await life.sockets.drop(connection)
        run_out = partial(processes.run_out, line, held, life.service.stop, self.name, on_end)
        if descriptor is None:
            return await run_out()
        await _hear(descriptor, _Written(on_line), run_out)
        return processes.end_of(held)

    async def renew(self, signal: int, patience: float) -> None:
        await self._life.renew(signal, patience)

    async def once(self, key: str, make: Callable[[Context], Awaitable[None]]) -> None:
        makings = self._registry.makings
        while key in makings:
            making = makings[key]
            await self._watch(making)
            if making.failure is not None:
                raise making.failure
            if making.made:
                return
            # Whoever was making it was cancelled: our turn.
        making = makings[key] = Making(self._life)
        try:
            await make(self)
            making.made = True
        except StartFailure as failure:
            making.failure = failure
            raise
        finally:
            del makings[key]
            making.finished.set()

    async def _watch(self, making: "Making") -> None:
        async def mirror() -> None:
            while True:
                changed = making.life.changed
                self._life.tell_stage(making.life.stage, making.life.done)
                await changed.wait()

        await first(making.finished.wait, mirror)


class Making:
    """Something that one service is making and others wait for."""

    def __init__(self, life: "Life") -> None:
        self.life = life
        self.finished = trio.Event()
        self.made = False
        self.failure: StartFailure | None = None


class _Written:
    """What a command writes: its end is kept, and each line told."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        self._kept.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._kept[0]) > OUTPUT_KEPT:
            self._size -= len(self._kept.popleft())
        if self._on_line is not None:
            *lines, rest = (self._rest + chunk).split(b"\n")
            self._rest = rest[-OUTPUT_KEPT:]
            for line in lines:
                self._on_line(line.decode(errors="replace"))

    def finish(self) -> None:
        """Tell a last line without a newline, too."""
        if self._on_line is not None and self._rest:
            self._on_line(self._rest.decode(errors="replace"))

    @property
    def text(self) -> str:
        return b"".join(self._kept)[-OUTPUT_KEPT:].decode(errors="replace")


async def _hear(descriptor: int, written: _Written, end: Callable[[], Awaitable[object]]) -> None:
    """Read what a process writes until it has ended, and what is in the pipe then.

    Its end is the process's, not the pipe's: a daemon it left behind may hold the pipe open.
    """
    async with trio.lowlevel.FdStream(descriptor) as output:

        async def read() -> None:
            while chunk := await output.receive_some(OUTPUT_KEPT):
                written.add(chunk)

        async def read_on() -> None:
            await read()
            await trio.sleep_forever()

        try:
            await first(end, read_on)
            with trio.move_on_after(0.5):
                await read()
        finally:
            written.finish()


async def _be_rid_of(held: Held, signal: Callable[[Held, int], Awaitable[None]]) -> None:
    if not held.has_ended:
        await signal(held, 15)  # first gently: a build unmounts and removes what it made
        with trio.move_on_after(KILLED_PATIENCE):
            await held.exited.wait()
    if not held.has_ended:
        await signal(held, 9)
        with trio.move_on_after(KILLED_PATIENCE):
            await held.exited.wait()
