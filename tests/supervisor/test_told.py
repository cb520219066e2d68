"""What steps tell of a service: fit for the keeper's notes, for JSON and for a terminal, whatever it was made of."""

from typing import cast

import msgspec
import pytest

from herdpy.keeper import message
from herdpy.service import Service
from herdpy.supervisor.life import LONGEST_TOLD, Life
from herdpy.supervisor.registry import Registry


class Line:
    listeners: tuple[str, ...] = ()


class NobodyElse:
    """A registry and a keeper that are not asked for anything."""

    line = Line()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ready", "ready"),
        ("etc/näme 0640", "etc/näme 0640"),
        ("\udcff\x1b[2J\n", r"\udcff\x1b[2J\n"),
        ("x" * 5000, "x" * (LONGEST_TOLD - 1) + "…"),
    ],
)
def test_nothing_that_a_step_tells_can_have_a_note_refused(said: str, told: str) -> None:
    life = Life(Service(provision=("a",)), cast(Registry, NobodyElse()))
    life.tell_detail("key", said)
    life.tell_stage(said, 0.5)
    assert life.details == {"key": told}
    assert (life.stage, life.done) == (told, 0.5)
    msgspec.json.encode(life.details).decode()
    life.tell_detail("key", None)
    life.tell_stage(None)
    assert (life.details, life.stage) == ({}, None)


def test_several_long_ones_fit_into_one_packet() -> None:
    life = Life(Service(provision=("a",)), cast(Registry, NobodyElse()))
    for number in range(8):
        life.tell_detail(f"key {number}", "\U0001f9ff" * 5000)
    note = msgspec.json.encode(life.details).decode()
    assert len(message.encode({"kind": "note", "key": "service:a", "note": note})) < message.LIMIT
