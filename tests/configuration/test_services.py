"""From declarations to services, on a host where not all of them can be."""

from collections.abc import Callable
from pathlib import Path

from herdpy.catalogue import TYPES
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.configuration import Declared, declared_services
from herdpy.mistake import Place
from herdpy.qemu.accelerator import Accelerator

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
