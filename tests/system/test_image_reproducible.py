"""Building the default image: once for two who want it, the same bytes each time, nothing left when broken off."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.qemu.image import PROGRAMS, TEMPORARY, Image, Recipe, key

BUILD = Path(__file__).parents[1] / "qemu" / "build_image.py"
RECIPE = msgspec.json.encode(Recipe()).decode()

pytestmark = pytest.mark.skipif(
    any(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None for program in PROGRAMS),
    reason="mmdebstrap, e2fsprogs or qemu-utils is not installed",
)


def start(directory: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(BUILD), str(directory), RECIPE]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    return (json.loads(line) for line in process.stdout)


def test_two_build_once_and_a_third_builds_the_same_bytes(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    first, second, third = start(shared), start(shared), start(own)
    stages = [[line.get("stage", "") for line in told(process)] for process in (first, second, third)]
    assert [process.wait() for process in (first, second, third)] == [0, 0, 0]
    builders = [any("installing packages" in stage for stage in each) for each in stages]
    assert sorted(builders[:2]) == [False, True], "both built, or none"
    assert any("waiting for another build" in stage for stage in stages[builders.index(False)])
    assert builders[2]
    for directory in (shared, own):
        assert [entry.name for entry in directory.iterdir()] == [key(Recipe())]
    images = [Image(str(directory / key(Recipe()))) for directory in (shared, own)]
    for path in ("disk", "kernel", "initrd", "recipe"):
        one, other = (Path(getattr(image, path)).read_bytes() for image in images)
        assert one == other, f"{path} differs from build to build"


def until_unpacking(process: subprocess.Popen[str]) -> None:
    assert any("unpacking the base system" in line.get("stage", "") for line in told(process))


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    for line in told(process):
        assert "built" not in line


def test_a_build_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        until_unpacking(process)
        interrupt(process)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / f"{TEMPORARY}{key(Recipe())}"
    with start(tmp_path) as process:
        until_unpacking(process)
        (unshare,) = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        os.kill(unshare, signal.SIGKILL)
    assert (left / "tree").is_dir()
    with start(tmp_path) as process:
        until_unpacking(process)
        interrupt(process)
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> list[int]:
    """Whichever thread started them (proc(5), ``/proc/PID/task/TID/children``)."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
