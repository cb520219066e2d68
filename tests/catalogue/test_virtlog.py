"""The type virtlog, by the values it makes."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Common, Declaration
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.virtlog import VirtlogConfiguration, services, size_in_bytes
from herdpy.configuration import declared_services
from herdpy.libvirt.guests import KeepLogs, Logs
from herdpy.libvirt.host import MakeDirectories
from herdpy.libvirt.placing import PlaceFile
from herdpy.libvirt.reexecution import FollowProgram, Reexecute, ReexecuteInstead, ReexecuteOnRequest
from herdpy.libvirt.rehearsal import Rehearsal
from herdpy.service import Limit, Notify, Service, Stop
from tests.catalogue.libvirt_samples import VIRTLOG
from tests.catalogue.test_libvirt import Nowhere, complaints, facts


def made(host: HostFacts | None = None, /, **fields: Any) -> Service:
    configuration = msgspec.convert(fields, VirtlogConfiguration)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="virtlogd", source="/v.toml", type="virtlog", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, host or facts())
    return service


def content(service: Service) -> str:
    [placed] = [step for step in service.prepare if isinstance(step, PlaceFile)]
    return placed.content


def test_the_defaults_are_the_specifications() -> None:
    assert content(made()).splitlines()[1:] == [
        "log_level = 3",
        'log_filters = "3:remote 4:event"',
        'log_outputs = "3:stderr"',
        "max_clients = 1024",
        "admin_max_clients = 5",
        "max_size = 2097152",
        "max_backups = 3",
    ]


def test_every_field_has_a_sample() -> None:
    fields = msgspec.structs.fields(VirtlogConfiguration)
    assert [field.encode_name for field in fields if field.name not in Common.__struct_fields__] == list(VIRTLOG)


@pytest.mark.parametrize("key", list(VIRTLOG))
def test_a_field_reaches_the_file(key: str) -> None:
    value, line = VIRTLOG[key]
    before, after = content(made()), content(made(**{key: value}))
    if line is None:
        assert after == before
    else:
        assert line in after.splitlines()
        assert line not in before.splitlines()
        assert len(after.splitlines()) == len(before.splitlines())


def test_the_process_and_what_keeps_it() -> None:
    service = made(**{"log-outputs": "1:file:/run/v.log 4:stderr", "max-size": 0})
    [attempt] = service.attempts
    path = "/state/libvirt/virtlogd.conf"
    # It executes itself by these words: an absolute path, of the program and of the file.
    assert attempt.process.command == ("/usr/sbin/virtlogd", "-f", path)
    assert attempt.notify == Notify(socket="/state/notify/virtlogd")
    logs = Logs(own=frozenset({"/run/v.log"}), is_root=True)
    step = Reexecute(
        path=path,
        content=content(service),
        lens="Virtlogd",
        rehearsal=Rehearsal(program="/usr/sbin/virtlogd", is_root=True),
    )
    assert service.stop == Stop(scope="process", consent=KeepLogs(logs=logs))
    assert service.renewal == ReexecuteInstead(step=step, logs=logs)
    assert service.guards == (
        FollowProgram(program="/usr/sbin/virtlogd", step=msgspec.structs.replace(step, content=None)),
    )
    [action] = service.actions
    assert (action.name, action.operation) == ("reexec", ReexecuteOnRequest(step=step))


def test_it_is_protected_as_far_as_can_be() -> None:
    strong = made(msgspec.structs.replace(facts(), may_exceed_limits=True)).attempts[0].process
    assert (strong.oom_score_adjustment, strong.limits) == (-900, (Limit("nofile", 16384, 16384),))
    weak = made().attempts[0].process
    assert (weak.oom_score_adjustment, weak.limits) == (None, ())


def test_an_ordinary_users_virtlogd_makes_no_directory_of_roots() -> None:
    assert not any(isinstance(step, MakeDirectories) for step in made(facts(1000)).prepare)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (0, 0),
        (2097152, 2097152),
        ("2MB", 2097152),
        ("2M", 2097152),
        ("2MiB", 2097152),
        ("2 MB", 2097152),
        ("2mb", 2097152),
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", 1024),
        ("3G", 3 * 2**30),
        ("1T", 2**40),
        (-1, None),
        ("", None),
        ("B", None),
        ("MB", None),
        ("2iB", None),
        ("1.5M", None),
        ("-1", None),
        ("2X", None),
        ("٣", None),
        ("99999T", None),
        (2**60, None),
    ],
)
def test_sizes(size: int | str, count: int | None) -> None:
    assert size_in_bytes(size) == count


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('libvirt = "virtlogd"', "libvirt: expected an absolute path"),
        ("log-level = 0", "log-level: expected a whole number from 1 to 4"),
        ('log-level = "debug"', "log-level: expected a whole number"),
        ('log-filters = "x"', "log-filters: 'x': expected LEVEL:NAME"),
        ('log-filters = "0:x"', "log-filters: '0:x': expected a level"),
        ('log-outputs = "3:tty"', "log-outputs: '3:tty': there is no output 'tty'"),
        ('log-outputs = "3:file:v"', "log-outputs: '3:file:v': expected LEVEL:file:PATH"),
        ('log-outputs = "3:stderr\\n"', "log-outputs: '3:stderr\\n': "),
        ("max-clients = 0", "max-clients: expected a whole number"),
        ("admin-max-clients = -1", "admin-max-clients: expected a whole number"),
        ('max-size = "2XB"', "max-size: expected bytes, or a string such as"),
        ("max-size = 1.5", "max-size: expected"),
        ("max-size = -1", "max-size: expected bytes"),
        ("max-backups = 33", "max-backups: expected a whole number from 0 to 32"),
        ("max-age-days = 3", "max-age-days: unknown key"),
    ],
)
def test_a_wrong_value_is_told_with_its_line_and_key(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "v.toml").write_text(f'type = "virtlog"\n{line}\n')
    [mistake] = declared_services([str(tmp_path)], TYPES, facts(1000)).mistakes
    assert str(mistake).startswith(f"{tmp_path}/v.toml:2: ")
    assert words in str(mistake)


def test_the_specifications_example_runs_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "v.toml").write_text('type = "virtlog"\nmax-clients = 1000\n')
    declared = declared_services([str(tmp_path)], TYPES, facts(1000))
    assert declared.mistakes == ()
    assert "max_clients = 1000" in content(declared.services[0])


@pytest.mark.skipif(shutil.which("augtool") is None, reason="no augeas-tools")
def test_libvirts_own_lens_knows_every_line(tmp_path: Path) -> None:
    for service in (made(), made(**{key: value for key, (value, _) in VIRTLOG.items()})):
        assert complaints(content(service), "Virtlogd", tmp_path) == ""
