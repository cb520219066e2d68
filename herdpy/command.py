"""The ``herdpy`` command: reads its options, then checks the configuration or becomes the keeper.

Its imports count at each boot: no argparse, and what only ``check`` needs is imported there.
"""

import os
import sys

from herdpy.paths import Paths, default_paths, home_directory
from herdpy.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

USAGE = """\
Usage: herdpy [OPTION]...
       herdpy check [--services=DIR]... [--config=FILE]
       herdpy schema TYPE

Supervise the services that DIR/*.toml declare; without --services, the shipped declarations and those of
/etc/herdpy/services (of an ordinary user: $XDG_CONFIG_HOME/herdpy/services).
With "check", only tell the mistakes in all of this: 0 means there is none, 2 means there are some.
With "schema", only print the JSON Schema of declarations of TYPE, for editors and checkers of TOML.

  --services=DIR      a directory of declarations; later ones override earlier ones
  -c, --config=FILE   herdpy's own settings, instead of /etc/herdpy/herdpy.toml
                      (of an ordinary user: $XDG_CONFIG_HOME/herdpy/herdpy.toml)
  -s, --socket=FILE   the control socket
  --state-dir=DIR     where disk images, keys and herdpy's own state are kept
  --log-dir=DIR       where the output of services goes
  --background        return once it is ready, and go on in the background
  --pid[=FILE]        once ready, write our process ID to FILE, or to standard output
  --help              print this and exit
  --version           print the version and exit
"""

USAGE_STATUS = 1
"""Shepherd's for a wrong option; 2 would look like mistakes in the configuration."""
MISTAKES_STATUS = 2

TAKING_VALUES = ("services", "config", "socket", "state-dir", "log-dir")
SHORT = {"-c": "config", "-s": "socket"}
PLAIN = ("background", "help", "version")
OPTIONAL_VALUE = "pid"


class UsageError(Exception):
    """A command line that makes no sense; ``str()`` is one line that says why."""


class Arguments:
    """What the command line says.

    Attributes:
        services: directories, as given.
        config, socket, state_dir, log_dir: as given, or None.
        pid_file: ``-`` for standard output, None for no PID file.
        operands: what is no option.
        background, help, version: whether they are asked for.
    """

    def __init__(self) -> None:
        self.services: list[str] = []
        self.config: str | None = None
        self.socket: str | None = None
        self.state_dir: str | None = None
        self.log_dir: str | None = None
        self.pid_file: str | None = None
        self.operands: list[str] = []
        self.background = False
        self.help = False
        self.version = False


def parse(arguments: "Sequence[str]") -> Arguments:
    """Read a command line as GNU programs do: ``--opt=VALUE``, ``--opt VALUE``, unambiguous beginnings, ``--``.

    Raises:
        UsageError: an option is unknown, ambiguous, without its value, or has one that it does not take.
    """
    said = Arguments()
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            said.operands.extend(rest)
        elif argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            _set(said, _full_name(name), value if equals else None, rest)
        elif argument[:2] in SHORT:
            _set(said, SHORT[argument[:2]], argument[2:] or None, rest)
        elif argument.startswith("-") and argument != "-":
            raise UsageError(f"unknown option: {argument}")
        else:
            said.operands.append(argument)
    return said


def _full_name(name: str) -> str:
    options = (*TAKING_VALUES, *PLAIN, OPTIONAL_VALUE)
    if name in options:
        return name
    begun = [option for option in options if option.startswith(name)] if name else []
    if len(begun) > 1:
        raise UsageError(f"ambiguous option: --{name} (--{', --'.join(begun)})")
    if not begun:
        raise UsageError(f"unknown option: --{name}")
    return begun[0]


def _set(said: Arguments, name: str, value: str | None, rest: "Iterator[str]") -> None:
    if name in PLAIN:
        if value is not None:
            raise UsageError(f"--{name} takes no value")
        setattr(said, name, True)
    elif name == OPTIONAL_VALUE:
        if value == "":
            raise UsageError("--pid= needs the name of a file after the equals sign")
        said.pid_file = "-" if value is None else value
    else:
        value = next(rest, None) if value is None else value
        if not value:
            raise UsageError(f"--{name} needs a value")
        if name == "services":
            said.services.append(value)
        else:
            setattr(said, name.replace("-", "_"), value)


