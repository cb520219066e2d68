"""The contestants, installed below a cache directory: nothing of them goes into the machine itself."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEBIAN = {
    "s6": ("s6", "execline", "libs6-2.11", "libexecline2.9", "libskarnet2.13"),
    "runit": ("runit",),
}
"""What has to be unpacked for a contestant; the libraries by their names in Debian 12."""


class Missing(Exception):  # noqa: N818 - it says what the contestant is
    """A contestant that cannot be installed here; ``str()`` says why."""


def cache() -> Path:
    """Where the contestants are kept from one run to the next."""
    return Path(os.environ.get("HERDPY_BENCHMARK_CACHE") or f"/var/tmp/herdpy-benchmark-{os.geteuid()}")


def herdpy() -> Path:
    """Install this herdpy as ``make`` does, not editable and compiled, and return the directory of its commands.

    Raises:
        Missing: pip could not.
    """
    directory, stamp = cache() / "herdpy", cache() / "herdpy.stamp"
    sources = _checksum()
    if not stamp.exists() or stamp.read_text() != sources:
        _pip(directory, "--upgrade", "--upgrade-strategy", "only-if-needed", str(ROOT))
        stamp.write_text(sources)
    return directory / "bin"


def from_pypi(name: str) -> Path:
    """Install a contestant from PyPI and return the directory of its commands.

    Raises:
        Missing: pip could not.
    """
    directory = cache() / name
    if not (directory / "installed").exists():
        _pip(directory, name)
        (directory / "installed").touch()
    return directory / "bin"


def from_debian(name: str) -> Path:
    """Unpack a contestant's packages and return the root of what they hold.

    Raises:
        Missing: apt-get could not find them, or this is no Debian.
    """
    directory = cache() / "debian" / name
    if not (directory / "installed").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            _run(["apt-get", "download", *DEBIAN[name]], directory)
            for package in directory.glob("*.deb"):
                _run(["dpkg-deb", "-x", str(package), str(directory)], directory)
        except OSError as error:
            raise Missing(f"{error.filename}: {error.strerror}") from None
        (directory / "installed").touch()
    return directory


def cgroup_of_systemds() -> Path:
    """Where control groups for a systemd of our own can be made.

    Raises:
        Missing: there is no systemd, no control group (v2), or we are not root, who alone can make them.
    """
    if not os.access("/lib/systemd/systemd", os.X_OK) or shutil.which("setpriv") is None:
        raise Missing("there is no /lib/systemd/systemd or no setpriv")
    if os.geteuid() != 0:
        raise Missing("only root can give it a control group of its own")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise Missing("no control groups (v2) are mounted")


def compiled(name: str) -> Path:
    """Compile one of our C programs, static, and return its path.

    Raises:
        Missing: there is no compiler, or no static libc.
    """
    source = Path(__file__).with_name(f"{name}.c")
    program = cache() / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        cache().mkdir(parents=True, exist_ok=True)
        _run(["cc", "-O2", "-static", "-Wall", "-o", str(program), str(source)], cache())
    return program


def version(bin_directory: Path, package: str) -> str:
    """The version of a Python package that is installed beside some commands."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([bin_directory / "python", "-c", code], capture_output=True, text=True).stdout.strip()


def _checksum() -> str:
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "herdpy").rglob("*.py")), *sorted((ROOT / "bin").iterdir())]
    total = hashlib.sha256(sys.version.encode())
    for path in files:
        total.update(str(path).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def _pip(directory: Path, *words: str) -> None:
    if not (directory / "bin" / "python").exists():
        venv.create(directory, with_pip=True)
    _run([str(directory / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *words], ROOT)


def _run(command: list[str], directory: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise Missing(f"{' '.join(command[:2])}: {last}")
