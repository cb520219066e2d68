"""From declarations to services, on a host where not all of them can be."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Common, Declaration, ServiceType
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.configuration import Declared, declared_services, remade_services
from herdpy.mistake import Place
from herdpy.qemu.accelerator import Accelerator
from herdpy.service import Service

Declare = Callable[..., Path]

ALICE = HostFacts(
    uid=1000,
    user="alice",
    home="/home/alice",
    directories=Directories(
        state="/state", log="/log", configuration="/etc", runtime="/run", socket="/run/socket", secrets="/secrets"
    ),
    system="x86_64-linux",
    guix=None,
    accelerator=Accelerator(kvm=False, reason="there is no /dev/kvm"),
)


def declared(tmp_path: Path) -> Declared:
    return declared_services([str(tmp_path / "layer")], TYPES, ALICE)


def test_each_declaration_makes_its_services(tmp_path: Path, declare: Declare) -> None:
    for name in ("b", "a"):
        declare(name, 'command = ["true"]\n')
    result = declared(tmp_path)
    assert [one.name for one in result.services] == ["a", "b"]
    assert (result.mistakes, result.mistaken) == ((), frozenset())


def test_a_declaration_that_does_not_suit_the_host_is_a_mistake_with_its_line(tmp_path: Path, declare: Declare) -> None:
    declare("a", 'command = ["true"]\n')
    path = declare("b", 'command = ["true"]\nprovision = ["c"]\nuser = "bob"\n')
    declare("d", 'command = "true"\n')
    result = declared(tmp_path)
    assert [one.name for one in result.services] == ["a"]
    assert result.mistaken == {"b", "c", "d"}
    assert [(one.line, one.key) for one in result.mistakes] == [(3, "user"), (1, "command")]
    assert str(result.mistakes[0]).startswith(f"{path}:3: user: only root can run a service as bob, not alice;")


def test_what_services_say_is_located_in_their_declarations(tmp_path: Path, declare: Declare) -> None:
    path = declare("a", 'command = ["b"]\nrequirement = [\n  "b",\n]\n')
    result = declared(tmp_path)
    assert result.locate(str(path), "b", "requirement") == Place(file=str(path), line=3, key="requirement[0]")
    assert result.locate("/elsewhere", "b", "requirement") == Place(file="/elsewhere", line=0, key="requirement")


class Odd(Common, frozen=True, kw_only=True):
    """The fields of a type that has mistakes of its own."""

    in_check: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if self.in_check:
            raise OverflowError("too large")


def no_services(_declaration: Declaration, _facts: HostFacts) -> tuple[Service, ...]:
    raise ValueError("year 10000 is out of range")


ODD = {"odd": ServiceType(name="odd", configuration=Odd, services=no_services, documentation="Has mistakes.")}


def test_a_mistake_of_ours_in_a_type_keeps_no_other_service_away(tmp_path: Path, declare: Declare) -> None:
    declare("a", 'command = ["true"]\n')
    odd = declare("odd", 'type = "odd"\nprovision = ["x"]\n')
    unchecked = declare("unchecked", 'type = "odd"\nin-check = true\n')
    result = declared_services([str(tmp_path / "layer")], {**TYPES, **ODD}, ALICE)
    assert [one.name for one in result.services] == ["a"]
    assert result.mistaken == {"odd", "unchecked", "x"}
    assert [str(mistake) for mistake in result.mistakes] == [
        f"{odd}:1: a mistake in herdpy: ValueError: year 10000 is out of range",
        f"{unchecked}:1: a mistake in herdpy: OverflowError: too large",
    ]


def test_a_declaration_that_was_kept_and_meets_a_mistake_of_ours_cannot_be_made() -> None:
    kept = '{"name": "odd", "source": "", "type": "odd", "configuration": {"in-check": true}}'
    with pytest.raises(ValueError, match="a mistake in herdpy: OverflowError: too large"):
        remade_services(kept, ODD, ALICE)
