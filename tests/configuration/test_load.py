"""Declarations as people write them, and what they are told about their mistakes."""

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from herdpy.catalogue.common import Common, Declaration, ServiceType
from herdpy.catalogue.facts import HostFacts
from herdpy.configuration import Configuration, load
from herdpy.service import Service

Declare = Callable[..., Path]


class Forward(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    host: int
    guest_port: int


class Machine(Common, frozen=True, kw_only=True):
    """A type with a field of each kind."""

    cpu: str | None = None
    cpu_count: Annotated[int, msgspec.Meta(ge=1, le=255)] = 4
    memory_size: int = 2048
    date: datetime.datetime | None = None
    forwards: tuple[Forward, ...] = ()
    settings: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if self.memory_size % 4:
            yield "memory-size", "not a multiple of 4"
        if self.cpu is None and self.cpu_count == 77:
            yield "cpu", "must be given with 77 of them"
        for index, forward in enumerate(self.forwards):
            if forward.host == forward.guest_port:
                yield f"forwards[{index}].host", "the same as the guest's"


class Command(Common, frozen=True, kw_only=True):
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    environment: dict[str, str] = msgspec.field(default_factory=dict)


def no_services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    return ()


TYPES = {
    "machine": ServiceType(name="machine", configuration=Machine, services=no_services, documentation=""),
    "process": ServiceType(name="process", configuration=Command, services=no_services, documentation=""),
}


def load_layers(tmp_path: Path, *layers: str, is_root: bool = False) -> Configuration:
    return load([str(tmp_path / layer) for layer in layers or ("layer",)], TYPES, is_root=is_root)


def mistakes_in(tmp_path: Path, *layers: str, is_root: bool = False) -> list[str]:
    """The mistakes as people read them, paths relative to ``tmp_path``."""
    return [str(one).replace(f"{tmp_path}/", "") for one in load_layers(tmp_path, *layers, is_root=is_root).mistakes]


def test_a_declaration_becomes_its_types_struct(tmp_path: Path, declare: Declare) -> None:
    path = declare(
        "vm",
        """
type = "machine"
cpu-count = 8
auto-start = true
grace-period = 3
date = 2020-01-01T10:00:00Z
forwards = [{ host = 1, guest-port = 2 }]
[settings.a]
b = 1
""",
    )
    result = load_layers(tmp_path)
    assert result.mistakes == ()
    [declaration] = result.declarations
    assert (declaration.name, declaration.source, declaration.type) == ("vm", str(path), "machine")
    assert declaration.configuration == Machine(
        cpu_count=8,
        auto_start=True,
        grace_period=3.0,
        date=datetime.datetime(2020, 1, 1, 10, tzinfo=datetime.UTC),
        forwards=(Forward(host=1, guest_port=2),),
        settings={"a": {"b": 1}},
    )


def test_a_date_alone_is_midnight_where_a_date_and_time_belongs(tmp_path: Path, declare: Declare) -> None:
    declare("vm", 'type = "machine"\ndate = 2020-02-03\n')
    [declaration] = load_layers(tmp_path).declarations
    assert declaration.configuration.date == datetime.datetime(2020, 2, 3)


def test_a_command_alone_makes_a_process(tmp_path: Path, declare: Declare) -> None:
    declare("sleeper", 'command = ["sleep", "60"]\n')
    [declaration] = load_layers(tmp_path).declarations
    assert declaration.type == "process"
    assert declaration.configuration.command == ("sleep", "60")


def test_every_mistake_is_told_with_its_file_line_and_key(tmp_path: Path, declare: Declare) -> None:
    declare(
        "vm",
        """\
type = "machine"
# The next line is wrong, and so are most others.
cpu-count = "4"
cpu = true
cpus = 8
memory = 3
memory-size = 3
auto-start = "yes"
date = 12:00:00
grace-period = 0
respawn_limit = 3
forwards = [
  { host = 22, guest-port = 22 },
  { host = "a", guest-port = 1.5, guestport = 3 },
  { host = 1 },
  7,
]
[settings.a]
fine = 1
wrong = "1"
""",
    )
    assert mistakes_in(tmp_path) == [
        'layer/vm.toml:3: cpu-count: expected a whole number, got the string "4"',
        "layer/vm.toml:4: cpu: expected a string, got true",
        "layer/vm.toml:5: cpus: unknown key; did you mean cpu-count?",
        "layer/vm.toml:6: memory: unknown key; did you mean memory-size?",
        "layer/vm.toml:7: memory-size: not a multiple of 4",
        'layer/vm.toml:8: auto-start: expected true or false, got the string "yes"',
        "layer/vm.toml:9: date: expected a date and time, got the time 12:00:00",
        "layer/vm.toml:10: grace-period: expected a number greater than 0, got the number 0",
        "layer/vm.toml:11: respawn_limit: unknown key; did you mean respawn-limit?",
        "layer/vm.toml:14: forwards[1].guest-port: expected a whole number, got the number 1.5",
        "layer/vm.toml:14: forwards[1].guestport: unknown key; did you mean guest-port?",
        'layer/vm.toml:14: forwards[1].host: expected a whole number, got the string "a"',
        "layer/vm.toml:15: forwards[2].guest-port: missing; write guest-port = 1, a whole number",
        "layer/vm.toml:16: forwards[3]: expected a table with host and guest-port, got the number 7",
        'layer/vm.toml:20: settings.a.wrong: expected a whole number, got the string "1"',
    ]
    result = load_layers(tmp_path)
    assert result.declarations == ()
    assert result.mistaken == {"vm"}


def test_what_check_says_of_a_right_table_has_its_line(tmp_path: Path, declare: Declare) -> None:
    declare(
        "vm", 'type = "machine"\nforwards = [\n  { host = 1, guest-port = 2 },\n  { host = 3, guest-port = 3 },\n]\n'
    )
    assert mistakes_in(tmp_path) == ["layer/vm.toml:4: forwards[1].host: the same as the guest's"]


def test_check_says_nothing_of_a_key_that_is_mistaken_itself(tmp_path: Path, declare: Declare) -> None:
    declare("vm", 'type = "machine"\ncpu = 3\ncpu-count = 77\nmemory-size = 3\n')
    assert mistakes_in(tmp_path) == [
        "layer/vm.toml:2: cpu: expected a string, got the number 3",
        "layer/vm.toml:4: memory-size: not a multiple of 4",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            'command = "sleep 60"',
            ':1: command: expected a list of strings, got the string "sleep 60"; write command = ["sleep", "60"]',
        ),
        ("command = []", ":1: command: expected a non-empty list of strings, got an empty list"),
        ('command = ["a", 1]', ":1: command[1]: expected a string, got the number 1"),
        ('command = ["a"]\nenvironment."a.b" = 1', ':2: environment."a.b": expected a string, got the number 1'),
        ('type = "process"', ':1: command: missing; write command = ["..."], a non-empty list of strings'),
        ('type = "prozess"', ':1: type: unknown service type "prozess"; did you mean process?'),
        ('type = "x"', ':1: type: unknown service type "x"; the types are machine, process'),
        ("\ntype = 3", ":2: type: expected the name of a service type (machine, process), got the number 3"),
        ('command = ["a"]\nmask = 1', ":2: mask: expected true or false, got the number 1"),
        (
            "cpu-count = 3",
            ":1: type: missing, and no earlier layer has it; "
            'write type = "..." (machine, process) or command = ["..."]',
        ),
        (
            'command = ["a"]\ngrace-period = nan',
            ":2: grace-period: expected a number greater than 0, got the number nan",
        ),
        ('command = ["a"]\ngrace-period = inf', ":2: grace-period: expected a number of seconds, got inf"),
        ('command = ["a"]\nlog-file = "x.log"', ":2: log-file: expected an absolute path, got 'x.log'"),
        (
            'command = ["a"]\nrequirement = [\n"b",\n"c d"]',
            ":4: requirement[1]: 'c d': a service's name is made of ASCII letters, digits, '.', '_', '-' and '@'",
        ),
        (
            'command = ["a"]\nrespawn = "sometimes"',
            ':2: respawn: expected true or false or "on-failure", got the string "sometimes"',
        ),
        (
            'command = ["a"]\nlog-rotation = { every = "month" }',
            ':2: log-rotation.every: expected one of "day", "week", got the string "month"',
        ),
        ("a = 1\nb = = 2", ":2: not TOML: invalid value (column 5)"),
        ("a = 1\na = 2", ":2: not TOML: cannot overwrite a value (at the end of the file)"),
        ('a = """\nb', ":2: not TOML: unterminated string (at the end of the file)"),
        ("a = " + "[" * 100_000, ": nested too deeply"),
        ("a = " + "1" * 5000, ": cannot be read: Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, declare: Declare, text: str, mistake: str) -> None:
    declare("a", text)
    [line] = mistakes_in(tmp_path)
    assert line.startswith(f"layer/a.toml{mistake}")
    assert "\n" not in line


def test_a_misspelt_type_is_told_beside_the_missing_one(tmp_path: Path, declare: Declare) -> None:
    declare("a", '# a machine\ntyp = "machine"\n')
    first, second = mistakes_in(tmp_path)
    assert first.startswith("layer/a.toml:1: type: missing")
    assert second == "layer/a.toml:2: typ: unknown key; did you mean type?"


def test_a_file_that_only_overrides_is_told_the_name_it_may_have_meant(tmp_path: Path, declare: Declare) -> None:
    declare("build-vm", 'type = "machine"', layer="shipped")
    declare("buildvm", "cpu-count = 8", layer="etc")
    [line] = mistakes_in(tmp_path, "shipped", "etc")
    assert line.startswith("etc/buildvm.toml:1: type: missing")
    assert line.endswith("did you mean build-vm.toml?")


def test_names_that_share_no_more_than_toml_are_not_alike(tmp_path: Path, declare: Declare) -> None:
    declare("a", 'type = "machine"')
    declare("b", "cpu-count = 8")
    [line] = mistakes_in(tmp_path)
    assert "did you mean" not in line


def test_later_layers_override_keys_merge_tables_and_replace_lists(tmp_path: Path, declare: Declare) -> None:
    declare(
        "vm",
        'type = "machine"\ncpu = "a"\ncpu-count = 2\nrequirement = ["x", "y"]\nsettings.a = { b = 1, c = 2 }\n',
        layer="shipped",
    )
    path = declare("vm", 'cpu-count = 8\nrequirement = ["z"]\nsettings.a.c = 3\n[settings.d]\ne = 4\n', layer="etc")
    [declaration] = load_layers(tmp_path, "shipped", "etc", "missing").declarations
    assert declaration.source == str(path)
    assert declaration.configuration == Machine(
        cpu="a", cpu_count=8, requirement=("z",), settings={"a": {"b": 1, "c": 3}, "d": {"e": 4}}
    )


def test_a_mistake_is_told_where_the_layer_that_made_it_says_so(tmp_path: Path, declare: Declare) -> None:
    declare(
        "vm",
        """\
type = "machine"
cpu = 1
cpu-count = 2
forwards = [{ host = 1, guest-port = 2 }, { host = 2, guest-port = 3 }]
[settings.a]
b = "wrong"
""",
        layer="shipped",
    )
    declare("vm", "\n\ncpu-count = 0\nforwards = [\n  { host = 1 },\n]\nsettings.a.c = true", layer="etc")
    assert mistakes_in(tmp_path, "shipped", "etc") == [
        "etc/vm.toml:3: cpu-count: expected a whole number from 1 to 255, got the number 0",
        "etc/vm.toml:5: forwards[0].guest-port: missing; write guest-port = 1, a whole number",
        "etc/vm.toml:7: settings.a.c: expected a whole number, got true",
        "shipped/vm.toml:2: cpu: expected a string, got the number 1",
        'shipped/vm.toml:6: settings.a.b: expected a whole number, got the string "wrong"',
    ]


def test_mask_hides_a_declaration_until_a_later_layer_shows_it(tmp_path: Path, declare: Declare) -> None:
    declare("vm", 'type = "machine"', layer="shipped")
    declare("vm", "mask = true", layer="etc")
    declare("vm", "mask = false", layer="home")
    assert load_layers(tmp_path, "shipped", "etc") == Configuration(declarations=(), mistakes=(), mistaken=frozenset())
    assert [one.name for one in load_layers(tmp_path, "shipped", "etc", "home").declarations] == ["vm"]


def test_a_declaration_that_one_layer_spoils_is_not_taken_from_the_others(tmp_path: Path, declare: Declare) -> None:
    declare("vm", 'type = "machine"', layer="shipped")
    declare("vm", "cpu-count = ", layer="etc")
    result = load_layers(tmp_path, "shipped", "etc")
    assert result.declarations == ()
    assert result.mistaken == {"vm"}
    assert [str(one) for one in result.mistakes] == [
        f"{tmp_path}/etc/vm.toml:1: not TOML: invalid value (at the end of the file)"
    ]


def test_names_that_mistaken_declarations_would_provide_are_known(tmp_path: Path, declare: Declare) -> None:
    declare("a", 'type = "machine"\nprovision = ["b", 3]\n')
    assert load_layers(tmp_path).mistaken == {"a", "b"}


def test_hidden_and_backup_files_are_no_declarations(tmp_path: Path, declare: Declare) -> None:
    layer = declare("a", 'command = ["true"]').parent
    for name in (".b.toml", "c.toml~", "#d.toml#", "README"):
        (layer / name).write_text("not TOML")
    result = load_layers(tmp_path)
    assert [one.name for one in result.declarations] == ["a"]
    assert result.mistakes == ()


def test_files_that_cannot_be_read_are_mistakes_of_one_line(tmp_path: Path, declare: Declare) -> None:
    layer = declare("good", 'command = ["true"]').parent
    (layer / "directory.toml").mkdir()
    (layer / "gone.toml").symlink_to("nowhere")
    (layer / "loop.toml").symlink_to("loop.toml")
    (layer / "bytes.toml").write_bytes(b'a = 1\nb = "\xff"\n')
    (layer / "two words.toml").write_text("")
    (layer / "-dash.toml").write_text("")
    (layer / "new\nline.toml").write_text("")
    (layer / "large.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    os.mkfifo(layer / "fifo.toml")
    os.close(os.open(os.fsencode(layer) + b"/\xff.toml", os.O_CREAT | os.O_WRONLY))
    assert mistakes_in(tmp_path) == [
        "layer/-dash.toml: not a service's name: a service's name cannot begin with '-'; rename the file",
        "layer/bytes.toml:2: not UTF-8 text: byte 0xff",
        "layer/directory.toml: a directory, not a file",
        "layer/fifo.toml: not a regular file",
        "layer/gone.toml: a symbolic link to nowhere, which does not exist",
        "layer/large.toml: larger than 1 MiB, which no declaration is",
        "layer/loop.toml: cannot be read: Too many levels of symbolic links",
        *(
            f"layer/{name}.toml: not a service's name: a service's name is made of ASCII letters, digits, "
            "'.', '_', '-' and '@'; rename the file"
            for name in ("new\\nline", "two words", "\\udcff")
        ),
    ]
    assert [one.name for one in load_layers(tmp_path).declarations] == ["good"]


def test_a_layer_that_is_no_directory_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "layer").write_text("")
    assert mistakes_in(tmp_path) == ["layer: cannot be read: Not a directory"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_refuses_what_others_could_have_written(tmp_path: Path, declare: Declare) -> None:
    declare("good", 'command = ["true"]')
    declare("group", 'command = ["true"]').chmod(0o664)
    declare("all", 'command = ["true"]').chmod(0o646)
    os.chown(declare("nobody", 'command = ["true"]'), 65534, 0)
    layer = tmp_path / "layer"
    root_would = "and root would run what it says"
    assert mistakes_in(tmp_path, is_root=True) == [
        f"layer/all.toml: writable by all (mode 646), {root_would}; chmod go-w layer/all.toml",
        f"layer/group.toml: writable by its group (mode 664), {root_would}; chmod go-w layer/group.toml",
        f"layer/nobody.toml: belongs to UID 65534, {root_would}; chown root layer/nobody.toml",
    ]
    assert mistakes_in(tmp_path) == []
    assert load([str(layer)], TYPES, is_root=True, trusted=[str(layer)]).mistakes == ()
    layer.chmod(0o777)
    assert mistakes_in(tmp_path, is_root=True) == [f"layer: writable by all (mode 777), {root_would}; chmod go-w layer"]
    layer.chmod(0o1777)
    assert len(mistakes_in(tmp_path, is_root=True)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not read")
def test_what_permissions_forbid_is_a_mistake(tmp_path: Path, declare: Declare) -> None:
    path = declare("secret", 'command = ["true"]')
    path.chmod(0o600)
    script = """if True:
        import os, sys
        from herdpy.configuration import load
        directory = os.open(sys.argv[1], os.O_RDONLY)
        os.fchdir(directory)
        os.setuid(65534)
        print(*load(["."], {}, is_root=False).mistakes, sep="\\n")
    """
    result = subprocess.run(
        [sys.executable, "-c", script, path.parent], capture_output=True, text=True, timeout=60, cwd=Path.cwd()
    )
    assert result.stdout == "./secret.toml: cannot be read: Permission denied\n", result.stderr


def test_thousands_of_declarations_load(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    for number in range(2000):
        (tmp_path / "layer" / f"service-{number}.toml").write_text('command = ["sleep", "60"]\nauto-start = true\n')
    result = load_layers(tmp_path)
    assert len(result.declarations) == 2000
