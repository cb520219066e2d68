"""Real programs of other platforms, run by the kernel through QEMU.

In a user namespace, which has a table of its own (Linux 6.7): the host's is never seen.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.binfmt.debian import own_architecture, unpacked

TABLE = "/proc/sys/fs/binfmt_misc"
JAIL = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")
MOUNTED = (*JAIL, "sh", "-c", f'mount -t binfmt_misc binfmt_misc {TABLE} && exec "$@"', "sh")
PATIENCE = 60
GNU = {"armhf": "armv7l", "arm64": "aarch64"}
"""What uname(1) says on each of Debian's architectures."""


@pytest.fixture(scope="session")
def qemu() -> Path:
    """The directory of the static emulators."""
    return unpacked("qemu-user-static", own_architecture()) / "usr" / "bin"


@pytest.fixture(scope="session")
def busyboxes() -> dict[str, Path]:
    """A static busybox of each architecture."""
    return {architecture: unpacked("busybox-static", architecture) / "bin" / "busybox" for architecture in GNU}


@pytest.fixture
def jailed(herdpy):
    """A herdpy with a table of its own; not started yet."""
    herdpy.prefix = MOUNTED
    return herdpy


def inside(herdpy, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command where herdpy runs."""
    enter = ("nsenter", "--target", str(herdpy.process.pid), "--user", "--preserve-credentials", "--mount")
    return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=PATIENCE)


def register(herdpy, line: str) -> None:
    completed = inside(herdpy, "sh", "-c", f"printf '%s' '{line}' >{TABLE}/register")
    assert completed.returncode == 0, completed.stderr


def fails(herdpy, program: Path) -> bool:
    """Whether the kernel cannot execute a program."""
    completed = inside(herdpy, "sh", "-c", 'exec "$0" uname -m', program)
    return completed.returncode == 126 and "Exec format error" in completed.stderr


def entries(herdpy) -> dict[str, tuple[str, int]]:
    """What each entry says, and when it was made."""
    show = 'said=$(stat -c %n/%y "$name" && cat "$name") && printf "%s\\n\\0" "$said"'  # unless it has just gone
    shown = inside(herdpy, "sh", "-c", f"cd {TABLE}; for name in [!r]*; do {show}; done").stdout.split("\0")[:-1]
    found = {}
    for heading, said in (one.split("\n", 1) for one in shown):
        name, made = heading.split("/")
        found[name] = (said, made)
    found.pop("status", None)
    return found


def declare(herdpy, qemu: Path, *platforms: str, more: str = "") -> None:
    herdpy.declare("qemu-binfmt", f'type = "qemu-binfmt"\nplatforms = {json.dumps(platforms)}\nqemu = "{qemu}"\n{more}')


def test_programs_run_in_and_out_of_a_chroot_until_the_stop(jailed, qemu, busyboxes, tmp_path):
    declare(jailed, qemu, "arm", "aarch64")
    jailed.start()
    assert all(fails(jailed, busyboxes[architecture]) for architecture in GNU)
    jailed.ok("start", "qemu-binfmt")
    root = tmp_path / "root"
    root.mkdir()
    for architecture, machine in GNU.items():
        assert inside(jailed, busyboxes[architecture], "uname", "-m").stdout == f"{machine}\n"
        shutil.copy(busyboxes[architecture], root / f"busybox-{architecture}")
        # There is no QEMU in there. It executes itself once more, and the status of what it ran comes through.
        script = f"/busybox-{architecture} uname -m; echo $0; exit 7"
        there = inside(jailed, "/usr/sbin/chroot", root, f"/busybox-{architecture}", "sh", "-c", script, "named")
        assert (there.stdout, there.returncode) == (f"{machine}\nnamed\n", 7)
    assert jailed.status("qemu-binfmt")["details"]["registered"] == "arm, aarch64"
    jailed.ok("stop", "qemu-binfmt")
    assert all(fails(jailed, busyboxes[architecture]) for architecture in GNU)
    assert entries(jailed) == {}


def test_every_platform_but_the_hosts_own_family(jailed, qemu):
    declare(jailed, qemu)
    jailed.start()
    rows = json.loads(jailed.ok("--json", "platforms", "qemu-binfmt"))
    assert len(rows) == 31
    assert all(row["binary-is-there"] for row in rows)
    own = {"x86_64": "i386", "aarch64": "arm"}[os.uname().machine]
    wanted = [row["name"] for row in rows if row["family"] != own]
    declare(jailed, qemu, *wanted)
    jailed.ok("reload", "root")
    jailed.ok("start", "qemu-binfmt")
    assert set(entries(jailed)) == {f"qemu-{name}" for name in wanted}
    rows = json.loads(jailed.ok("--json", "platforms", "qemu-binfmt"))
    assert {row["name"] for row in rows if row["registered"] == "yes"} == set(wanted)
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


def test_a_reload_touches_just_the_difference(jailed, qemu, eventually):
    declare(jailed, qemu, "arm", "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    before = entries(jailed)
    declare(jailed, qemu, "aarch64", "riscv64")
    jailed.ok("reload", "root")
    eventually(lambda: set(entries(jailed)) == {"qemu-aarch64", "qemu-riscv64"})
    assert entries(jailed)["qemu-aarch64"] == before["qemu-aarch64"]
    # What follows the interpreters is the new declaration's, too.
    os.kill(jailed.supervisor(), 9)
    assert jailed.status("qemu-binfmt")["details"]["registered"] == "aarch64, riscv64"
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_change_while_it_starts_is_carried_out_when_it_runs(herdpy, qemu, eventually, tmp_path, is_killed):
    """Its start is held up in the middle: mount(8) waits for a word."""
    gate, real = tmp_path / "gate", shutil.which("mount")
    os.mkfifo(gate)
    (tmp_path / "mount").write_text(f'#!/bin/sh\nread line <{gate}\nexec {real} "$@"\n')
    (tmp_path / "mount").chmod(0o755)
    herdpy.prefix = JAIL
    herdpy.environment["PATH"] = f"{tmp_path}:{herdpy.environment['PATH']}"
    declare(herdpy, qemu, "arm", "aarch64")
    herdpy.start()
    with herdpy.herd_in_background("start", "qemu-binfmt") as client:
        eventually(lambda: herdpy.status("qemu-binfmt")["status"] == "starting")
        with gate.open("w") as writing:  # so mount(8) is there
            declare(herdpy, qemu, "aarch64", "riscv64")
            herdpy.ok("reload", "root")
            if is_killed:
                os.kill(herdpy.supervisor(), signal.SIGKILL)
            writing.write("go on\n")
        assert client.wait(PATIENCE) == 0
    eventually(lambda: set(entries(herdpy)) == {"qemu-aarch64", "qemu-riscv64"})
    eventually(lambda: herdpy.status("qemu-binfmt")["details"]["registered"] == "aarch64, riscv64")
    assert json.loads(herdpy.ok("plan", "--json"))["unchanged"] == ["qemu-binfmt"]
    herdpy.ok("stop", "qemu-binfmt")
    assert entries(herdpy) == {}


def test_a_change_that_a_killed_supervisor_did_not_carry_out_is_the_next_ones(jailed, qemu, eventually):
    declare(jailed, qemu, "arm", "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    before = entries(jailed)
    first = jailed.supervisor()
    os.kill(first, signal.SIGSTOP)
    declare(jailed, qemu, "aarch64", "riscv64")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: set(entries(jailed)) == {"qemu-aarch64", "qemu-riscv64"})
    assert entries(jailed)["qemu-aarch64"] == before["qemu-aarch64"]
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


def test_nothing_stays_of_a_declaration_whose_successor_could_not_be_registered(jailed, qemu, tmp_path):
    declare(jailed, qemu, "arm", "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    before = entries(jailed)
    first = jailed.supervisor()
    os.kill(first, signal.SIGSTOP)
    declare(jailed, tmp_path, "aarch64", "riscv64")  # there is no emulator
    os.kill(first, signal.SIGKILL)
    assert jailed.status("qemu-binfmt")["status"] == "running"
    assert entries(jailed) == before
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


def test_a_start_that_had_begun_with_another_declaration_is_caught_up_with_and_undone(qemu):
    """What it has registered is known by what it has told; the process that tries it has a table of its own."""
    for what in ("catch-up", "stop"):
        completed = subprocess.run(
            [*MOUNTED, sys.executable, str(Path(__file__).parent / "lost_race.py"), what, str(qemu)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert completed.returncode == 0, completed.stderr
        left = {"catch-up": ["qemu-riscv64"], "stop": ["qemu-s390x"]}[what]
        assert json.loads(completed.stdout) == left


def test_what_cannot_be_registered_changes_nothing(jailed, qemu, tmp_path):
    own = tmp_path / "bin"
    own.mkdir()
    for name in ("arm", "aarch64"):
        shutil.copy(qemu / f"qemu-{name}-static", own)  # a link would be a change of the one that other tests use
    declare(jailed, own, "arm", "aarch64", "riscv64", "s390x")
    jailed.start()
    refused = jailed.herd("start", "qemu-binfmt")
    assert refused.returncode == 1
    missing = f"there is no {own}/qemu-riscv64-static and 1 more"
    assert f"cannot start qemu-binfmt: not installed: {missing}; apt-get install qemu-user-static, or" in refused.stdout
    assert "apt-get install qemu-user-static" in jailed.status("qemu-binfmt")["reason"]
    assert entries(jailed) == {}
    (own / "qemu-riscv64-static").mkdir()
    declare(jailed, own, "arm", "aarch64", "riscv64")
    jailed.ok("reload", "root")
    refused = jailed.herd("start", "qemu-binfmt")
    assert f"{own}/qemu-riscv64-static cannot be executed; set qemu in " in refused.stdout
    assert entries(jailed) == {}


def test_somebody_elses_entry_is_an_error_and_stays_and_ours_are_rolled_back(jailed, qemu):
    declare(jailed, qemu, "arm", "aarch64")
    jailed.start()
    register(jailed, r":qemu-aarch64:M::nothing begins so::/bin/true:O")
    before = entries(jailed)
    refused = jailed.herd("start", "qemu-binfmt")
    assert refused.returncode == 1
    assert (
        "the table has an entry qemu-aarch64 already, for /bin/true (flags O); remove it: echo -1 > " in refused.stdout
    )
    assert entries(jailed) == before
    assert inside(jailed, "sh", "-c", f"echo -1 >{TABLE}/qemu-aarch64").returncode == 0
    jailed.ok("start", "qemu-binfmt")
    # Somebody puts another one in its place meanwhile: that is none of ours.
    assert inside(jailed, "sh", "-c", f"echo -1 >{TABLE}/qemu-aarch64").returncode == 0
    register(jailed, r":qemu-aarch64:M::nothing begins so::/bin/true:O")
    assert "otherwise, for /bin/true" in jailed.ok("platforms", "qemu-binfmt")
    jailed.ok("stop", "qemu-binfmt")
    assert set(entries(jailed)) == {"qemu-aarch64"}


def test_the_same_entry_is_taken_over_and_switched_on(jailed, qemu, busyboxes):
    declare(jailed, qemu, "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    shown, _ = entries(jailed)["qemu-aarch64"]
    values = dict(line.partition(" ")[::2] for line in shown.splitlines())
    jailed.ok("stop", "qemu-binfmt")
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(values[key])) for key in ("magic", "mask"))
    register(jailed, f":qemu-aarch64:M::{magic}:{mask}:{qemu}/qemu-aarch64-static:FP")
    assert inside(jailed, "sh", "-c", f"echo 0 >{TABLE}/qemu-aarch64").returncode == 0
    before = entries(jailed)
    jailed.ok("start", "qemu-binfmt")
    assert inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "aarch64\n"
    assert entries(jailed)["qemu-aarch64"][1] == before["qemu-aarch64"][1]
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


def test_a_replaced_interpreter_is_registered_anew(jailed, qemu, busyboxes, eventually, tmp_path):
    own = tmp_path / "bin"
    own.mkdir()
    shutil.copy(qemu / "qemu-aarch64-static", own)
    declare(jailed, own, "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    _, before = entries(jailed)["qemu-aarch64"]
    # The next supervisor follows it as well.
    os.kill(jailed.supervisor(), 9)
    assert jailed.status("qemu-binfmt")["status"] == "running"
    upgrade = own / "upgrade"
    upgrade.write_text("#!/bin/sh\necho upgraded\n")
    upgrade.chmod(0o755)
    upgrade.rename(own / "qemu-aarch64-static")
    eventually(lambda: inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "upgraded\n")
    eventually(lambda: set(entries(jailed)) == {"qemu-aarch64"})
    assert entries(jailed)["qemu-aarch64"][1] > before
    jailed.ok("stop", "qemu-binfmt")
    assert entries(jailed) == {}


def test_a_link_that_leads_elsewhere_is_followed_also_of_a_platform_that_a_reload_added(
    jailed, qemu, busyboxes, eventually, tmp_path
):
    own = tmp_path / "bin"
    own.mkdir()
    upgrade = own / "upgrade"
    upgrade.write_text("#!/bin/sh\necho upgraded\n")
    upgrade.chmod(0o755)
    for name in ("arm", "aarch64"):
        (own / f"qemu-{name}-static").symlink_to(qemu / f"qemu-{name}-static")
    declare(jailed, own, "arm")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    declare(jailed, own, "arm", "aarch64")
    jailed.ok("reload", "root")
    assert inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "aarch64\n"
    # What it leads to now is older than the entry: only that it is another file tells.
    (own / "link").symlink_to(upgrade)
    (own / "link").rename(own / "qemu-aarch64-static")
    eventually(lambda: inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "upgraded\n")
    assert inside(jailed, busyboxes["armhf"], "uname", "-m").stdout == "armv7l\n"


def test_one_that_was_replaced_while_nobody_looked(jailed, qemu, busyboxes, tmp_path):
    own = tmp_path / "bin"
    own.mkdir()
    shutil.copy(qemu / "qemu-aarch64-static", own)
    declare(jailed, own, "aarch64")
    jailed.start()
    jailed.ok("start", "qemu-binfmt")
    shown, _ = entries(jailed)["qemu-aarch64"]
    values = dict(line.partition(" ")[::2] for line in shown.splitlines())
    jailed.ok("stop", "qemu-binfmt")
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(values[key])) for key in ("magic", "mask"))
    register(jailed, f":qemu-aarch64:M::{magic}:{mask}:{own}/qemu-aarch64-static:FP")
    upgrade = own / "upgrade"
    upgrade.write_text("#!/bin/sh\necho upgraded\n")
    upgrade.chmod(0o755)
    upgrade.rename(own / "qemu-aarch64-static")
    assert inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "aarch64\n"
    jailed.ok("start", "qemu-binfmt")
    assert inside(jailed, busyboxes["arm64"], "uname", "-m").stdout == "upgraded\n"


def test_the_table_is_mounted_where_it_is_not(herdpy, qemu):
    herdpy.prefix = (*JAIL, "sh", "-c", f'umount -q {TABLE}; exec "$@"', "sh")
    declare(herdpy, qemu, "aarch64")
    herdpy.start()
    herdpy.ok("start", "qemu-binfmt")
    assert set(entries(herdpy)) == {"qemu-aarch64"}
    herdpy.ok("stop", "qemu-binfmt")
    assert entries(herdpy) == {}


def test_a_table_that_is_switched_off_is_told(jailed, qemu):
    declare(jailed, qemu, "aarch64")
    jailed.start()
    assert inside(jailed, "sh", "-c", f"echo 0 >{TABLE}/status").returncode == 0
    refused = jailed.herd("start", "qemu-binfmt")
    assert "binfmt_misc is switched off for the whole host; switch it on: echo 1 > " in refused.stdout


def test_a_table_that_is_mounted_to_be_read_only_is_told_with_the_way_to_change_it(jailed, qemu):
    declare(jailed, qemu, "aarch64")
    jailed.start()
    assert inside(jailed, "mount", "-o", "remount,bind,ro", TABLE).returncode == 0
    refused = jailed.herd("start", "qemu-binfmt")
    way = f"mount -o remount,bind,rw {TABLE}"
    told = f"cannot write {TABLE}/register: Read-only file system; make it writable: {way} (of a container, its "
    assert f"cannot start qemu-binfmt: {told}" in refused.stdout
    assert told in jailed.ok("doctor", "qemu-binfmt")
    assert inside(jailed, *way.split()).returncode == 0
    jailed.ok("start", "qemu-binfmt")


def test_looking_up(jailed, qemu):
    declare(jailed, qemu)
    jailed.start()
    [arm, sparc] = json.loads(jailed.ok("--json", "lookup", "qemu-binfmt", "arm", "sparc"))
    assert (arm["family"], sparc["family"]) == ("arm", "sparc")
    assert sparc["magic"].endswith("00020002")
    refused = jailed.herd("lookup", "qemu-binfmt", "armhf")
    assert refused.returncode == 1
    assert "there is no platform 'armhf'; did you mean arm or " in refused.stderr
