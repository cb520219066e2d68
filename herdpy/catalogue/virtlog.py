"""The type ``virtlog``: virtlogd, which writes the logs of libvirt's guests and of their consoles."""

import os
from collections.abc import Iterator
from typing import Annotated

import msgspec

from herdpy.catalogue.common import (
    Common,
    Declaration,
    ServiceType,
    as_service,
    file_to_change,
    path_mistakes,
    rotation_facts,
)
from herdpy.catalogue.facts import HostFacts
from herdpy.libvirt import log_settings
from herdpy.libvirt.change import VirtlogdChange
from herdpy.libvirt.configuration_file import Value, render, string_problem
from herdpy.libvirt.guests import KeepLogs, Logs, TellLostLogs
from herdpy.libvirt.host import MakeDirectories
from herdpy.libvirt.placing import PlaceFile
from herdpy.libvirt.reexecution import FollowProgram, Reexecute, ReexecuteInstead, ReexecuteOnRequest
from herdpy.libvirt.rehearsal import Rehearsal
from herdpy.preparation.installed import Installed
from herdpy.service import Action, Attempt, Fact, Limit, Notify, Process, Service, Stop, plain

PACKAGE = "libvirt-daemon"
LENS = "Virtlogd"
"""What augeas calls the module that knows the keys of its file."""
GUEST_LOGS = "/var/log/libvirt/qemu"
START_TIMEOUT = 30.0
"""Seconds; an idle host takes 20 ms, a busy one has taken a second."""
OOM_SCORE = -900
"""As in libvirt's own unit for systemd: the guests' logs end with it."""
OPEN_FILES = 16384
"""Likewise: it has three open for each guest."""
LARGEST_SIZE = 2**53
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class VirtlogConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``virtlog``."""

    libvirt: str = "/usr/sbin/virtlogd"
    """The path of virtlogd. When the file there is replaced, the running virtlogd executes the new one, and every log
    goes on."""
    log_level: Annotated[int, msgspec.Meta(ge=1, le=4)] = 3
    """What is logged: 4 errors, 3 warnings too, 2 information too, 1 everything."""
    log_filters: str = "3:remote 4:event"
    """Other levels for parts of libvirt: ``LEVEL:NAME``, with blanks between them, where NAME is part of the part's."""
    log_outputs: str = "3:stderr"
    """Where it logs to, each from a level on: ``LEVEL:stderr`` (herdpy's log of it), ``LEVEL:syslog:NAME``,
    ``LEVEL:file:PATH``, ``LEVEL:journald``, with blanks between them."""
    max_clients: Annotated[int, msgspec.Meta(ge=1, le=4294967295)] = 1024
    """How many clients may be connected."""
    admin_max_clients: Annotated[int, msgspec.Meta(ge=1, le=4294967295)] = 5
    """How many may be connected to the socket of virt-admin."""
    max_size: int | str = "2MB"
    """How large a log grows before it is put aside: bytes, or a number with K, M, G or T (powers of 1024), with or
    without a B; 0 means that it grows for ever."""
    max_backups: Annotated[int, msgspec.Meta(ge=0, le=32)] = 3
    """How many logs of each guest's that were put aside are kept."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from path_mistakes("libvirt", self.libvirt)
        if problem := log_settings.filters_problem(self.log_filters) or string_problem(self.log_filters):
            yield "log-filters", problem
        if problem := log_settings.outputs_problem(self.log_outputs) or string_problem(self.log_outputs):
            yield "log-outputs", problem
        if size_in_bytes(self.max_size) is None:
            yield "max-size", f'expected bytes, or a string such as "2MB" (K, M, G, T), got {self.max_size!r}'


def size_in_bytes(size: int | str) -> int | None:
    """The bytes that ``4096``, ``"2MB"``, ``"2M"`` or ``"2MiB"`` means; None when it means none."""
    if isinstance(size, int):
        return size if 0 <= size <= LARGEST_SIZE else None
    text = size.upper().removesuffix("B")
    if size.upper().endswith("IB"):
        text = text.removesuffix("I")
        if text[-1:] not in {"K", "M", "G", "T"}:
            return None
    digits, unit = (text[:-1], text[-1:]) if text[-1:] in UNITS else (text, "")
    digits = digits.rstrip(" ")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 16:
        return None
    count = int(digits) << UNITS[unit]
    return count if count <= LARGEST_SIZE else None


def settings(configuration: VirtlogConfiguration) -> dict[str, Value]:
    """What virtlogd.conf says."""
    return {
        "log_level": configuration.log_level,
        "log_filters": configuration.log_filters,
        "log_outputs": configuration.log_outputs,
        "max_clients": configuration.max_clients,
        "admin_max_clients": configuration.admin_max_clients,
        "max_size": size_in_bytes(configuration.max_size) or 0,
        "max_backups": configuration.max_backups,
    }


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs virtlogd."""
    configuration: VirtlogConfiguration = declaration.configuration
    path = os.path.join(facts.directories.state, "libvirt", f"{declaration.name}.conf")
    where = file_to_change(declaration.source, facts)
    values = settings(configuration)
    content = render(values)
    logs = Logs(own=frozenset(_log_files(configuration.log_outputs)), is_root=facts.is_root)
    reexecute = Reexecute(
        path=path, content=content, lens=LENS, rehearsal=Rehearsal(program=configuration.libvirt, is_root=facts.is_root)
    )
    process = Process(
        # It executes itself by these very words.
        command=(configuration.libvirt, "-f", path),
        oom_score_adjustment=OOM_SCORE if facts.may_exceed_limits else None,
        limits=(Limit("nofile", OPEN_FILES, OPEN_FILES),) if facts.may_exceed_limits else (),
    )
    return (
        as_service(
            declaration,
            documentation="Write the logs of virtual machines: virtlogd.",
            prepare=(
                Installed(program=configuration.libvirt, package=PACKAGE, where=f"libvirt in {where}"),
                *((MakeDirectories(directories=(GUEST_LOGS,)),) if facts.is_root else ()),
                PlaceFile(path=path, content=content, lens=LENS),
                TellLostLogs(is_root=facts.is_root),
            ),
            attempts=(
                Attempt(
                    process=process,
                    notify=Notify(socket=facts.notification_socket(declaration.name)),
                    timeout=configuration.start_timeout or START_TIMEOUT,
                ),
            ),
            # The guard outlives a change of the file, which it must not undo.
            guards=(
                FollowProgram(program=configuration.libvirt, step=msgspec.structs.replace(reexecute, content=None)),
            ),
            on_change=VirtlogdChange(
                settings=values, directory="/run/libvirt" if facts.is_root else None, reexecute=reexecute
            ),
            stop=Stop(grace_period=configuration.grace_period, scope="process", consent=KeepLogs(logs=logs)),
            renewal=ReexecuteInstead(step=reexecute, logs=logs),
            actions=(
                Action(
                    name="reexec",
                    documentation="Have virtlogd execute itself anew, without a line of a guest's log lost.",
                    operation=ReexecuteOnRequest(step=reexecute),
                ),
            ),
            facts=tuple(_facts(declaration, facts, path)),
        ),
    )


def _log_files(outputs: str) -> Iterator[str]:
    """The files that virtlogd's own messages go to."""
    for word in outputs.split():
        _, _, rest = word.partition(":")
        if rest.startswith("file:"):
            yield rest.removeprefix("file:")


def _facts(declaration: Declaration, facts: HostFacts, path: str) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``."""
    configuration: VirtlogConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield plain("configuration-file", "configuration-file", path)
    for field in msgspec.structs.fields(VirtlogConfiguration):
        if field.name in Common.__struct_fields__:
            continue
        value = getattr(configuration, field.name)
        if field.name == "max_size":
            size = size_in_bytes(configuration.max_size) or 0
            yield Fact("max-size", "max-size", size, f"{size} bytes" if size else "no limit")
        else:
            yield plain(field.encode_name, field.encode_name, value)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


TYPE = ServiceType(
    name="virtlog",
    configuration=VirtlogConfiguration,
    services=services,
    documentation="Runs virtlogd, which writes the logs of libvirt's guests, and loses none when it is replaced.",
    file="virtlogd.conf",
    file_keys={key: key for key in settings(VirtlogConfiguration())},
)
