"""What a step of a service's life may ask of the supervisor (the engine's side of ``herdpy.service.Context``)."""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from herdpy.service import Completed, Context, End, Process, StartFailure
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

    def progress(self, stage: str, done: float | None = None) -> None:
        self._life.tell_stage(stage, done)

    def detail(self, key: str, value: str | None) -> None:
        self._life.tell_detail(key, value)

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
        kept: deque[bytes] = deque()
        async with trio.lowlevel.FdStream(descriptor) as output:
            try:
                # Its end is the process's, not the pipe's: a daemon it left behind may hold the pipe open.
                if await first(partial(_collect, output, kept, on_line), held.exited.wait) == 1:
                    os.set_blocking(descriptor, False)
                    with trio.move_on_after(0.5):
                        await _collect(output, kept, on_line)
                await held.exited.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await _be_rid_of(held, line.signal)
                    if held.exited.is_set():
                        await line.release(held)
                    else:
                        log("step-does-not-end", service=self.name, command=command[0], pid=held.pid)
        status = held.status or {}
        text = b"".join(kept)[-OUTPUT_KEPT:].decode(errors="replace")
        return Completed(status=status["exited"] if "exited" in status else -status.get("killed", 9), output=text)

    async def execute(self, process: Process, *, key: str | None = None) -> End:
        life, line = self._life, self._registry.line
        process_id = processes.new_id(self.name, "step") if key is None else processes.new_id(self.name, "run", key)
        held, _ = await processes.spawn(
            line, process_id, process, processes.to_log(life.log_file, life.service.log_rotation)
        )
        return await processes.run_out(line, held, life.service.stop, self.name)

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


async def _collect(output: trio.lowlevel.FdStream, kept: deque[bytes], on_line: Callable[[str], None] | None) -> None:
    size = sum(map(len, kept))
    rest = b""
    while chunk := await output.receive_some(OUTPUT_KEPT):
        kept.append(chunk)
        size += len(chunk)
        while size - len(kept[0]) > OUTPUT_KEPT:
            size -= len(kept.popleft())
        if on_line is not None:
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-OUTPUT_KEPT:]
            for line in lines:
                on_line(line.decode(errors="replace"))
    if on_line is not None and rest:
        on_line(rest.decode(errors="replace"))


async def _be_rid_of(held: Held, signal: Callable[[Held, int], Awaitable[None]]) -> None:
    if not held.exited.is_set():
        await signal(held, 15)  # first gently: a build unmounts and removes what it made
        with trio.move_on_after(KILLED_PATIENCE):
            await held.exited.wait()
    if not held.exited.is_set():
        await signal(held, 9)
        with trio.move_on_after(KILLED_PATIENCE):
            await held.exited.wait()
