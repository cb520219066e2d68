"""libvirtd and virtlogd as a user sees them: virsh, a guest, and who may do what."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.system.binfmt.debian import own_architecture, unpacked

LIBVIRT = "libvirt-daemon-system"
BUS_IS_READY = 'ready.listens = ["unix:/run/dbus/system_bus_socket"]\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")


def test_a_guest_runs_with_its_console_logged_and_outlives_libvirtd(host, counter, eventually):
    # The specification's own examples, among the settings.
    host.declare("max-clients = 1000\n", 'tls-port = "16555"\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    assert host.virsh("list", "--name").stdout.strip() == ""
    assert host.herdpy.ok("domains", "libvirtd") == "No domain runs.\n"
    console, port = host.boot(counter)
    eventually(lambda: console.exists() and console.stat().st_size > 1000)
    eventually(lambda: port.stat().st_size > 1000)
    assert console.read_text().startswith("00000000\n00000001\n00000002\n")
    assert host.herdpy.ok("domains", "libvirtd").split() == ["1", "counter", "running"]

    before = host.pid("libvirtd")
    host.herdpy.ok("restart", "libvirtd")
    assert host.pid("libvirtd") != before
    assert host.herdpy.ok("domains", "libvirtd").split() == ["1", "counter", "running"]
    os.kill(host.pid("libvirtd"), signal.SIGKILL)
    eventually(lambda: host.herdpy.status("libvirtd")["last-respawns"])
    eventually(lambda: host.herdpy.status("libvirtd")["status"] == "running")
    assert host.virsh("list", "--name").stdout.strip() == "counter"
    host.herdpy.ok("stop", "libvirtd")
    size = console.stat().st_size
    eventually(lambda: console.stat().st_size > size)
    refused = host.herdpy.herd("domains", "libvirtd")
    assert refused.returncode == 1
    assert "libvirtd does not run; start it with: herd start libvirtd" in refused.stdout + refused.stderr


def test_members_of_the_group_may_do_everything_and_others_look(host, counter):
    host.declare()
    host.start()
    host.herdpy.ok("start", "libvirtd")  # makes the group, too
    details = host.herdpy.status("libvirtd")["details"]
    assert details["authentication"] == (
        "members of the group libvirt may do everything, everybody may look (there is no D-Bus system bus here)"
    )
    virsh = ("virsh", "-c", "qemu:///system")
    domain = host.describe(counter)
    for command in (("define", domain), ("start", "counter"), ("destroy", "counter"), ("undefine", "counter")):
        done = host.as_user(*virsh, *command, groups=["libvirt"])
        assert done.returncode == 0, done.stderr
    refused = host.as_user(*virsh, "list")
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert host.as_user(*virsh, "--readonly", "list").returncode == 0


def test_polkit_decides_where_it_runs_and_has_been_told_of_libvirt(host, tmp_path):
    everybody = 'requirement = ["bus"]\nunix-sock-rw-perms = "0777"\n'
    host.herdpy.declare("bus", 'command = ["dbus-daemon", "--system", "--nofork", "--nopidfile"]\n' + BUS_IS_READY)
    host.declare(libvirtd=f'{everybody}access-drivers = ["polkit"]\n')
    host.start()
    host.path("/run/dbus").mkdir()
    refused = host.herdpy.herd("start", "libvirtd")
    untold = "polkit has not been told of libvirt, as the package libvirt-daemon-system does"
    assert (
        f'cannot start libvirtd: "polkit" refuses everything to everybody where {untold}; '
        f"change access-drivers in {host.herdpy.services}/libvirtd.toml"
    ) in refused.stdout

    host.declare(libvirtd=everybody)
    host.herdpy.ok("reload", "root")
    host.herdpy.ok("start", "libvirtd")
    details = host.herdpy.status("libvirtd")["details"]
    assert details["authentication"] == (f"polkit decides who may do everything, everybody may look ({untold})")
    virsh = ("virsh", "-c", "qemu:///system")
    assert host.as_user(*virsh, "--readonly", "list").returncode == 0
    assert "is not registered" in host.as_user(*virsh, "list").stderr

    told = tmp_path / "polkit-1"
    shutil.copytree("/usr/share/polkit-1", told)
    shutil.copytree(unpacked(LIBVIRT, own_architecture()) / "usr/share/polkit-1", told, dirs_exist_ok=True)
    host.inside("mount", "--bind", str(told), "/usr/share/polkit-1")
    host.herdpy.ok("stop", "bus")  # polkitd ends with it, and libvirtd is stopped before
    host.declare(libvirtd=f'{everybody}access-drivers = ["polkit"]\n')
    host.herdpy.ok("reload", "root")
    host.herdpy.ok("start", "libvirtd")
    details = host.herdpy.status("libvirtd")["details"]
    assert details["authentication"] == "polkit decides who may do everything, and who may look"
    assert host.as_user(*virsh, "--readonly", "list").returncode == 0
    assert "no polkit agent available" in host.as_user(*virsh, "list").stderr
    host.inside("usermod", "--append", "--groups", "libvirt", "nobody")
    assert host.as_user(*virsh, "list", groups=["libvirt"]).returncode == 0


def test_a_group_of_ones_own_has_to_be_there(host):
    host.declare(libvirtd='unix-sock-group = "operators"\n')
    host.start()
    refused = host.herdpy.herd("start", "libvirtd")
    assert refused.returncode == 1
    assert (
        "cannot start libvirtd: there is no group operators; groupadd --system operators, "
        f"or change unix-sock-group in {host.herdpy.services}/libvirtd.toml"
    ) in refused.stdout
    host.inside("groupadd", "--system", "operators")
    host.herdpy.ok("start", "libvirtd")
    assert host.as_user("virsh", "-c", "qemu:///system", "list", groups=["operators"]).returncode == 0


def test_drivers_that_fail_are_a_failed_start_although_libvirtd_ends_with_0(host):
    host.declare()
    host.start()
    host.path("/etc/libvirt/qemu.conf").write_text("this is nonsense\n")
    refused = host.herdpy.herd("start", "libvirtd")
    assert refused.returncode == 1
    assert "cannot start libvirtd: it exited with 0 before it was ready" in refused.stdout
    assert "qemu.conf:1" in refused.stdout


def test_what_is_not_installed_is_told_with_the_package(host):
    host.declare(libvirtd='libvirt = "/opt/sbin/libvirtd"\n')
    host.start()
    refused = host.herdpy.herd("start", "libvirtd")
    assert "cannot start libvirtd: not installed: there is no /opt/sbin/libvirtd; " in refused.stdout
    assert "apt-get install libvirt-daemon-system" in refused.stdout
    # libvirtd itself says it among dozens of lines, and ends with 0.
    host.declare()
    host.herdpy.ok("reload", "root")
    host.inside("userdel", "libvirt-qemu")
    missing = (
        "there is no user libvirt-qemu, without which libvirtd does not start; apt-get install libvirt-daemon-system"
    )
    assert f"cannot start libvirtd: {missing}\n" in host.herdpy.herd("start", "libvirtd").stdout
    assert missing in host.herdpy.ok("doctor", "libvirtd")


def test_it_listens_where_it_is_told_to(host):
    listens = 'listen = true\nlisten-tls = false\nlisten-tcp = true\nauth-tcp = "none"\ntcp-port = "16666"\n'
    host.declare(libvirtd=f'{listens}auth-unix-rw = "sasl"\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    assert host.inside("virsh", "-c", "qemu+tcp://127.0.0.1:16666/system", "list").returncode == 0
    # What demands a password (SASL) is not what herdpy asks.
    assert "authentication" in host.virsh("list", check=False).stderr
    assert host.herdpy.ok("domains", "libvirtd") == "No domain runs.\n"


def test_tls_takes_certificates_and_lets_nobody_in_without(host, tmp_path):
    """The specification's example, with what it needs to have any effect."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, cwd=tmp_path)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "cacert.pem", "-subj", "/CN=ca", "-days", "9")
    for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        openssl("req", *new, "-keyout", f"{name}key.pem", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        (tmp_path / "extensions").write_text(f"extendedKeyUsage={usage}\nsubjectAltName=DNS:localhost\n")
        signer = ("-CA", "cacert.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "9")
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}cert.pem")
    files = f'ca-file = "{tmp_path}/cacert.pem"\ncert-file = "{tmp_path}/servercert.pem"\n'
    host.declare(libvirtd=f'tls-port = "16555"\nlisten = true\n{files}key-file = "{tmp_path}/serverkey.pem"\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    assert "warning" not in host.herdpy.status("libvirtd")["details"]
    uri = f"qemu+tls://localhost:16555/system?pkipath={tmp_path}"
    assert host.inside("virsh", "-c", uri, "list").returncode == 0
    (tmp_path / "clientcert.pem").unlink()
    (tmp_path / "clientkey.pem").unlink()
    assert host.inside("virsh", "-c", uri, "list", check=False).returncode == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "",
            "TLS needs /etc/pki/CA/cacert.pem, which cannot be read: No such file or directory; make it",
        ),
        ('tls-port = "no-such-port"\n', "no TCP port is called no-such-port (services(5)); change tls-port in "),
    ],
)
def test_what_it_needs_to_listen_is_looked_for_first(host, settings, said):
    host.declare(libvirtd=f"listen = true\n{settings}")
    host.start()
    assert f"cannot start libvirtd: {said}" in host.herdpy.herd("start", "libvirtd").stdout


def test_rescan_finds_a_domain_that_was_put_there_and_qemu_where_it_was_said_to_be(host, eventually, tmp_path):
    (tmp_path / "qemu-system-x86_64").symlink_to("/usr/bin/qemu-system-x86_64")
    host.declare(libvirtd=f'qemu = "{tmp_path}"\n')
    host.start()
    host.herdpy.ok("start", "libvirtd")
    text = "<domain type='qemu'><name>dropped</name><memory>16384</memory><os><type>hvm</type></os></domain>"
    host.path("/etc/libvirt/qemu").mkdir(exist_ok=True)
    host.path("/etc/libvirt/qemu/dropped.xml").write_text(text)
    assert "dropped" not in host.virsh("list", "--all", "--name").stdout
    assert "Sent SIGHUP to PID" in host.herdpy.ok("rescan", "libvirtd")
    eventually(lambda: "dropped" in host.virsh("list", "--all", "--name").stdout)
    assert f"<emulator>{tmp_path}/qemu-system-x86_64</emulator>" in host.virsh("dumpxml", "dropped").stdout
