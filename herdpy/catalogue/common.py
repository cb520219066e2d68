"""What every service type is made of: the fields that any declaration may set, the declaration, and the type itself."""

import math
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol, TypeVar, cast

import msgspec

from herdpy.catalogue.facts import HostFacts
from herdpy.mistake import Place
from herdpy.service import Fact, Respawn, Rotation, Service

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@")


def name_problem(name: str) -> str | None:
    """What is wrong with a service's name, in words; None when nothing is."""
    if not name:
        return "a service's name cannot be empty"
    if name[0] in "-.":
        return f"a service's name cannot begin with {name[0]!r}"
    allowed = NAME_CHARACTERS | {"/"} if name.startswith("file-system-/") else NAME_CHARACTERS
    if not allowed.issuperset(name):
        return "a service's name is made of ASCII letters, digits, '.', '_', '-' and '@'"
    return None


class LogRotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """When a log file is put aside as ``LOG-FILE.20260131T235959Z``, and for how long: the table ``log-rotation``."""

    size: str | int | None = None
    """It is put aside before it grows beyond so many bytes, or ``"10M"`` (K, M and G are powers of 1024), as far as
    whole lines allow; what is read at once, 64 KiB at most, goes into one file."""
    every: Literal["day", "week"] | None = None
    """It is put aside when the first line of a new day, or of a new week (from Monday), comes; by local time."""
    keep: Annotated[int, msgspec.Meta(ge=1)] = 5
    """So many rotated files are kept."""
    keep_days: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Rotated files whose last line is older than so many days are removed at the next rotation."""
    compress: Literal["gzip", "zstd", "none"] = "gzip"
    """What rotated files are compressed with, by a process of its own."""


def size_in_bytes(size: str | int) -> int | None:
    """The bytes that ``4096``, ``"10M"`` or ``"1G"`` means; None when it means none."""
    if isinstance(size, int):
        return size
    digits, unit = (size[:-1], size[-1:]) if size[-1:] in {"K", "M", "G"} else (size, "")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 12:
        return None
    return int(digits) << 10 * " KMG".index(unit or " ")


SMALLEST_LOG = 4096
"""Bytes. A size below is a mistake: a file for every few lines."""


class Common(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The fields that every service type has."""

    documentation: str | None = None
    """One sentence about the service; None means the type's own."""
    auto_start: bool = False
    """Whether it starts with herdpy."""
    requirement: tuple[str, ...] = ()
    """Services that must run for this one to run, besides those that its type requires."""
    wants: tuple[str, ...] = ()
    """Services that are started along with it, if they are there; it runs without them, too."""
    after: tuple[str, ...] = ()
    """Services whose start it waits for when they are starting as well, whatever comes of it."""
    essential: bool = False
    """Whether herdpy stops everything and ends, with the status of its process, when this service has ended or failed
    and is not to be respawned: for containers. A one-shot service that has done its work is not one that ended."""
    on_change: Literal["restart", "next-start"] = "next-start"
    """What follows when a reload finds that its process was spawned otherwise than it is declared by now: a restart at
    once, or nothing until its next start; the status says so meanwhile. A type may know a better way."""
    transient: bool = False
    """Whether it is no longer registered once it has stopped: for what is loaded while herdpy runs."""
    provision: tuple[str, ...] = ()
    """Further names of the service, after the declaration's."""
    respawn: bool | Literal["on-failure"] = True
    """Whether it is started again when it ended by itself; ``"on-failure"``: unless it ended with success. A start that
    nobody asked for, as at boot, is tried again, too, when it fails: after the delay, twice that and so on, up to the
    delay's limit or a minute, and as often as the other limit allows."""
    respawn_limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    """So many ends within the interval, and the service is disabled."""
    respawn_interval: Annotated[float, msgspec.Meta(gt=0)] = 7.0
    """Seconds."""
    respawn_delay: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """Seconds from the end to the next start."""
    respawn_delay_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Seconds. When set, the delay doubles with each end in a row, up to this, give or take a tenth."""
    respawn_healthy_after: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Seconds of running after which an end is again the first in a row."""
    success_exit_codes: tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...] = (0,)
    """Exit codes that are no failure."""
    no_respawn_exit_codes: tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...] = ()
    """Exit codes that forbid a respawn."""
    log_file: str | None = None
    """Where its output goes; None means ``NAME.log`` in the log directory."""
    log_rotation: LogRotation | None = None
    """When its log file is put aside, such as ``{ size = "10M", keep = 5 }``; None means never."""
    grace_period: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Seconds from the stop signal to SIGKILL. A process that says EXTEND_TIMEOUT_USEC= (sd_notify(3)) can prolong them
    to ten minutes."""
    start_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Seconds from the start until the service must be ready; None means the type's own."""

    def check(self) -> Iterator[tuple[str, str]]:
        """What the types of the fields cannot say: (key path, problem) of each mistake.

        A service type that adds its own begins with ``yield from super().check()``.
        """
        for key in ("requirement", "wants", "after", "provision"):
            for index, name in enumerate(getattr(self, key)):
                if problem := name_problem(name):
                    yield f"{key}[{index}]", f"{name!r}: {problem}"
        for key in (
            *("respawn_interval", "respawn_delay", "respawn_delay_limit", "respawn_healthy_after"),
            *("grace_period", "start_timeout"),
        ):
            seconds = getattr(self, key)
            if seconds is not None and not math.isfinite(seconds):
                yield key.replace("_", "-"), f"expected a number of seconds, got {seconds}"
        if self.respawn_delay_limit is not None and self.respawn_delay_limit < self.respawn_delay:
            yield "respawn-delay-limit", f"is below respawn-delay, which is {self.respawn_delay:g}"
        if self.log_file is not None:
            yield from path_mistakes("log-file", self.log_file)
            if os.path.isabs(self.log_file) and os.path.basename(self.log_file) in ("", ".", ".."):
                yield "log-file", f"expected the path of a file, but {self.log_file!r} can only be a directory"
        if self.log_rotation is not None:
            yield from _rotation_mistakes(self.log_rotation)

    def rotation(self) -> Rotation | None:
        """The rotation as the supervisor takes it."""
        wanted = self.log_rotation
        if wanted is None:
            return None
        return Rotation(
            size=None if wanted.size is None else size_in_bytes(wanted.size),
            every=wanted.every,
            keep=wanted.keep,
            keep_days=wanted.keep_days,
            compress=wanted.compress,
        )

    def respawn_policy(self) -> Respawn:
        """The fields about respawning as the supervisor takes them."""
        return shared(
            Respawn(
                enabled=self.respawn is not False,
                only_on_failure=self.respawn == "on-failure",
                limit=self.respawn_limit,
                interval=self.respawn_interval,
                delay=self.respawn_delay,
                delay_limit=self.respawn_delay_limit,
                healthy_after=self.respawn_healthy_after,
                success=self.success_exit_codes,
                final=self.no_respawn_exit_codes,
            )
        )


