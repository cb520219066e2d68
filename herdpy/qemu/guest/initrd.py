"""Writes the guest's initial RAM disk: ``initrd.py INITRD KERNEL BUSYBOX INIT``, with the standard library only.

KERNEL is an unpacked linux-image package. The archive is a newc cpio (kernel: Documentation/driver-api/early-userspace/
buffer-format.rst), not compressed: QEMU copies it into place, so every byte saved would be paid for in the guest. It
holds busybox, the modules that Debian's cloud kernel needs for a disk, a network card, ports and a power button, and
the order to load them in. The same input gives the same bytes.
"""

import lzma
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MODULES = (
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "button",
    "evdev",
    "pvpanic_pci",
)
"""What is loaded, before it what it depends on, in this order; what the kernel has built in is left out."""

APPLETS = ("insmod", "mount", "poweroff", "sleep", "switch_root")
"""What ``init`` calls: Debian's busybox runs no applet that has no name in PATH."""

Entry = tuple[str, int, bytes, tuple[int, int]]
"""Path, mode, contents, device number."""


def cpio(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive's bytes, in the entries' order, all owned by root and without a time."""
    for number, (path, mode, contents, device) in enumerate([*entries, ("TRAILER!!!", 0, b"", (0, 0))], start=1):
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(contents), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        yield header + bytes(-len(header) % 4) + contents + bytes(-len(contents) % 4)


def dependencies(module: bytes) -> list[str]:
    """The modules that this one says it needs (its ``.modinfo`` section: modinfo(8))."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return found[1].decode().replace("-", "_").split(",") if found and found[1] else []


def load_order(wanted: Iterable[str], modules: dict[str, bytes], builtin: set[str]) -> list[str]:
    """Names of modules, each after those it depends on.

    Raises:
        KeyError: a module is neither there nor built in.
    """
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        for needed in dependencies(modules[name]):
            add(needed)
        order.append(name)

    for name in wanted:
        add(name)
    return order


def read_module(path: Path) -> bytes:
    """The module's bytes, unpacked: it is unpacked once here, instead of at each boot."""
    contents = path.read_bytes()
    return lzma.decompress(contents) if path.suffix == ".xz" else contents


def find_modules(kernel: Path) -> tuple[dict[str, Path], set[str]]:
    """The module files by name, and the names of what is built in."""
    files = {
        path.name.partition(".")[0].replace("-", "_"): path
        for path in kernel.rglob("*.ko*")
        if path.suffix in {".ko", ".xz"}
    }
    builtin = {
        Path(line).stem.replace("-", "_")
        for listing in kernel.rglob("modules.builtin")
        for line in listing.read_text().splitlines()
    }
    return files, builtin


class _Modules(dict[str, bytes]):
    """Reads a module when it is asked for: a kernel has thousands, we want a dozen."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    def __missing__(self, name: str) -> bytes:
        self[name] = read_module(self.files[name])
        return self[name]


def entries(kernel: Path, busybox: bytes, init: bytes) -> Iterator[Entry]:
    """What the archive holds."""
    files, builtin = find_modules(kernel)
    modules = _Modules(files)
    order = load_order(MODULES, modules, builtin)
    for directory in ("bin", "dev", "lib", "proc", "root", "sys"):
        yield directory, stat.S_IFDIR | 0o755, b"", (0, 0)
    yield "dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox, (0, 0)
    for applet in APPLETS:
        yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox", (0, 0)
    yield "init", stat.S_IFREG | 0o755, init, (0, 0)
    yield "modules", stat.S_IFREG | 0o644, "".join(f"insmod /lib/{name}.ko\n" for name in order).encode(), (0, 0)
    for name in sorted(order):
        yield f"lib/{name}.ko", stat.S_IFREG | 0o644, modules[name], (0, 0)


def main(arguments: list[str]) -> int:
    """Write the archive; 1 and a line that begins with ``error`` when the kernel lacks a module."""
    target, kernel, busybox, init = map(Path, arguments)
    try:
        target.write_bytes(b"".join(cpio(entries(kernel, busybox.read_bytes(), init.read_bytes()))))
    except KeyError as error:
        print(f"error the kernel package has no module {error}, neither apart nor built in")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
