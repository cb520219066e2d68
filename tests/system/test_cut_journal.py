"""All of herdpy is killed, and its journal cut: who comes next doubles no service, and loses none.

At each byte and line, of a keeper alone: tests/keeper/test_cut_journal.py.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.conftest import HAS_CGROUPS
from tests.system.test_survival import PATIENCE, WITHOUT_CGROUPS, Fleet, identity, lives, running
from tests.system.test_survival import fleet as fleet  # noqa: PLC0414 - a fixture


@pytest.fixture
def words(fleet: Fleet) -> Iterator[dict[str, str]]:
    """By service, the last word of its command line. The second one's name is not whole in its cgroup's."""
    found = {name: f"3{os.getpid()}.{number}" for number, name in enumerate(("plain", "under_score"))}
    for name, word in found.items():
        fleet.declare(name, ["sleep", word], "auto-start = true")
    yield found
    fleet.stop()
    assert not any(map(running, found.values())), "not everything was known to herdpy at its end"


def kill_all(fleet: Fleet) -> None:
    programs = fleet.programs()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in programs.values():
            os.kill(pid, number)
    fleet.herdpy.process.wait(PATIENCE)
    fleet.eventually(lambda: not any(map(lives, programs.values())), PATIENCE)


def killed_with_a_journal(fleet: Fleet) -> tuple[Path, list[bytes]]:
    """Start it twice, and kill all of it each time; return its journal, and the lines of that. Most of them are what a
    journal begins with that somebody begins who has taken up what there is."""
    path = fleet.herdpy.state / "journal"
    fleet.start()
    fleet.eventually(lambda: b'"text":"started"' in path.read_bytes(), PATIENCE)
    kill_all(fleet)
    fleet.start()
    kill_all(fleet)
    return path, path.read_bytes().splitlines(keepends=True)


def firsts(lines: list[bytes], kinds: tuple[str, ...]) -> list[int]:
    return [next(at for at, line in enumerate(lines) if f'"kind":"{kind}"'.encode() in line) for kind in kinds]


def said(fleet: Fleet) -> str:
    return str((fleet.herdpy.log / "herdpy.log").read_text())


@pytest.mark.skipif(not HAS_CGROUPS, reason="no cgroups to be written to")
def test_with_cgroups_every_service_is_taken_up(fleet: Fleet, words: dict[str, str]) -> None:
    """It is always the same journal that is cut: what it says stays true."""
    path, lines = killed_with_a_journal(fleet)
    before = {name: identity(pid) for name, word in words.items() for pid in running(word)}
    for at in [0, *firsts(lines, ("pipe", "intention", "process", "note"))]:
        path.write_bytes(b"".join(lines[:at]) + lines[at][: at % 2])
        told = len(said(fleet))
        fleet.start()
        where = f"cut at line {at}: {said(fleet)[told:]}"
        assert {name: identity(fleet.pid(name)) for name in words} == before, where
        assert {name: running(word) for name, word in words.items()} == {
            name: [pid] for name, (pid, _) in before.items()
        }
        assert "it was cut" in where or "is cut or damaged" in where, where
        kill_all(fleet)
    fleet.start()


def test_without_cgroups_one_whose_output_is_known_is_taken_up_and_the_others_are_told(
    fleet: Fleet, words: dict[str, str]
) -> None:
    if HAS_CGROUPS:
        fleet.herdpy.prefix = ("unshare", "--mount", "sh", "-c", WITHOUT_CGROUPS, "sh")
    path, lines = killed_with_a_journal(fleet)
    before = {name: pid for name, word in words.items() for pid in running(word)}
    pipes = {name: next(n for n, line in enumerate(lines) if f'"id":"{name}:'.encode() in line) for name in words}
    assert all(b'"kind":"pipe"' in lines[at] for at in pipes.values())
    for at in (0, *(number + 1 for number in sorted(pipes.values()))):
        path.write_bytes(b"".join(lines[:at]))
        told = len(said(fleet))
        fleet.start()
        now = {name: fleet.pid(name) for name in words}
        heard = said(fleet)[told:]
        left = {name for name in words if pipes[name] >= at}
        for name, word in words.items():
            assert set(running(word)) == ({before[name], now[name]} if name in left else {before[name]}), heard
        telling = [line for line in heard.splitlines() if "left alone" in line]
        assert all(str(before[name]) in line for line in telling for name in left)
        assert bool(telling) or not left
        kill_all(fleet)
        for name in left:
            os.kill(now[name], signal.SIGKILL)
            fleet.eventually(lambda pid=now[name]: not lives(pid), PATIENCE)
    path.write_bytes(b"".join(lines))
    fleet.start()
    assert {name: fleet.pid(name) for name in words} == before
