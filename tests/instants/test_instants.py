"""A few of all instants; ``make instants`` tries each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 900


@pytest.mark.parametrize(
    ("operations", "every", "kills"),
    [(("start", "respawn", "stop", "reload"), 60, 30), (("upgrade", "renewal"), 300, 5)],
    ids=["services", "upgrades"],
)
def test_killed_at_any_system_call_herdpy_goes_on(operations: tuple[str, ...], every: int, kills: int) -> None:
    asked = [f"--operation={operation}" for operation in operations]
    completed = subprocess.run(
        [sys.executable, "-m", "tests.instants", *asked, f"--every={every}", "--offset=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert completed.returncode == 0, f"{completed.stdout}{completed.stderr}"
    *_, all_of_them, _ = completed.stdout.splitlines()
    assert int(all_of_them.split()[4]) > kills, all_of_them
