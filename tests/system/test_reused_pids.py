"""PIDs are reused: whoever has one now is none of herdpy's business."""

import os
import subprocess
import sys
from pathlib import Path

PATIENCE = 120


def test_a_stranger_with_the_number_of_a_killed_process_is_left_alone(tmp_path: Path) -> None:
    """In a PID namespace, where one can choose the next number; all in it ends with its first process."""
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    ran = subprocess.run(
        [
            *("unshare", *as_root, "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, str(Path(__file__).with_name("reused_pids.py")), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
