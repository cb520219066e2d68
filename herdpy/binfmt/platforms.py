"""The platforms whose programs QEMU runs, and the beginnings of these programs, as binfmt_misc compares them.

The values are those of QEMU's scripts/qemu-binfmt-conf.sh, but for microblaze: QEMU's has e_type in the wrong order of
bytes and matches no program; ours is Debian's (/usr/lib/binfmt.d/qemu-microblaze.conf). What they say is elf(5): class,
data, version and padding of e_ident, e_type (an executable, or a shared object, as position-independent executables
are), e_machine. Of the eight kinds of MIPS, two pairs differ only in e_flags (EF_MIPS_ABI2), 36 bytes further on.
"""

import msgspec


class Platform(msgspec.Struct, frozen=True):
    """What a processor's programs begin with."""

    name: str
    """QEMU's: ``arm``, of ``qemu-arm``."""
    family: str
    """Of processors that may well run each other's programs themselves."""
    magic: str
    """Bytes of the file from its beginning, in hexadecimal digits."""
    mask: str
    """Which bits of these count."""


PLATFORMS = {
    platform.name: platform
    for platform in (
        Platform(
            "i386", "i386", "7f454c4601010100000000000000000002000300", "fffffffffffefe00fffffffffffffffffeffffff"
        ),
        Platform(
            "x86_64", "i386", "7f454c4602010100000000000000000002003e00", "fffffffffffefe00fffffffffffffffffeffffff"
        ),
        Platform(
            "alpha", "alpha", "7f454c4602010100000000000000000002002690", "fffffffffffefe00fffffffffffffffffeffffff"
        ),
        Platform("arm", "arm", "7f454c4601010100000000000000000002002800", "ffffffffffffff00fffffffffffffffffeffffff"),
        Platform(
            "sparc", "sparc", "7f454c4601020100000000000000000000020002", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "sparc32plus",
            "sparc",
            "7f454c4601020100000000000000000000020012",
            "ffffffffffffff00fffffffffffffffffffeffff",
        ),
        Platform(
            "sparc64", "sparc", "7f454c460202010000000000000000000002002b", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform("ppc", "ppc", "7f454c4601020100000000000000000000020014", "ffffffffffffff00fffffffffffffffffffeffff"),
        Platform(
            "ppc64", "ppc", "7f454c4602020100000000000000000000020015", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "ppc64le", "ppcle", "7f454c4602010100000000000000000002001500", "ffffffffffffff00fffffffffffffffffeffff00"
        ),
        Platform(
            "m68k", "m68k", "7f454c4601020100000000000000000000020004", "fffffffffffffe00fffffffffffffffffffeffff"
        ),
        Platform(
            "mips",
            "mips",
            "7f454c46010201000000000000000000000200080000000100000000000000000000000000000000",
            "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020",
        ),
        Platform(
            "mipsel",
            "mips",
            "7f454c46010101000000000000000000020008000100000000000000000000000000000000000000",
            "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000",
        ),
        Platform(
            "mipsn32",
            "mips",
            "7f454c46010201000000000000000000000200080000000100000000000000000000000000000020",
            "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020",
        ),
        Platform(
            "mipsn32el",
            "mips",
            "7f454c46010101000000000000000000020008000100000000000000000000000000000020000000",
            "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000",
        ),
        Platform(
            "mips64", "mips", "7f454c4602020100000000000000000000020008", "ffffffffffffff0000fffffffffffffffffeffff"
        ),
        Platform(
            "mips64el", "mips", "7f454c4602010100000000000000000002000800", "ffffffffffffff0000fffffffffffffffeffffff"
        ),
        Platform("sh4", "sh4", "7f454c4601010100000000000000000002002a00", "ffffffffffffff00fffffffffffffffffeffffff"),
        Platform(
            "sh4eb", "sh4", "7f454c460102010000000000000000000002002a", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "s390x", "s390x", "7f454c4602020100000000000000000000020016", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "aarch64", "arm", "7f454c460201010000000000000000000200b700", "ffffffffffffff00fffffffffffffffffeffffff"
        ),
        Platform(
            "hppa", "hppa", "7f454c460102010000000000000000000002000f", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "riscv32", "riscv32", "7f454c460101010000000000000000000200f300", "ffffffffffffff00fffffffffffffffffeffffff"
        ),
        Platform(
            "riscv64", "riscv64", "7f454c460201010000000000000000000200f300", "ffffffffffffff00fffffffffffffffffeffffff"
        ),
        Platform(
            "xtensa", "xtensa", "7f454c4601010100000000000000000002005e00", "ffffffffffffff00fffffffffffffffffeffffff"
        ),
        Platform(
            "xtensaeb",
            "xtensaeb",
            "7f454c460102010000000000000000000002005e",
            "ffffffffffffff00fffffffffffffffffffeffff",
        ),
        Platform(
            "microblaze",
            "microblaze",
            "7f454c460102010000000000000000000002baab",
            "ffffffffffffff00fffffffffffffffffffeffff",
        ),
        Platform(
            "microblazeel",
            "microblazeel",
            "7f454c460101010000000000000000000200abba",
            "ffffffffffffff00fffffffffffffffffeffffff",
        ),
        Platform(
            "or1k", "or1k", "7f454c460102010000000000000000000002005c", "ffffffffffffff00fffffffffffffffffffeffff"
        ),
        Platform(
            "hexagon", "hexagon", "7f454c460101010000000000000000000200a400", "ffffffffffffff00fffffffffffffffffeffffff"
        ),
        Platform(
            "loongarch64",
            "loongarch",
            "7f454c4602010100000000000000000002000201",
            "fffffffffffffffc00fffffffffffffffeffffff",
        ),
    )
}
"""By name."""

OTHER_NAMES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "armel": "arm",
    "armhf": "arm",
    "i686": "i386",
    "loong64": "loongarch64",
    "mips64le": "mips64el",
    "mipsle": "mipsel",
    "powerpc": "ppc",
    "powerpc64": "ppc64",
    "powerpc64le": "ppc64le",
    "ppc64el": "ppc64le",
    "armv7l": "arm",
}
"""What Debian, Guix, Go or uname(1) call some of them: for whoever writes these."""

FAMILIES = {
    "armhf": "arm",
    "i686": "i386",
    "loongarch64": "loongarch",
    "mips64": "mips",
    "powerpc": "ppc",
    "powerpc64le": "ppcle",
    "parisc": "hppa",
    "parisc64": "hppa",
}
"""The family of a host's machine where that is not the name of a platform (``HostFacts.system``)."""


def family_of(machine: str) -> str:
    """The family of processors that a machine's is of; one that nothing is known of is its own.

    Args:
        machine: as Guix writes it: ``x86_64``, ``armhf``.
    """
    if machine in FAMILIES:
        return FAMILIES[machine]
    return PLATFORMS[machine].family if machine in PLATFORMS else machine


def nearest(name: str, count: int = 3) -> tuple[str, ...]:
    """The names that somebody may have meant, likeliest first."""
    from difflib import get_close_matches

    plain = name.lower().replace("-", "_")
    meant = OTHER_NAMES.get(plain)
    close = [near for near in get_close_matches(plain, PLATFORMS, count, 0.5) if near != meant]
    return ((meant,) if meant else ()) + tuple(close[: count - bool(meant)])
