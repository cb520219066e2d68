"""What somebody sees of a start that fails, and what is left of it: nothing."""

from typing import Any

from tests.processes import qemus

BOOT = 300
"""Seconds that a boot may take when the machine is busy; mostly it is 10."""


def failure(childhurds: Any, name: str = "hurd-vm") -> list[str]:
    """Start it, which must fail, and return the lines that are told: the reason, then perhaps last lines of logs."""
    failed = childhurds.herd("start", name, timeout=BOOT)
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1, said
    assert "Traceback" not in said + childhurds.said()
    first, *details, last = failed.stdout.splitlines()
    assert first.startswith(f"cannot start {name}: ")
    assert last == f"Service {name} could not be started."
    assert all(line.startswith(("  ", "the last lines of ")) for line in details), details
    assert all(line.isprintable() for line in (first, *details)), details
    rooms = childhurds.state / "machines"
    assert not rooms.exists() or list(rooms.iterdir()) == []
    assert qemus(childhurds.state) == []
    assert childhurds.children("qemu-system") == []
    assert list(childhurds.directory.rglob(".herdpy-*")) == []
    assert childhurds.status(name)["status"] == "stopped"
    return [first, *details]
