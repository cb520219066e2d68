"""A step's context that only remembers what it was told, for steps tried without a supervisor."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from herdpy.service import End, StartFailure

PATIENCE = 60.0


class Beside:
    """What a readiness step or a guard is given beside a process; here the test's own stands for the service's."""

    name = "a"

    def __init__(self, log_file: Path) -> None:
        self.pid = os.getpid()
        self.log_file = str(log_file)
        self.log_begin = 0
        self.log_since = time.time() - 1
        self.own: set[int] = set()
        """Processes that can be adopted."""
        self.adopted: list[int] = []
        self.stages: list[str] = []
        self.details: dict[str, str | None] = {}
        self.told = trio.Event()
        """Set, and replaced by a new one, at each progress."""
        self.ends: list[int] = []
        """What the next executed commands end with."""
        self.executed: list[Any] = []

    def progress(self, stage: str, done: float | None = None) -> None:
        self.stages.append(stage)
        self.told.set()
        self.told = trio.Event()

    def detail(self, key: str, value: str | None) -> None:
        self.details[key] = value

    async def adopt(self, pid: int) -> None:
        if pid not in self.own:
            raise StartFailure(f"PID {pid} is not one of its processes")
        self.adopted.append(pid)

    async def execute(self, process: Any, *, key: str | None = None, on_line: Any = None) -> End:
        self.executed.append(process)
        code = self.ends.pop(0)
        return End(reason=f"it exited with {code}", code=code)

    async def until_told(self, words: str) -> None:
        """Wait until a stage with these words was told."""
        with trio.fail_after(PATIENCE):
            while not any(words in stage for stage in self.stages):
                await self.told.wait()


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    return Beside(tmp_path / "a.log")


class Waiting:
    """A step that runs in the background of a test."""

    def __init__(self, step: Callable[[], Any], nursery: trio.Nursery) -> None:
        self._step = step
        self.is_done = trio.Event()
        self.failure: StartFailure | None = None
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            await self._step()
        except StartFailure as failure:
            self.failure = failure
        self.is_done.set()

    async def done(self) -> None:
        """Wait until it has returned, which must be well."""
        with trio.fail_after(PATIENCE):
            await self.is_done.wait()
        assert self.failure is None

    async def failed(self) -> str:
        with trio.fail_after(PATIENCE):
            await self.is_done.wait()
        assert self.failure is not None
        return str(self.failure)


@pytest.fixture
def begin(nursery: trio.Nursery) -> Callable[..., Waiting]:
    """Run a step in the background."""

    def run(step: Callable[[], Any]) -> Waiting:
        return Waiting(step, nursery)

    return run
