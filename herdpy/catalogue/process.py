"""The type ``process``: one command, running as long as it does."""

import os
import shlex
import signal
from collections.abc import Iterator
from typing import Annotated

import msgspec

from herdpy.catalogue.common import Common, Declaration, ServiceType, Unsuitable, path_mistakes
from herdpy.catalogue.facts import HostFacts
from herdpy.service import Attempt, Fact, Process, Service, Stop


class ProcessConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``process``."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Program and arguments, as execve(2) takes them: no shell reads them. The program is looked up in PATH."""
    directory: str | None = None
    """Working directory; None means ``/`` for root and the home directory for an ordinary user."""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables added to the base environment."""
    user: str | None = None
    """Name of the user it runs as; only root can set it."""
    group: str | None = None
    """Name of its group; None means the user's own."""
    supplementary_groups: tuple[str, ...] | None = None
    umask: str | None = None
    """Its file creation mask in octal digits, as umask(1p) takes it."""
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
        if self.directory is not None:
            yield from path_mistakes("directory", self.directory)
        if self.umask is not None and file_mode_mask(self.umask) is None:
            yield "umask", f'expected octal digits from "000" to "777", such as "022", got "{self.umask}"'
        if signal_number(self.stop_signal) is None:
            yield "stop-signal", f"no such signal: {self.stop_signal!r}; signal(7) names them, such as TERM"


def file_mode_mask(digits: str) -> int | None:
    """The number that octal digits such as ``022`` stand for; None when they are no umask."""
    if not 1 <= len(digits) <= 4 or not set(digits) <= set("01234567"):
        return None
    mask = int(digits, 8)
    return mask if mask <= 0o777 else None


def signal_number(signal_name: str | int) -> int | None:
    """The number of a signal named ``TERM``, ``SIGTERM`` or 15; None when Linux has no such signal."""
    if isinstance(signal_name, int):
        return signal_name if signal_name in signal.valid_signals() else None
    name = signal_name.upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    return None if found is None else int(found)


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs the command.

    Raises:
        Unsuitable: it names a user or groups, but herdpy does not run as root.
    """
    configuration: ProcessConfiguration = declaration.configuration
    if not facts.is_root:
        _refuse_other_identity(configuration, facts)
    process = Process(
        command=configuration.command,
        environment=configuration.environment,
        directory=configuration.directory,
        user=configuration.user,
        group=configuration.group,
        supplementary_groups=configuration.supplementary_groups,
        umask=None if configuration.umask is None else file_mode_mask(configuration.umask),
    )
    attempt = Attempt(process=process)
    if configuration.start_timeout is not None:
        attempt = msgspec.structs.replace(attempt, timeout=configuration.start_timeout)
    stop_signal = signal_number(configuration.stop_signal)
    assert stop_signal is not None  # check() has seen to it
    return (
        Service(
            provision=declaration.provision,
            requirement=configuration.requirement,
            documentation=configuration.documentation or f"Run {os.path.basename(configuration.command[0])}.",
            source=declaration.source,
            auto_start=configuration.auto_start,
            attempts=(attempt,),
            stop=Stop(signal=stop_signal, grace_period=configuration.grace_period),
            respawn=configuration.respawn_policy(),
            log_file=configuration.log_file,
            log_rotation=configuration.rotation(),
            facts=tuple(_facts(declaration, configuration, facts)),
        ),
    )


def _refuse_other_identity(configuration: ProcessConfiguration, facts: HostFacts) -> None:
    next_step = "leave it out, or let root's herdpy run this service"
    if configuration.user not in {None, facts.user}:
        raise Unsuitable("user", f"only root can run a service as {configuration.user}, not {facts.user}; {next_step}")
    for key, value in (("group", configuration.group), ("supplementary-groups", configuration.supplementary_groups)):
        if value is not None:
            raise Unsuitable(key, f"only root can set it, not {facts.user}; {next_step}")


def _facts(declaration: Declaration, configuration: ProcessConfiguration, facts: HostFacts) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""

    def fact(key: str, value: object, text: str | None = None) -> Fact:
        return Fact(key=key, label=key, value=value, text=str(value) if text is None else text)

    yield fact("type", declaration.type)
    yield fact("command", list(configuration.command), shlex.join(configuration.command))
    yield fact("directory", configuration.directory or ("/" if facts.is_root else facts.home))
    if configuration.environment:
        variables = [f"{name}={value}" for name, value in configuration.environment.items()]
        yield fact("environment", dict(configuration.environment), shlex.join(variables))
    yield fact("user", configuration.user or facts.user)
    if configuration.group is not None:
        yield fact("group", configuration.group)
    if configuration.supplementary_groups is not None:
        groups = configuration.supplementary_groups
        yield fact("supplementary-groups", list(groups), " ".join(groups) or "none")
    if configuration.umask is not None:
        yield fact("umask", configuration.umask)
    yield fact("stop-signal", configuration.stop_signal)
    yield fact("grace-period", configuration.grace_period, f"{configuration.grace_period:g} s")
    yield fact("log-file", configuration.log_file or facts.log_file(declaration.name))
    yield fact("source", declaration.source)


TYPE = ServiceType(
    name="process",
    configuration=ProcessConfiguration,
    services=services,
    documentation="Runs a command and keeps it running.",
)
