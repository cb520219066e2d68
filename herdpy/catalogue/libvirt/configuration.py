"""The fields of a declaration of type ``libvirt``. But for the first three they are libvirtd.conf's, and the
specification's names and defaults."""

import os
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from herdpy.catalogue.common import Common, path_mistakes
from herdpy.libvirt import log_settings
from herdpy.libvirt.configuration_file import string_problem

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=4294967295)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=4294967295)]
Seconds = Annotated[int, msgspec.Meta(ge=-1, le=2147483647)]
Scheme = Literal["none", "sasl", "polkit"]

GROUP = "libvirt"
"""The group that libvirt's packages make, and so do we."""
PERMISSIONS = ("unix_sock_ro_perms", "unix_sock_rw_perms", "unix_sock_admin_perms")
LONGEST_DIRECTORY = 107 - len("/libvirt-admin-sock")
"""Bytes: the path of a Unix socket has 107 (unix(7))."""
PORT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_+.")


class LibvirtConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``libvirt``."""

    libvirt: str = "/usr/sbin/libvirtd"
    """The path of libvirtd."""
    qemu: str | None = None
    """A directory in which libvirtd looks for QEMU's programs before it looks in PATH."""
    listen: bool = False
    """Whether it listens on the network at all (``libvirtd --listen``); the fields about TLS and TCP have no effect
    without."""
    listen_tls: bool = True
    """Whether it listens for TLS connections. That takes a certificate authority, and certificates of the server."""
    listen_tcp: bool = False
    """Whether it listens for unencrypted TCP connections."""
    tls_port: str = "16514"
    """The port of TLS: a number, or a name of services(5)."""
    tcp_port: str = "16509"
    """The port of unencrypted TCP, likewise."""
    listen_addr: str = "0.0.0.0"  # noqa: S104 - the specification's default; without listen it has no effect
    """The IP address, or the host name, that it listens on."""
    mdns_adv: bool = False
    """Whether it is advertised by mDNS. Today's libvirt ignores it."""
    mdns_name: str | None = None
    """The name that is advertised; None means ``Virtualization Host`` and the host's name. Today's libvirt ignores
    it."""
    unix_sock_group: str | None = None
    """The group whose members may connect; None means ``libvirt``, which is made when it is missing."""
    unix_sock_ro_perms: str = "0777"
    """Permissions of the socket that one can only look through, in octal digits."""
    unix_sock_rw_perms: str = "0770"
    """Permissions of the socket through which everything can be done, and its user be made root."""
    unix_sock_admin_perms: str = "0777"
    """Permissions of the socket of virt-admin; whatever they are, libvirtd lets nobody but root in."""
    unix_sock_dir: str = "/var/run/libvirt"
    """The directory of the sockets; it is made when it is missing."""
    auth_unix_ro: Scheme | None = None
    """How one proves oneself who connects to the socket for looking; None means ``polkit``, or ``none`` on a host
    without D-Bus or a polkit that knows of libvirt, where that would refuse everybody but root."""
    auth_unix_rw: Scheme | None = None
    """Likewise of the socket for everything; ``none`` leaves it to the group and the permissions. It is never chosen by
    itself when unix-sock-rw-perms lets everybody in."""
    auth_tcp: Scheme = "sasl"
    """Likewise of unencrypted TCP."""
    auth_tls: Scheme = "none"
    """Likewise of TLS, besides the client's certificate."""
    tcp_min_ssf: Annotated[int, msgspec.Meta(ge=112, le=4294967295)] = 112
    """How strong, in bits of the key, SASL's own encryption of a TCP connection has to be at least."""
    access_drivers: tuple[Literal["polkit", "none"], ...] = ()
    """What restricts what those may do that have proved themselves; nothing means: nothing. ``polkit`` is asked about
    every call, root's too, so that there must be one."""
    key_file: str = ""
    """The server's private key; empty means ``/etc/pki/libvirt/private/serverkey.pem``. Set all three or none."""
    cert_file: str = ""
    """The server's certificate; empty means ``/etc/pki/libvirt/servercert.pem``."""
    ca_file: str = ""
    """The certificate of the authority; empty means ``/etc/pki/CA/cacert.pem``."""
    crl_file: str = ""
    """The list of revoked certificates; empty means ``/etc/pki/CA/cacrl.pem``, if that is there."""
    tls_no_sanity_cert: bool = False
    """Whether libvirtd leaves out the check of its own certificates (its ``tls_no_sanity_certificate``)."""
    tls_no_verify_cert: bool = False
    """Whether clients need no certificate (its ``tls_no_verify_certificate``). Then anybody who reaches the port gets
    in."""
    tls_allowed_dn_list: tuple[str, ...] = ()
    """Patterns of the distinguished names that clients' certificates may have; nothing means: any."""
    sasl_allowed_usernames: tuple[str, ...] = ()
    """Patterns of the names that may be used with SASL (its ``sasl_allowed_username_list``); nothing means: any."""
    tls_priority: str = "NORMAL"
    """GnuTLS's priority string."""
    max_clients: Positive = 5000
    """How many clients may be connected, over all sockets."""
    max_queued_clients: Unsigned = 1000
    """How many connections may wait to be accepted."""
    max_anonymous_clients: Unsigned = 20
    """How many clients that have not proved themselves yet may be connected; 0 means that this limits nothing."""
    min_workers: Unsigned = 5
    """How many worker threads there are at first."""
    max_workers: Positive = 20
    """How many there may be."""
    prio_workers: Unsigned = 5
    """How many more there are for what never waits long, such as destroying a domain."""
    max_requests: Unsigned = 20
    """How many calls may be under way. Today's libvirt ignores it."""
    max_client_requests: Positive = 5
    """How many calls of one client may be under way."""
    admin_min_workers: Positive = 1
    """``min-workers`` of the socket of virt-admin."""
    admin_max_workers: Positive = 5
    """``max-workers`` of it."""
    admin_max_clients: Positive = 5
    """``max-clients`` of it."""
    admin_max_queued_clients: Unsigned = 5
    """``max-queued-clients`` of it."""
    admin_max_client_requests: Positive = 5
    """``max-client-requests`` of it."""
    log_level: Annotated[int, msgspec.Meta(ge=1, le=4)] = 3
    """What is logged: 4 errors, 3 warnings too, 2 information too, 1 everything."""
    log_filters: str = "3:remote 4:event"
    """Other levels for parts of libvirt: ``LEVEL:NAME``, with blanks between them, where NAME is part of the part's."""
    log_outputs: str = "3:stderr"
    """Where it logs to, each from a level on: ``LEVEL:stderr`` (herdpy's log of it), ``LEVEL:syslog:NAME``,
    ``LEVEL:file:PATH``, ``LEVEL:journald``, with blanks between them."""
    audit_level: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    """The kernel's audit: 0 never, 1 where the host has it, 2 no start without."""
    audit_logging: bool = False
    """Whether what goes to the audit is logged, too."""
    host_uuid: str = ""
    """The host's UUID; empty means that of ``host-uuid-source``."""
    host_uuid_source: Literal["smbios", "machine-id"] = "smbios"
    """Where the UUID comes from: the firmware, or ``/etc/machine-id``."""
    keepalive_interval: Seconds = 5
    """Seconds of a client's silence after which it is asked whether it is there; -1 means never."""
    keepalive_count: Unsigned = 5
    """How often it is asked before its connection is closed."""
    admin_keepalive_interval: Seconds = 5
    """``keepalive-interval`` of the socket of virt-admin."""
    admin_keepalive_count: Unsigned = 5
    """``keepalive-count`` of it."""
    ovs_timeout: Unsigned = 5
    """Seconds that Open vSwitch is waited for."""
    success_exit_codes: tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...] = ()
    """Exit codes that are no failure: none, because libvirtd ends with 0 when its drivers have failed."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from path_mistakes("libvirt", self.libvirt)
        if self.qemu is not None:
            yield from path_mistakes("qemu", self.qemu)
            if ":" in self.qemu:
                yield "qemu", "a directory of PATH cannot hold a colon"
        yield from _string_mistakes(self)
        for key in ("tls_port", "tcp_port"):
            if problem := port_problem(getattr(self, key)):
                yield _written(key), problem
        for key in PERMISSIONS:
            if permissions(getattr(self, key)) is None:
                yield _written(key), f'expected octal digits, such as "0770", got "{getattr(self, key)}"'
        if self.unix_sock_group == "":
            yield "unix-sock-group", "the name of the group is empty"
        yield from path_mistakes("unix-sock-dir", self.unix_sock_dir)
        if len(os.fsencode(self.unix_sock_dir)) > LONGEST_DIRECTORY:
            yield (
                "unix-sock-dir",
                f"has more than {LONGEST_DIRECTORY} bytes: the sockets in it would have too long paths",
            )
        if not self.listen_addr or any(character.isspace() for character in self.listen_addr):
            yield "listen-addr", f'expected an IP address or a host name, got "{self.listen_addr}"'
        if not self.tls_priority:
            yield "tls-priority", 'it is empty; libvirt\'s own is "NORMAL"'
        yield from _certificate_mistakes(self)
        if problem := log_settings.filters_problem(self.log_filters) or string_problem(self.log_filters):
            yield "log-filters", problem
        if problem := log_settings.outputs_problem(self.log_outputs) or string_problem(self.log_outputs):
            yield "log-outputs", problem
        if self.max_anonymous_clients > self.max_clients:
            yield "max-anonymous-clients", f"is above max-clients, which is {self.max_clients}"
        for least, most in (("min_workers", "max_workers"), ("admin_min_workers", "admin_max_workers")):
            if getattr(self, least) > getattr(self, most):
                yield _written(least), f"is above {_written(most)}, which is {getattr(self, most)}"
        if self.host_uuid and (problem := uuid_problem(self.host_uuid)):
            yield "host-uuid", problem


def _written(key: str) -> str:
    return key.replace("_", "-")


def _string_mistakes(configuration: LibvirtConfiguration) -> Iterator[tuple[str, str]]:
    """Strings that libvirtd.conf cannot hold."""
    for field in msgspec.structs.fields(LibvirtConfiguration):
        if field.name in {*Common.__struct_fields__, "log_filters", "log_outputs"}:
            continue
        value = getattr(configuration, field.name)
        if isinstance(value, str) and (problem := string_problem(value)):
            yield field.encode_name, problem
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if problem := string_problem(item):
                    yield f"{field.encode_name}[{index}]", problem
                elif not item:
                    yield f"{field.encode_name}[{index}]", "it is empty"


def _certificate_mistakes(configuration: LibvirtConfiguration) -> Iterator[tuple[str, str]]:
    files = {key: getattr(configuration, key) for key in ("key_file", "cert_file", "ca_file", "crl_file")}
    for key, path in files.items():
        if path:
            yield from path_mistakes(_written(key), path)
    missing = [_written(key) for key in ("key_file", "cert_file", "ca_file") if not files[key]]
    if 0 < len(missing) < 3:
        present = next(_written(key) for key in ("key_file", "cert_file", "ca_file") if files[key])
        yield present, f"is set, and {' and '.join(missing)} not: libvirtd takes all three or none"


def permissions(digits: str) -> int | None:
    """The mode that octal digits such as ``0770`` mean; None when they mean none."""
    if not 1 <= len(digits) <= 5 or not set(digits) <= set("01234567"):
        return None
    mode = int(digits, 8)
    return mode if mode <= 0o777 else None


def port_problem(port: str) -> str | None:
    """What is wrong with a port's number or name, in words; None when nothing is."""
    if port.isascii() and port.isdecimal():
        number = int(port[:6])
        return None if 1 <= number <= 65535 else f"expected a port from 1 to 65535, got {port[:20]}"
    if not PORT_CHARACTERS.issuperset(port) or not any(character.isalpha() for character in port):
        return f'expected the number of a port, or its name in services(5), got "{port}"'
    return None


def uuid_problem(text: str) -> str | None:
    """What is wrong with a UUID, in words; None when nothing is. libvirtd takes none of equal digits."""
    digits = text.replace("-", "")
    if len(digits) != 32 or not set(digits.lower()) <= set("0123456789abcdef"):
        return f'expected a UUID, such as "4dea22b3-1d52-d8f3-2516-782e98a23fa0", got "{text}"'
    if len(set(digits.lower())) == 1:
        return "the digits of a host's UUID cannot all be the same"
    return None
