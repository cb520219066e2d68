"""The table ``log-rotation``, which every type has."""

from typing import Any

import msgspec
import pytest

from herdpy.catalogue.common import Common, LogRotation, rotation_facts, size_in_bytes
from herdpy.logger import rotation as logger
from herdpy.service import Rotation


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("10K", 10240),
        ("10M", 10 << 20),
        ("2G", 2 << 30),
        ("", None),
        ("M", None),
        ("10 M", None),
        ("10m", None),
        ("10MB", None),
        ("-1K", None),
        ("1.5M", None),
        ("\u0661K", None),
        ("1" * 13, None),
    ],
)
def test_sizes(said: str | int, meant: int | None) -> None:
    assert size_in_bytes(said) == meant


def test_what_says_nothing_is_a_mistake() -> None:
    (mistake,) = Common(log_rotation=LogRotation(keep=3)).check()
    assert mistake[0] == "log-rotation"
    assert "neither size" in mistake[1]


@pytest.mark.parametrize("size", [0, -5, 4095, "3K", "10MB"])
def test_a_size_that_is_none_or_too_small_is_a_mistake(size: str | int) -> None:
    (mistake,) = Common(log_rotation=LogRotation(size=size)).check()
    assert mistake[0] == "log-rotation.size"


def test_there_is_none_unless_it_is_said() -> None:
    assert Common().rotation() is None
    assert list(Common().check()) == []


def test_what_is_declared_is_what_the_logger_understands() -> None:
    declared = msgspec.convert(
        {"log-rotation": {"size": "10M", "every": "week", "keep": 3, "keep-days": 30, "compress": "zstd"}}, Common
    )
    assert list(declared.check()) == []
    wanted = declared.rotation()
    assert wanted == Rotation(size=10 << 20, every="week", keep=3, keep_days=30, compress="zstd")
    assert wanted is not None
    told = msgspec.structs.asdict(wanted)
    understood = logger.rotation(told)
    assert {name: getattr(understood, name) for name in told} == told


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        ({"size": "10M"}, "at 10M; 5 kept, compressed by gzip"),
        ({"size": 8192, "every": "day", "keep": 3}, "at 8192 bytes or every day; 3 kept, compressed by gzip"),
        ({"every": "week", "keep-days": 90, "compress": "none"}, "every week; 5 kept for 90 days, not compressed"),
    ],
)
def test_the_configuration_shows_it(declared: dict[str, Any], line: str) -> None:
    configuration = msgspec.convert({"log-rotation": declared}, Common)
    [fact] = rotation_facts(configuration)
    assert (fact.key, fact.text) == ("log-rotation", line)
    assert declared.items() <= fact.value.items()


def test_a_log_that_is_never_rotated_has_no_such_line() -> None:
    assert list(rotation_facts(Common())) == []
