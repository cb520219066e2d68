"""The type process, by the values it makes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.command import signal_number
from herdpy.catalogue.common import Declaration, Unsuitable
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.catalogue.process import ProcessConfiguration, services
from herdpy.configuration import declared_services
from herdpy.mistake import Place
from herdpy.preparation.credentials import PlaceCredentials, RemoveCredentials
from herdpy.preparation.environment_file import EnvironmentFile
from herdpy.qemu.accelerator import Accelerator
from herdpy.service import Attempt, Limit, Process, Respawn, Service, Stop

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
            "environment-files": ["/etc/a.env", "-/etc/b.env"],
            "credentials": {"tls.key": "/etc/key", "password": "/etc/password"},
            "resource-limits": {"nofile": 1024, "core": "unlimited", "nproc": [10, 20], "cpu": [5, "unlimited"]},
            "nice": -5,
            "oom-score-adjustment": -900,
            "ambient-capabilities": ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"],
            "no-new-privileges": True,
        }
    )
    process = Process(
        command=("sleep", "60"),
        environment={"A": "1 2", "CREDENTIALS_DIRECTORY": "/state/credentials/a"},
        directory="/srv",
        user="alice",
        group="users",
        supplementary_groups=("kvm",),
        umask=0o027,
        variables=(EnvironmentFile(path="/etc/a.env"), EnvironmentFile(path="/etc/b.env", may_be_missing=True)),
        limits=(
            Limit("nofile", 1024, 1024),
            Limit("core", None, None),
            Limit("nproc", 10, 20),
            Limit("cpu", 5, None),
        ),
        nice=-5,
        oom_score_adjustment=-900,
        ambient_capabilities=("CAP_NET_BIND_SERVICE", "CAP_CHOWN"),
        no_new_privileges=True,
    )
    place = PlaceCredentials(
        directory="/state/credentials/a",
        files=(("tls.key", "/etc/key"), ("password", "/etc/password")),
        user="alice",
    )
    assert msgspec.structs.replace(service, facts=()) == Service(
        provision=("a", "c"),
        requirement=("b",),
        documentation="Sleep.",
        source="/a.toml",
        auto_start=True,
        attempts=(Attempt(process=process, prepare=(place,), timeout=9.0),),
        aftermath=(RemoveCredentials(directory="/state/credentials/a"),),
        stop=Stop(signal=2, grace_period=2.0),
        respawn=Respawn(enabled=False, limit=3, interval=60.0, delay=1.0),
        log_file="/log/x",
    )
    texts = {fact.key: fact.text for fact in service.facts}
    assert texts["environment"] == "'A=1 2'"
    assert texts["log-file"] == "/log/x"
    assert texts["environment-files"] == "/etc/a.env, -/etc/b.env"
    assert texts["credentials"] == "tls.key from /etc/key, password from /etc/password"
    assert texts["credentials-directory"] == "/state/credentials/a"
    assert texts["resource-limits"] == "nofile 1024, core unlimited, nproc 10 (hard 20), cpu 5 (hard unlimited)"
    assert texts["nice"] == "-5"
    assert texts["oom-score-adjustment"] == "-900"
    assert texts["ambient-capabilities"] == "CAP_NET_BIND_SERVICE, CAP_CHOWN"
    assert texts["no-new-privileges"] == "yes"
    values = {fact.key: fact.value for fact in service.facts}
    assert msgspec.json.decode(msgspec.json.encode(values))["resource-limits"]["cpu"] == [5, "unlimited"]


@pytest.mark.parametrize(
    ("runtime", "socket", "directory"),
    [
        ("/run/herdpy", "/run/herdpy/socket", "/run/herdpy-credentials/a"),
        ("/run/user/1000/herdpy", "/run/user/1000/herdpy/socket", "/run/user/1000/herdpy-credentials/a"),
        ("/run/herdpy", "/run/herdpy/another", "/state/credentials/a"),
        ("/run/herdpy", "/tmp/x/socket", "/state/credentials/a"),
        ("/state", "/state/socket", "/state/credentials/a"),
    ],
)
def test_credentials_are_in_memory_where_only_one_herdpy_is(runtime: str, socket: str, directory: str) -> None:
    places = msgspec.structs.replace(DIRECTORIES, runtime=runtime, socket=socket)
    service = made(msgspec.structs.replace(facts(), directories=places), credentials={"x": "/etc/x"})
    assert service.attempts[0].process.environment == {"CREDENTIALS_DIRECTORY": directory}
    assert service.aftermath == (RemoveCredentials(directory=directory),)


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
        ({"log-file": "/some/dir/"}, "log-file", "'/some/dir/' can only be a directory"),
        ({"log-file": "/some/.."}, "log-file", "'/some/..' can only be a directory"),
        ({"environment-files": ["/a", "-b"]}, "environment-files[1]", "absolute"),
        ({"credentials": {"a/b": "/x"}}, "credentials", "'a/b'"),
        ({"credentials": {"..": "/x"}}, "credentials", "'..'"),
        ({"credentials": {"": "/x"}}, "credentials", "''"),
        ({"credentials": {"tls.key": "x"}}, 'credentials."tls.key"', "absolute"),
        ({"resource-limits": {"nofiles": 1}}, "resource-limits", "'nofiles': no such limit; did you mean nofile?"),
        ({"resource-limits": {"nofile": -1}}, "resource-limits.nofile", '"unlimited"'),
        ({"resource-limits": {"nofile": "lots"}}, "resource-limits.nofile", '"unlimited"'),
        ({"resource-limits": {"nofile": [1]}}, "resource-limits.nofile", "two of these"),
        ({"resource-limits": {"nofile": [2, 1]}}, "resource-limits.nofile", "not above"),
        ({"resource-limits": {"nofile": ["unlimited", 1]}}, "resource-limits.nofile", "not above"),
        ({"resource-limits": {"nofile": 2**60}}, "resource-limits.nofile", "a number"),
        (
            {"ambient-capabilities": ["CAP_CHOWN", "net_bind_service"]},
            "ambient-capabilities[1]",
            "did you mean CAP_NET_BIND_SERVICE?",
        ),
    ],
)
def test_what_types_cannot_say(fields: dict[str, Any], key: str, words: str) -> None:
    [(found, problem)] = msgspec.convert({"command": ["sleep"], **fields}, ProcessConfiguration).check()
    assert found == key
    assert words in problem


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nice = 20", "nice: expected a whole number from -20 to 19, got the number 20"),
        ("oom-score-adjustment = -1001", "oom-score-adjustment: expected a whole number from -1000 to 1000"),
        ('ambient-capabilities = "CAP_CHOWN"', 'write ambient-capabilities = ["CAP_CHOWN"]'),
        ("no-new-privileges = 1", "no-new-privileges: expected true or false"),
        ("resource-limits = { nofile = 1.5 }", "resource-limits.nofile: expected a whole number or a string or a list"),
        ("resource-limits = { nofile = [1, 0] }", "resource-limits.nofile: expected a number"),
        ('credentials = { "a.b" = "c" }', 'credentials."a.b": expected an absolute path'),
        ('environment-files = "/x"', 'write environment-files = ["/x"]'),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(f'command = ["true"]\n{line}\n')
    [mistake] = declared_services([str(tmp_path)], TYPES, facts(1000, "alice")).mistakes
    assert str(mistake).startswith(f"{tmp_path}/a.toml:2: ")
    assert words in str(mistake)


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
