"""The type ``libvirt``: libvirtd, the daemon that virsh, virt-manager and others ask for virtual machines."""

import os
from collections.abc import Iterator

import msgspec

from herdpy.catalogue.common import Common, Declaration, ServiceType, as_service, file_to_change, rotation_facts
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.libvirt.configuration import GROUP, LibvirtConfiguration
from herdpy.catalogue.libvirt.settings import (
    KEYS,
    OF_THE_SYSTEM,
    cautions,
    settings,
    settings_without_polkit,
    who_may_connect,
)
from herdpy.commands import SendSignal
from herdpy.libvirt.asking import Answers, Domains, Socket
from herdpy.libvirt.change import LibvirtdChange
from herdpy.libvirt.configuration_file import render
from herdpy.libvirt.driver import Driver, Emulator
from herdpy.libvirt.host import EnsureGroup, Listening, MakeDirectories
from herdpy.libvirt.placing import DETAIL, PACKAGE, Choice, PlaceFile, PolkitAccess
from herdpy.libvirt.rehearsal import HIDDEN, Rehearsal
from herdpy.preparation.installed import Installed
from herdpy.service import Action, Attempt, Caution, Fact, Notify, Process, Service, Step, Stop, plain

VIRTLOGD = "virtlogd"
"""The service that libvirtd has guests' consoles logged by; as root it starts none itself."""
START_TIMEOUT = 60.0
"""Seconds; an idle host takes less than one, libvirtd's first start ever a few."""
LENS = "Libvirtd"
"""What augeas calls the module that knows the keys of its file."""
GUEST_LOGS = "/var/log/libvirt/qemu"
"""Nobody makes it, and without it no domain starts."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DOMAINS = "/etc/libvirt"
"""Where libvirtd finds the domains and networks that it starts by itself."""
SIGHUP = 1
CERTIFICATES = {
    "ca_file": "/etc/pki/CA/cacert.pem",
    "cert_file": "/etc/pki/libvirt/servercert.pem",
    "key_file": "/etc/pki/libvirt/private/serverkey.pem",
}
"""Where libvirtd looks for what it is not told of."""


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service that runs libvirtd."""
    configuration: LibvirtConfiguration = declaration.configuration
    path = configuration_file(declaration, facts)
    asked = _socket(configuration, facts)
    search_path = None if configuration.qemu is None else f"{configuration.qemu}:{PATH}"
    process = Process(
        command=(configuration.libvirt, "-f", path, *(("--listen",) if configuration.listen else ())),
        environment={} if search_path is None else {"PATH": search_path},
    )
    warned = cautions(configuration, facts)
    demands_password = configuration.auth_unix_rw == "sasl" and not asked.only_looks
    return (
        as_service(
            declaration,
            requirement=tuple(dict.fromkeys((VIRTLOGD, *configuration.requirement))),
            documentation="Manage virtual machines: libvirtd.",
            prepare=tuple(_preparation(declaration, facts, path)),
            attempts=(
                Attempt(
                    process=process,
                    notify=Notify(socket=facts.notification_socket(declaration.name)),
                    readiness=Answers(socket=asked, demands_password=demands_password),
                    timeout=configuration.start_timeout or START_TIMEOUT,
                    details=warning_details(warned),
                ),
            ),
            # Guests are libvirtd's descendants, and live on.
            stop=Stop(grace_period=configuration.grace_period, scope="process"),
            actions=(
                Action(
                    name="domains", documentation="Show the virtual machines that run.", operation=Domains(socket=asked)
                ),
                Action(
                    name="rescan",
                    documentation="Have libvirtd read domains' files, and set up networks' rules, again (SIGHUP).",
                    operation=SendSignal(signal=SIGHUP),
                ),
            ),
            cautions=warned,
            foresights=(
                Emulator(
                    machine=facts.system.removesuffix("-linux"),
                    path=search_path,
                    where=f"qemu in {file_to_change(declaration.source, facts)}",
                ),
            ),
            on_change=LibvirtdChange(
                settings=settings(configuration, facts),
                others=settings_without_polkit(configuration, facts),
                directory=asked.directory,
                place=_place_file(configuration, facts, path),
                rehearsal=_rehearsal(configuration, asked, path),
            ),
            facts=tuple(_facts(declaration, facts, path)),
        ),
    )


def configuration_file(declaration: Declaration, facts: HostFacts) -> str:
    """Where the daemon's configuration file is put: the package's own in /etc is left alone."""
    return os.path.join(facts.directories.state, "libvirt", f"{declaration.name}.conf")


def warning_details(warned: tuple[Caution, ...]) -> tuple[tuple[str, str], ...]:
    """What the status says of the cautions: those of one kind together."""
    by_words: dict[str, list[str]] = {}
    for caution in warned:
        by_words.setdefault(caution.words, []).append(caution.key)
    text = "; ".join(f"{', '.join(keys)}: {words}" for words, keys in by_words.items())
    return (("warning", text),) if text else ()


