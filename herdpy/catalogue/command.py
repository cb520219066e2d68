"""The fields of every type that runs a command: which one, as whom, with what; and the process that they make."""

import shlex
import signal
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from herdpy.catalogue.common import NAME_CHARACTERS, Common, Declaration, Unsuitable, path_mistakes, shared
from herdpy.catalogue.facts import HostFacts
from herdpy.kernel import CAPABILITIES, LIMITS
from herdpy.mistake import did_you_mean
from herdpy.preparation.credentials import PlaceCredentials, RemoveCredentials
from herdpy.preparation.environment_file import EnvironmentFile
from herdpy.service import Fact, Limit, Process, Step, Stop, plain

NO_VARIABLES: dict[str, str] = {}
"""One for all processes that are given none of their own; nobody changes what a process has."""

LARGEST_LIMIT = 2**53
"""Of what a resource limit can be, but for unlimited."""


PASSING = frozenset({"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"})
"""With one of these, a process passes through directories whatever their modes are (capabilities(7))."""

LONGEST = 160 * 1024
"""Bytes of command and environment in JSON: the keeper, which executes them, is told in one message
(herdpy.keeper.message, LIMIT)."""


class CommandConfiguration(Common, frozen=True, kw_only=True):
    """The fields of every type that runs a command of the declaration's."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Program and arguments, as execve(2) takes them: no shell reads them. The program is looked up in PATH."""
    directory: str | None = None
    """Working directory; None means ``/`` for root and the home directory for an ordinary user."""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables added to the base environment."""
    environment_files: tuple[str, ...] = ()
    """Absolute paths of files of variables, over those of ``environment``, later files over earlier ones; read at each
    start. A ``-`` before a path means that it may be missing. Lines are ``NAME=VALUE``, the value in quotes if need be,
    or comments with ``#``."""
    credentials: dict[str, str] = msgspec.field(default_factory=dict)
    """Names, and absolute paths of files: at each start, copies are put into a directory that only the service's user
    can read, which CREDENTIALS_DIRECTORY names; after the end they are removed."""
    user: str | None = None
    """Name of the user it runs as; only root can set it."""
    group: str | None = None
    """Name of its group; None means the user's own."""
    supplementary_groups: tuple[str, ...] | None = None
    umask: str | None = None
    """Its file creation mask in octal digits, as umask(1p) takes it."""
    resource_limits: dict[str, int | str | tuple[int | str, ...]] = msgspec.field(default_factory=dict)
    """Limits by their names in setrlimit(2) without RLIMIT_, in lower case: ``nofile = 1024`` or, soft and hard,
    ``nofile = [1024, "unlimited"]``; in setrlimit(2)'s units. Others are those that herdpy was started with."""
    nice: Annotated[int, msgspec.Meta(ge=-20, le=19)] | None = None
    """The nice value; below herdpy's own it takes root."""
    oom_score_adjustment: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] | None = None
    """How likely it is killed when memory runs out: at -1000 never, at 1000 first. Below herdpy's own it takes root."""
    ambient_capabilities: tuple[str, ...] = ()
    """What it may do although its user is not root, by the names in capabilities(7), such as ``CAP_NET_BIND_SERVICE``;
    root has them all in any case."""
    no_new_privileges: bool = False
    """Whether no program that it executes gets privileges by itself, as sudo does."""
    stop_signal: str | int = "TERM"
    """The signal that asks it to end: a name of signal(7), with or without SIG, or a number."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        if not self.command[0]:
            yield "command[0]", "the program's name is empty"
        for index, argument in enumerate(self.command):
            if "\0" in argument:
                yield f"command[{index}]", "an argument cannot hold a NUL character"
        for name, value in self.environment.items():
            if not name or "=" in name or "\0" in name:
                yield "environment", f"{name!r}: the name of a variable is not empty and holds no '=' and no NUL"
            elif "\0" in value:
                yield f"environment.{name}", "a variable's value cannot hold a NUL character"
        if len(msgspec.json.encode((self.command, self.environment))) > LONGEST:
            yield "command", f"it and the environment are longer than {LONGEST // 1024} KiB altogether"
        if self.directory is not None:
            yield from path_mistakes("directory", self.directory)
        if self.umask is not None and file_mode_mask(self.umask) is None:
            yield "umask", f'expected octal digits from "000" to "777", such as "022", got "{self.umask}"'
        for index, path in enumerate(self.environment_files):
            yield from path_mistakes(f"environment-files[{index}]", path.removeprefix("-"))
        for name, path in self.credentials.items():
            if not name or name[0] == "." or not NAME_CHARACTERS.issuperset(name) or len(name) > 255:
                yield (
                    "credentials",
                    f"{name!r}: a credential's name is made of ASCII letters, digits, '.', '_', '-' and '@'",
                )
            else:
                yield from path_mistakes(f'credentials."{name}"', path)
        for name, limit in self.resource_limits.items():
            if name not in LIMITS:
                yield "resource-limits", f"{name!r}: no such limit{did_you_mean(name, LIMITS)}; setrlimit(2) names them"
            elif resource_limit(name, limit) is None:
                yield (
                    f"resource-limits.{name}",
                    'expected a number, "unlimited", or two of these in a list: the soft limit, not above the hard one',
                )
        for index, name in enumerate(self.ambient_capabilities):
            if name not in CAPABILITIES:
                near = did_you_mean(name if name.upper().startswith("CAP_") else f"CAP_{name}", CAPABILITIES)
                yield (
                    f"ambient-capabilities[{index}]",
                    f"{name!r}: no such capability{near}; capabilities(7) names them",
                )
        if signal_number(self.stop_signal) is None:
            yield "stop-signal", f"no such signal: {self.stop_signal!r}; signal(7) names them, such as TERM"


def file_mode_mask(digits: str) -> int | None:
    """The number that octal digits such as ``022`` stand for; None when they are no umask."""
    if not 1 <= len(digits) <= 4 or not set(digits) <= set("01234567"):
        return None
    mask = int(digits, 8)
    return mask if mask <= 0o777 else None


def resource_limit(name: str, declared: int | str | tuple[int | str, ...]) -> Limit | None:
    """The limit that ``1024``, ``"unlimited"`` or ``(1024, "unlimited")`` means; None when it means none."""
    both = declared if isinstance(declared, tuple) else (declared, declared)
    if len(both) != 2:
        return None
    for value in both:
        if value != "unlimited" and (isinstance(value, str) or not 0 <= value <= LARGEST_LIMIT):
            return None
    soft, hard = (value if isinstance(value, int) else None for value in both)
    if hard is not None and (soft is None or soft > hard):
        return None
    return Limit(name, soft, hard)


def signal_number(signal_name: str | int) -> int | None:
    """The number of a signal named ``TERM``, ``SIGTERM`` or 15; None when Linux has no such signal."""
    if isinstance(signal_name, int):
        return signal_name if signal_name in signal.valid_signals() else None
    name = signal_name.upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    return None if found is None else int(found)


def process(declaration: Declaration, facts: HostFacts) -> Process:
    """The process that a declaration with a :class:`CommandConfiguration` describes.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: CommandConfiguration = declaration.configuration
    if not facts.is_root:
        _refuse_other_identity(configuration, facts)
    environment = configuration.environment or NO_VARIABLES
    if configuration.credentials:
        environment = environment | {"CREDENTIALS_DIRECTORY": facts.credentials_directory(declaration.name)}
    limits = (resource_limit(name, limit) for name, limit in configuration.resource_limits.items())
    return Process(
        command=shared(tuple(map(shared, configuration.command))),
        environment=environment,
        variables=tuple(
            EnvironmentFile(path=path.removeprefix("-"), may_be_missing=path.startswith("-"))
            for path in configuration.environment_files
        ),
        limits=tuple(limit for limit in limits if limit is not None),  # check() has seen to it
        nice=configuration.nice,
        oom_score_adjustment=configuration.oom_score_adjustment,
        ambient_capabilities=configuration.ambient_capabilities,
        no_new_privileges=configuration.no_new_privileges,
        directory=configuration.directory,
        user=configuration.user,
        group=configuration.group,
        supplementary_groups=configuration.supplementary_groups,
        umask=None if configuration.umask is None else file_mode_mask(configuration.umask),
    )


