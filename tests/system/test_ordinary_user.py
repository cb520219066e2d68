"""An ordinary user's herdpy: nothing but a home directory."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
NOBODY = 65534
BECOME_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    # Python and herdpy may lie in a home directory.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory of nobody's; a short path, because that of a socket in it must fit."""
    with tempfile.TemporaryDirectory(prefix="home-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


def test_without_a_directory_in_run_everything_is_below_home(home: Path, eventually: Callable[..., None]) -> None:
    assert not os.path.exists(f"/run/user/{NOBODY}")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def run(program: str, *arguments: str) -> str:
        completed = subprocess.run(
            [*BECOME_NOBODY, str(BIN / program), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert completed.returncode == 0, completed
        return completed.stdout

    run("herdpy", "--background")
    state = home / ".local" / "state" / "herdpy"
    try:
        assert run("herd", "status").splitlines()[:2] == ["Started:", " + root"]
        assert (state / "socket").is_socket()
        keeper = int((state / "lock").read_text())
    finally:
        run("herd", "stop", "root")
    assert not (state / "socket").exists()
    eventually(lambda: not os.path.exists(f"/proc/{keeper}"))
