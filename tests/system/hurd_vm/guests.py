"""Guests that stand in for GNU/Hurd: GNU's own kernel without it, and Linux on the same devices.

Both come from Debian packages, fetched with apt into a cache; nothing of the host's apt is changed.
"""

import fcntl
import gzip
import lzma
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import herdpy.qemu
from herdpy.qemu.guest import initrd
from tests.conftest import CACHE

SECRET_SERVICE = Path(herdpy.qemu.__file__).parent / "childhurd" / "secret-service"
GUEST_INIT = Path(__file__).with_name("guest-init")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIBRARIES = ("libc6", "libcrypt1", "zlib1g", "libtomcrypt1", "libtommath1", "libgmp10")
GNU_MACH = "gnumach-image-1.8-486"
INTERPRETER = "ld-linux-x86-64.so.2"
PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearconvert", "usr/bin/perl")


def linux() -> tuple[Path, Path]:
    """A kernel and an initial RAM disk: busybox, an SSH server, and the secret service that herdpy ships."""
    with _locked() as cache:
        depends = _output("apt-cache", "depends", "--important", "linux-image-amd64")
        package = depends.partition("Depends: linux-image")[2].split()[0]
        kernel = _unpacked(cache, f"linux-image{package}")
        vmlinuz = cache / f"vmlinux{package}"
        if not vmlinuz.exists():
            (compressed,) = kernel.glob("boot/vmlinuz-*")
            _place(vmlinuz, _uncompressed(compressed.read_bytes()))
        parts = [_unpacked(cache, package) for package in ("busybox-static", "dropbear-bin", "perl-base", *LIBRARIES)]
        target = cache / f"initrd{package}"
        _place(target, b"".join(initrd.cpio(_entries(kernel, parts))))
        return vmlinuz, target


def gnu_mach() -> Path:
    """GNU Mach for i386: the kernel that QEMU can load."""
    with _locked() as cache:
        kernel = cache / "gnumach"
        if not kernel.exists():
            (compressed,) = _unpacked(cache, GNU_MACH, architecture="i386").glob("boot/gnumach-*.gz")
            _place(kernel, gzip.decompress(compressed.read_bytes()))
        return kernel


def mach_task(words: bytes) -> bytes:
    """A program for GNU Mach (ELF, i386) that prints once (the trap mach_print), then sleeps (thread_switch)."""
    base, head = 0x10000, 52 + 32
    trap = bytes.fromhex("9a 00000000 0700")  # lcall $7, $0
    sleep = (
        bytes.fromhex("68 ffffff0f 6a02 6a00 6a00 b8")  # push 2^28 - 1 ms, SWITCH_OPTION_WAIT, no thread, no return
        + struct.pack("<i", -61)
        + trap
        + bytes.fromhex("83c410")  # add $16, %esp
    )
    sleep += bytes([0xEB, 256 - len(sleep) - 2])  # jmp back
    say = bytes.fromhex("6a00 b8") + struct.pack("<i", -30) + trap + bytes.fromhex("83c408")
    length = head + 5 + len(say) + len(sleep)
    code = b"\x68" + struct.pack("<I", base + length) + say + sleep + words + b"\0"
    size = head + len(code)
    elf = b"\x7fELF\1\1\1".ljust(16, b"\0")
    elf += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf += struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 7, 0x1000)
    return elf + code


def boot_sector(code: bytes) -> bytes:
    """A disk of 64 KiB that runs code (16-bit, at 0x7c00) when it boots."""
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(65536, b"\0")


HALT = bytes.fromhex("fa f4 eb fd")  # cli; hlt; and again
COUNTING = boot_sector(
    bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007c fb")  # cli; all segments 0; a stack below; sti
    + bytes.fromhex("b80102 bb0080 b90200 ba8000 cd13")  # read sector 2 of the first disk to 0x8000 (int 0x13)
    + bytes.fromhex("fe060080")  # inc byte [0x8000]
    + bytes.fromhex("b80103 bb0080 b90200 ba8000 cd13")  # write it
    + bytes.fromhex("baf803 b042ee a00080 0430ee b00aee")  # "B", the number, and a newline to the serial port
    + bytes.fromhex("803e008001 7508")  # is it the first boot?
    + (bytes.fromhex("b0fee664") + HALT)  # then reboot: the keyboard controller pulls the reset line
    + (bytes.fromhex("ba0406 b80020 ef") + HALT)  # else power off: port 0x604 of QEMU's "pc", SLP_EN
)
"""A disk whose guest counts its boots on it, reboots the first time, and powers itself off each other time."""


