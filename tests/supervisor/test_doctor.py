"""What services lack on this host: ``herd doctor``."""

import json

import pytest


@pytest.fixture
def ailing(herdpy, tmp_path):
    """A herdpy with a service for each kind of want, and one that wants nothing."""
    herdpy.declare("sound", 'command = ["sleep", "1000"]\n')
    herdpy.declare("bare", 'command = ["no-such-program"]\n')
    herdpy.declare("path", f'command = ["{tmp_path}/no-such-program"]\n')
    herdpy.declare("logs", f'type = "virtlog"\nlibvirt = "{tmp_path}/virtlogd"\n')
    herdpy.declare("platforms", f'type = "qemu-binfmt"\nplatforms = ["m68k", "alpha"]\nqemu = "{tmp_path}"\n')
    herdpy.declare(
        "agent",
        'type = "qemu-guest-agent"\nqemu = "/bin/true"\n'
        f'device = "{tmp_path}/port"\nstate-directory = "{tmp_path}/s"\n',
    )
    herdpy.declare("scratch", f'type = "mount"\nfile-system = "tmpfs"\nmount-point = "{tmp_path}/scratch"\n')
    herdpy.start()
    return herdpy


def test_all_services_each_with_what_it_lacks(ailing, tmp_path):
    told = json.loads(ailing.ok("doctor", "--json"))
    services = ailing.services
    assert told["sound"] == []
    assert told["bare"] == [
        "not installed: there is no no-such-program in the PATH; install it, or name its path in the declaration"
    ]
    assert told["path"] == [f"its program {tmp_path}/no-such-program does not exist; change its declaration"]
    where = f"libvirt in {services}/logs.toml"
    assert told["logs"] == [
        f"not installed: there is no {tmp_path}/virtlogd; apt-get install libvirt-daemon, or set {where}"
    ]
    assert told["platforms"][0] == (
        f"not installed: there is no {tmp_path}/qemu-m68k-static and 1 more; apt-get install qemu-user-static, "
        f"or set qemu in {services}/platforms.toml"
    )
    assert told["agent"][0] == (
        f"there is no directory {tmp_path}/s; make it, or set state-directory in {services}/agent.toml"
    )
    assert told["agent"][1].startswith(f"there is no {tmp_path}/port; its host gives a guest one by: ")
    assert len(told["scratch"]) == 1


def test_a_person_reads_what_is_missing_first(ailing):
    lines = ailing.ok("doctor").splitlines()
    assert lines[lines.index("bare:") + 1].startswith("  not installed: there is no no-such-program")
    assert lines[-1].startswith("Nothing is missing for ")
    assert "sound" in lines[-1]
    assert "bare" not in lines[-1]


def test_one_service(ailing, tmp_path):
    assert ailing.ok("doctor", "sound") == "Nothing is missing for sound.\n"
    assert list(json.loads(ailing.ok("--json", "doctor", "logs"))) == ["logs"]
    (tmp_path / "virtlogd").write_text("")
    assert "virtlogd is not executable; set libvirt in " in ailing.ok("doctor", "logs")
    (tmp_path / "virtlogd").chmod(0o755)
    assert ailing.ok("doctor", "logs") == "Nothing is missing for logs.\n"


def test_wrong_arguments_and_names(ailing):
    refused = ailing.herd("doctor", "sound", "quickly")
    assert refused.returncode == 1
    assert "takes no arguments but --json, and quickly was given" in refused.stderr
    assert ailing.herd("doctor", "nobody").returncode == 1
