"""A few of all instants; ``make instants`` tries each."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVERY = 40
PATIENCE = 900


def test_killed_at_any_system_call_herdpy_goes_on_as_if_it_had_not_been() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "tests.instants", f"--every={EVERY}", "--offset=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert completed.returncode == 0, f"{completed.stdout}{completed.stderr}"
    *_, all_of_them, _ = completed.stdout.splitlines()
    assert int(all_of_them.split()[4]) > 50, all_of_them
