"""A real systemd, jailed (jail.sh), that runs herdpy by the units that are shipped."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import herdpy
from herdpy.keeper.cgroup import find
from tests.conftest import BIN, PATIENCE, wait_until

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "systemd"
TARGETS = (
    *("sysinit", "basic", "multi-user", "shutdown", "sockets", "timers", "paths", "slices", "local-fs", "remote-fs"),
    *("network-online", "network", "umount", "final"),
)
USER_TARGETS = ("basic", "default", "shutdown", "sockets", "timers", "paths", "exit")
USER_INSTANCE = """
[Service]
Type=notify
User=12345
Group=12345
Delegate=yes
KillMode=mixed
RuntimeDirectory=user/12345
Environment=XDG_RUNTIME_DIR=/run/user/12345 HOME=/home/tester SYSTEMD_UNIT_PATH=/user-units
ExecStart=/lib/systemd/systemd --user --unit=default.target --log-target=console
"""
"""What user@.service is, without PAM and a login."""


class Jail:
    """A systemd in namespaces of its own, and what runs there."""

    def __init__(self, directory: Path, cgroup: Path) -> None:
        self.directory = directory
        self.cgroup = cgroup
        self.services = directory / "herdpy" / "services"
        self.services.mkdir(parents=True, mode=0o755)
        self.units = directory / "units"
        self.user_units = directory / "user-units"
        self._commands = BIN
        self._read_only = ["/usr", sys.base_prefix, sys.prefix, str(ROOT)]
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._copy(self.units, UNITS, "system", TARGETS)
        self._copy(self.user_units, UNITS / "user", "user", USER_TARGETS)
        (self.units / "user.service").write_text(USER_INSTANCE)

    @staticmethod
    def _copy(target: Path, ours: Path, kind: str, names: tuple[str, ...]) -> None:
        target.mkdir()
        for unit in ours.glob("herdpy.*"):
            shutil.copy(unit, target)
        for name in names:
            shutil.copy(f"/usr/lib/systemd/{kind}/{name}.target", target)

    def enable(self, unit: str, target: str = "multi-user.target") -> None:
        """As systemctl enable does."""
        wants = self.units / f"{target}.wants"
        wants.mkdir(exist_ok=True)
        (wants / unit).symlink_to(f"../{unit}")

    def change(self, unit: str, text: str) -> None:
        """Lay something over a unit."""
        for units in (self.units, self.user_units):
            (units / f"{unit}.d").mkdir()
            (units / f"{unit}.d" / "test.conf").write_text(text)

    def install(self) -> Path:
        """Have an installation of its own run in there, which the test may change; returns the package's directory."""
        prefix = self.directory / "opt"
        venv.create(prefix, with_pip=False, symlinks=True)
        [packages] = prefix.glob("lib/python*/site-packages")
        # What herdpy needs comes after its own copy.
        (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        shutil.copytree(Path(herdpy.__file__).parent, packages / "herdpy")
        for name in ("herd", "herdpy"):
            script = (ROOT / "bin" / name).read_text().replace("#!python\n", f"#!{prefix}/bin/python3\n")
            (prefix / "bin" / name).write_text(script)
            (prefix / "bin" / name).chmod(0o755)
        self._commands = prefix / "bin"
        self._read_only.append(str(prefix))
        return packages / "herdpy"

    def boot(self) -> None:
        """Return once systemd answers."""
        read_only = [Path(path) for path in dict.fromkeys(self._read_only)]
        # Those that are in another one come with it.
        bound = [path for path in read_only if not any(other in path.parents for other in read_only)]
        jail = Path(__file__).parent / "jail.sh"
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", jail, self.directory, self.cgroup, self._commands, *bound],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def is_there() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            self._pid = int((children.read_text().split() or ["0"])[0])
            return self._pid > 0 and Path(f"/proc/{self._pid}/comm").read_text() == "systemd\n"

        wait_until(is_there)
        wait_until(lambda: self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"})

    def said(self) -> str:
        """What systemd has said, and herdpy's own log, for messages of failed tests."""
        logs = [self.directory / "log", self.directory / "kmsg"]
        log = "\n".join(log.read_text(errors="replace")[-6000:] for log in logs if log.exists())
        own = self.run("tail", "-n", "30", "/var/log/herdpy/herdpy.log").stdout if self._pid else ""
        return f"{log}\n{own}"

    def run(self, *command: str, user: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in there to its end."""
        prefix = ["nsenter", "--target", str(self._pid), "--all", "--root", "--wd"]
        variables = ["PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8"]
        if user:
            prefix += ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
            variables += ["XDG_RUNTIME_DIR=/run/user/12345", "HOME=/home/tester"]
        return subprocess.run(
            [*prefix, "env", "-i", *variables, *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )

    def ok(self, *command: str, user: bool = False) -> str:
        """Run a command, which must succeed, and return what it printed."""
        done = self.run(*command, user=user)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.said()}"
        return done.stdout

    def show(self, key: str, unit: str = "herdpy.service", *, user: bool = False) -> str:
        """What systemctl show says of a unit."""
        scope = ["--user"] if user else []
        return self.ok("systemctl", *scope, "show", f"--property={key}", "--value", unit, user=user).strip()

    def pids(self, *names: str, user: bool = False) -> list[int]:
        """The main processes of services."""
        import json

        return [json.loads(self.ok("herd", "--json", "status", name, user=user))["pid"] for name in names]

    def programs(self) -> dict[str, int]:
        """PIDs, in there, of the keeper, the supervisor and the logger."""
        found = {}
        for line in self.ok("ps", "-eo", "pid=,args=").splitlines():
            pid, command = line.split(None, 1)
            for name, word in (("supervisor", "herdpy.supervisor"), ("logger", "logger/__main__.py")):
                if word in command:
                    found[name] = int(pid)
        return {"keeper": int(self.show("MainPID")), **found}

    def kill(self, *pids: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to processes in there, to all at once."""
        self.ok("kill", f"-{int(number)}", *map(str, pids))

    def end(self) -> None:
        """Kill all of it."""
        if self._process is None:
            return
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # with the first process of a PID namespace all others end
        else:
            self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    """Not booted yet."""
    if os.geteuid() != 0:
        pytest.skip("only root can make the namespaces that a systemd needs")
    own = find()
    assert own is not None, "no cgroup v2 is mounted"
    cgroup = Path(own) / f"herdpy-test-systemd-{os.getpid()}"
    cgroup.mkdir()
    jail = None
    try:
        jail = Jail(tmp_path, cgroup)
        yield jail
    finally:
        if jail is not None:
            jail.end()
        for path in sorted(cgroup.rglob("*"), key=lambda path: -len(path.parts)):
            if path.is_dir():
                wait_until(lambda path=path: _removed(path))
        wait_until(lambda: _removed(cgroup))


def _removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError:
        return not cgroup.exists()
    return True
