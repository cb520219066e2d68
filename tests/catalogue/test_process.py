"""The type process, by the values it makes."""

from typing import Any

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Declaration, Unsuitable
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.catalogue.process import ProcessConfiguration, services, signal_number
from herdpy.mistake import Place
from herdpy.qemu.accelerator import Accelerator
from herdpy.service import Attempt, Process, Respawn, Service, Stop

DIRECTORIES = Directories(
    state="/state", log="/log", configuration="/etc", runtime="/run", socket="/run/socket", secrets="/secrets"
)


class Nowhere:
    """The locations of a declaration that no file holds."""

    def place(self, key: str) -> Place:
        return Place(file="/a.toml", key=key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        return Place(file="/a.toml", key=key)


def facts(uid: int = 0, user: str = "root") -> HostFacts:
    return HostFacts(
        uid=uid,
        user=user,
        home="/home/alice",
        directories=DIRECTORIES,
        system="x86_64-linux",
        guix=None,
        accelerator=Accelerator(kvm=False, reason="there is no /dev/kvm"),
    )


def made(host: HostFacts | None = None, **fields: Any) -> Service:
    configuration = msgspec.convert({"command": ["sleep", "60"], **fields}, ProcessConfiguration)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="a", source="/a.toml", type="process", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, host or facts())
    return service


def test_a_command_alone() -> None:
    service = made()
    assert service.provision == ("a",)
    assert service.documentation == "Run sleep."
    assert service.source == "/a.toml"
    assert not service.auto_start
    assert service.attempts == (Attempt(process=Process(command=("sleep", "60"))),)
    assert service.stop == Stop()
    assert service.respawn == Respawn()
    assert service.log_file is None
    assert {fact.key: fact.text for fact in service.facts} == {
        "type": "process",
        "command": "sleep 60",
        "directory": "/",
        "user": "root",
        "stop-signal": "TERM",
        "grace-period": "5 s",
        "log-file": "/log/a.log",
        "source": "/a.toml",
    }


def test_every_field_goes_where_it_belongs() -> None:
    service = made(
        **{
            "documentation": "Sleep.",
            "auto-start": True,
            "requirement": ["b"],
            "provision": ["c", "a"],
            "respawn": False,
            "respawn-limit": 3,
            "respawn-interval": 60,
            "respawn-delay": 1,
            "log-file": "/log/x",
            "grace-period": 2,
            "start-timeout": 9,
            "directory": "/srv",
            "environment": {"A": "1 2"},
            "user": "alice",
            "group": "users",
            "supplementary-groups": ["kvm"],
            "umask": "027",
            "stop-signal": "int",
        }
    )
    process = Process(
        command=("sleep", "60"),
        environment={"A": "1 2"},
        directory="/srv",
        user="alice",
        group="users",
        supplementary_groups=("kvm",),
        umask=0o027,
    )
    assert msgspec.structs.replace(service, facts=()) == Service(
        provision=("a", "c"),
        requirement=("b",),
        documentation="Sleep.",
        source="/a.toml",
        auto_start=True,
        attempts=(Attempt(process=process, timeout=9.0),),
        stop=Stop(signal=2, grace_period=2.0),
        respawn=Respawn(enabled=False, limit=3, interval=60.0, delay=1.0),
        log_file="/log/x",
    )
    texts = {fact.key: fact.text for fact in service.facts}
    assert texts["environment"] == "'A=1 2'"
    assert texts["log-file"] == "/log/x"


@pytest.mark.parametrize(
    ("name", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("usr1", 10), ("RTMIN", 34), (9, 9), (0, None), (65, None), ("NOPE", None)],
)
def test_signals_by_name_and_number(name: str | int, number: int | None) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize(
    ("fields", "key", "words"),
    [
        ({"command": [""]}, "command[0]", "empty"),
        ({"command": ["a", "b\0"]}, "command[1]", "NUL"),
        ({"environment": {"A=B": "1"}}, "environment", "'A=B'"),
        ({"environment": {"A": "\0"}}, "environment.A", "NUL"),
        ({"directory": "srv"}, "directory", "absolute"),
        ({"umask": "22x"}, "umask", '"22x"'),
        ({"umask": "1022"}, "umask", '"1022"'),
        ({"umask": ""}, "umask", '""'),
        ({"stop-signal": "TREM"}, "stop-signal", "'TREM'"),
        ({"provision": ["-x"]}, "provision[0]", "'-x'"),
        ({"log-file": "x"}, "log-file", "absolute"),
    ],
)
def test_what_types_cannot_say(fields: dict[str, Any], key: str, words: str) -> None:
    [(found, problem)] = msgspec.convert({"command": ["sleep"], **fields}, ProcessConfiguration).check()
    assert found == key
    assert words in problem


@pytest.mark.parametrize(
    ("fields", "key"),
    [({"user": "bob"}, "user"), ({"group": "kvm"}, "group"), ({"supplementary-groups": []}, "supplementary-groups")],
)
def test_only_root_chooses_who_runs_a_service(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(Unsuitable) as refusal:
        made(facts(1000, "alice"), **fields)
    assert refusal.value.key == key
    assert "only root" in refusal.value.problem


def test_a_user_may_name_himself() -> None:
    service = made(facts(1000, "alice"), user="alice")
    assert service.attempts[0].process.user == "alice"
    assert {fact.key: fact.text for fact in service.facts}["directory"] == "/home/alice"


def test_the_registry_knows_names_without_importing_types() -> None:
    assert "process" in TYPES
    assert "prozess" not in TYPES
    assert TYPES["process"].configuration is ProcessConfiguration
    assert {"process", "virtual-build-machine"} <= set(TYPES)
