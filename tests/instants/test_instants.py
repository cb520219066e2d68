"""A few of all instants; ``make instants`` tries each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 900


@pytest.mark.parametrize(
    ("operations", "options", "kills"),
    [
        (("start", "respawn", "stop", "readiness", "reload"), ("--every=60",), 30),
        (("upgrade", "renewal", "takeover", "succession", "shutdown"), ("--every=300", "--way=cgroups"), 20),
    ],
    ids=["services", "herdpy"],
)
def test_killed_at_any_system_call_herdpy_goes_on(
    operations: tuple[str, ...], options: tuple[str, ...], kills: int
) -> None:
    asked = [f"--operation={operation}" for operation in operations]
    completed = subprocess.run(
        [sys.executable, "-m", "tests.instants", *asked, *options, "--offset=3", "--tries=5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert completed.returncode == 0, f"{completed.stdout}{completed.stderr}"
    *_, all_of_them, _ = completed.stdout.splitlines()
    assert int(all_of_them.split()[4]) > kills, all_of_them
