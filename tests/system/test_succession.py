"""What services say, and what timers run, while keepers come and go."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.test_notify import Speaker
from tests.system.test_survival import PATIENCE, PROGRAMS, Fleet
from tests.system.test_survival import fleet as fleet  # noqa: PLC0414 - a fixture
from tests.system.test_timer import began, declare, runs

Eventually = Callable[..., None]


@pytest.fixture
def speaker(fleet: Fleet, tmp_path: Path, eventually: Eventually) -> Speaker:
    return Speaker(fleet.herdpy, tmp_path, eventually)


@pytest.mark.parametrize("which", PROGRAMS)
def test_a_service_is_heard_by_who_comes_next(
    fleet: Fleet, speaker: Speaker, eventually: Eventually, which: str
) -> None:
    """Where nobody has kept its socket, there is a new one in its place: its watchdog goes on."""
    speaker.declare("watchdog = 600\nrespawn-delay = 0.1")
    fleet.start()
    pid = speaker.start()
    speaker.order("say STATUS=early")
    speaker.shows_status("early")
    fleet.kill(which)
    speaker.shows_status("early")
    speaker.order("say STATUS=late")
    speaker.shows_status("late")
    assert fleet.herdpy.status("a")["pid"] == pid
    speaker.order("say WATCHDOG_USEC=200000")
    eventually(lambda: fleet.herdpy.status("a")["pid"] not in (None, pid))
    assert fleet.herdpy.status("a")["reason"] == "it did not say WATCHDOG=1 for 0.2 s"


@pytest.mark.parametrize("which", PROGRAMS)
def test_one_that_gets_ready_meanwhile(fleet: Fleet, speaker: Speaker, eventually: Eventually, which: str) -> None:
    """Said to nobody, or to a socket that was lost, it would never be heard again: then it counts as ready."""
    speaker.declare()
    fleet.start()
    speaker.begin().kill()
    fleet.kill(which)
    if "supervisor" not in which:
        assert fleet.herdpy.status("a")["status"] == "starting"
        speaker.order("say READY=1")
    speaker.shows("status", "running")
    assert speaker.log().count("\n") == 1  # what each one says that begins


def test_what_a_keeper_was_told_and_had_not_read_is_said_to_the_next_supervisor(
    fleet: Fleet, speaker: Speaker, eventually: Eventually
) -> None:
    speaker.declare()
    fleet.start()
    client = speaker.begin()
    assert fleet.keeper is not None
    os.kill(fleet.keeper, signal.SIGSTOP)
    speaker.order("say READY=1")
    assert client.wait(PATIENCE) == 0
    fleet.kill("keeper")
    speaker.shows("status", "running")
    assert speaker.log().count("\n") == 1


@pytest.mark.parametrize("which", PROGRAMS)
def test_no_run_of_a_timer_is_lost_or_doubled(fleet: Fleet, eventually: Eventually, tmp_path: Path, which: str) -> None:
    herdpy, trace, gate = fleet.herdpy, tmp_path / "trace", tmp_path / "gate"
    declare(herdpy, "long", f"echo begun >>{trace}; while [ ! -e {gate} ]; do sleep 0.02; done; exit 3", 'every = "1h"')
    declare(herdpy, "often", f"echo $HERDPY_SERVICE >>{tmp_path}/ticks", 'every = "500ms"')
    fleet.start()
    for name in ("long", "often"):
        herdpy.ok("start", name)
    herdpy.ok("trigger", "long")
    eventually(lambda: began(trace))
    before = runs(herdpy, "long")["to-come"]
    fleet.kill(which)
    assert runs(herdpy, "long")["to-come"] == pytest.approx(before, abs=1)
    assert not runs(herdpy, "long")["past"]
    gate.touch()
    eventually(lambda: runs(herdpy, "long")["past"])
    (run,) = runs(herdpy, "long")["past"]
    assert (run["why"], run["exit-code"]) == ("triggered", 3)
    assert began(trace) == ["begun"]
    count = len(began(tmp_path / "ticks"))
    eventually(lambda: len(began(tmp_path / "ticks")) > count + 2)
    ids = began(tmp_path / "ticks")
    assert len(set(ids)) == len(ids)