@contextmanager
def _locked() -> Iterator[Path]:
    cache = CACHE / "childhurd"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def _place(path: Path, contents: bytes) -> None:
    if path.exists() and path.read_bytes() == contents:
        return
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(contents)
    new.chmod(0o644)
    new.rename(path)


def _unpacked(cache: Path, package: str, architecture: str | None = None) -> Path:
    """The tree of a package, downloaded when it is not there."""
    tree = cache / package
    if tree.is_dir():
        return tree
    directory = cache / f"{package}.download"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    options = [] if architecture is None else _foreign(cache, architecture)
    subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *options, "download", package],
        cwd=directory,
        check=True,
        timeout=300,
    )
    (archive,) = directory.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, directory / "tree"], check=True)
    (directory / "tree").rename(tree)
    shutil.rmtree(directory)
    return tree


def _foreign(cache: Path, architecture: str) -> list[str]:
    """Options that give apt a state of its own, for another architecture."""
    state = cache / f"apt-{architecture}"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    targets = ["Created-By: Packages", "Codename: bookworm"]
    repository = _output("apt-get", "indextargets", "--format", "$(REPO_URI)", *targets).split()[0]
    (state / "sources.list").write_text(f"deb [arch={architecture} signed-by={KEYRING}] {repository} bookworm main\n")
    pairs = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    options = [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]
    if not list((state / "lists").glob("*Packages*")):
        subprocess.run(["apt-get", "-qq", *options, "update"], check=True, timeout=300)
    return options


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _uncompressed(vmlinuz: bytes) -> bytes:
    """The ELF kernel within a bzImage, which QEMU boots as it is (Documentation/arch/x86/boot.rst)."""
    setup = (vmlinuz[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", vmlinuz, 0x248)
    # The last four bytes are the length of what is packed.
    return lzma.decompress(vmlinuz[setup + offset : setup + offset + length - 4], lzma.FORMAT_XZ)


def _entries(kernel: Path, parts: list[Path]) -> Iterator[initrd.Entry]:
    files, builtin = initrd.find_modules(kernel)
    modules = {name: initrd.read_module(path) for name, path in files.items() if name in _WANTED}
    order = initrd.load_order(("8139cp", "button", "evdev"), modules, builtin)
    for directory in (
        *("bin", "dev", "dev/pts", "etc", "etc/dropbear", "home", "home/offloading", "lib", "lib64", "modules"),
        *("proc", "root", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib/x86_64-linux-gnu"),
        *("lib/x86_64-linux-gnu", "run", "var", "var/log", "usr/share"),
    ):
        yield directory, stat.S_IFDIR | 0o755, b"", (0, 0)
    yield "dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)
    yield "init", stat.S_IFREG | 0o755, GUEST_INIT.read_bytes(), (0, 0)
    yield "order", stat.S_IFREG | 0o644, "".join(f"insmod /modules/{name}.ko\n" for name in order).encode(), (0, 0)
    for name in order:
        yield f"modules/{name}.ko", stat.S_IFREG | 0o644, modules[name], (0, 0)
    yield "usr/sbin/secret-service", stat.S_IFREG | 0o755, SECRET_SERVICE.read_bytes(), (0, 0)
    yield "bin/busybox", stat.S_IFREG | 0o755, (parts[0] / "bin" / "busybox").read_bytes(), (0, 0)
    seen: set[str] = set()
    for part in parts[1:]:
        for path in sorted(part.rglob("*")):
            name = str(path.relative_to(part))
            is_wanted = name in PROGRAMS or ".so" in path.name or "/perl-base/" in name
            if not is_wanted or "gconv" in name or not path.is_file():
                continue
            # A merged /usr would do; the two directories both are in the interpreter's path.
            place = f"lib64/{INTERPRETER}" if path.name == INTERPRETER else name
            for above in reversed(Path(place).parents[:-1]):
                if str(above) not in seen:
                    seen.add(str(above))
                    yield str(above), stat.S_IFDIR | 0o755, b"", (0, 0)
            yield place, stat.S_IFREG | 0o755, path.read_bytes(), (0, 0)


_WANTED = frozenset({"8139cp", "mii", "button", "evdev"})