def preparation(declaration: Declaration, facts: HostFacts) -> tuple[Step, ...]:
    """What is to be done before :func:`process` is spawned."""
    configuration: CommandConfiguration = declaration.configuration
    if not configuration.credentials:
        return ()
    files = tuple(configuration.credentials.items())
    directory = facts.credentials_directory(declaration.name)
    passes = not PASSING.isdisjoint(configuration.ambient_capabilities)
    return (PlaceCredentials(directory=directory, files=files, user=configuration.user, passes_everywhere=passes),)


def aftermath(declaration: Declaration, facts: HostFacts) -> tuple[Step, ...]:
    """What is to be done after its end."""
    if not declaration.configuration.credentials:
        return ()
    return (RemoveCredentials(directory=facts.credentials_directory(declaration.name)),)


def stop(configuration: CommandConfiguration) -> Stop:
    """How it is stopped."""
    number = signal_number(configuration.stop_signal)
    assert number is not None  # check() has seen to it
    return Stop(signal=number, grace_period=configuration.grace_period)


def _refuse_other_identity(configuration: CommandConfiguration, facts: HostFacts) -> None:
    next_step = "leave it out, or let root's herdpy run this service"
    if configuration.user not in {None, facts.user}:
        raise Unsuitable("user", f"only root can run a service as {configuration.user}, not {facts.user}; {next_step}")
    for key, value in (("group", configuration.group), ("supplementary-groups", configuration.supplementary_groups)):
        if value is not None:
            raise Unsuitable(key, f"only root can set it, not {facts.user}; {next_step}")


