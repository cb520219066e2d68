"""Timers under a clock that is set, and over a change of clocks: in a guest, whose clock is its own."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from herdpy.qemu.image import Image
from tests.system.clock import initramfs

PATIENCE = 900.0
"""Seconds. Emulated, on a busy machine: it takes a tenth of that."""
LATE = 300.0
"""Seconds. Emulated, on a busy machine, herdpy may be so late; one that waits for the wall clock would be by years."""
Steps = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def steps(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    """What the guest told, by its steps."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86 is not installed")
    directory = tmp_path_factory.mktemp("clock")
    archive = directory / "initramfs"
    initramfs.build(archive, Path(__file__).with_name("guest.py"))
    guest = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", "2", "-m", "700M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-serial", "stdio", "-kernel", guest_image.kernel, "-initrd", str(archive)),
            *("-append", "console=ttyS0 quiet rdinit=/init panic=-1 random.trust_cpu=on"),
        ],
        env={**os.environ, "TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    deadline = threading.Timer(PATIENCE, guest.kill)
    deadline.start()
    told: dict[str, Mapping[str, Any]] = {}
    said = []
    try:
        assert guest.stdout is not None
        for line in guest.stdout:
            said.append(line)
            if line.startswith("{"):
                what = json.loads(line)
                told[what.get("step", "failed")] = what
        guest.wait()
    finally:
        deadline.cancel()
        guest.kill()
        guest.wait()
        archive.unlink()
    assert "failed" not in told, "".join(said[-100:])
    assert "the interval" in told, "".join(said[-100:])
    yield told


def test_a_clock_set_forward_makes_a_run_due_once(steps: Steps) -> None:
    step = steps["set forward over 7:00"]
    assert step["came"]
    assert len(step["at"]) == 1
    assert step["at"][0].startswith("2026-03-27 08:00:")
    assert step["why"] == "made up for"
    assert steps["set forward by days"]["count"] == 1
    assert steps["set forward by days"]["why"] == "made up for"


def test_a_clock_set_back_a_little_makes_nothing_due_twice(steps: Steps) -> None:
    assert not steps["set back by an hour, before 7:00"]["came"]


def test_a_clock_set_back_by_a_day_counts_as_corrected(steps: Steps) -> None:
    step = steps["set back by a day, before 7:00"]
    assert step["came"]
    assert step["at"].startswith("2026-03-26 07:00:")
    assert step["why"] == "scheduled"


def test_a_time_of_day_that_is_skipped_is_due_when_the_clocks_go_forward(steps: Steps) -> None:
    step = steps["1:30 is skipped"]
    assert step["came"]
    assert step["at"].startswith("2026-03-29 01:0")
    assert step["why"] == "scheduled"


def test_an_interval_takes_no_notice_of_the_clock(steps: Steps) -> None:
    seconds = steps["the interval"]["seconds"]
    assert len(seconds) >= 5
    off = [abs(moment / 4 - round(moment / 4)) * 4 for moment in seconds]
    assert sorted(off)[len(off) // 2] < 1.5, seconds


@pytest.mark.parametrize("to", ["2096-05-01 12:00:00", "1985-05-01 12:00:00"])
def test_years_ahead_or_back_nothing_is_sooner_or_later(steps: Steps, to: str) -> None:
    """A respawn's delay of 3 s, also of a supervisor that is killed meanwhile, and a grace period of 2 s."""
    step = steps[f"to {to}"]
    assert 3 <= step["respawn"] < LATE, step
    assert 2 <= step["stop"] < LATE, step
    assert step["came"]  # timers at intervals
    assert step["status"] == "stopped"
    assert step["last"].startswith(to[:10]), step["last"]
    assert "-" not in step["words"].partition("(")[2].partition(")")[0]
    if to > "2026":
        assert "(the clock was set back since)" in step["back"]
