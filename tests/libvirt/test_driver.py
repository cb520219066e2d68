"""What libvirtd needs for guests to run."""

from pathlib import Path

from herdpy.libvirt.driver import DRIVER, Driver, Emulator


def test_a_driver_and_its_account_are_looked_for_where_debian_has_them(tmp_path: Path) -> None:
    pattern = str(tmp_path / "lib-*")
    nobody = Driver(drivers=pattern, account="no-such-account-here")
    assert nobody.lack() is None  # another system than Debian
    (tmp_path / "lib-one").mkdir()
    missing = "not installed: libvirtd has no driver for QEMU; apt-get install libvirt-daemon-driver-qemu"
    assert nobody.lack() == missing
    (tmp_path / "lib-one" / DRIVER).touch()
    assert nobody.lack() == (
        "there is no user no-such-account-here, without which libvirtd does not start; "
        "apt-get install libvirt-daemon-system"
    )
    assert Driver(drivers=pattern, account=None).lack() is None


def test_an_emulator_of_the_hosts_kind_is_looked_for(tmp_path: Path) -> None:
    def lack(machine: str) -> str | None:
        return Emulator(machine=machine, path=str(tmp_path), where="qemu in /l.toml").lack()

    start = "not installed: there is no qemu-system-"
    assert lack("aarch64") == f"{start}aarch64 in the PATH; apt-get install qemu-system-arm, or set qemu in /l.toml"
    assert lack("s390x") == f"{start}s390x in the PATH; apt-get install qemu-system, or set qemu in /l.toml"
    (tmp_path / "qemu-system-s390x").touch(0o755)
    assert lack("s390x") is None
