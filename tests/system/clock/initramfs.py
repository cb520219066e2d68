"""A guest that is nothing but Python, herdpy and a program: a root file system in memory, made of this host's files.

What sets the clock cannot be tried on a host that others share; in a guest of its own it hurts nobody.
"""

import compileall
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import herdpy

PACKAGES = (
    *(
        "attr",
        "attrs",
        "cronsim",
        "idna",
        "inotify_simple.py",
        "msgspec",
        "outcome",
        "psutil",
        "sniffio",
        "sortedcontainers",
    ),
    *("structlog", "trio", "typing_extensions.py"),
)
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "tkinter",
    "turtledemo",
    "lib2to3",
}
VENV = "/venv"


class Archive:
    """A cpio archive in the format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._names: set[str] = set()

    def add(self, name: str, mode: int, content: bytes = b"", changed: int = 0) -> None:
        """Add a file, and the directories above it; a second one of a name is left out.

        Args:
            changed: when, in seconds since the epoch: of Python's compiled modules only those are read whose sources
                are of that time.
        """
        name = os.path.normpath(name).lstrip("/")
        if name in self._names or name == ".":
            return
        self._names.add(name)
        if "/" in name:
            self.add(os.path.dirname(name), stat.S_IFDIR | 0o755)
        self._write(name, mode, content, changed)

    def add_path(self, path: Path, name: str | None = None) -> None:
        """Add a file of this host, by default under its own name; of a link, what it leads to as well."""
        name = str(path) if name is None else name
        if path.is_symlink():
            target = os.readlink(path)
            self.add(name, stat.S_IFLNK | 0o777, target.encode())
            self.add_path(path.parent / target, os.path.normpath(os.path.join(os.path.dirname(name), target)))
        else:
            found = path.stat()
            self.add(name, found.st_mode, path.read_bytes(), int(found.st_mtime))

    def add_tree(self, path: Path, name: str | None = None) -> None:
        """Add what is below a directory, without what no program needs."""
        for directory, directories, files in os.walk(path):
            directories[:] = [one for one in directories if one not in LEFT_OUT and not one.startswith("config-")]
            for file in files:
                if not file.endswith((".a", ".pyi")):
                    found = Path(directory, file)
                    self.add_path(found, None if name is None else f"{name}/{found.relative_to(path)}")

    def close(self) -> None:
        self._write("TRAILER!!!", 0, b"")
        self._file.close()

    def _write(self, name: str, mode: int, content: bytes, changed: int = 0) -> None:
        fields = (len(self._names), mode, 0, 0, 1, changed, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name.encode() + b"\0"
        for part in (header, content):
            self._file.write(part + bytes(-len(part) % 4))


def libraries(programs: list[Path]) -> Iterator[Path]:
    """The shared libraries that programs and libraries need, by ldd(1)."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    for line in told.splitlines():
        for word in line.split():
            if word.startswith("/") and not word.endswith(":"):
                yield Path(word)


def build(path: Path, program: Path) -> None:
    """Write the archive; ``program`` is what runs in it, as PID 1."""
    archive = Archive(path)
    python = Path(os.path.realpath(sys.executable))
    standard_library = Path(sysconfig.get_path("stdlib"))
    dynamic = Path(sysconfig.get_config_var("DESTSHARED"))
    archive.add_path(python)
    archive.add_tree(standard_library)
    archive.add_tree(dynamic)
    site = Path(sysconfig.get_path("purelib"))
    theirs = f"{VENV}/lib/{standard_library.name}/site-packages"
    found = []
    for package in PACKAGES:
        if (site / package).is_dir():
            archive.add_tree(site / package, f"{theirs}/{package}")
            found += list((site / package).rglob("*.so"))
        elif (site / package).exists():
            archive.add_path(site / package, f"{theirs}/{package}")
    ours = Path(herdpy.__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        compiled = shutil.copytree(ours, Path(directory, "herdpy"))  # with the times of the files
        compileall.compile_dir(compiled, quiet=2)
        archive.add_tree(compiled, f"{theirs}/herdpy")
    archive.add(f"{VENV}/pyvenv.cfg", stat.S_IFREG | 0o644, f"home = {python.parent}\n".encode())
    archive.add(f"{VENV}/bin/python3", stat.S_IFLNK | 0o777, str(python).encode())
    for command in ("herdpy", "herd"):
        archive.add_path(ours.parent / "bin" / command, f"{VENV}/bin/{command}")
    for library in sorted(set(libraries([python, *dynamic.glob("*.so"), *found]))):
        archive.add(str(library), stat.S_IFREG | 0o755, library.read_bytes())
    archive.add_path(Path("/usr/share/zoneinfo/Europe/Lisbon"))
    for directory in ("proc", "sys", "dev", "tmp", "run"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    archive.add("/init", stat.S_IFREG | 0o755, f"#!{VENV}/bin/python3 -I\n".encode() + program.read_bytes())
    archive.close()
