"""A context for steps that runs real commands and remembers what it was told."""

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
import trio

from herdpy.service import Completed, Context, StartFailure


class Remembering:
    def __init__(self) -> None:
        self.name = "build-vm"
        self.pid, self.spawn = 4312, "1"
        """Of the process beside which a readiness step runs."""
        self.kept: list[dict[str, str]] = []
        """What the next supervisor would have known of the details, one after the other."""
        self.stages: list[tuple[str, float | None]] = []
        self.details: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []

    def progress(self, stage: str, done: float | None = None) -> None:
        self.stages.append((stage, done))

    def detail(self, key: str, value: str | None) -> None:
        if value is None:
            self.details.pop(key, None)
        else:
            self.details[key] = value

    async def keep_details(self) -> None:
        self.kept.append(dict(self.details))

    async def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        assert user is None and on_line is None
        self.commands.append(tuple(command))
        # As the keeper does: found in our PATH, a session of its own, nothing to read.
        program = shutil.which(command[0])
        if program is None:
            raise StartFailure(f"cannot execute {command[0]}: no such file or directory")
        completed = await trio.run_process(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=dict(os.environ if environment is None else environment),
            cwd=directory or "/",
            start_new_session=True,
        )
        return Completed(status=completed.returncode, output=completed.stdout.decode("utf-8", "replace"))

    async def once(self, key: str, make: Callable[[Context], Awaitable[None]]) -> None:
        await make(self)


@pytest.fixture
def context() -> Remembering:
    return Remembering()
