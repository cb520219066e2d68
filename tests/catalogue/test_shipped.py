"""The declarations that come with herdpy."""

from pathlib import Path

import msgspec

from herdpy.catalogue import TYPES
from herdpy.catalogue.facts import HostFacts
from herdpy.configuration import load
from herdpy.qemu.accelerator import Accelerator
from tests.catalogue.test_libvirt import DIRECTORIES

SERVICES = Path(__file__).parent.parent.parent / "services"


def test_shipped_declarations_are_right_and_none_starts_by_itself() -> None:
    result = load([str(SERVICES)], TYPES, is_root=False)
    assert result.mistakes == ()
    assert {one.name for one in result.declarations} == {path.stem for path in SERVICES.glob("*.toml")}
    assert not any(one.configuration.auto_start for one in result.declarations)


def test_every_registered_type_is_there_under_its_name() -> None:
    for name, service_type in TYPES.items():
        assert service_type.name == name
        assert service_type.documentation


def test_a_shipped_file_is_never_what_one_is_told_to_change() -> None:
    facts = HostFacts(
        uid=0,
        user="root",
        home="/root",
        directories=DIRECTORIES,
        system="x86_64-linux",
        guix=None,
        accelerator=Accelerator(kvm=False, reason="there is no /dev/kvm"),
        host_name="farm",
    )
    for one in load([str(SERVICES)], TYPES, is_root=False).declarations:
        path = f"/opt/herdpy/share/herdpy/services/{one.name}.toml"
        for service in TYPES[one.type].services(msgspec.structs.replace(one, source=path), facts):
            for step in (*service.prepare, *service.foresights):
                assert path not in str(step), step
