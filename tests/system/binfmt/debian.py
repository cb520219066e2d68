"""Debian's packages of any architecture, unpacked and kept from one run to the next; nothing is installed."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CACHE

PATIENCE = 600
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def unpacked(package: str, architecture: str) -> Path:
    """The directory that holds a package's files; several workers fetch it once."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no foreign programs without apt-get and dpkg")
    place = CACHE / "packages" / f"{package}-{architecture}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            making = place.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            _fetch(package, architecture, making)
            making.rename(place)
    return place


def own_architecture() -> str:
    """What Debian calls this machine."""
    return _run("dpkg", "--print-architecture", cwd=Path("/")).strip()


def _run(*command: str | Path, cwd: Path) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd)
    assert completed.returncode == 0, f"{command}: {completed.stdout}{completed.stderr}"
    return completed.stdout


def _fetch(package: str, architecture: str, directory: Path) -> None:
    """Download with a state of apt's that is ours alone: the host's knows nothing of other architectures."""
    said = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages", cwd=directory)
    source, codename = next(
        words for line in said.splitlines() if len(words := line.split()) == 2 and "-" not in words[1]
    )
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources").write_text(f"deb [arch={architecture} signed-by={KEYRING}] {source} {codename} main\n")
    options = [
        f"Dir::Etc::SourceList={directory}/sources",
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::State::Lists={directory}/lists",
        f"Dir::State::status={directory}/status",
        f"Dir::Cache={directory}/cache",
        f"APT::Architecture={architecture}",
        f"APT::Architectures={architecture}",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
    ]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    _run(*apt, "update", cwd=directory)
    _run(*apt, "download", package, cwd=directory)
    [archive] = directory.glob("*.deb")
    _run("dpkg", "-x", archive.name, ".", cwd=directory)
    archive.unlink()
    for left in ("lists", "cache"):
        shutil.rmtree(directory / left)
