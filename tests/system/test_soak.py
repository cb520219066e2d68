"""Nothing leaks: the short version of benchmarks/soak.py."""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_five_hundred_starts_and_stops_leak_nothing():
    done = subprocess.run([sys.executable, SOAK, "--count", "500"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
