"""libvirtd.conf, from a declaration: the names of its keys, and what is left out."""

import msgspec

from herdpy.catalogue.common import Common
from herdpy.catalogue.facts import HostFacts
from herdpy.catalogue.libvirt.configuration import GROUP, LibvirtConfiguration, permissions
from herdpy.libvirt.configuration_file import Value
from herdpy.service import Caution

OTHER_KEYS = {
    "tls_no_sanity_cert": "tls_no_sanity_certificate",
    "tls_no_verify_cert": "tls_no_verify_certificate",
    "sasl_allowed_usernames": "sasl_allowed_username_list",
}
"""Fields whose keys have other names: libvirtd takes the specification's for unknown ones, and ignores them."""
NO_KEYS = frozenset({"libvirt", "qemu", "listen"})
"""Fields that are not about the file."""
IGNORED = ("mdns_adv", "mdns_name", "max_requests")
"""Fields that libvirt has had, and ignores since (checked with 9.0)."""
LEFT_OUT_WHEN_EMPTY = frozenset(
    {
        *("key_file", "cert_file", "ca_file", "crl_file", "host_uuid"),
        *("access_drivers", "tls_allowed_dn_list", "sasl_allowed_usernames"),
    }
)
"""What an empty value of these means to libvirtd is not: its default. No certificate can be loaded from "", no UUID be
made of it, and an empty list of names lets nobody in."""
OF_THE_SYSTEM = frozenset(
    {
        *("unix_sock_group", "unix_sock_ro_perms", "unix_sock_rw_perms", "unix_sock_admin_perms", "unix_sock_dir"),
        *("auth_unix_ro", "auth_unix_rw"),
    }
)
"""Fields whose defaults are for root's libvirtd; that of an ordinary user has its own."""
NEED_LISTEN = ("listen_tcp", "tls_port", "tcp_port", "listen_addr", "key_file", "auth_tcp", "auth_tls", "tcp_min_ssf")
"""Fields without effect when it does not listen, if they are set to anything but their defaults."""
OTHERS = 0o006
"""The permissions that let everybody use a socket."""

KEYS = {
    field.name: OTHER_KEYS.get(field.name, field.name)
    for field in msgspec.structs.fields(LibvirtConfiguration)
    if field.name not in {*NO_KEYS, *IGNORED, *Common.__struct_fields__}
}
"""The key of each field that libvirtd reads."""
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(LibvirtConfiguration)}


def settings(configuration: LibvirtConfiguration, facts: HostFacts) -> dict[str, Value]:
    """What libvirtd.conf says on a host with polkit."""
    values: dict[str, Value] = {}
    for name, key in KEYS.items():
        value = getattr(configuration, name)
        if not facts.is_root and name in OF_THE_SYSTEM and value == DEFAULTS[name]:
            continue
        if name in LEFT_OUT_WHEN_EMPTY and not value:
            continue
        if value is None:
            value = GROUP if name == "unix_sock_group" else "polkit"
        values[key] = value
    return values


def settings_without_polkit(configuration: LibvirtConfiguration, facts: HostFacts) -> dict[str, Value]:
    """What it says on a host without: who may do what is left to the sockets' group and permissions, where the
    declaration says nothing else. A socket that everybody can use is not left to them, for then everybody were root.
    """
    values = settings(configuration, facts)
    if not facts.is_root:
        return values
    if configuration.auth_unix_ro is None:
        values["auth_unix_ro"] = "none"
    if configuration.auth_unix_rw is None and not is_open(configuration):
        values["auth_unix_rw"] = "none"
    return values


def is_open(configuration: LibvirtConfiguration) -> bool:
    """Whether the socket for everything has permissions that let everybody in."""
    return bool((permissions(configuration.unix_sock_rw_perms) or 0) & OTHERS)


def who_may_connect(configuration: LibvirtConfiguration, values: dict[str, Value]) -> str:
    """Who gets in through the Unix sockets, in words."""
    group = configuration.unix_sock_group or GROUP
    match values["auth_unix_rw"]:
        case "polkit":
            everything = "polkit decides who may do everything"
        case "none" if is_open(configuration):
            everything = "everybody may do everything"
        case "none":
            everything = f"members of the group {group} may do everything"
        case scheme:
            everything = f"{scheme} decides who may do everything"
    if values["auth_unix_ro"] == values["auth_unix_rw"] and values["auth_unix_ro"] != "none":
        return f"{everything}, and who may look"
    looking = "everybody may look" if values["auth_unix_ro"] == "none" else f"{values['auth_unix_ro']} who may look"
    return f"{everything}, {looking}"


def cautions(configuration: LibvirtConfiguration, facts: HostFacts) -> tuple[Caution, ...]:
    """What is right, but does not do what one may think."""

    def changed(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(configuration, name) != DEFAULTS[name]]

    found = [Caution(_written(name), "today's libvirt ignores it") for name in changed(IGNORED)]
    if not configuration.listen:
        found += [Caution(_written(name), "has no effect without listen = true") for name in changed(NEED_LISTEN)]
    if facts.is_root and configuration.auth_unix_rw == "none" and is_open(configuration):
        text = 'lets everybody on this host do everything, as root, with auth-unix-rw = "none"; "0770" does not'
        found.append(Caution("unix-sock-rw-perms", text))
    if configuration.listen and configuration.listen_tls and configuration.tls_no_verify_cert:
        found.append(Caution("tls-no-verify-cert", "lets everybody who reaches the port do everything"))
    return tuple(found)


def _written(name: str) -> str:
    return name.replace("_", "-")
