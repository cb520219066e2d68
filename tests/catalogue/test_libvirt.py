"""The type libvirt, by the values it makes."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Common, Declaration
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.catalogue.libvirt import services
from herdpy.catalogue.libvirt.configuration import LibvirtConfiguration, uuid_problem
from herdpy.catalogue.libvirt.settings import IGNORED, KEYS
from herdpy.configuration import declared_services
from herdpy.libvirt.asking import Answers, Socket
from herdpy.libvirt.driver import Driver
from herdpy.libvirt.host import EnsureGroup, Listening, MakeDirectories
from herdpy.libvirt.placing import PlaceFile
from herdpy.mistake import Place
from herdpy.preparation.installed import Installed
from herdpy.qemu.accelerator import Accelerator
from herdpy.service import Caution, Notify, Process, Service, Stop
from tests.catalogue.libvirt_samples import LIBVIRT, NEEDS

DIRECTORIES = Directories(
    state="/state", log="/log", configuration="/etc", runtime="/run", socket="/run/socket", secrets="/secrets"
)


class Nowhere:
    """The locations of a declaration that no file holds."""

    def place(self, key: str) -> Place:
        return Place(file="/l.toml", key=key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        return Place(file="/l.toml", key=key)


def facts(uid: int = 0) -> HostFacts:
    return HostFacts(
        uid=uid,
        user="root" if uid == 0 else "alice",
        home="/home/alice",
        directories=DIRECTORIES,
        system="x86_64-linux",
        guix=None,
        accelerator=Accelerator(kvm=False, reason="there is no /dev/kvm"),
        host_name="farm",
    )


def made(host: HostFacts | None = None, /, **fields: Any) -> Service:
    configuration = msgspec.convert(fields, LibvirtConfiguration)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="libvirtd", source="/l.toml", type="libvirt", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, host or facts())
    return service


def step(service: Service, kind: type[Any]) -> Any:
    return next((one for one in service.prepare if isinstance(one, kind)), None)


def lines(service: Service, *, polkit: bool = True) -> list[str]:
    """What the file says, without its first line."""
    placed: PlaceFile = step(service, PlaceFile)
    if not polkit and placed.without_polkit is not None:
        return placed.without_polkit.content.splitlines()[1:]
    return placed.content.splitlines()[1:]


def test_the_defaults_are_the_specifications() -> None:
    assert lines(made()) == [
        "listen_tls = 1",
        "listen_tcp = 0",
        'tls_port = "16514"',
        'tcp_port = "16509"',
        'listen_addr = "0.0.0.0"',
        'unix_sock_group = "libvirt"',
        'unix_sock_ro_perms = "0777"',
        'unix_sock_rw_perms = "0770"',
        'unix_sock_admin_perms = "0777"',
        'unix_sock_dir = "/var/run/libvirt"',
        'auth_unix_ro = "polkit"',
        'auth_unix_rw = "polkit"',
        'auth_tcp = "sasl"',
        'auth_tls = "none"',
        "tcp_min_ssf = 112",
        "tls_no_sanity_certificate = 0",
        "tls_no_verify_certificate = 0",
        'tls_priority = "NORMAL"',
        "max_clients = 5000",
        "max_queued_clients = 1000",
        "max_anonymous_clients = 20",
        "min_workers = 5",
        "max_workers = 20",
        "prio_workers = 5",
        "max_client_requests = 5",
        "admin_min_workers = 1",
        "admin_max_workers = 5",
        "admin_max_clients = 5",
        "admin_max_queued_clients = 5",
        "admin_max_client_requests = 5",
        "log_level = 3",
        'log_filters = "3:remote 4:event"',
        'log_outputs = "3:stderr"',
        "audit_level = 1",
        "audit_logging = 0",
        'host_uuid_source = "smbios"',
        "keepalive_interval = 5",
        "keepalive_count = 5",
        "admin_keepalive_interval = 5",
        "admin_keepalive_count = 5",
        "ovs_timeout = 5",
    ]


def test_every_field_has_a_sample() -> None:
    own = [f.encode_name for f in msgspec.structs.fields(LibvirtConfiguration) if f.name not in _common()]
    assert own == list(LIBVIRT)
    assert len(KEYS) + len(IGNORED) + 3 == len(own)


def _common() -> tuple[str, ...]:
    return Common.__struct_fields__


@pytest.mark.parametrize("key", list(LIBVIRT))
def test_a_field_reaches_the_file(key: str) -> None:
    value, line = LIBVIRT[key]
    before, after = lines(made()), lines(made(**{**NEEDS.get(key, {}), key: value}))
    if line is None:
        assert after == before
    else:
        assert line in after
        name = line.partition(" ")[0]
        assert sum(one.startswith(f"{name} ") for one in after) == 1
        assert line not in before


def test_the_process() -> None:
    service = made()
    assert service.provision == ("libvirtd",)
    assert service.requirement == ("virtlogd",)
    [attempt] = service.attempts
    assert attempt.process == Process(command=("/usr/sbin/libvirtd", "-f", "/state/libvirt/libvirtd.conf"))
    assert attempt.notify == Notify(socket="/state/notify/libvirtd")
    assert attempt.readiness == Answers(
        socket=Socket(directory="/var/run/libvirt", is_root=True), demands_password=False
    )
    assert service.stop == Stop(scope="process")
    assert 0 not in service.respawn.success
    assert service.respawn.enabled
    assert {action.name for action in service.actions} == {"domains", "rescan"}
    assert service.prepare[:4] == (
        Installed(program="/usr/sbin/libvirtd", package="libvirt-daemon-system", where="libvirt in /l.toml"),
        Driver(account="libvirt-qemu"),
        EnsureGroup(group="libvirt", create=True, where="unix-sock-group in /l.toml"),
        MakeDirectories(directories=("/var/log/libvirt/qemu", "/var/run/libvirt")),
    )


def test_other_programs_and_further_requirements() -> None:
    service = made(libvirt="/opt/sbin/libvirtd", qemu="/opt/qemu", requirement=["networking", "virtlogd"])
    process = service.attempts[0].process
    assert process.command[0] == "/opt/sbin/libvirtd"
    assert process.environment["PATH"].startswith("/opt/qemu:/usr/local/sbin:")
    assert service.requirement == ("virtlogd", "networking")


def test_a_group_of_ones_own_is_not_created() -> None:
    assert step(made(**{"unix-sock-group": "operators"}), EnsureGroup).create is False
    assert step(made(**{"unix-sock-group": "libvirt"}), EnsureGroup).create is True


def test_to_listen_takes_certificates_and_ports() -> None:
    assert step(made(), Listening) is None
    listening = made(listen=True)
    assert listening.attempts[0].process.command[-1] == "--listen"
    assert step(listening, Listening) == Listening(
        ports=(("16514", "tls-port"),),
        certificates=(
            ("/etc/pki/CA/cacert.pem", "ca-file"),
            ("/etc/pki/libvirt/servercert.pem", "cert-file"),
            ("/etc/pki/libvirt/private/serverkey.pem", "key-file"),
        ),
        source="/l.toml",
    )
    tcp = step(made(**{"listen": True, "listen-tls": False, "listen-tcp": True, "tcp-port": "ftp"}), Listening)
    assert (tcp.ports, tcp.certificates) == ((("ftp", "tcp-port"),), ())


def test_without_polkit_the_group_and_the_permissions_decide() -> None:
    said = lines(made(), polkit=False)
    assert 'auth_unix_ro = "none"' in said
    assert 'auth_unix_rw = "none"' in said
    assert 'unix_sock_group = "libvirt"' in said
    assert 'unix_sock_rw_perms = "0770"' in said
    words = step(made(), PlaceFile).without_polkit.words
    assert words == "members of the group libvirt may do everything, everybody may look"
    assert step(made(), PlaceFile).words == "polkit decides who may do everything, and who may look"


def test_without_polkit_nobody_becomes_root_by_a_socket_that_is_open_to_all() -> None:
    said = lines(made(**{"unix-sock-rw-perms": "0777"}), polkit=False)
    assert 'auth_unix_rw = "polkit"' in said  # which refuses everybody but root
    assert 'auth_unix_ro = "none"' in said


def test_what_a_person_has_chosen_stays_without_polkit() -> None:
    chosen = {"auth-unix-ro": "polkit", "auth-unix-rw": "sasl"}
    placed = step(made(**chosen), PlaceFile)
    assert placed.without_polkit is None
    assert placed.words == "sasl decides who may do everything, polkit who may look"
    # Of SASL we have no password; who may look can tell us as much.
    socket = Socket(directory="/var/run/libvirt", is_root=True, only_looks=True)
    assert made(**chosen).attempts[0].readiness == Answers(socket=socket, demands_password=False)
    assert made(**{**chosen, "auth-unix-ro": "sasl"}).attempts[0].readiness == Answers(
        socket=Socket(directory="/var/run/libvirt", is_root=True), demands_password=True
    )


def test_an_ordinary_users_libvirtd_has_its_own_defaults() -> None:
    service = made(facts(1000))
    assert not any(line.startswith(("unix_sock", "auth_unix")) for line in lines(service))
    assert step(service, EnsureGroup) is step(service, MakeDirectories) is None
    assert service.attempts[0].readiness == Answers(
        socket=Socket(directory=None, is_root=False), demands_password=False
    )
    assert 'unix_sock_dir = "/tmp/x"' in lines(made(facts(1000), **{"unix-sock-dir": "/tmp/x"}))


def test_what_does_not_do_what_one_may_think_is_told_at_once() -> None:
    assert made().cautions == ()
    service = made(**{"mdns-adv": True, "max-requests": 30, "tls-port": "16555"})
    assert service.cautions == (
        Caution("mdns-adv", "today's libvirt ignores it"),
        Caution("max-requests", "today's libvirt ignores it"),
        Caution("tls-port", "has no effect without listen = true"),
    )
    assert service.attempts[0].details == (
        (
            "warning",
            "mdns-adv, max-requests: today's libvirt ignores it; tls-port: has no effect without listen = true",
        ),
    )
    [caution] = made(**{"unix-sock-rw-perms": "0777", "auth-unix-rw": "none"}).cautions
    assert caution.key == "unix-sock-rw-perms"
    assert "as root" in caution.words


def test_the_configuration_shows_every_field_and_the_hosts_name() -> None:
    texts = {fact.key: fact.text for fact in made().facts}
    assert set(LIBVIRT) < texts.keys()
    assert texts["mdns-name"] == "Virtualization Host farm"
    assert texts["listen-tls"] == "true"
    assert texts["configuration-file"] == "/state/libvirt/libvirtd.conf"
    assert msgspec.json.decode(msgspec.json.encode({fact.key: fact.value for fact in made().facts}))["max-clients"]


WRONG: list[tuple[str, str]] = [
    ('libvirt = "libvirtd"', "libvirt: expected an absolute path"),
    ('qemu = "bin"', "qemu: expected an absolute path"),
    ('qemu = "/a:/b"', "qemu: a directory of PATH cannot hold a colon"),
    ("listen = 1", "listen: expected true or false"),
    ('listen-tls = "yes"', "listen-tls: expected true or false"),
    ("tls-port = 16514", "tls-port: expected a string"),
    ('tls-port = "0"', "tls-port: expected a port from 1 to 65535"),
    ('tls-port = "65536"', "tls-port: expected a port from 1 to 65535"),
    ('tcp-port = "99999"', "tcp-port: expected a port from 1 to 65535"),
    ('tcp-port = "a b"', "tcp-port: expected the number of a port, or its name"),
    ('tcp-port = ""', "tcp-port: expected the number of a port, or its name"),
    ('listen-addr = ""', "listen-addr: expected an IP address or a host name"),
    ('listen-addr = "a b"', "listen-addr: expected an IP address or a host name"),
    ('unix-sock-group = ""', "unix-sock-group: the name of the group is empty"),
    ('unix-sock-ro-perms = "0778"', "unix-sock-ro-perms: expected octal digits"),
    ('unix-sock-rw-perms = "rw"', "unix-sock-rw-perms: expected octal digits"),
    ('unix-sock-rw-perms = "7777"', "unix-sock-rw-perms: expected octal digits"),
    ("unix-sock-rw-perms = 0o770", "unix-sock-rw-perms: expected a string"),
    ('unix-sock-admin-perms = ""', "unix-sock-admin-perms: expected octal digits"),
    ('unix-sock-dir = "run"', "unix-sock-dir: expected an absolute path"),
    (f'unix-sock-dir = "/{"x" * 100}"', "unix-sock-dir: has more than 88 bytes"),
    ('auth-unix-ro = "bogus"', "auth-unix-ro: "),
    ('auth-unix-rw = ""', "auth-unix-rw: "),
    ('auth-tcp = "tls"', "auth-tcp: "),
    ("auth-tls = false", "auth-tls: "),
    ("tcp-min-ssf = 56", "tcp-min-ssf: expected a whole number"),
    ('access-drivers = ["bogus"]', "access-drivers[0]: "),
    ('access-drivers = "polkit"', "access-drivers: "),
    ('key-file = "/k.pem"', "key-file: is set, and cert-file and ca-file not"),
    ('crl-file = "crl.pem"', "crl-file: expected an absolute path"),
    ('tls-allowed-dn-list = [""]', "tls-allowed-dn-list[0]: it is empty"),
    ('sasl-allowed-usernames = ["a\\nb"]', "sasl-allowed-usernames[0]: a string of libvirt's configuration files"),
    ('tls-priority = ""', "tls-priority: it is empty"),
    ('tls-priority = """a"b\'c"""', "tls-priority: a string of libvirt's configuration files cannot hold both"),
    ("max-clients = -1", "max-clients: expected a whole number"),
    ("max-clients = 0", "max-clients: expected a whole number"),
    ("max-clients = 4294967296", "max-clients: expected a whole number"),
    ("max-clients = 10", "max-anonymous-clients: is above max-clients, which is 10"),
    ('max-queued-clients = "1"', "max-queued-clients: expected a whole number"),
    ("max-workers = 0", "max-workers: expected a whole number"),
    ("max-workers = 4", "min-workers: is above max-workers, which is 4"),
    ("admin-min-workers = 6", "admin-min-workers: is above admin-max-workers, which is 5"),
    ("max-client-requests = 1.5", "max-client-requests: expected a whole number"),
    ("log-level = 0", "log-level: expected a whole number from 1 to 4"),
    ("log-level = 5", "log-level: expected a whole number from 1 to 4"),
    ('log-filters = "remote"', "log-filters: 'remote': expected LEVEL:NAME"),
    ('log-filters = "5:remote"', "log-filters: '5:remote': expected a level"),
    ('log-filters = "3:"', "log-filters: '3:': the name of what is to be filtered is missing"),
    ('log-outputs = "bogus"', "log-outputs: 'bogus': expected a level"),
    ('log-outputs = "3:stdout"', "log-outputs: '3:stdout': there is no output 'stdout'"),
    ('log-outputs = "3:file:x.log"', "log-outputs: '3:file:x.log': expected LEVEL:file:PATH with an absolute path"),
    ('log-outputs = "3:stderr:x"', "log-outputs: '3:stderr:x': nothing follows stderr"),
    ('log-outputs = "3:syslog"', "log-outputs: '3:syslog': expected LEVEL:syslog:NAME"),
    ("audit-level = 3", "audit-level: expected a whole number from 0 to 2"),
    ('host-uuid = "4dea22b3"', "host-uuid: expected a UUID"),
    ('host-uuid = "00000000-0000-0000-0000-000000000000"', "host-uuid: the digits of a host's UUID cannot all be"),
    ('host-uuid-source = "dmi"', "host-uuid-source: "),
    ("keepalive-interval = -2", "keepalive-interval: expected a whole number"),
    ("keepalive-count = -1", "keepalive-count: expected a whole number"),
    ("ovs-timeout = true", "ovs-timeout: expected a whole number"),
    ("tls_port = 1", "tls_port: unknown key; did you mean tls-port?"),
    ('sasl-allowed-username-list = ["a"]', "did you mean sasl-allowed-usernames?"),
]


