"""An ordinary user's libvirtd and virtlogd, for qemu:///session."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.system.libvirt.conftest import DOMAIN, numbers_of

BIN = Path(sys.executable).parent
NOBODY = 65534
NOBODYS = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def home():
    """A home directory of nobody's; a short path, because that of a socket in it must fit."""
    with tempfile.TemporaryDirectory(prefix="lv-", ignore_cleanup_errors=True) as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


def become_nobody():
    """With a capability only where Python and herdpy lie in a home directory: it hides what nobody may not read."""
    may = subprocess.run([*NOBODYS, "test", "-x", os.path.realpath(sys.executable), "-a", "-x", BIN / "herdpy"])
    return NOBODYS if may.returncode == 0 else (*NOBODYS, *READS_ALL)


def test_a_guest_of_an_ordinary_user_keeps_its_log(home, counter, eventually):
    run_directory, services = home / "run", home / ".config" / "herdpy" / "services"
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(home / "run"),
    }

    become = become_nobody()

    def run(*command, check=True):
        completed = subprocess.run(
            [*become, *map(str, command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert completed.returncode == 0 or not check, completed
        return completed.stdout

    def virsh(*arguments, check=True):
        return run("virsh", "-c", "qemu:///session", *arguments, check=check)

    run("mkdir", "-p", "-m", "700", run_directory, services)
    (services / "libvirtd.toml").write_text('type = "libvirt"\n')
    (services / "virtlogd.toml").write_text('type = "virtlog"\nmax-size = 0\n')
    log, port = home / "counter-console.log", home / "counter-port.log"
    text = DOMAIN.format(name="counter", console=log, port=port).replace("/var/lib/libvirt", str(home))
    (home / "counter.xml").write_text(text)
    (home / "counter.img").write_bytes(counter.read_bytes())
    os.chown(home / "counter.img", NOBODY, NOBODY)
    run(BIN / "herdpy", "--background")
    try:
        run(BIN / "herd", "start", "libvirtd")
        virsh("define", home / "counter.xml")
        virsh("start", "counter")
        eventually(lambda: log.exists() and log.stat().st_size)
        assert run(BIN / "herd", "domains", "libvirtd").split() == ["1", "counter", "running"]
        for _ in range(5):
            run(BIN / "herd", "reexec", "virtlogd")
        # Another file is tried first, and meets nothing of the libvirtd that runs.
        (services / "libvirtd.toml").write_text('type = "libvirt"\novs-timeout = 9\nlog-outputs = "3:file:/no/x"\n')
        assert "libvirtd stays as it is: it was not restarted: " in run(BIN / "herd", "reload", "root", check=False)
        (services / "libvirtd.toml").write_text('type = "libvirt"\novs-timeout = 9\n')
        assert "is restarted now" in run(BIN / "herd", "reload", "root")
        assert run(BIN / "herd", "domains", "libvirtd").split() == ["1", "counter", "running"]
        said = run(BIN / "herd", "restart", "virtlogd")
        assert "has executed itself anew instead of being restarted: the logs of counter would have ended." in said
        virsh("destroy", "counter")
        numbers = numbers_of([log])
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 100
    finally:
        virsh("destroy", "counter", check=False)
        run(BIN / "herd", "stop", "root")
