"""``make install``, as an administrator calls it."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_installs_into_a_prefix_with_links_to_the_commands(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(ROOT), "install", f"PREFIX={tmp_path}/herdpy", f"BIN={tmp_path}/bin"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    unit = tmp_path / "herdpy" / "share" / "herdpy" / "systemd" / "herdpy.service"
    assert f"systemctl enable --now {unit}\n" in done.stdout
    assert unit.read_text() == (ROOT / "systemd" / "herdpy.service").read_text()
    assert {path.name for path in (unit.parent / "user").iterdir()} == {"herdpy.service", "herdpy.socket"}
    for name in ("herd", "herdpy"):
        said = subprocess.run([tmp_path / "bin" / name, "--version"], capture_output=True, text=True, timeout=60)
        assert said.stdout.startswith("herd"), said.stderr
