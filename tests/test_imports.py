"""Imports point one way (docs/explanation/architecture.md), and only the keeper has its hands on processes."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "herdpy"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "sexp": set(),
    "nearest": set(),
    "mistake": {"nearest"},
    "paths": set(),
    "kernel": set(),
    "version": set(),
    "files": set(),
    "protocol": {"sexp"},
    "client": {"protocol", "sexp", "paths", "nearest"},
    "service": set(),
    "threads": set(),
    "watch": {"service", "threads"},
    "qemu": {"activation", "service", "watch", "sexp", "files", "mistake", "threads", "preparation"},
    "preparation": {"service", "watch", "files", "threads"},
    "readiness": {"service", "watch", "threads"},
    "commands": {"service"},
    "timer": {"service", "threads"},
    "activation": {"service"},
    "libvirt": {"service", "watch", "files", "readiness", "threads", "preparation"},
    "binfmt": {"service", "watch", "threads", "preparation"},
    "catalogue": {
        *("service", "binfmt", "libvirt", "qemu", "timer", "activation", "preparation"),
        *("readiness", "commands", "mistake", "kernel"),
    },
    "configuration": {"catalogue", "service", "mistake"},
    "keeper": {"kernel", "version"},
    "logger": {"keeper"},
    "minimal": {"keeper", "protocol", "sexp", "version"},
    "supervisor": {
        "activation",
        "service",
        "watch",
        "files",
        "threads",
        "configuration",
        "catalogue",
        "keeper",
        "protocol",
        "sexp",
        "mistake",
        "paths",
        "version",
    },
    "command": {"version", "paths", "keeper", "supervisor", "configuration", "catalogue"},
}
"""What each room imports of the rest of the house, besides itself."""

STANDARD_LIBRARY_ONLY = {
    "sexp",
    "nearest",
    "protocol",
    "client",
    "keeper",
    "logger",
    "minimal",
    "paths",
    "kernel",
    "version",
    "files",
    "command",
}

PROCESS_CALLS = {
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "kill", "killpg", "pidfd_send_signal"),
    *("wait", "wait3", "wait4", "waitid", "waitpid", "waitstatus_to_exitcode"),
    *("execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe"),
    *("spawnl", "spawnv", "spawnve", "spawnvp", "spawnlp"),
}
"""Of the module os."""

CLIENTS_OWN = {"client"}
"""The client runs ssh and an editor's kind of programs as its own children: it is no part of the daemon."""


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(module: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, of packages by what is taken from them, wherever in the module it is."""
    package = name_of(module) if module.name == "__init__.py" else name_of(module).rpartition(".")[0]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def violations(allowed: dict[str, set[str]]) -> Iterator[str]:
    for module in MODULES:
        room = room_of(module)
        if room == "__init__":
            continue
        for line, name in imports_of(module):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == "herdpy" and other != room and other not in allowed[room]:
                yield f"{module.relative_to(PACKAGE.parent)}:{line}: {room} imports herdpy.{rest}"


def test_every_room_has_its_rule() -> None:
    assert {room_of(module) for module in MODULES} - {"__init__"} <= ROOMS.keys()


def test_imports_point_one_way() -> None:
    assert list(violations(ROOMS)) == []


def test_the_rules_have_no_cycle() -> None:
    left = {room: set(below) for room, below in ROOMS.items()}
    while free := {room for room, below in left.items() if not below & left.keys()}:
        for room in free:
            del left[room]
    assert left == {}


def test_of_the_keeper_others_know_only_its_messages_and_how_to_succeed_it() -> None:
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{line}: {name}"
        for module in MODULES
        if room_of(module) in {"logger", "minimal", "supervisor"}
        for line, name in imports_of(module)
        if name.startswith("herdpy.keeper") and name.split(".")[2:3] not in (["message"], ["succession"])
    ]
    assert found == []


def test_the_supervisor_knows_no_service_type_by_name() -> None:
    general = {"ALWAYS", "TYPES", "common", "facts"}
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{line}: {name}"
        for module in MODULES
        if room_of(module) in {"supervisor", "configuration"}
        for line, name in imports_of(module)
        if name.startswith("herdpy.catalogue") and name.split(".")[2] not in general
    ]
    assert found == []


@pytest.mark.parametrize("room", sorted(STANDARD_LIBRARY_ONLY))
def test_the_standard_library_is_enough(room: str) -> None:
    known = sys.stdlib_module_names | {"herdpy"}
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{line}: {name}"
        for module in MODULES
        if room_of(module) == room
        for line, name in imports_of(module)
        if name.partition(".")[0] not in known
    ]
    assert found == []


def process_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Uses of what spawns, signals or waits for a process."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os" | "posix" | "signal"), attr=name) if name in PROCESS_CALLS:
                yield node.lineno, f"os.{name}"
            case ast.Attribute(value=ast.Name(id="trio"), attr="run_process"):
                yield node.lineno, "trio.run_process"
            case ast.Attribute(attr="open_process" | "Popen"):
                yield node.lineno, node.attr
            case ast.Import(names=names):
                yield from ((node.lineno, one.name) for one in names if one.name in {"subprocess", "multiprocessing"})
            case ast.ImportFrom(module="subprocess" | "multiprocessing" as name):
                yield node.lineno, name
            case ast.ImportFrom(module="os" | "posix" | "signal", names=names):
                yield from ((node.lineno, f"os.{one.name}") for one in names if one.name in PROCESS_CALLS)


def test_only_the_keeper_spawns_signals_and_waits_for_processes() -> None:
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{line}: {name}"
        for module in MODULES
        if room_of(module) not in {"keeper", *CLIENTS_OWN}
        for line, name in process_calls(ast.parse(module.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import subprocess",
        "from subprocess import run",
        "import os\nos.fork()",
        "import os\ndef f():\n    os.waitpid(1, 0)",
        "from os import killpg",
        "import signal\nsignal.pidfd_send_signal(1, 2)",
        "import trio\nasync def f(): await trio.run_process(['x'])",
        "import trio\nasync def f(): await trio.lowlevel.open_process(['x'])",
    ],
)
def test_the_test_sees_such_uses(text: str) -> None:
    assert list(process_calls(ast.parse(text)))