def command_facts(declaration: Declaration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME`` about the process."""
    configuration: CommandConfiguration = declaration.configuration

    def fact(key: str, value: object, text: str | None = None) -> Fact:
        return Fact(key=key, label=key, value=value, text=str(value) if text is None else text)

    yield fact("command", list(configuration.command), shlex.join(configuration.command))
    yield fact("directory", configuration.directory or ("/" if facts.is_root else facts.home))
    if configuration.environment:
        variables = [f"{name}={value}" for name, value in configuration.environment.items()]
        yield fact("environment", dict(configuration.environment), shlex.join(variables))
    if configuration.environment_files:
        yield plain("environment-files", "environment-files", configuration.environment_files)
    if configuration.credentials:
        sources = ", ".join(f"{name} from {path}" for name, path in configuration.credentials.items())
        yield fact("credentials", dict(configuration.credentials), sources)
        yield fact("credentials-directory", facts.credentials_directory(declaration.name))
    yield fact("user", configuration.user or facts.user)
    if configuration.group is not None:
        yield fact("group", configuration.group)
    if configuration.supplementary_groups is not None:
        groups = configuration.supplementary_groups
        yield fact("supplementary-groups", list(groups), " ".join(groups) or "none")
    if configuration.umask is not None:
        yield fact("umask", configuration.umask)
    if configuration.resource_limits:
        yield fact("resource-limits", dict(configuration.resource_limits), _limits_text(configuration.resource_limits))
    if configuration.nice is not None:
        yield fact("nice", configuration.nice)
    if configuration.oom_score_adjustment is not None:
        yield fact("oom-score-adjustment", configuration.oom_score_adjustment)
    if configuration.ambient_capabilities:
        yield plain("ambient-capabilities", "ambient-capabilities", configuration.ambient_capabilities)
    if configuration.no_new_privileges:
        yield fact("no-new-privileges", True, "yes")
    yield fact("stop-signal", configuration.stop_signal)
    yield fact("grace-period", configuration.grace_period, f"{configuration.grace_period:g} s")


def _limits_text(limits: Mapping[str, int | str | tuple[int | str, ...]]) -> str:
    """``nofile 1024 (hard 4096), core 0``."""
    return ", ".join(
        f"{name} {limit[0]} (hard {limit[1]})" if isinstance(limit, tuple) else f"{name} {limit}"
        for name, limit in limits.items()
    )
