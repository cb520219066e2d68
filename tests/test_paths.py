"""Where things lie."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from herdpy.paths import Paths, default_paths, home_directory, shipped_declarations

ROOT = Path(__file__).parent.parent
SHIPPED = str(ROOT / "services")


def test_roots_places() -> None:
    paths = default_paths(0, {"XDG_CONFIG_HOME": "/x", "XDG_STATE_HOME": "/x", "XDG_RUNTIME_DIR": "/x"}, "/root")
    assert paths.socket == "/run/herdpy/socket"
    assert paths.layers == (SHIPPED, "/etc/herdpy/services")
    assert paths.trusted == (SHIPPED,)
    assert paths.state == "/var/lib/herdpy"
    assert paths.log == "/var/log/herdpy"
    assert paths.secrets == "/etc/herdpy/virtual-build-machines"


def test_a_users_places() -> None:
    paths = default_paths(7, {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}, "/home/a")
    assert paths.socket == "/r/herdpy/socket"
    assert paths.layers == (SHIPPED, "/c/herdpy/services")
    assert paths.state == "/s/herdpy"
    assert paths.log == "/s/herdpy/log"
    assert paths.secrets == "/c/herdpy/virtual-build-machines"


@pytest.mark.parametrize("value", [None, "", "relative/path"])
@pytest.mark.parametrize("has_session", [True, False])
def test_variables_that_do_not_count(value: str | None, has_session: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/run/user/7" or has_session)
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    paths = default_paths(7, {} if value is None else dict.fromkeys(names, value), "/home/a")
    assert paths.socket == ("/run/user/7/herdpy/socket" if has_session else "/home/a/.local/state/herdpy/socket")
    assert paths.configuration == "/home/a/.config/herdpy"
    assert paths.state == "/home/a/.local/state/herdpy"


def test_home() -> None:
    account = pwd.getpwuid(os.getuid())
    assert home_directory(account.pw_uid, {"HOME": "/elsewhere"}) == "/elsewhere"
    assert home_directory(account.pw_uid, {"HOME": ""}) == account.pw_dir
    assert home_directory(account.pw_uid, {"HOME": "relative"}) == account.pw_dir
    assert home_directory(4_000_000_000, {}) == "/"


def test_paths_survive_the_supervisors_command_line() -> None:
    paths = default_paths(7, {}, "/home/\udcff é")
    text = paths.to_json()
    assert text.isascii()
    read = Paths.from_json(text)
    assert vars(read) == vars(paths)
    with pytest.raises((ValueError, TypeError)):
        Paths.from_json(json.dumps({"socket": "x"}))


def test_in_a_checkout_the_shipped_declarations_are_its_own() -> None:
    assert shipped_declarations() == SHIPPED


@pytest.mark.parametrize("library", ["lib/python3.11/site-packages", "local/lib/python3.11/dist-packages"])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_installed_declarations_are_found_from_the_package(tmp_path: Path, library: str, is_shipped: bool) -> None:
    packages = tmp_path / library
    (packages / "herdpy").mkdir(parents=True)
    (packages / "services").mkdir()  # somebody else's package
    for name in ("__init__.py", "paths.py"):
        (packages / "herdpy" / name).symlink_to(ROOT / "herdpy" / name)
    shipped = packages.parents[2] / "share" / "herdpy" / "services"
    if is_shipped:
        shipped.mkdir(parents=True)
    script = "import sys; sys.path.insert(0, sys.argv[1]); from herdpy.paths import *; print(shipped_declarations())"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, packages], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == str(shipped if is_shipped else None)