_Value = TypeVar("_Value", bound=Hashable)


def shared(value: _Value) -> _Value:
    """One object for all that are equal: most services differ in little."""
    return cast("_Value", _shared(value))


@lru_cache(maxsize=64)
def _shared(value: Hashable) -> Hashable:
    return value


def rotation_facts(configuration: Common) -> Iterator[Fact]:
    """The line of ``herd configuration NAME`` about the log's rotation, if it is rotated."""
    rotation = configuration.log_rotation
    if rotation is None:
        return
    unit = " bytes" if isinstance(rotation.size, int) else ""
    at = None if rotation.size is None else f"at {rotation.size}{unit}"
    every = None if rotation.every is None else f"every {rotation.every}"
    when = " or ".join(said for said in (at, every) if said is not None)
    for_days = "" if rotation.keep_days is None else f" for {rotation.keep_days} days"
    compression = "not compressed" if rotation.compress == "none" else f"compressed by {rotation.compress}"
    text = f"{when}; {rotation.keep} kept{for_days}, {compression}"
    yield Fact("log-rotation", "log-rotation", msgspec.to_builtins(rotation), text)


def _rotation_mistakes(rotation: LogRotation) -> Iterator[tuple[str, str]]:
    if rotation.size is None and rotation.every is None:
        yield "log-rotation", 'it says neither size, such as "10M", nor every, such as "day": nothing would be rotated'
    elif rotation.size is not None:
        size = size_in_bytes(rotation.size)
        if size is None:
            yield "log-rotation.size", f'expected bytes, or a string such as "10M" (K, M, G), got {rotation.size!r}'
        elif size < SMALLEST_LOG:
            yield "log-rotation.size", f"expected at least {SMALLEST_LOG} bytes, got {size}"


