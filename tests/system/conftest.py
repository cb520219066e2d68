"""The guest image for system tests: built once, and kept from one run to the next."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from herdpy.qemu.image import PROGRAMS, Image, Recipe, key
from tests.conftest import CACHE

BUILD = Path(__file__).parents[1] / "qemu" / "build_image.py"
UNUSED = 7 * 24 * 3600
"""Seconds after which an image that no test has used is removed from the cache."""


@pytest.fixture(scope="session")
def guest_image() -> Image:
    """The default image; the build's own lock sees to it that several workers build it once."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"no guest image without {', '.join(missing)}")
    images = CACHE / "images"
    images.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    completed = subprocess.run(
        [sys.executable, str(BUILD), str(images), msgspec.json.encode(recipe).decode()],
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    *_, last = completed.stdout.splitlines() or [completed.stderr]
    assert last == json.dumps({"built": key(recipe)}), last
    os.utime(images / key(recipe))
    for entry in images.iterdir():
        if len(entry.name) == len(key(recipe)) and entry.stat().st_mtime < time.time() - UNUSED:
            shutil.rmtree(entry, ignore_errors=True)
    return Image(str(images / key(recipe)))