def _preparation(declaration: Declaration, facts: HostFacts, path: str) -> Iterator[Step]:
    configuration: LibvirtConfiguration = declaration.configuration
    source = file_to_change(declaration.source, facts)
    yield Installed(program=configuration.libvirt, package=PACKAGE, where=f"libvirt in {source}")
    if configuration.libvirt == LibvirtConfiguration().libvirt:
        yield Driver() if facts.is_root else Driver(account=None)
    if facts.is_root:
        group = configuration.unix_sock_group or GROUP
        yield EnsureGroup(group=group, create=group == GROUP, where=f"unix-sock-group in {source}")
        yield MakeDirectories(directories=(GUEST_LOGS, configuration.unix_sock_dir))
    if configuration.listen:
        yield Listening(ports=_ports(configuration), certificates=tuple(_certificates(configuration)), source=source)
    if "polkit" in configuration.access_drivers:
        yield PolkitAccess(where=f"access-drivers in {source}")
    yield _place_file(configuration, facts, path)


def _place_file(configuration: LibvirtConfiguration, facts: HostFacts, path: str) -> PlaceFile:
    values = settings(configuration, facts)
    if not facts.is_root:
        return PlaceFile(path=path, content=render(values), lens=LENS)
    others = settings_without_polkit(configuration, facts)
    choice = Choice(content=render(others), words=who_may_connect(configuration, others))
    return PlaceFile(
        path=path,
        content=render(values),
        lens=LENS,
        words=who_may_connect(configuration, values),
        without_polkit=None if others == values else choice,
    )


def _rehearsal(configuration: LibvirtConfiguration, asked: Socket, path: str) -> Rehearsal | None:
    """How another file is tried; where the sockets could not be told apart from those that there are, not at all."""
    sockets = configuration.unix_sock_dir
    if path.startswith(f"{sockets.rstrip('/')}/") or (not asked.is_root and asked.directory is not None):
        return None
    hidden = (*HIDDEN, DOMAINS, sockets)
    return Rehearsal(program=configuration.libvirt, is_root=asked.is_root, hidden=hidden)


def _ports(configuration: LibvirtConfiguration) -> tuple[tuple[str, str], ...]:
    tls = ((configuration.tls_port, "tls-port"),) if configuration.listen_tls else ()
    tcp = ((configuration.tcp_port, "tcp-port"),) if configuration.listen_tcp else ()
    return (*tls, *tcp)


def _certificates(configuration: LibvirtConfiguration) -> Iterator[tuple[str, str]]:
    if not configuration.listen_tls:
        return
    for key, usual in CERTIFICATES.items():
        yield getattr(configuration, key) or usual, key.replace("_", "-")
    if configuration.crl_file:
        yield configuration.crl_file, "crl-file"


def _socket(configuration: LibvirtConfiguration, facts: HostFacts) -> Socket:
    default = LibvirtConfiguration().unix_sock_dir
    is_own = not facts.is_root and configuration.unix_sock_dir == default
    return Socket(
        directory=None if is_own else configuration.unix_sock_dir,
        is_root=facts.is_root,
        # We have no password; an ordinary user's libvirtd has no other socket.
        only_looks=facts.is_root and configuration.auth_unix_rw == "sasl" and configuration.auth_unix_ro != "sasl",
    )


def _facts(declaration: Declaration, facts: HostFacts, path: str) -> Iterator[Fact]:
    """The lines of ``herd configuration NAME``: every field that the type has."""
    configuration: LibvirtConfiguration = declaration.configuration
    yield plain("type", "type", declaration.type)
    yield plain("configuration-file", "configuration-file", path)
    for field in msgspec.structs.fields(LibvirtConfiguration):
        if field.name in Common.__struct_fields__ or (field.name in OF_THE_SYSTEM and not facts.is_root):
            continue
        value = getattr(configuration, field.name)
        if value is None:
            value = _left_out(field.name, facts)
        text = str(value).lower() if isinstance(value, bool) else plain("", "", value).text or "none"
        yield Fact(field.encode_name, field.encode_name, list(value) if isinstance(value, tuple) else value, text)
    if facts.is_root:
        yield Fact(DETAIL, DETAIL, None, "as it finds the host when it starts", detail=DETAIL)
    yield plain("log-file", "log-file", configuration.log_file or facts.log_file(declaration.name))
    yield from rotation_facts(configuration)
    yield plain("source", "source", declaration.source)


def _left_out(name: str, facts: HostFacts) -> str:
    """What a field that was left out means, for a person."""
    match name:
        case "mdns_name":
            return f"Virtualization Host {facts.host_name}"
        case "unix_sock_group":
            return GROUP
        case "qemu":
            return "QEMU in PATH"
        case _:
            return "polkit, or none where there is no D-Bus or no polkit that knows of libvirt"


TYPE = ServiceType(
    name="libvirt",
    configuration=LibvirtConfiguration,
    services=services,
    documentation="Runs libvirtd, which manages virtual machines; guests live on when it stops.",
    file="libvirtd.conf",
    file_keys=KEYS,
)