def path_mistakes(key: str, path: str) -> Iterator[tuple[str, str]]:
    """The mistake of a path that is not absolute, or that no file can have, if it is one."""
    if not os.path.isabs(path):
        yield key, f"expected an absolute path, got {path!r}"
    elif "\0" in path:
        yield key, "a path cannot hold a NUL character"


class Locations(Protocol):
    """Where a declaration's keys are written; a declaration may lie in several layers."""

    def place(self, key: str) -> Place:
        """The place of a key, or of the nearest table around it that is written anywhere."""
        ...

    def place_of_value(self, value: object, key: str = "") -> Place:
        """The first place at or below ``key`` that has this value; else the place of ``key``."""
        ...


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """One file ``NAME.toml``, or the files of that name in several layers: mostly one service, sometimes several."""

    name: str
    """The file's name without ``.toml``."""
    source: str
    """The file of the last layer that says anything about it."""
    type: str
    """The name of its service type."""
    configuration: Any
    """The type's own struct, which inherits :class:`Common`; Any so that each type can say which."""
    locations: Locations

    @property
    def provision(self) -> tuple[str, ...]:
        """The names of a declaration that makes one service: its own, then those it was given, each once."""
        return tuple(dict.fromkeys((self.name, *self.configuration.provision)))


class Unsuitable(Exception):  # noqa: N818 - it says what the declaration is
    """A declaration that is right by itself, but not on this host. Raised by a service type's ``services``.

    Args:
        key: the path of the key that has to change.
        problem: what is wrong with it here, and what to do.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


def as_service(declaration: Declaration, **own: Any) -> Service:
    """A service with what its declaration says in the fields of :class:`Common`, and what its type adds.

    Args:
        own: further fields of :class:`~herdpy.service.Service`, or other values for these.
    """
    configuration: Common = declaration.configuration
    shared: dict[str, Any] = {
        "provision": declaration.provision,
        "requirement": configuration.requirement,
        "wants": configuration.wants,
        "after": configuration.after,
        "essential": configuration.essential,
        "transient": configuration.transient,
        "on_change": configuration.on_change,
        "source": declaration.source,
        "auto_start": configuration.auto_start,
        "respawn": configuration.respawn_policy(),
        "log_file": configuration.log_file,
        "log_rotation": configuration.rotation(),
    }
    if configuration.documentation is not None:
        own["documentation"] = configuration.documentation
    return Service(**shared | own)


def file_to_change(source: str, facts: HostFacts) -> str:
    """What was shipped is not edited, for the next version replaces it, but overridden in the administrator's layer."""
    directory, file = os.path.split(source)
    if directory.endswith("/share/herdpy/services"):
        return os.path.join(facts.directories.configuration, "services", file)
    return source


class ServiceType(msgspec.Struct, frozen=True, kw_only=True):
    """A service type: a pure function from a declaration and what is known of the host to services."""

    name: str
    """What a declaration says in ``type``."""
    configuration: type[Common]
    """The struct of its fields. It may add to :meth:`Common.check`."""
    services: Callable[[Declaration, HostFacts], tuple[Service, ...]]
    """Raises :class:`Unsuitable`, and nothing else."""
    documentation: str
    """One sentence."""
    file: str = ""
    """The name of the file that the service's program reads, when fields become keys of one."""
    file_keys: Mapping[str, str] = {}
    """Its keys, by the fields that become one."""
