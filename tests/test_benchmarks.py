"""A systemd that a benchmark starts would take processes out of their control groups: it is not let near any."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "contest" / "systemd-user.sh"


@pytest.mark.parametrize(
    ("user", "there", "why"),
    [
        ("0", "", "root's user instance"),
        ("65534", "1\n", "somebody is in {0}"),
        ("65534", "", "{0} is no control group (v2)"),
    ],
)
def test_systemd_is_refused_a_control_group_that_is_not_its_own(
    tmp_path: Path, user: str, there: str, why: str
) -> None:
    (tmp_path / "cgroup.procs").write_text(there)
    refused = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path), user], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert (refused.returncode, refused.stdout) == (1, f"refused: {why.format(tmp_path)}\n")
    assert (tmp_path / "cgroup.procs").read_text() == there
