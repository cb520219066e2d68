"""When a program of the keeper's own is started again."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from herdpy.keeper import companion
from herdpy.keeper.companion import FIRST_DELAY, Companion
from herdpy.keeper.loop import Loop
from herdpy.keeper.spawn import Spawner

LIVES = """
count=$(cat count 2>/dev/null || echo 0)
echo $((count + 1)) > count
[ $count = 3 ] && sleep 3.5
exit 1
"""
"""Three short ones, one that is steady, and short ones again."""


class Delays(Loop):
    """A loop that keeps account of the pauses that it is asked for."""

    def __init__(self) -> None:
        super().__init__(self.fail)
        self.asked: list[float] = []

    def fail(self, error: Exception) -> None:
        self.stop()
        raise error

    def after(self, seconds: float, name: str, callback: object) -> None:
        if name.startswith("begin "):
            self.asked.append(seconds)
        super().after(seconds, name, callback)  # type: ignore[arg-type]


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    """It raises our own limit on descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    yield Spawner(null)
    os.close(null)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_after_a_steady_life_the_next_one_comes_at_once_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spawner: Spawner
) -> None:
    monkeypatch.setattr(companion, "STEADY", 3.0)
    monkeypatch.chdir(tmp_path)
    loop = Delays()
    program = Companion(loop, "program", ["/bin/sh", "-c", LIVES], {"PATH": os.defpath}, spawner, 2, lambda words: None)
    ends: list[int] = []

    def on_end() -> None:
        ends.append(program.ends)
        if len(ends) == 6:
            program.is_wanted = False
            loop.stop()

    program.on_end = on_end
    program.begin()
    loop.run()
    assert ends == [1, 2, 3, 1, 2, 3]
    assert loop.asked == [0, FIRST_DELAY, 2 * FIRST_DELAY] * 2
