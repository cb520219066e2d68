"""The table of platforms, against elf(5)."""

import struct
from itertools import permutations

import pytest

from herdpy.binfmt.platforms import OTHER_NAMES, PLATFORMS, Platform, family_of, nearest

MACHINES = {
    "i386": (32, "little", 3),
    "x86_64": (64, "little", 62),
    "alpha": (64, "little", 0x9026),
    "arm": (32, "little", 40),
    "sparc": (32, "big", 2),
    "sparc32plus": (32, "big", 18),
    "sparc64": (64, "big", 43),
    "ppc": (32, "big", 20),
    "ppc64": (64, "big", 21),
    "ppc64le": (64, "little", 21),
    "m68k": (32, "big", 4),
    "mips": (32, "big", 8),
    "mipsel": (32, "little", 8),
    "mipsn32": (32, "big", 8),
    "mipsn32el": (32, "little", 8),
    "mips64": (64, "big", 8),
    "mips64el": (64, "little", 8),
    "sh4": (32, "little", 42),
    "sh4eb": (32, "big", 42),
    "s390x": (64, "big", 22),
    "aarch64": (64, "little", 183),
    "hppa": (32, "big", 15),
    "riscv32": (32, "little", 243),
    "riscv64": (64, "little", 243),
    "xtensa": (32, "little", 94),
    "xtensaeb": (32, "big", 94),
    "microblaze": (32, "big", 0xBAAB),
    "microblazeel": (32, "little", 0xBAAB),
    "or1k": (32, "big", 92),
    "hexagon": (32, "little", 164),
    "loongarch64": (64, "little", 258),
}
"""Class, data and e_machine of each, from elf.h and the registries of those that it lacks."""
ABI2 = 0x20
"""EF_MIPS_ABI2, in e_flags: a program of n32."""


def beginning(name: str, kind: int = 2, abi: int = 0) -> bytes:
    """What a program begins with: ET_EXEC (2), or ET_DYN (3)."""
    bits, order, machine = MACHINES[name]
    identity = struct.pack("4sBBBB8x", b"\x7fELF", 1 if bits == 32 else 2, 1 if order == "little" else 2, 1, abi)
    layout = {"little": "<", "big": ">"}[order] + ("HHIIIII" if bits == 32 else "HHIQQQI")
    flags = ABI2 if "n32" in name else 0
    return identity + struct.pack(layout, kind, machine, 1, 0x12345678, 0x34, 0x5678, flags)


def matches(platform: Platform, program: bytes) -> bool:
    """As the kernel compares."""
    magic, mask = bytes.fromhex(platform.magic), bytes.fromhex(platform.mask)
    return all((byte ^ wanted) & counts == 0 for byte, wanted, counts in zip(program, magic, mask, strict=False))


def test_all_thirty_are_there_and_sparc() -> None:
    assert len(PLATFORMS) == 31
    assert set(PLATFORMS) == set(MACHINES)


@pytest.mark.parametrize("name", list(MACHINES))
@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("abi", [0, 3])
def test_a_platforms_programs_are_its_own(name: str, kind: int, abi: int) -> None:
    found = [other.name for other in PLATFORMS.values() if matches(other, beginning(name, kind, abi))]
    assert found == [name]


@pytest.mark.parametrize("name", list(MACHINES))
def test_an_object_file_is_no_program(name: str) -> None:
    assert not matches(PLATFORMS[name], beginning(name, kind=1))


def test_no_platforms_magic_is_anothers() -> None:
    for one, other in permutations(PLATFORMS.values(), 2):
        assert not matches(one, bytes.fromhex(other.magic).ljust(64, b"\0")), (one.name, other.name)


def test_magic_and_mask_go_together() -> None:
    for platform in PLATFORMS.values():
        assert len(platform.magic) == len(platform.mask) in {40, 80}


def test_the_kinds_of_mips_of_32_bits_are_told_apart() -> None:
    assert matches(PLATFORMS["mipsn32"], beginning("mipsn32"))
    assert not matches(PLATFORMS["mips"], beginning("mipsn32"))
    assert not matches(PLATFORMS["mipsn32el"], beginning("mipsel"))


@pytest.mark.parametrize(
    ("machine", "family"),
    [
        ("x86_64", "i386"),
        ("i686", "i386"),
        ("armhf", "arm"),
        ("aarch64", "arm"),
        ("powerpc64le", "ppcle"),
        ("riscv64", "riscv64"),
        ("s390x", "s390x"),
        ("vax", "vax"),
    ],
)
def test_the_family_of_a_host(machine: str, family: str) -> None:
    assert family_of(machine) == family


@pytest.mark.parametrize(
    ("name", "first"),
    [("armhf", "arm"), ("arm64", "aarch64"), ("mips64le", "mips64el"), ("ppc64el", "ppc64le"), ("spark", "sparc")],
)
def test_the_nearest_name_comes_first(name: str, first: str) -> None:
    assert nearest(name)[0] == first
    assert len(set(nearest(name))) == len(nearest(name)) <= 3


def test_nothing_is_near_to_nonsense() -> None:
    assert nearest("z80") == ()
    assert set(OTHER_NAMES.values()) <= PLATFORMS.keys()
    assert not OTHER_NAMES.keys() & PLATFORMS.keys()
