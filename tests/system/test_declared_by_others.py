"""Directories of declarations that others could have written to, or that are gone: nothing of them takes effect."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


def spoil(services: Path, how: str) -> str:
    """Do it, and return what is to be said of it."""
    runs = "and root would run what it says"
    match how:
        case "link":
            elsewhere = services.with_name("elsewhere")
            services.rename(elsewhere)
            services.symlink_to(elsewhere)
            return f"a symbolic link, and root would run what is there; say --services {elsewhere} instead"
        case "dangling":
            shutil.rmtree(services)
            services.symlink_to(services.with_name("nowhere"))
            return "a symbolic link, and root would run what is there"
        case "other":
            os.chown(services, NOBODY, NOBODY)
            return f"belongs to UID {NOBODY}, {runs}; chown root {services}"
        case "all":
            services.chmod(0o777)
            return f"writable by all (mode 777), {runs}; chmod go-w {services}"
    raise AssertionError(how)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user may declare what he likes, wherever")
DECLARED = 'command = ["sleep", "1000"]\nauto-start = true'


@as_root
@pytest.mark.parametrize("how", ["link", "other", "all"])
def test_root_refuses_it_at_the_beginning(herdpy: Any, how: str) -> None:
    herdpy.declare("service", DECLARED)
    why = spoil(herdpy.services, how)
    begun = subprocess.run(
        herdpy.command(), capture_output=True, text=True, env=herdpy.environment, timeout=60, stdin=subprocess.DEVNULL
    )
    assert begun.returncode == 2
    assert [line for line in begun.stderr.splitlines() if str(herdpy.services) in line and why in line], begun.stderr
    assert "service-starting" not in begun.stderr


@as_root
@pytest.mark.parametrize("how", ["link", "dangling", "other", "all"])
def test_root_refuses_it_later_and_nothing_changes(herdpy: Any, eventually: Callable[..., None], how: str) -> None:
    herdpy.declare("service", DECLARED)
    herdpy.start()
    eventually(lambda: herdpy.status("service")["pid"])
    pid = herdpy.status("service")["pid"]
    why = spoil(herdpy.services, how)
    (herdpy.services.resolve().parent / "new.toml").write_text(DECLARED)
    refused = herdpy.herd("reload", "root")
    assert refused.returncode == 1
    assert f"  {herdpy.services}: {why}" in refused.stdout
    assert f"{herdpy.services}: {why}" in herdpy.ok("status")
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert herdpy.status("service")["pid"] == pid
    assert herdpy.status("service")["source"] == str(herdpy.services / "service.toml")
    assert f"{herdpy.services}: {why}" in herdpy.ok("status")


def test_one_that_is_gone_takes_nothing_with_it(herdpy: Any, eventually: Callable[..., None]) -> None:
    """It is watched: whoever moves it, to put another in its place, would have stopped everything by that."""
    herdpy.declare("service", DECLARED)
    herdpy.start()
    eventually(lambda: herdpy.status("service")["pid"])
    pid = herdpy.status("service")["pid"]
    aside = herdpy.services.with_name("aside")
    herdpy.services.rename(aside)
    gone = f"{herdpy.services}: it was there, and is gone; put it back, empty if nothing is to be declared"
    eventually(lambda: gone in herdpy.ok("status"))
    assert herdpy.herd("reload", "root").returncode == 1
    assert herdpy.status("service")["pid"] == pid
    os.kill(herdpy.supervisor(), signal.SIGKILL)
    assert herdpy.status("service")["pid"] == pid
    aside.rename(herdpy.services)
    eventually(lambda: gone not in herdpy.ok("status"))
    assert json.loads(herdpy.ok("--json", "status", "service"))["pid"] == pid
    shutil.rmtree(herdpy.services)
    herdpy.services.mkdir()  # which says that there is nothing any more
    eventually(lambda: herdpy.herd("status", "service").returncode == 1)
