"""The declarations that come with herdpy."""

from pathlib import Path

from herdpy.catalogue import TYPES
from herdpy.configuration import load

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