def paths_of(said: Arguments) -> Paths:
    """Where this herdpy's things lie: as the options say, else the defaults.

    Raises:
        UsageError: a directory given with ``--services`` is none, or the file given with ``--config`` is not there.
    """
    uid = os.geteuid()
    paths = default_paths(uid, os.environ, home_directory(uid, os.environ))
    if said.services:
        for directory in said.services:
            if not os.path.isdir(directory):
                problem = "not a directory" if os.path.exists(directory) else "no such directory"
                raise UsageError(f"--services: {problem}: {directory}")
        paths.layers = tuple(map(os.path.abspath, said.services))
        paths.trusted = ()
    if said.config:
        if not os.path.exists(said.config):
            raise UsageError(f"--config: no such file: {said.config}")
        paths.own_file = os.path.abspath(said.config)
    paths.socket = os.path.abspath(said.socket or paths.socket)
    paths.state = os.path.abspath(said.state_dir or paths.state)
    paths.log = os.path.abspath(said.log_dir or paths.log)
    return paths


def main(arguments: "Sequence[str]") -> int:
    """The command ``herdpy``, without its own name; returns the exit status."""
    try:
        said = parse(arguments)
        if said.help:
            return say(USAGE)
        if said.version:
            return say(f"herdpy {VERSION}\n")
        if said.background and said.pid_file == "-":
            raise UsageError("--pid without a file does not go with --background, which leaves standard output")
        if said.operands[:1] == ["schema"]:
            return say(schema_of(said.operands[1:]))
        is_check = said.operands == ["check"]
        if said.operands and not is_check:
            raise UsageError(f"unknown command: {' '.join(said.operands)}; there are check and schema TYPE")
        paths = paths_of(said)
    except UsageError as error:
        complain(f"herdpy: {error}; try 'herdpy --help'\n")
        return USAGE_STATUS
    if is_check:
        return check(paths)
    return supervise(paths, said.pid_file, background=said.background)


def say(text: str) -> int:
    """Write to stdout at once; return the exit status: 0, 1 when it cannot be written (a full disk), or 141 when nobody
    reads it any more, as if SIGPIPE, which Python ignores, had ended us."""
    if sys.stdout is None:  # closed: nobody wants to know
        return 0
    try:
        _write(1, text)
    except BrokenPipeError:
        return 141
    except OSError as error:
        complain(f"herdpy: cannot write to standard output: {error.strerror}\n")
        return 1
    return 0


def complain(text: str) -> None:
    """Write to stderr; when that is impossible, there is nobody to tell."""
    try:
        if sys.stderr is not None:
            _write(2, text)
    except OSError:
        return


def _write(descriptor: int, text: str) -> None:
    # Not through sys.stdout, which at the exit would try once more what has failed.
    rest = text.encode(errors="backslashreplace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def check(paths: Paths) -> int:
    """Tell every mistake in the configuration on stderr, without a daemon; returns the exit status."""
    from herdpy.supervisor.declared import declared_plan

    declared = declared_plan(paths)
    for mistake in declared.mistakes:
        complain(f"{mistake}\n")
    for caution in declared.cautions:
        complain(f"warning: {caution}\n")
    if declared.plan is None:
        return MISTAKES_STATUS
    count = len(declared.plan.services)
    return say(f"{count} {'service' if count == 1 else 'services'}, no mistakes\n")


def schema_of(types: "Sequence[str]") -> str:
    """The JSON Schema of declarations of a type, as a document.

    Raises:
        UsageError: not one type is named, or one that there is not.
    """
    import json

    from herdpy.catalogue import TYPES
    from herdpy.configuration.schema import schema

    if len(types) != 1 or types[0] not in TYPES:
        problem = f"there is no service type {types[0]}" if len(types) == 1 else "schema takes one service type"
        raise UsageError(f"{problem}; the types are {', '.join(TYPES)}")
    return f"{json.dumps(schema(TYPES[types[0]]), indent=2)}\n"


def supervise(paths: Paths, pid_file: str | None, *, background: bool = False) -> "NoReturn":
    """Be the keeper, and let it start the supervisor; the process ends with that, and its exit status."""
    from herdpy.keeper import Options, run

    options = Options(
        socket=paths.socket,
        state_directory=paths.state,
        log_directory=paths.log,
        pid_file=pid_file,
        supervisor=[sys.executable, "-I", "-m", "herdpy.supervisor"],
        arguments=[paths.to_json()],
        environment=os.environ,
    )
    if background:
        from herdpy.keeper.background import go

        options.on_ready = go()
    # The interpreter would free all that it has, object by object, for some 10 ms; nothing is left to be written.
    os._exit(run(options))