@pytest.mark.parametrize(("line", "words"), WRONG)
def test_a_wrong_value_is_told_with_its_file_and_key_before_libvirtd_sees_it(
    tmp_path: Path, line: str, words: str
) -> None:
    (tmp_path / "l.toml").write_text(f'type = "libvirt"\n{line}\n')
    declared = declared_services([str(tmp_path)], TYPES, facts(1000))
    [mistake] = declared.mistakes
    assert declared.services == ()
    expected = f"{tmp_path}/l.toml:2: "
    if line.startswith(("max-clients = 10", "max-workers = 4")):
        expected = f"{tmp_path}/l.toml"  # the other key is nowhere
    assert str(mistake).startswith(expected)
    assert words in str(mistake)


def test_there_are_forty_wrong_values_and_more() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("4dea22b31d52d8f32516782e98a23fa0", True),
        ("4DEA22B3-1D52-D8F3-2516-782E98A23FA0", True),
        ("4dea22b3-1d52-d8f3-2516-782e98a23fa", False),
        ("gdea22b3-1d52-d8f3-2516-782e98a23fa0", False),
        ("FfffFfff-ffff-ffff-ffff-ffffffffffff", False),
    ],
)
def test_uuids(text: str, is_right: bool) -> None:
    assert (uuid_problem(text) is None) == is_right


def test_the_specifications_example_runs_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "l.toml").write_text('type = "libvirt"\ntls-port = "16555"\n')
    declared = declared_services([str(tmp_path)], TYPES, facts(1000))
    assert declared.mistakes == ()
    assert 'tls_port = "16555"' in lines(declared.services[0])


def complaints(text: str, lens: str, directory: Path) -> str:
    """What augeas has against a file, by the lens that came with the daemon."""
    (directory / "file.conf").write_text(text)
    completed = subprocess.run(
        ["augtool", "-r", str(directory), "-A", "--transform", f"{lens}.lns incl /file.conf"],
        input="print /augeas//error\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return completed.stdout + completed.stderr


@pytest.mark.skipif(shutil.which("augtool") is None, reason="no augeas-tools")
def test_libvirts_own_lens_knows_every_line(tmp_path: Path) -> None:
    every = {key: value for key, (value, _) in LIBVIRT.items()}
    for service in (made(), made(**every)):
        placed: PlaceFile = step(service, PlaceFile)
        assert complaints(placed.content, "Libvirtd", tmp_path) == ""
    assert "parse_failed" in complaints("tls_no_verify_cert = 1\n", "Libvirtd", tmp_path)
