"""Entries as they are written, and as the kernel shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdpy.binfmt.entry import LONGEST_LINE, Found, entry_of, in_order, parse
from herdpy.binfmt.platforms import PLATFORMS

ARM = entry_of(PLATFORMS["arm"], "/usr/bin/qemu-arm-static", "FP")
SHOWN = """\
enabled
interpreter /usr/bin/qemu-arm-static
flags: PF
offset 0
magic 7f454c4601010100000000000000000002002800
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def test_what_is_written() -> None:
    magic = r"\x7f\x45\x4c\x46\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00"
    mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    assert ARM.line == f":qemu-arm:M::{magic}:{mask}:/usr/bin/qemu-arm-static:PF".encode()


def test_what_the_kernel_shows_is_what_was_written() -> None:
    assert parse("qemu-arm", SHOWN) == Found(ARM, enabled=True)
    assert parse("qemu-arm", SHOWN.replace("enabled", "disabled")) == Found(ARM, enabled=False)


@pytest.mark.parametrize(
    "other",
    [
        SHOWN.replace("qemu-arm-static", "qemu-arm"),
        SHOWN.replace("flags: PF", "flags: POF"),
        SHOWN.replace("offset 0", "offset 4"),
        SHOWN.replace("02002800", "02002801"),
        SHOWN.replace("mask ffff", "mask fffe"),
        SHOWN.partition("mask")[0],
        "enabled\ninterpreter /usr/bin/qemu-arm-static\nflags: PF\nextension .exe\n",
        "",
    ],
)
def test_any_other_content_is_another_entry(other: str) -> None:
    assert parse("qemu-arm", other).entry != ARM


@pytest.mark.parametrize(("flags", "shown"), [("FP", "PF"), ("FPC", "POCF"), ("FPO", "POF"), ("PF", "PF")])
def test_flags_are_told_as_the_kernel_tells_them(flags: str, shown: str) -> None:
    assert in_order(flags) == shown


@given(st.text())
def test_whatever_is_shown_can_be_read(text: str) -> None:
    parse("x", text)


@pytest.mark.parametrize("name", list(PLATFORMS))
def test_a_line_is_short_enough_with_the_longest_path_that_is_taken(name: str) -> None:
    path = "/" + "x" * (LONGEST_LINE // 2)
    assert len(entry_of(PLATFORMS[name], path + "/qemu-microblazeel-static", "FPOC").line) < LONGEST_LINE
